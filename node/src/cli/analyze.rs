//! `pageswarm sim analyze`: what recorded intervals have in them.

use std::ops::Range;
use std::path::PathBuf;

use clap::ValueEnum;
use pageswarm_sim::analysis::{
    Analysis, DoubleFetch, Redundancy, Reference, Regions, Report, Start, Study, WorkingSets, WriteHeat,
};
use serde::Serialize;

use super::recorded::{self, IntervalArgs, Recorded};
use super::sim::blocking;
use super::{print, values};
use crate::api::error::code_of;
use crate::exit::{ExitCode, Failure};
use crate::report;

/// What to look into, and for what.
#[derive(Debug, clap::Args)]
pub struct AnalyzeArgs {
    /// What to find.
    #[arg(value_enum)]
    pub analysis: Kind,
    /// Whose intervals.
    #[command(flatten)]
    pub of: IntervalArgs,
    /// The checkpoint that the first interval begins with.
    #[arg(long)]
    pub from: u64,
    /// The checkpoint that the last interval ends with.
    #[arg(long)]
    pub to: u64,
    /// Also write a picture.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Of double fetches: virtual addresses of the code that reads, such as 0x100000..0x104000.
    #[arg(long, value_name = "RANGE", value_parser = values::range, required_if_eq("analysis", "double-fetch"))]
    pub reader: Option<Range<u64>>,
    /// Of double fetches: guest-physical addresses of the data that others may write.
    #[arg(long, value_name = "RANGE", value_parser = values::range, required_if_eq("analysis", "double-fetch"))]
    pub shared: Option<Range<u64>>,
}

/// An analysis that is built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Pages that are zero, equal to others, or as they were; who made them so, and for how long.
    Redundancy,
    /// Pages that each interval touches.
    WorkingSets,
    /// How often each page is written.
    WriteHeat,
    /// Code that reads the same shared bytes twice within one call.
    DoubleFetch,
}

/// Carries out the command.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(args: AnalyzeArgs) -> Result<(), Failure> {
    if args.from >= args.to {
        let message = format!("no interval lies between checkpoints {} and {}", args.from, args.to);
        return Err(Failure::new(ExitCode::Usage, message));
    }
    let recorded = Recorded::open(&args.of).await?;
    match args.analysis {
        Kind::Redundancy => {
            let (_, ram) = recorded.get(args.from).await?;
            let reference = blocking(move || Ok(Reference::of(&ram))).await?;
            study(Redundancy::since(reference), &recorded, &args).await
        }
        Kind::WorkingSets => study(WorkingSets, &recorded, &args).await,
        Kind::WriteHeat => study(WriteHeat, &recorded, &args).await,
        Kind::DoubleFetch => {
            let (Some(reader), Some(shared)) = (args.reader.clone(), args.shared.clone()) else {
                return Err(Failure::new(ExitCode::Usage, "give --reader and --shared"));
            };
            study(DoubleFetch::between(Regions { reader, shared }), &recorded, &args).await
        }
    }
}

async fn study<A>(analysis: A, recorded: &Recorded, args: &AnalyzeArgs) -> Result<(), Failure>
where
    A: Analysis<Outcome: Report + Serialize + Send> + Send + 'static,
    A::Observer: Send,
    A::Part: Send,
{
    let mut study = Study::new(analysis);
    for interval in args.from..args.to {
        let (recording, ram) = recorded.get(interval).await?;
        study = blocking(move || {
            let observer = study.begin(&Start { index: recording.interval, ram: &ram });
            let replayed = recorded::simulate(&recording, ram, observer, || true)?;
            study
                .end(recording.interval, replayed.observer, replayed.instructions)
                .map_err(|error| Failure::new(ExitCode::Failed, report::chain(&error)))?;
            Ok(study)
        })
        .await?;
    }
    let series =
        study.finish().ok_or_else(|| Failure::new(ExitCode::Failed, "there was no interval to look into"))?;
    if let Some(path) = &args.svg {
        let failed =
            |error: std::io::Error| Failure::new(code_of(&error), format!("{}: {error}", path.display()));
        std::fs::write(path, series.picture().to_string()).map_err(failed)?;
    }
    if args.of.node.json { print::json(&series) } else { print::line(series.text().trim_end()) }
}
