//! How much faster many workers simulate a recording than one: by the model alone, with chunks from the swarm, and with
//! chunks from the publisher only; as a table and as a picture (SVG).

use std::fmt::Write as _;

use crate::options::Options;
use crate::recording::Recording;
use crate::report::Report;
use crate::world::run_options;

/// Numbers of workers.
pub const WORKERS: [usize; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000];

/// What so many workers come to; speed-ups in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gain {
    /// How many.
    pub workers: usize,
    /// Without a network.
    pub model: u64,
    /// With chunks from whoever has them.
    pub swarm: u64,
    /// With chunks from the publisher.
    pub central: u64,
    /// Chunk bytes that the publisher sent, for each byte that was born: in the swarm.
    pub swarm_egress: u64,
    /// The same without one.
    pub central_egress: u64,
}

/// A run did not end, or not well.
#[derive(Debug, thiserror::Error)]
#[error("{workers} workers, {from}:\n{report}")]
pub struct GainError {
    workers: usize,
    from: &'static str,
    report: Box<Report>,
}

/// Simulates a recording with so many workers on links of `rate` bytes a second, from the swarm and from the publisher.
///
/// # Errors
/// [`GainError`]: an interval was not simulated, or a property did not hold.
pub fn gain(seed: u64, workers: usize, recording: Recording, rate: u64) -> Result<Gain, GainError> {
    let run = |is_central| {
        let from = if is_central { "from the publisher" } else { "from the swarm" };
        let report =
            run_options(Options { is_central, ..Options::recorded(seed, workers + 1, recording, rate) });
        match report.simulated {
            Some(simulated) if report.violations.is_empty() => Ok((simulated, report.publisher_bytes)),
            _ => Err(GainError { workers, from, report: Box::new(report) }),
        }
    };
    let (swarm, central) = std::thread::scope(|scope| {
        let swarm = scope.spawn(|| run(false));
        let central = run(true);
        (swarm.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), central)
    });
    let ((swarm, swarm_bytes), (central, central_bytes)) = (swarm?, central?);
    // The last checkpoint is nobody's start.
    let born = recording.born_by(recording.intervals - 1) * crate::options::PAGE_BYTES;
    let egress = |bytes: u64| bytes * 1000 / born.max(1);
    Ok(Gain {
        workers,
        model: swarm.predicted_permille(),
        swarm: swarm.speed_up_permille(),
        central: central.speed_up_permille(),
        swarm_egress: egress(swarm_bytes),
        central_egress: egress(central_bytes),
    })
}

/// The gains as a table for Markdown.
#[must_use]
pub fn table(gains: &[Gain]) -> String {
    let mut text = String::from(
        "| workers | model, no network | swarm | publisher only | publisher sent, swarm | publisher sent, alone |\n\
         |---|---|---|---|---|---|\n",
    );
    let times = |permille: u64| format!("{}.{:02}", permille / 1000, permille % 1000 / 10);
    for Gain { workers, model, swarm, central, swarm_egress, central_egress } in gains {
        let speed_ups = [model, swarm, central].map(|permille| times(*permille)).join(" | ");
        let sent = [swarm_egress, central_egress].map(|permille| times(*permille)).join(" | ");
        writeln!(text, "| {workers} | {speed_ups} | {sent} |").expect("a string takes what is written to it");
    }
    text
}

const LEFT: f64 = 70.0;
const TOP: f64 = 50.0;
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 360.0;
/// Both axes go from 1 to this, in equal steps for equal factors.
const MOST: f64 = 1000.0;

fn place(value: f64) -> f64 {
    value.clamp(1.0, MOST).log10() / MOST.log10()
}

fn x(workers: f64) -> f64 {
    LEFT + place(workers) * WIDTH
}

fn y(speed_up: f64) -> f64 {
    TOP + (1.0 - place(speed_up)) * HEIGHT
}

/// Draws the gains: workers to the right, speed-up upwards, both with equal steps for equal factors.
#[must_use]
pub fn draw(gains: &[Gain]) -> String {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 700 480\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"700\" height=\"480\" fill=\"#ffffff\"/>\n\
         <text x=\"70\" y=\"30\" font-size=\"15\">Simulating a recording in parallel: speed-up over one node</text>\n",
    );
    let mut put = |line: std::fmt::Arguments<'_>| {
        writeln!(svg, "{line}").expect("a string takes what is written to it");
    };
    let (right, bottom) = (LEFT + WIDTH, TOP + HEIGHT);
    for mark in [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0] {
        let (across, up) = (x(mark), y(mark));
        put(format_args!("<path d=\"M{LEFT},{up:.1}H{right}\" stroke=\"#dddddd\"/>"));
        put(format_args!("<text x=\"62\" y=\"{:.1}\" text-anchor=\"end\">{mark}</text>", up + 4.0));
        put(format_args!("<path d=\"M{across:.1},{bottom}v5\" stroke=\"#000000\"/>"));
        put(format_args!(
            "<text x=\"{across:.1}\" y=\"{}\" text-anchor=\"middle\">{mark}</text>",
            bottom + 20.0
        ));
    }
    put(format_args!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">workers</text>",
        LEFT + WIDTH / 2.0,
        bottom + 42.0
    ));
    put(format_args!("<path d=\"M{LEFT},{TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#000000\"/>"));
    // Okabe and Ito's colours, which differ for the colour-blind too.
    type Of = fn(&Gain) -> u64;
    let lines: [(&str, &str, &str, Of); 3] = [
        ("model: as fast as without a network", "#777777", "stroke-dasharray=\"6 4\"", |gain| gain.model),
        ("chunks from the swarm", "#0072b2", "", |gain| gain.swarm),
        ("chunks from the publisher only", "#d55e00", "", |gain| gain.central),
    ];
    for ((label, colour, dashes, of), row) in lines.into_iter().zip(0_u32..) {
        let point = |gain: &Gain| {
            let (workers, speed_up) = (gain.workers as f64, of(gain) as f64 / 1000.0);
            format!("{:.1},{:.1}", x(workers), y(speed_up))
        };
        let points: Vec<String> = gains.iter().map(point).collect();
        put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" {dashes}/>",
            points.join(" ")
        ));
        let at = TOP + 16.0 + 22.0 * f64::from(row);
        put(format_args!("<path d=\"M90,{at}h30\" stroke=\"{colour}\" stroke-width=\"2.5\" {dashes}/>"));
        put(format_args!("<text x=\"128\" y=\"{}\">{label}</text>", at + 4.0));
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gains_are_listed_and_drawn() {
        let gain = |workers: usize, swarm: u64| Gain {
            workers,
            model: workers as u64 * 1000,
            swarm,
            central: swarm / 2,
            swarm_egress: 1020,
            central_egress: 9000,
        };
        let gains = [gain(1, 999), gain(10, 9_800), gain(1000, 900_000)];
        let text = table(&gains);
        assert!(text.contains("| 10 | 10.00 | 9.80 | 4.90 | 1.02 | 9.00 |"), "{text}");
        let svg = draw(&gains);
        // Ten workers of a thousand are a third of the way; so is a speed-up of ten.
        assert!(svg.contains("points=\"70.0,410.0 256.7,290.0 630.0,50.0\""), "{svg}");
    }
}
