//! One run of one system: the clock around it, what its links carried, what it cost the machine.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use super::distance::{Carried, Relay};
use super::network::{Counters, Network};
use super::process::LOOK_EVERY;
use super::systems::{Chunks, Kind, Site, System};

/// A machine that is busier than that measures itself.
const IDLE_PERCENT_MIN: f64 = 20.0;
/// The unit of /proc/PID/stat and /proc/stat: `USER_HZ`, which is 100 on every machine that the product runs on.
const TICKS_PER_S: f64 = 100.0;

/// What happened between the start of the clock and its stop.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Metered {
    /// From the publisher, with all headers.
    pub(super) publisher_up_bytes: u64,
    /// To all receivers, with all headers.
    pub(super) received_bytes: u64,
    pub(super) drops: u64,
    /// Of the system's processes, on all hosts.
    pub(super) cpu_s: f64,
    /// Of the machine, during the run.
    pub(super) idle_percent: f64,
    /// What lay between distant hosts.
    pub(super) relayed: Option<Relayed>,
}

/// What a relay did, which is part of no system.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Relayed {
    pub(super) carried: Carried,
    /// With the kernel's work on each packet's way into the receiver's socket, where the relay's own call does it.
    pub(super) cpu_s: f64,
}

/// A system's run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    pub(super) system: Kind,
    /// In its own words.
    pub(super) version: String,
    /// Until the last receiver had everything.
    pub(super) makespan_s: f64,
    /// Until a receiver had everything, on average.
    pub(super) mean_s: f64,
    pub(super) bound_s: f64,
    /// Bytes of the content, and those of all receivers' copies.
    pub(super) content_bytes: u64,
    pub(super) copies_bytes: u64,
    pub(super) metered: Metered,
    /// What the product counts of its chunks.
    pub(super) chunks: Option<Chunks>,
}

/// A running measurement.
#[derive(Debug)]
pub(super) struct Meter<'n> {
    network: &'n Network,
    counters: Vec<Counters>,
    usage: Usage,
    relayed: Option<Relayed>,
}

/// Processor time up to now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Of processes that live, and of children that have ended.
    ticks: u64,
    machine: Machine,
}

/// Processor time of the machine since it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    idle_ticks: u64,
    all_ticks: u64,
}

impl<'n> Meter<'n> {
    /// Starts it, with the processes of the system that live already.
    pub(super) fn start(network: &'n Network, processes: &[u32]) -> Result<Self> {
        let (counters, relayed) = (network.counters()?, network.relay().map(Relayed::now).transpose()?);
        Ok(Self { network, counters, relayed, usage: Usage::now(processes)? })
    }

    /// Stops it, with the processes that live still.
    pub(super) fn stop(self, processes: &[u32]) -> Result<Metered> {
        // First what reading the counters, by processes of this program, would change.
        let usage = Usage::now(processes)?;
        let counters = self.network.counters()?;
        let relayed = self.network.relay().map(Relayed::now).transpose()?;
        let drops = |counters: &[Counters]| counters.iter().map(|host| host.drops).sum::<u64>();
        let carried: Vec<(u64, u64)> = counters
            .iter()
            .zip(&self.counters)
            .map(|(after, before)| (after.up_bytes - before.up_bytes, after.down_bytes - before.down_bytes))
            .collect();
        Ok(Metered {
            publisher_up_bytes: carried.first().map_or(0, |(up, _)| *up),
            received_bytes: carried.iter().skip(1).map(|(_, down)| down).sum(),
            drops: drops(&counters) - drops(&self.counters),
            cpu_s: usage.cpu_s_since(&self.usage),
            idle_percent: usage.machine.idle_percent_since(self.usage.machine),
            relayed: relayed.zip(self.relayed).map(|(after, before)| after.since(before)),
        })
    }
}

impl Relayed {
    /// Since the relay was started.
    fn now(relay: &Relay) -> Result<Self> {
        Ok(Self { cpu_s: cpu_s(relay.id())?, carried: relay.carried()? })
    }

    fn since(self, before: Self) -> Self {
        Self { carried: self.carried.since(before.carried), cpu_s: self.cpu_s - before.cpu_s }
    }
}

impl Metered {
    /// Whether the machine had something left.
    pub(super) fn is_valid(&self) -> bool {
        self.idle_percent >= IDLE_PERCENT_MIN
    }
}

impl Run {
    pub(super) fn over_bound(&self) -> f64 {
        self.makespan_s / self.bound_s
    }

    pub(super) fn egress(&self) -> f64 {
        self.metered.publisher_up_bytes as f64 / self.content_bytes as f64
    }

    pub(super) fn received(&self) -> f64 {
        self.metered.received_bytes as f64 / self.copies_bytes as f64
    }

    pub(super) fn cpu_s_per_gb(&self) -> f64 {
        self.metered.cpu_s / (self.copies_bytes as f64 / 1e9)
    }
}

