//! The thread of a VM whose checkpoints are published: its events become checkpoints, figures and the node's events.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use pageswarm_vmm::{VmEvent, VmProcess};

use super::Machine;
use crate::events::What;
use crate::node::Node;
use crate::publish::{PUBLISHER_PRECEDENCE, Publisher, Reach};
use crate::report;

/// Why a publishing VM ends, where its process does not say it.
#[derive(Clone, Debug)]
pub(super) enum End {
    AllTaken,
    Failed(String),
}

/// Publishes the checkpoints of one VM.
pub(super) struct Publishing {
    pub(super) node: Arc<Node>,
    pub(super) machine: Arc<Machine>,
    pub(super) publisher: Publisher,
    /// Ends the VM after so many.
    pub(super) checkpoints: Option<u64>,
}

impl Publishing {
    /// Until the VM ends.
    pub(super) fn run(mut self, events: &Receiver<VmEvent>) {
        // A pipeline that falls behind makes intervals longer; what is fetched from here can wait.
        pageswarm_vmm::precede(PUBLISHER_PRECEDENCE);
        let mut failure = None;
        for event in events {
            match event {
                VmEvent::Report(report) => {
                    if let Some(page) = report.wrong_page {
                        let why = format!("guest found a wrong byte in page {page}");
                        failure.get_or_insert(End::Failed(why));
                    }
                    let passed = report.passes > self.machine.report().passes;
                    self.machine.note_report(report);
                    if passed {
                        let (vm, passes, counter) =
                            (self.machine.id, u64::from(report.passes), report.operations);
                        self.node.events.add(What::VmReport { vm, passes, counter });
                    }
                }
                VmEvent::Console(bytes) => {
                    tracing::info!(vm = self.machine.id, text = %String::from_utf8_lossy(&bytes).trim_end(), "console");
                }
                VmEvent::Died { reason } => {
                    // Nobody is to be left without the last checkpoint.
                    self.publisher.announce_kept();
                    self.machine.note_end(&reason, failure.clone());
                    let why = self.machine.ended().map_or_else(String::new, |(why, _)| why);
                    tracing::info!(vm = self.machine.id, why, "vm ended");
                    self.node.events.add(What::VmEnded { vm: self.machine.id, why });
                }
                event if failure.is_none() => failure = self.checkpoint(event),
                VmEvent::Pages(_) | VmEvent::Captured(_) => {}
            }
        }
    }

    /// Publishes; returns why nothing can be published any more.
    fn checkpoint(&mut self, event: VmEvent) -> Option<End> {
        let process = &self.machine.process;
        let staging = process.staging();
        match event {
            VmEvent::Pages(batch) => {
                self.publisher.take_early(&batch.pages, &staging);
                release(process, batch.batch);
            }
            VmEvent::Captured(captured) => {
                let is_last = self.checkpoints.is_some_and(|count| captured.last.index.0 + 1 >= count);
                let withheld = self.machine.driven().is_withholding() && !is_last;
                let reach = if withheld { Reach::Kept } else { Reach::Everyone };
                let published = self.publisher.publish(&captured, &staging, reach);
                release(process, captured.last.batch);
                match published {
                    Ok(figures) => {
                        self.publisher.note(&figures);
                        self.machine.note_figures(figures);
                        if is_last {
                            process.stop();
                            return Some(End::AllTaken);
                        }
                    }
                    Err(error) => {
                        self.node.note_store_trouble(&error);
                        process.stop();
                        let why = report::chain(&error);
                        return Some(End::Failed(format!("checkpoint cannot be published: {why}")));
                    }
                }
            }
            VmEvent::Report(_) | VmEvent::Console(_) | VmEvent::Died { .. } => {}
        }
        None
    }
}

fn release(process: &VmProcess, batch: u64) {
    // A VM that has ended needs no slots.
    let _ended = process.release(batch);
}
