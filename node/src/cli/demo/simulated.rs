//! What simulating the demo's intervals took, and what the model of simulating in parallel makes of it.

use std::time::Duration;

use pageswarm_sim::speed_up::{Measured, ModelError, Parallel};

use crate::api::simulations::SimulationView;
use crate::publish::CheckpointFigures;

/// Rows of the summary. `all` are the figures of all checkpoints, `took` is the time of the whole.
pub(super) fn rows(
    all: &[CheckpointFigures],
    simulations: &[&SimulationView],
    nodes: u32,
    took: Duration,
) -> Vec<(&'static str, String)> {
    const NAME: &str = "intervals simulated";
    let sum = |figure: fn(&SimulationView) -> u64| simulations.iter().map(|one| figure(one)).sum::<u64>();
    let (instructions, took_ms) = (sum(|one| one.instructions), sum(|one| one.simulation_ms));
    if instructions == 0 {
        return vec![(NAME, "none: --simulate does".to_owned())];
    }
    let simulated = format!(
        "{}: {instructions} instructions in {took_ms} ms, {} million a second; {} reads, {} writes",
        simulations.len(),
        instructions / 1000 / took_ms.max(1),
        sum(|one| one.reads),
        sum(|one| one.writes)
    );
    let modelled = measured(all, simulations)
        .ok_or(ModelError::Time)
        .and_then(|(measured, interval)| sentence(&measured, interval, nodes, took))
        .unwrap_or_else(|error| error.to_string());
    vec![(NAME, simulated), ("speed-up by the model", modelled)]
}

/// What the model is asked with, and the intervals' mean length; `None` if the run has no length.
fn measured(all: &[CheckpointFigures], simulations: &[&SimulationView]) -> Option<(Measured, Duration)> {
    let (first, taken) = all.split_first()?;
    let paused_first = first.downtime_us;
    let paused_last = taken.last()?.downtime_us;
    let (intervals, simulated) = (taken.len() as f64, simulations.len() as f64);
    let sum = |of: fn(&CheckpointFigures) -> u64| taken.iter().map(of).sum::<u64>();
    let cost =
        |of: fn(&SimulationView) -> u64| simulations.iter().map(|one| of(one)).sum::<u64>() as f64 / 1e3;
    let paused = sum(|one| one.downtime_us);
    // From boundary to boundary, with the pause at the first of them.
    let run_us = sum(|one| one.interval_us).saturating_sub(paused_first + paused - paused_last);
    if run_us == 0 || simulations.is_empty() {
        return None;
    }
    let run = run_us as f64 / 1e6;
    let measured = Measured {
        run: Duration::from_micros(run_us),
        // Pages were counted over the pauses too, which the model has apart.
        recording_slowdown: sum(|one| one.rate_set) as f64 / sum(|one| one.rate_achieved).max(1) as f64
            * (run_us as f64 / sum(|one| one.interval_us).max(1) as f64),
        downtime: Duration::from_micros(paused).div_f64(intervals),
        simulation_slowdown: cost(|one| one.simulation_ms) / simulated * intervals / run,
        start_up: Duration::from_secs_f64(cost(|one| one.fetch_ms + one.read_back_ms) / simulated),
    };
    Some((measured, Duration::from_micros(run_us).div_f64(intervals)))
}

fn sentence(
    measured: &Measured,
    interval: Duration,
    nodes: u32,
    took: Duration,
) -> Result<String, ModelError> {
    let best = measured.best_interval()?;
    let best_nodes = measured.nodes_enough(best)?;
    let predicted = measured.predicted(interval, u64::from(nodes))?;
    let reached = Parallel { total: took, ..predicted };
    Ok(format!(
        "best with intervals of {:.3} s on {best_nodes} nodes, {:.2} times as fast as one; {nodes} nodes: {:.1} s predicted \
         ({:.2} times), {:.1} s taken with all proofs ({:.2} times)",
        best.as_secs_f64(),
        measured.speed_up(&measured.predicted(best, best_nodes)?),
        predicted.total.as_secs_f64(),
        measured.speed_up(&predicted),
        took.as_secs_f64(),
        measured.speed_up(&reached),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_has_prediction_and_outcome() {
        let measured = Measured {
            run: Duration::from_secs(20),
            recording_slowdown: 1.0,
            downtime: Duration::from_micros(100),
            simulation_slowdown: 2.0,
            start_up: Duration::ZERO,
        };
        let said = sentence(&measured, Duration::from_millis(500), 1, Duration::from_secs(80)).unwrap();
        assert!(said.contains("1 nodes: 40.5 s predicted (0.99 times), 80.0 s taken"), "{said}");
        assert!(said.ends_with("(0.50 times)"), "{said}");
    }

    #[test]
    fn without_simulations_there_is_nothing_to_ask_the_model() {
        assert_eq!(rows(&[], &[], 4, Duration::from_secs(1)).len(), 1);
        assert_eq!(measured(&[], &[]), None);
    }
}
