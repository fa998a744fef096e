//! The parent's end: starts a VM's process, owns its memory, and turns its messages into events.

use crate::events::{DeathReason, EndOfChild, Reader, StagedBatches, VmEvent, lock};
use crate::lazy::{FaultHandler, LazyMemory, LazyStats};
use crate::limits::{EVENTS_WAITING_MAX, READY_TIMEOUT, WITNESSES_MAX};
use crate::memory::{PageBytes, SharedMemory};
use crate::origin::{Launcher, Origin, Prepared, Ram, SpawnError, VmOptions, prepare, start_message};
use crate::processor::ProcessorKind;
use crate::protocol::{Start, ToChild, ToParent};
use crate::socket::{self, Frame};
use pageswarm_machine::PAGE_BYTES;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A running VM.
#[derive(Debug)]
pub struct VmProcess {
    /// None once the child has ended: its memory is free then, however long this is kept.
    ram: Arc<Mutex<Option<Ram>>>,
    pages: usize,
    processor: ProcessorKind,
    staging: Arc<SharedMemory>,
    control: Mutex<UnixStream>,
    end: Arc<EndOfChild>,
    staged: Arc<Mutex<StagedBatches>>,
    lazy: Option<FaultHandler>,
}

impl VmProcess {
    /// Starts a VM; returns when its guest is about to run its first instruction. Events wait in a bounded channel:
    /// a reader that falls behind makes checkpoints rarer, never the guest slower.
    ///
    /// # Errors
    /// When the origin or the options are impossible, or the process cannot run the VM on this host.
    pub fn spawn(
        launcher: &Launcher,
        origin: Origin,
        options: &VmOptions,
    ) -> Result<(Self, Receiver<VmEvent>), SpawnError> {
        let staging_slots = usize::try_from(options.staging_bytes).unwrap_or(0) / PAGE_BYTES;
        let slots_fit = u32::try_from(staging_slots).is_ok_and(|slots| slots > 0 && slots < u32::MAX);
        if !slots_fit || options.witness.len() > WITNESSES_MAX {
            return Err(SpawnError::Options);
        }
        let Prepared { ram, state, first_kind, lazy } = prepare(origin)?;
        let staging = SharedMemory::create(staging_slots).map_err(SpawnError::Memory)?;
        let (control, theirs) = UnixStream::pair().map_err(SpawnError::Launch)?;
        let child = Command::new(&launcher.program)
            .args(&launcher.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(SpawnError::Launch)?;
        let end = Arc::new(EndOfChild { child: Mutex::new(child), reason: Mutex::new(None) });
        let start = start_message(options, &ram, &staging, state, first_kind, lazy.as_ref());
        let (staging, control, staged) = (Arc::new(staging), Mutex::new(control), Arc::default());
        let (pages, ram) = (ram.pages(), Arc::new(Mutex::new(Some(ram))));
        let processor = options.processor;
        let vm = Self { ram, pages, processor, staging, control, end, staged, lazy: None };
        // From here on, dropping `vm` ends the child.
        vm.finish_spawn(start, lazy)
    }

    fn finish_spawn(
        mut self,
        start: Start,
        lazy: Option<LazyMemory>,
    ) -> Result<(Self, Receiver<VmEvent>), SpawnError> {
        let reading = lock(&self.control).try_clone().map_err(SpawnError::NotReady)?;
        let message = ToChild::Start(Box::new(start)).encode();
        if let Some(ram) = &*lock(&self.ram) {
            let fds = [ram.fd(), self.staging.fd()];
            socket::send(&lock(&self.control), &message, &fds).map_err(SpawnError::NotReady)?;
        }
        let (base, uffd) = await_ready(&reading)?;
        if let Some(memory) = lazy {
            let uffd = uffd.ok_or_else(|| SpawnError::NotReady(io::ErrorKind::InvalidData.into()))?;
            let pages = u32::try_from(self.pages).map_err(|_| SpawnError::Options)?;
            let end = Arc::clone(&self.end);
            let fail = Box::new(move |failure| end.kill(DeathReason::Lazy(failure)));
            self.lazy = Some(FaultHandler::start(uffd, base, pages, memory, fail)?);
        }
        let (sender, receiver) = mpsc::sync_channel(EVENTS_WAITING_MAX);
        let (end, pages, slots) = (Arc::clone(&self.end), self.pages, self.staging.pages());
        let (staged, ram) = (Arc::clone(&self.staged), Arc::clone(&self.ram));
        let reader = Reader { reading, sender, end, staged, ram, pages, slots };
        thread::Builder::new()
            .name("vm-events".into())
            .spawn(move || reader.run())
            .map_err(SpawnError::Launch)?;
        Ok((self, receiver))
    }

    /// Guest RAM, shared with the VM: reading while the guest runs gives what it holds at that moment. Writing is
    /// fault injection: no checkpoint knows of it. `None` for a clone, whose RAM only its own process sees, and after the end.
    #[must_use]
    pub fn ram(&self) -> Option<Arc<SharedMemory>> {
        match &*lock(&self.ram) {
            Some(Ram::Shared(memory)) => Some(Arc::clone(memory)),
            Some(Ram::Image(_)) | None => None,
        }
    }

    /// The bytes of a captured page, in a batch that was not released yet.
    ///
    /// # Panics
    /// When the VM never named such a slot.
    #[must_use]
    pub fn staged(&self, slot: u32) -> &PageBytes {
        self.staging.page(slot as usize)
    }

    /// The staging area, for readers that outlive a borrow of the VM.
    #[must_use]
    pub fn staging(&self) -> Arc<SharedMemory> {
        Arc::clone(&self.staging)
    }

    /// Gives a batch's slots back to the VM. Until it has enough of them it takes no checkpoint, so its interval grows.
    ///
    /// # Errors
    /// When the VM has ended; its last event says why.
    pub fn release(&self, batch: u64) -> io::Result<()> {
        lock(&self.staged).remove(&batch);
        self.send(&ToChild::Release { batch })
    }

    /// Bytes of captured pages that were not released yet, and since when the oldest of them have been here.
    #[must_use]
    pub fn unreleased(&self) -> (u64, Duration) {
        let staged = lock(&self.staged);
        let pages: u64 = staged.values().map(|batch| batch.pages).sum();
        let oldest = staged.values().map(|batch| batch.since).min();
        (pages * PAGE_BYTES as u64, oldest.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Sets the interval from the next boundary on.
    ///
    /// # Errors
    /// When the VM has ended.
    pub fn set_interval(&self, interval: Duration) -> io::Result<()> {
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        self.send(&ToChild::SetInterval { interval_ns })
    }

    /// Makes the guest stand still; checkpoints go on. A [`Report`](crate::Report) says when it stands.
    ///
    /// # Errors
    /// When the VM has ended.
    pub fn hold(&self) -> io::Result<()> {
        self.send(&ToChild::Hold)
    }

    /// As [`Self::hold`], and no checkpoint is taken meanwhile: the interval goes on with the guest.
    ///
    /// # Errors
    /// When the VM has ended.
    pub fn pause(&self) -> io::Result<()> {
        self.send(&ToChild::Pause)
    }

    /// Ends [`Self::hold`] and [`Self::pause`].
    ///
    /// # Errors
    /// When the VM has ended.
    pub fn resume(&self) -> io::Result<()> {
        self.send(&ToChild::Resume)
    }

    /// Ends the VM at once; the event stream ends with [`DeathReason::Stopped`].
    pub fn stop(&self) {
        self.end.kill(DeathReason::Stopped);
    }

    /// What runs its guest.
    #[must_use]
    pub const fn processor(&self) -> ProcessorKind {
        self.processor
    }

    /// The VM's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        lock(&self.end.child).id()
    }

    /// What lazy memory did so far; `None` for a VM whose RAM was complete.
    #[must_use]
    pub fn lazy_stats(&self) -> Option<LazyStats> {
        self.lazy.as_ref().map(FaultHandler::stats)
    }

    fn send(&self, message: &ToChild) -> io::Result<()> {
        socket::send(&lock(&self.control), &message.encode(), &[])
    }
}

impl Drop for VmProcess {
    fn drop(&mut self) {
        self.stop();
        // Reaps the child; it was killed, so this is short.
        let _status = lock(&self.end.child).wait();
        lock(&self.ram).take();
    }
}

/// Waits for the child's first message.
fn await_ready(reading: &UnixStream) -> Result<(u64, Option<OwnedFd>), SpawnError> {
    reading.set_read_timeout(Some(READY_TIMEOUT)).map_err(SpawnError::NotReady)?;
    let frame = socket::receive(reading).map_err(SpawnError::NotReady)?;
    let Frame { bytes, fds } =
        frame.ok_or_else(|| SpawnError::NotReady(io::ErrorKind::UnexpectedEof.into()))?;
    reading.set_read_timeout(None).map_err(SpawnError::NotReady)?;
    match ToParent::decode(&bytes) {
        Ok(ToParent::Ready { base }) => Ok((base, fds.into_iter().next())),
        Ok(ToParent::Failed(failure)) => Err(failure.into()),
        _ => Err(SpawnError::NotReady(io::ErrorKind::InvalidData.into())),
    }
}
