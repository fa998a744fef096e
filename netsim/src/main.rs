//! `pageswarm-netsim --seed N ...`: one simulated run, its options first, its verdict last.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use pageswarm_netsim::{
    Costs, Curve, Links, Options, ReadCurveError, Recording, picture, run_options, run_script, speed_up,
};

const USAGE: &str = "usage: pageswarm-netsim --seed N [options]
       pageswarm-netsim --picture SVG LABEL=CURVE...   draws what --curve wrote
       pageswarm-netsim --seed N --recording ... --speed-up SVG   a table and a picture
  --seed N              draws everything else
  --nodes N             at the start, the publisher included, 2 to 20000 (default 9)
  --equal MIB RATE_MBIT no faults: every node wants the same MIB on equal links of RATE_MBIT Mbit/s
  --mixed               uplinks of 1, 2 and 4 times the rate (50, 30 and 20 % of the nodes), downlinks of 2 to 4 times
  --churn PERMILLE      this share of the nodes leaves, and as many join, during a time as long as the bound
  --racks N RATE_MBIT   nodes stand in N racks, each with a shared link of RATE_MBIT Mbit/s, and know it
  --blind               they do not know it
  --processor CORES REQUEST_US MESSAGE_US KB_NS
                        all nodes share a machine; the work of both ends for a request, a small message, 1000 bytes
  --recording INTERVALS INTERVAL_MS SIMULATION_MS PAGES DIRTY RATE_MBIT
                        the nodes simulate so many intervals of a VM while it is recorded: how long one
                        takes to record and to simulate, pages of RAM, pages written in each, all links' rate
  --speed-up SVG        so with 1 to 1,000 workers, from the swarm and from the publisher, whatever --nodes says
  --central             they ask the publisher only
  --script              no engines: an optimal schedule on the same links, without latency, against the closed form
  --curve FILE          writes which share of the bytes and of the nodes is there after which time, as CSV";

