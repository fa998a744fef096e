//! The product. The publisher has imported the content and every receiver knows the checkpoint's head and delta, as
//! clients of BitTorrent have the torrent; the clock starts with an order to fetch to each.

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use super::nodes::{self, Exchange, Fetched, Hosts, Imported, Nodes};
use super::{Chunks, Site, System};

/// Running nodes that know of a checkpoint.
#[derive(Debug)]
pub(super) struct Pageswarm {
    nodes: Nodes,
    receivers: u32,
    checkpoint: Imported,
    limit: Duration,
    fetches: Vec<JoinHandle<Result<Fetched>>>,
}

impl Pageswarm {
    pub(super) fn prepare(site: &Site<'_>, exchange: Exchange) -> Result<Self> {
        let receivers = site.profile.receivers;
        let mut nodes = Nodes::start(Hosts::Shaped(site.network), receivers, &site.directory, exchange)?;
        let checkpoint = nodes.import(site.content, None)?;
        nodes.wait_announced(&checkpoint)?;
        Ok(Self { nodes, receivers, checkpoint, limit: site.profile.limit(), fetches: Vec::new() })
    }

    fn hosts(&self) -> impl Iterator<Item = usize> + use<> {
        1..=self.receivers as usize
    }
}

impl System for Pageswarm {
    fn start(&mut self) -> Result<()> {
        for host in self.hosts() {
            let (api, limit) = (self.nodes.api(host), self.limit);
            let Imported { lineage, index, .. } = self.checkpoint.clone();
            self.fetches.push(std::thread::spawn(move || nodes::fetch(&api, &lineage, index, limit)));
        }
        Ok(())
    }

    fn done(&mut self) -> Result<Vec<bool>> {
        self.nodes.ensure_run()?;
        Ok(self.fetches.iter().map(JoinHandle::is_finished).collect())
    }

    fn processes(&self) -> Vec<u32> {
        self.nodes.processes()
    }

    fn check(&mut self) -> Result<Option<Chunks>> {
        for fetch in self.fetches.drain(..) {
            let fetched = fetch.join().map_err(|_| anyhow!("a fetch panicked"))??;
            // A receiver may hold what it needs to know the checkpoint, but nothing to speak of.
            let (held, lacked) = (fetched.held_chunks, fetched.lacked_chunks);
            ensure!(
                held * 100 <= lacked,
                "{held} chunks were on a receiver before the clock, {lacked} were not"
            );
        }
        for host in self.hosts() {
            self.nodes.prove(host, &self.checkpoint)?;
        }
        Ok(Some(self.nodes.chunks()?))
    }
}