/// Runs a system on a network of its own.
pub(super) fn run(kind: Kind, site: &Site<'_>) -> Result<Run> {
    let profile = site.profile;
    let mut system = kind.prepare(site)?;
    let meter = Meter::start(site.network, &system.processes())?;
    let clock = Instant::now();
    system.start()?;
    let times = wait(system.as_mut(), clock, profile.limit())?;
    let metered = meter.stop(&system.processes())?;
    let chunks = system.check()?;
    ensure!(times.len() as u64 == u64::from(profile.receivers), "{} receivers were looked at", times.len());
    let seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    let demand = profile.demand();
    Ok(Run {
        system: kind,
        version: kind.version(),
        makespan_s: seconds.iter().copied().fold(0.0, f64::max),
        mean_s: seconds.iter().sum::<f64>() / f64::from(profile.receivers),
        bound_s: profile.bound_s(),
        content_bytes: demand.union_bytes,
        copies_bytes: demand.sum_bytes,
        metered,
        chunks,
    })
}

/// When each receiver had everything.
fn wait(system: &mut dyn System, clock: Instant, limit: Duration) -> Result<Vec<Duration>> {
    let mut times: BTreeMap<usize, Duration> = BTreeMap::new();
    loop {
        let done = system.done()?;
        let now = clock.elapsed();
        for (receiver, _) in done.iter().enumerate().filter(|(_, done)| **done) {
            times.entry(receiver).or_insert(now);
        }
        if times.len() == done.len() {
            return Ok(times.into_values().collect());
        }
        if now > limit {
            bail!("{} of {} receivers had everything after {} s", times.len(), done.len(), limit.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

impl Usage {
    /// Processes that ended before are counted once they were waited for, as children of this one.
    pub(super) fn now(processes: &[u32]) -> Result<Self> {
        let own = read("/proc/self/stat")?;
        let mut sum = ticks_of(&own).context("/proc/self/stat")?.ended_children;
        for id in processes {
            let process = ticks(*id)?;
            sum += process.own + process.ended_children;
        }
        let machine = machine(&read("/proc/stat")?).context("/proc/stat")?;
        Ok(Self { ticks: sum, machine })
    }
}

impl Usage {
    /// Seconds of processor time between both.
    pub(super) fn cpu_s_since(&self, before: &Self) -> f64 {
        self.ticks.saturating_sub(before.ticks) as f64 / TICKS_PER_S
    }
}

impl Machine {
    fn idle_percent_since(self, before: Self) -> f64 {
        let all = self.all_ticks.saturating_sub(before.all_ticks).max(1);
        self.idle_ticks.saturating_sub(before.idle_ticks) as f64 * 100.0 / all as f64
    }
}

/// Processor time of one process up to now, without its children.
pub(super) fn cpu_s(process: u32) -> Result<f64> {
    Ok(ticks(process)?.own as f64 / TICKS_PER_S)
}

fn ticks(process: u32) -> Result<Ticks> {
    let path = format!("/proc/{process}/stat");
    ticks_of(&read(&path)?).with_context(|| path.clone())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.to_owned())
}

/// Processor time of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    own: u64,
    ended_children: u64,
}

/// Reads /proc/PID/stat: fields 14 to 17 of proc(5), counted from behind the name, which may contain anything.
fn ticks_of(stat: &str) -> Option<Ticks> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<u64> =
        rest.split_whitespace().skip(11).take(4).map_while(|field| field.parse().ok()).collect();
    let [user, system, children_user, children_system] = fields[..] else {
        return None;
    };
    Some(Ticks { own: user + system, ended_children: children_user + children_system })
}

/// Reads the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. What guests use is
/// contained in user and nice. A machine that waits for its disk is idle.
fn machine(stat: &str) -> Option<Machine> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let idle_ticks = fields.get(3)? + fields.get(4)?;
    Some(Machine { idle_ticks, all_ticks: fields.iter().sum() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 1 0 0 0 30 4 500 60 20 0 1 0 100 1 1";
        assert_eq!(ticks_of(stat), Some(Ticks { own: 34, ended_children: 560 }));
        assert_eq!(ticks_of("12 (a) S 1 2"), None);
        assert_eq!(ticks_of(""), None);
    }

    #[test]
    fn an_idle_machine_is_one_that_waits() {
        let before = machine("cpu  10 0 10 100 0 0 0 0 0 0\ncpu0 1").unwrap();
        let after = machine("cpu  60 0 30 120 10 0 0 0 0 0\n").unwrap();
        assert!((after.idle_percent_since(before) - 30.0).abs() < 1e-9);
        assert_eq!(machine("intr 1"), None);
    }

    #[test]
    fn this_process_uses_the_processor() {
        let usage = Usage::now(&[std::process::id()]).unwrap();
        assert!(usage.machine.all_ticks > usage.machine.idle_ticks);
    }
}
