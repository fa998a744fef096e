//! The model of how much faster simulating intervals in parallel is than simulating a run at once.
//!
//! An interval of length L is recorded in P = s_log L + t_c and simulated in Q = s_sim L + t_i. With N* = ceil(Q / P)
//! nodes none waits: the whole takes T (s_log + t_c / L) + Q, which is least for L* = sqrt(T t_c / s_sim). With fewer nodes
//! N the simulations are what takes time: (T / L) Q / N + P, if that is more. The speed-up is over one node that simulates all of T
//! in s_sim T (after SimuBoost; Rittinghaus & Bellosa, KIT).

use crate::analysis::Table;
use serde::Serialize;
use std::time::Duration;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// T: the run's time when nothing is recorded.
    pub run: Duration,
    /// s_log: how much longer it takes while it is recorded, pauses left out; 1 or a little more.
    pub recording_slowdown: f64,
    /// t_c: the pause of one checkpoint.
    pub downtime: Duration,
    /// s_sim: how much longer a simulation takes.
    pub simulation_slowdown: f64,
    /// t_i: from an interval's end to the start of its simulation: fetching and reading back.
    pub start_up: Duration,
}

/// What the model says for an interval length and a number of nodes, or what was reached with them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Parallel {
    /// L.
    pub interval: Duration,
    /// Nodes that simulate.
    pub nodes: u64,
    /// From the run's start to the end of the last simulation.
    pub total: Duration,
}

/// Figures with which the model says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// A slowdown is no number of at least 1e-6 and at most 1e9.
    #[error("a slowdown is not a number between 0.000001 and a billion")]
    Slowdown,
    /// The run or the interval has no length, or one above 30 years.
    #[error("run and interval have to be longer than nothing, and no time above 30 years")]
    Time,
    /// No node simulates.
    #[error("at least one node has to simulate")]
    Nodes,
}

const SECONDS_MAX: f64 = 1e9;

impl Measured {
    fn checked(&self) -> Result<(), ModelError> {
        let is_slowdown = |slowdown: f64| (1e-6..=1e9).contains(&slowdown);
        if !is_slowdown(self.recording_slowdown) || !is_slowdown(self.simulation_slowdown) {
            return Err(ModelError::Slowdown);
        }
        let times = [self.run, self.downtime, self.start_up];
        if self.run.is_zero() || times.iter().any(|time| time.as_secs_f64() > SECONDS_MAX) {
            return Err(ModelError::Time);
        }
        Ok(())
    }

    /// L*: the interval with which the whole is done first, if there are nodes enough. At least a microsecond, at most
    /// the run.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn best_interval(&self) -> Result<Duration, ModelError> {
        self.checked()?;
        let best = (self.run.as_secs_f64() * self.downtime.as_secs_f64() / self.simulation_slowdown).sqrt();
        // The least is the run's where that is shorter still.
        Ok(Duration::from_secs_f64(best.min(SECONDS_MAX)).max(Duration::from_micros(1)).min(self.run))
    }

    /// N*: with so many nodes no interval waits for one.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn nodes_enough(&self, interval: Duration) -> Result<u64, ModelError> {
        let (recorded, simulated) = self.times(interval)?;
        Ok(whole((simulated / recorded).ceil()).max(1))
    }

    /// P and Q in seconds.
    fn times(&self, interval: Duration) -> Result<(f64, f64), ModelError> {
        self.checked()?;
        let seconds = interval.as_secs_f64();
        if interval.is_zero() || seconds > SECONDS_MAX {
            return Err(ModelError::Time);
        }
        let recorded = self.recording_slowdown * seconds + self.downtime.as_secs_f64();
        Ok((recorded, self.simulation_slowdown * seconds + self.start_up.as_secs_f64()))
    }

    /// How long the whole takes with so many nodes.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn predicted(&self, interval: Duration, nodes: u64) -> Result<Parallel, ModelError> {
        let (recorded, simulated) = self.times(interval)?;
        if nodes == 0 {
            return Err(ModelError::Nodes);
        }
        let intervals = self.run.as_secs_f64() / interval.as_secs_f64();
        // Nobody is done before the last interval is recorded and simulated, however many there are.
        let total = (intervals * recorded + simulated).max(intervals * simulated / nodes as f64 + recorded);
        let total = Duration::try_from_secs_f64(total).unwrap_or(Duration::MAX);
        Ok(Parallel { interval, nodes, total })
    }

    /// S: how many times faster than one simulation of all of it.
    #[must_use]
    pub fn speed_up(&self, parallel: &Parallel) -> f64 {
        self.simulation_slowdown * self.run.as_secs_f64() / parallel.total.as_secs_f64().max(1e-9)
    }

    /// The best that the model knows, and, for each that was reached, the prediction for it and itself.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn table(&self, reached: &[Parallel]) -> Result<Table, ModelError> {
        let mut table = Table::new(["", "interval", "nodes", "enough", "total", "speed-up", "of nodes + 1"]);
        let best = self.best_interval()?;
        let mut push = |name: &str, parallel: &Parallel| -> Result<(), ModelError> {
            let speed_up = self.speed_up(parallel);
            table.push([
                name.to_owned(),
                format!("{:.3} s", parallel.interval.as_secs_f64()),
                parallel.nodes.to_string(),
                self.nodes_enough(parallel.interval)?.to_string(),
                format!("{:.3} s", parallel.total.as_secs_f64()),
                format!("{speed_up:.2}"),
                // One node more records.
                format!("{:.1} %", 100.0 * speed_up / (parallel.nodes as f64 + 1.0)),
            ]);
            Ok(())
        };
        push("best", &self.predicted(best, self.nodes_enough(best)?)?)?;
        for reached in reached {
            push("predicted", &self.predicted(reached.interval, reached.nodes)?)?;
            push("reached", reached)?;
        }
        Ok(table)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast to an integer saturates")]
