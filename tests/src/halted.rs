//! A publisher halted at one of its disk syncs. Method: strace delays the return of that call.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};

use crate::cluster::{NodeProcess, PATIENCE, until};

/// What a publisher syncs for a checkpoint, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synced {
    /// The pack with its chunks and records.
    Pack,
    /// The index's log. The checkpoint is acknowledged with it.
    Index,
}

/// A node whose publishing thread stands still in a sync that is done. All its other threads go on.
#[derive(Debug)]
pub struct Halted {
    strace: Child,
}

impl Halted {
    /// Halts the publisher of `node` when its `nth` sync from now on of that file is done.
    ///
    /// The node must not be asked for what takes its store's writer, such as its status: the publisher has that.
    ///
    /// # Errors
    ///
    /// If the node publishes nothing, or strace cannot attach to it.
    pub async fn at_sync(node: &NodeProcess, synced: Synced, nth: u32) -> anyhow::Result<Self> {
        let process = node.process_id().context("the node has ended")?;
        let file = open_file(process, node.directory(), synced)?;
        let thread = until("the node publishes", PATIENCE, async || publishing_thread(process)).await?;
        let said = node.directory().with_extension("strace");
        let delay = format!("inject=fdatasync:delay_exit=600s:when={nth}");
        // One thread and one file: nothing else runs slower, and nobody else's syncs are counted.
        let mut strace = Command::new("strace")
            .args(["-qq", "-e", "trace=fdatasync", "-e", &delay, "-p", &thread.to_string(), "-P"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&said)?)
            .kill_on_drop(true)
            .spawn()
            .context("start strace")?;
        let what = format!("sync {nth} of {synced:?}");
        let halted = until(&what, PATIENCE, async || {
            if let Ok(Some(ended)) = strace.try_wait() {
                return Some(Err(ended));
            }
            std::fs::read_to_string(&said).ok()?.contains("= 0 (DELAYED)").then_some(Ok(()))
        });
        if let Err(ended) = halted.await? {
            bail!("strace ended with {ended}: {}", std::fs::read_to_string(&said)?);
        }
        Ok(Self { strace })
    }

    /// Kills the node as it is.
    ///
    /// # Errors
    ///
    /// If it cannot be killed.
    pub async fn kill(mut self, node: &mut NodeProcess) -> anyhow::Result<()> {
        // The node first: a thread whose tracer is gone goes on. It is not waited for before the tracer is gone: until
        // then the thread's end is not reported to anyone else.
        node.start_kill()?;
        self.strace.kill().await.context("kill strace")?;
        node.kill().await
    }
}

/// The file of that kind that the process has open; of several the latest.
fn open_file(process: u32, directory: &Path, synced: Synced) -> anyhow::Result<PathBuf> {
    let (room, ending) = match synced {
        Synced::Pack => ("store/packs", "pack"),
        Synced::Index => ("store/index", "log"),
    };
    let room = std::fs::canonicalize(directory)?.join(room);
    let mut open = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        // What was closed meanwhile is none of these.
        let Ok(path) = std::fs::read_link(entry?.path()) else {
            continue;
        };
        if path.starts_with(&room) && path.extension().is_some_and(|found| found == ending) {
            open.push(path);
        }
    }
    open.into_iter().max().with_context(|| format!("no .{ending} in {} is open", room.display()))
}

/// The thread named `publisher`. Threads that it starts for a while inherit the name: the oldest is the one.
fn publishing_thread(process: u32) -> Option<u32> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).ok()?.filter_map(Result::ok);
    let named = threads.filter(|thread| {
        let name = std::fs::read_to_string(thread.path().join("comm"));
        name.is_ok_and(|name| name.trim() == "publisher")
    });
    let aged = named.filter_map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).ok()?;
        // Field 22 is the start; the name, which is field 2, may contain anything.
        let start: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some((start, thread.file_name().to_str()?.parse().ok()?))
    });
    aged.min().map(|(_, thread)| thread)
}