#[derive(Debug, thiserror::Error)]
enum ArgsError {
    #[error("{0} needs a number")]
    NoNumber(&'static str),
    #[error("--curve and --speed-up need a file name")]
    NoFile,
    #[error("--speed-up needs --recording")]
    NoRecording,
    #[error("--recording goes with --seed, --nodes, --central and --speed-up only")]
    RecordingAlone,
    #[error("--nodes must be from 2 to 20000")]
    Nodes,
    #[error("--seed is missing")]
    NoSeed,
    #[error("an argument is not known")]
    Unknown,
}

#[derive(Debug)]
struct Args {
    options: Options,
    speed_up: Option<PathBuf>,
    curve: Option<PathBuf>,
    is_script: bool,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, ArgsError> {
    let (mut seed, mut nodes, mut equal) = (None, 9, None);
    let (mut links, mut churn, mut curve, mut is_script) = (None, None, None, false);
    let (mut processor, mut racks, mut racks_known) = (None, None, true);
    let (mut recording, mut is_central, mut speed_up) = (None, false, None);
    while let Some(arg) = args.next() {
        let mut number = |name| {
            let text = args.next().ok_or(ArgsError::NoNumber(name))?;
            text.parse::<u64>().map_err(|_| ArgsError::NoNumber(name))
        };
        match arg.as_str() {
            "--seed" => seed = Some(number("--seed")?),
            "--nodes" => nodes = number("--nodes")?,
            "--equal" => equal = Some((number("--equal")?, number("--equal")?)),
            "--churn" => churn = Some(number("--churn")?.min(1000)),
            "--processor" => {
                processor = Some(Costs {
                    cores: usize::try_from(number("--processor")?).unwrap_or(usize::MAX).clamp(1, 1 << 16),
                    request: Duration::from_micros(number("--processor")?.min(1 << 32)),
                    message: Duration::from_micros(number("--processor")?.min(1 << 32)),
                    kilobyte: Duration::from_nanos(number("--processor")?.min(1 << 32)),
                });
            }
            "--racks" => racks = Some((number("--racks")?, number("--racks")?)),
            "--recording" => recording = Some(read_recording(|| number("--recording"))?),
            "--central" => is_central = true,
            "--speed-up" => speed_up = Some(PathBuf::from(args.next().ok_or(ArgsError::NoFile)?)),
            "--blind" => racks_known = false,
            "--script" => is_script = true,
            "--mixed" => links = Some(Links::Mixed),
            "--curve" => curve = Some(PathBuf::from(args.next().ok_or(ArgsError::NoFile)?)),
            _ => return Err(ArgsError::Unknown),
        }
    }
    let seed = seed.ok_or(ArgsError::NoSeed)?;
    if !(2..=20_000).contains(&nodes) {
        return Err(ArgsError::Nodes);
    }
    let nodes = usize::try_from(nodes).map_err(|_| ArgsError::Nodes)?;
    let mut options = match (recording, equal) {
        (Some((recording, rate)), _) => Options::recorded(seed, nodes, recording, rate),
        (None, Some((mib, mbit))) => {
            let bytes = mib.clamp(1, 4096) << 20;
            Options::equal_links(seed, nodes, bytes, mbit.clamp(1, 1_000_000) * 125_000)
        }
        (None, None) => Options::from_seed(seed, nodes),
    };
    options.processor = processor;
    options.is_central = is_central;
    if let Some((racks, mbit)) = racks {
        options.racks = usize::try_from(racks.clamp(1, 20_000)).unwrap_or(1);
        options.rack_rate = mbit.clamp(1, 1_000_000) * 125_000;
        options.racks_known = racks_known;
    }
    options.links = links.unwrap_or(options.links);
    options.churn_permille = churn.unwrap_or(options.churn_permille);
    let others = churn.is_some() || racks.is_some() || processor.is_some() || is_script || curve.is_some();
    if recording.is_some() && (others || links.is_some() || equal.is_some()) {
        return Err(ArgsError::RecordingAlone);
    }
    if speed_up.is_some() && options.recording.is_none() {
        return Err(ArgsError::NoRecording);
    }
    Ok(Args { options, speed_up, curve, is_script })
}

/// A recording, and the links' rate in bytes per second.
fn read_recording(mut number: impl FnMut() -> Result<u64, ArgsError>) -> Result<(Recording, u64), ArgsError> {
    let intervals = number()?.clamp(1, 100_000);
    let [interval, simulation] = [number()?, number()?].map(|ms| Duration::from_millis(ms.clamp(1, 1 << 32)));
    let pages = number()?.clamp(1, 1 << 20);
    let dirty_pages = number()?.min(pages);
    let rate = number()?.clamp(1, 1_000_000) * 125_000;
    Ok((Recording { intervals, interval, simulation, pages, dirty_pages }, rate))
}

#[derive(Debug, thiserror::Error)]
enum PictureError {
    #[error("--picture needs a file name, then a label, = and a file name for each curve")]
    Args,
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Curve { path: PathBuf, source: ReadCurveError },
}

fn draw(mut args: impl Iterator<Item = String>) -> Result<(), PictureError> {
    let out = PathBuf::from(args.next().ok_or(PictureError::Args)?);
    let mut curves = Vec::new();
    for arg in args {
        let (label, path) = arg.split_once('=').ok_or(PictureError::Args)?;
        let path = PathBuf::from(path);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| PictureError::File { path: path.clone(), source })?;
        curves.push(Curve::read(label, &text).map_err(|source| PictureError::Curve { path, source })?);
    }
    std::fs::write(&out, picture(&curves)).map_err(|source| PictureError::File { path: out, source })
}

fn show_speed_up(file: &Path, options: &Options, recording: Recording) -> ExitCode {
    let mut gains = Vec::new();
    for workers in speed_up::WORKERS {
        match speed_up::gain(options.seed, workers, recording, options.up) {
            Ok(gain) => gains.push(gain),
            Err(error) => {
                println!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    print!("{}", speed_up::table(&gains));
    if let Err(error) = std::fs::write(file, speed_up::draw(&gains)) {
        eprintln!("{}: {error}", file.display());
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--picture") {
        return match draw(std::env::args().skip(2)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}\n{USAGE}");
                ExitCode::from(2)
            }
        };
    }
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("{}", args.options);
    if let (Some(file), Some(recording)) = (&args.speed_up, args.options.recording) {
        return show_speed_up(file, &args.options, recording);
    }
    if args.is_script {
        let bytes = args.options.chunks * u64::from(args.options.chunk_bytes_max);
        let report = run_script(args.options.nodes, bytes, args.options.up);
        println!("{report}");
        return if report.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let report = run_options(args.options);
    if let Some(file) = &args.curve
        && let Err(error) = std::fs::write(file, report.curve())
    {
        eprintln!("{}: {error}", file.display());
        return ExitCode::from(2);
    }
    println!("{report}");
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
