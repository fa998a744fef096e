//! A stream of checkpoints that are published one after the other while receivers fetch them, each of them another one:
//! how the product is used. No other tool has such a thing.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;

use super::content::{self, Noise};
use super::ground::Ground;
use super::measure::{Meter, Metered};
use super::network::Network;
use super::profile::{Demand, Link, PAGE_BYTES, StreamProfile, limit};
use super::systems::Chunks;
use super::systems::nodes::{self, Exchange, Hosts, Imported, Nodes};

const SEED: u64 = 11;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StreamRun {
    pub(super) checkpoints: usize,
    /// Until the last receiver had its last checkpoint.
    pub(super) makespan_s: f64,
    pub(super) bound_s: f64,
    /// What all receivers together lacked, each byte once.
    pub(super) union_bytes: u64,
    /// The same, for each receiver again.
    pub(super) copies_bytes: u64,
    /// From the order to import to the last byte at the receiver that wanted it, ascending.
    pub(super) lags_s: Vec<f64>,
    pub(super) metered: Metered,
    pub(super) chunks: Chunks,
}

/// Versions of pages: by which checkpoint a page was written, and its number.
type Versions = BTreeSet<(usize, u32)>;

/// A checkpoint on the publisher.
struct Published {
    checkpoint: Imported,
    /// When its import was ordered: nothing of it can have been elsewhere before.
    release: Duration,
}

/// A checkpoint at the receiver that wanted it.
struct Arrival {
    receiver: usize,
    index: usize,
    at: Duration,
}

/// Runs it.
pub(super) fn run(profile: &StreamProfile, ground: &Ground) -> Result<StreamRun> {
    let directory = ground.fresh("stream")?;
    let network = Network::new(ground.name(), profile.receivers + 1, profile.link)?;
    let mut nodes = Nodes::start(Hosts::Shaped(&network), profile.receivers, &directory, Exchange::Swarm)?;
    let mut image = Image::new(directory.join("image"), profile.pages)?;
    let changes = changes(profile);
    let patience = limit(profile.interval.as_secs_f64() * profile.deltas as f64);
    let meter = Meter::start(&network, &nodes.processes())?;
    let clock = Instant::now();
    let mut published = vec![publish(&nodes, &image.path, None, clock)?];
    let lineage = published[0].checkpoint.lineage.clone();
    let receivers = follow_all(profile, &nodes, &lineage, clock, patience);
    for (index, pages) in (0_u32..).zip(&changes).skip(1) {
        std::thread::sleep((profile.interval * index).saturating_sub(clock.elapsed()));
        image.change(pages)?;
        nodes.ensure_run()?;
        published.push(publish(&nodes, &image.path, Some(&lineage), clock)?);
    }
    let mut arrivals = Vec::new();
    for receiver in receivers {
        arrivals.extend(receiver.join().map_err(|_| anyhow!("a receiver's thread panicked"))??);
    }
    let metered = meter.stop(&nodes.processes())?;
    for arrival in &arrivals {
        nodes.prove(arrival.receiver + 1, &published[arrival.index].checkpoint)?;
    }
    let needs = needs(&changes, profile.pages, profile.receivers as usize);
    let releases_s: Vec<f64> = published.iter().map(|one| one.release.as_secs_f64()).collect();
    let demand = demand_from(&needs, 0);
    Ok(StreamRun {
        checkpoints: arrivals.len(),
        makespan_s: arrivals.iter().map(|arrival| arrival.at.as_secs_f64()).fold(0.0, f64::max),
        bound_s: bound_s(&needs, &releases_s, profile.link, profile.receivers),
        union_bytes: demand.union_bytes,
        copies_bytes: demand.sum_bytes,
        lags_s: lags_s(&arrivals, &published),
        metered,
        chunks: nodes.chunks()?,
    })
}

/// One thread for each receiver.
fn follow_all(
    profile: &StreamProfile,
    nodes: &Nodes,
    lineage: &str,
    clock: Instant,
    patience: Duration,
) -> Vec<JoinHandle<Result<Vec<Arrival>>>> {
    let (receivers, last) = (profile.receivers as usize, profile.deltas);
    let follow = |receiver: usize| {
        let (api, lineage) = (nodes.api(receiver + 1), lineage.to_owned());
        std::thread::spawn(move || -> Result<Vec<Arrival>> {
            let mut arrivals = Vec::new();
            for index in (receiver..=last).step_by(receivers) {
                nodes::fetch(&api, &lineage, index as u64, patience)?;
                arrivals.push(Arrival { receiver, index, at: clock.elapsed() });
            }
            Ok(arrivals)
        })
    };
    (0..receivers).map(follow).collect()
}

fn publish(nodes: &Nodes, image: &Path, lineage: Option<&str>, clock: Instant) -> Result<Published> {
    let release = clock.elapsed();
    Ok(Published { checkpoint: nodes.import(image, lineage)?, release })
}

