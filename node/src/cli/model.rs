//! `pageswarm sim model`: what simulating in parallel can gain, from what was measured.

use std::str::FromStr;
use std::time::Duration;

use pageswarm_sim::speed_up::{Measured, ModelError, Parallel};
use serde::Serialize;

use super::{print, values};
use crate::exit::{ExitCode, Failure};

/// What was measured, and what was reached.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// The run's time when nothing is recorded, such as 3600s.
    #[arg(long, value_name = "TIME", value_parser = values::exact_duration)]
    pub run: Duration,
    /// How much longer it takes while it is recorded, pauses left out.
    #[arg(long, value_name = "TIMES", default_value_t = 1.0)]
    pub recording_slowdown: f64,
    /// The pause of one checkpoint, such as 0.1ms.
    #[arg(long, value_name = "TIME", value_parser = values::exact_duration)]
    pub downtime: Duration,
    /// How much longer a simulation takes.
    #[arg(long, value_name = "TIMES")]
    pub simulation_slowdown: f64,
    /// From an interval's end to the start of its simulation: fetching and reading back.
    #[arg(long, value_name = "TIME", value_parser = values::exact_duration, default_value = "0s")]
    pub start_up: Duration,
    /// Length of an interval; the one that the model finds best, if not given.
    #[arg(long, value_name = "TIME", value_parser = values::exact_duration)]
    pub interval: Option<Duration>,
    /// So many nodes took so long in all, such as 4:90s, to be shown beside the prediction; may be given several times.
    #[arg(long, value_name = "NODES:TIME")]
    pub reached: Vec<Reached>,
    /// Print JSON instead of text for people.
    #[arg(long)]
    pub json: bool,
}

/// What some nodes took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    nodes: u64,
    total: Duration,
}

impl FromStr for Reached {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || "expected nodes and their time, such as 4:90s".to_owned();
        let (nodes, total) = text.split_once(':').ok_or_else(error)?;
        let nodes = nodes.parse().ok().filter(|nodes| *nodes > 0).ok_or_else(error)?;
        Ok(Self { nodes, total: values::exact_duration(total)? })
    }
}

/// Numbers of nodes that the curve shows.
const CURVE: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000];

/// A number of nodes, and what the model says for it.
#[derive(Clone, Copy, Debug, Serialize)]
struct Point {
    nodes: u64,
    total: Duration,
    speed_up: f64,
}

#[derive(Debug, Serialize)]
struct Said {
    measured: Measured,
    best_interval: Duration,
    interval: Duration,
    nodes_enough: u64,
    curve: Vec<Point>,
    reached: Vec<Parallel>,
}

/// Carries out the command.
///
/// # Errors
///
/// [`Failure`]: figures with which the model says nothing.
pub fn run(args: &ModelArgs) -> Result<(), Failure> {
    let measured = Measured {
        run: args.run,
        recording_slowdown: args.recording_slowdown,
        downtime: args.downtime,
        simulation_slowdown: args.simulation_slowdown,
        start_up: args.start_up,
    };
    let said = ask(measured, args.interval, &args.reached)
        .map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))?;
    if args.json {
        return print::json(&said);
    }
    let table = measured.table(&said.reached);
    let table = table.map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))?;
    print::line(table.to_string().trim_end())?;
    let heads = ["nodes", "total", "speed-up"].map(str::to_owned).to_vec();
    let rows = said.curve.iter().map(|point| {
        let Point { nodes, total, speed_up } = point;
        vec![nodes.to_string(), format!("{:.3} s", total.as_secs_f64()), format!("{speed_up:.2}")]
    });
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    print::line(&format!("\nintervals of {:.3} s:", said.interval.as_secs_f64()))?;
    print::line(print::table(&rows).trim_end())
}

fn ask(measured: Measured, interval: Option<Duration>, reached: &[Reached]) -> Result<Said, ModelError> {
    let best_interval = measured.best_interval()?;
    let interval = interval.unwrap_or(best_interval);
    let point = |nodes| -> Result<Point, ModelError> {
        let predicted = measured.predicted(interval, nodes)?;
        Ok(Point { nodes, total: predicted.total, speed_up: measured.speed_up(&predicted) })
    };
    Ok(Said {
        measured,
        best_interval,
        interval,
        nodes_enough: measured.nodes_enough(interval)?,
        curve: CURVE.into_iter().map(point).collect::<Result<_, _>>()?,
        reached: reached
            .iter()
            .map(|reached| Parallel { interval, nodes: reached.nodes, total: reached.total })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_their_time_are_read() {
        let total = Duration::from_millis(90_500);
        assert_eq!("4:90.5s".parse(), Ok(Reached { nodes: 4, total }));
        for wrong in ["4", "0:9s", "x:9s", "4:", "4:9", ":9s"] {
            assert!(wrong.parse::<Reached>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_curve_rises_until_there_are_nodes_enough() {
        let measured = Measured {
            run: Duration::from_secs(3600),
            recording_slowdown: 1.08,
            downtime: Duration::from_millis(100),
            simulation_slowdown: 100.0,
            start_up: Duration::ZERO,
        };
        let said = ask(measured, None, &[]).unwrap();
        assert_eq!(said.nodes_enough, 89);
        let speed_ups: Vec<f64> = said.curve.iter().map(|point| point.speed_up).collect();
        assert!(speed_ups.is_sorted(), "{speed_ups:?}");
        assert!(speed_ups[6] < 64.5 && speed_ups[7] > 84.0, "{speed_ups:?}");
        assert!((speed_ups[10] - speed_ups[7]).abs() < 1e-9, "more than enough is no more");
        assert_eq!(ask(measured, Some(Duration::ZERO), &[]).unwrap_err(), ModelError::Time);
    }
}