fn whole(count: f64) -> u64 {
    count as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAPER: Measured = Measured {
        run: Duration::from_secs(3600),
        recording_slowdown: 1.08,
        downtime: Duration::from_millis(100),
        simulation_slowdown: 100.0,
        start_up: Duration::ZERO,
    };

    #[test]
    fn the_published_example_comes_out() {
        let best = PAPER.best_interval().unwrap();
        assert_eq!(best.as_millis(), 1897);
        let nodes = PAPER.nodes_enough(best).unwrap();
        assert_eq!(nodes, 89);
        let speed_up = PAPER.speed_up(&PAPER.predicted(best, nodes).unwrap());
        assert!((84.3..84.5).contains(&speed_up), "{speed_up}");
    }

    #[test]
    fn no_other_interval_is_better_and_fewer_nodes_are_slower() {
        let total = |interval| {
            let nodes = PAPER.nodes_enough(interval).unwrap();
            PAPER.predicted(interval, nodes).unwrap().total
        };
        let best = PAPER.best_interval().unwrap();
        assert!([0.3, 0.8, 0.95, 1.05, 1.3, 4.0].iter().all(|by| total(best.mul_f64(*by)) > total(best)));
        let with = |nodes| PAPER.speed_up(&PAPER.predicted(best, nodes).unwrap());
        assert!(with(1) < 1.001 && with(44) > 43.0 && with(44) < 44.1 && with(44) < with(80));
        let reached = Parallel { interval: best, nodes: 44, total: Duration::from_secs(9000) };
        let table = PAPER.table(&[reached]).unwrap().to_string();
        assert!(table.lines().count() == 4 && table.contains("40.00"), "{table}");
    }

    #[test]
    fn figures_that_say_nothing_are_refused() {
        let with = |change: fn(&mut Measured)| {
            let mut measured = PAPER;
            change(&mut measured);
            measured.best_interval().err()
        };
        assert_eq!(with(|measured| measured.simulation_slowdown = f64::NAN), Some(ModelError::Slowdown));
        assert_eq!(with(|measured| measured.recording_slowdown = 0.0), Some(ModelError::Slowdown));
        assert_eq!(with(|measured| measured.run = Duration::ZERO), Some(ModelError::Time));
        assert_eq!(with(|measured| measured.downtime = Duration::MAX), Some(ModelError::Time));
        assert_eq!(PAPER.predicted(Duration::ZERO, 3).err(), Some(ModelError::Time));
        assert_eq!(PAPER.predicted(Duration::from_secs(1), 0).err(), Some(ModelError::Nodes));
    }
}