fn lags_s(arrivals: &[Arrival], published: &[Published]) -> Vec<f64> {
    let lag = |arrival: &Arrival| arrival.at.saturating_sub(published[arrival.index].release).as_secs_f64();
    let mut lags: Vec<f64> = arrivals.iter().map(lag).collect();
    lags.sort_by(f64::total_cmp);
    lags
}

/// The RAM image that is imported again and again.
struct Image {
    path: PathBuf,
    file: File,
    noise: Noise,
}

impl Image {
    fn new(path: PathBuf, pages: u32) -> Result<Self> {
        let mut noise = Noise::new(SEED);
        content::write(&path, u64::from(pages) * u64::from(PAGE_BYTES), &mut noise)?;
        let file = File::options().write(true).open(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, file, noise })
    }

    fn change(&mut self, pages: &[u32]) -> Result<()> {
        let mut bytes = [0; PAGE_BYTES as usize];
        for page in pages {
            self.noise.fill(&mut bytes);
            self.file.write_all_at(&bytes, u64::from(*page) * u64::from(PAGE_BYTES)).context("image")?;
        }
        Ok(())
    }
}

/// The pages that each checkpoint writes; the first writes all, which is not listed.
fn changes(profile: &StreamProfile) -> Vec<Vec<u32>> {
    let mut noise = Noise::new(SEED + 1);
    let mut any_page = || u32::try_from(noise.number() % u64::from(profile.pages)).unwrap_or(0);
    let mut all = vec![Vec::new()];
    for _ in 0..profile.deltas {
        let mut pages = BTreeSet::new();
        while pages.len() < profile.pages_per_delta as usize {
            pages.insert(any_page());
        }
        all.push(pages.into_iter().collect());
    }
    all
}

/// What each receiver lacks if checkpoints are dealt to them in turn. A version that is overwritten before a checkpoint
/// which someone wants is needed by nobody.
fn needs(changes: &[Vec<u32>], pages: u32, receivers: usize) -> Vec<Versions> {
    let mut written = vec![0; pages as usize];
    let mut needs = vec![Versions::new(); receivers];
    for (index, changed) in changes.iter().enumerate() {
        for page in changed {
            written[*page as usize] = index;
        }
        needs[index % receivers].extend(written.iter().copied().zip(0..));
    }
    needs
}

/// What of it was written by checkpoint `first` and later ones.
fn demand_from(needs: &[Versions], first: usize) -> Demand {
    let bytes = |versions: &Versions| versions.len() as u64 * u64::from(PAGE_BYTES);
    let later: Vec<Versions> =
        needs.iter().map(|versions| versions.range((first, 0)..).copied().collect()).collect();
    let union: Versions = later.iter().flatten().copied().collect();
    Demand {
        union_bytes: bytes(&union),
        most_bytes: later.iter().map(bytes).max().unwrap_or(0),
        sum_bytes: later.iter().map(bytes).sum(),
    }
}

/// Seconds that no system can beat: whatever checkpoint one begins with, what it and later ones wrote could only be sent
/// from its release on.
fn bound_s(needs: &[Versions], releases_s: &[f64], link: Link, receivers: u32) -> f64 {
    let from = |(first, release): (usize, &f64)| release + demand_from(needs, first).bound_s(link, receivers);
    releases_s.iter().enumerate().map(from).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link { mbit_per_s: 8 };

    #[test]
    fn versions_that_nobody_wants_are_not_needed() {
        // Three pages, two receivers: checkpoints 0 and 2 go to the first, 1 and 3 to the second.
        let changes = [vec![], vec![0], vec![0, 1], vec![0]];
        let needs = needs(&changes, 3, 2);
        assert_eq!(needs[0], Versions::from([(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]));
        assert_eq!(needs[1], Versions::from([(1, 0), (0, 1), (0, 2), (3, 0), (2, 1)]));
        let pages = |union: u64, most: u64, sum: u64| Demand {
            union_bytes: union * u64::from(PAGE_BYTES),
            most_bytes: most * u64::from(PAGE_BYTES),
            sum_bytes: sum * u64::from(PAGE_BYTES),
        };
        assert_eq!(demand_from(&needs, 0), pages(7, 5, 10));
        assert_eq!(demand_from(&needs, 2), pages(3, 2, 4));
        assert_eq!(demand_from(&needs, 4), Demand::default());
    }

    #[test]
    fn the_bound_knows_when_checkpoints_were_released() {
        let needs = [Versions::from([(0, 0), (1, 0)])];
        let page_s = f64::from(PAGE_BYTES) / 1e6;
        let near =
            |releases: [f64; 2], bound: f64| (bound_s(&needs, &releases, LINK, 1) - bound).abs() < 1e-9;
        assert!(near([0.0, 0.0], 2.0 * page_s));
        assert!(near([0.0, 1.0], 1.0 + page_s));
    }

    #[test]
    fn every_change_has_as_many_pages() {
        let changes = changes(&super::super::profile::STREAM);
        assert_eq!(changes.len(), 41);
        assert!(changes.iter().skip(1).all(|pages| pages.len() == 256));
    }
}
