//! The child's end: one process that runs one VM for the process at the other end of its control socket.

use crate::capture::{Collector, Strategy};
use crate::captured::SavedState;
use crate::copier::{Copier, Plan};
use crate::failure::{Call, VmFailure};
use crate::gate::{Gate, Hold};
use crate::kvm::{self, Machine};
use crate::limits::{REPORT_PERIOD, STAGING_SLOTS_MIN};
use crate::memory::{GuestRam, SharedMemory};
use crate::pace::{Pace, PaceMode};
use crate::processor::{MakeInterpreter, Processor, ProcessorKind};
use crate::protocol::{Residency, Start, ToChild, ToParent};
use crate::report::{Report, Reports};
use crate::socket::{self, Frame};
use crate::staging::Staging;
use crate::state::KvmState;
use crate::vcpu::{Outside, Vcpu};
use pageswarm_machine::devices::Phase;
use pageswarm_machine::{CpuState, Devices, PAGE_BYTES};
use std::ffi::OsString;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use userfaultfd::{FeatureFlags, Uffd, UffdBuilder};

/// vCPU threads ask for this nice value; without the right to it they do without.
const VCPU_PRECEDENCE: u8 = 10;

/// Why the child ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The VM failed; the parent was told.
    #[error("vm failed")]
    Vm(#[from] VmFailure),
    /// The parent speaks another protocol.
    #[error("control message is not valid")]
    Protocol,
    /// The control socket failed.
    #[error("control socket failed")]
    Control(#[source] io::Error),
}

/// The control socket's sending side, shared by all threads.
#[derive(Debug)]
pub(crate) struct Outbox {
    stream: Mutex<UnixStream>,
}

impl Outbox {
    pub(crate) fn send(&self, message: &ToParent) -> io::Result<()> {
        self.send_with(message, &[])
    }

    fn send_with(&self, message: &ToParent, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        socket::send(&stream, &message.encode(), fds)
    }

    /// Tells the parent and ends this process's main loop.
    fn fail(&self, failure: VmFailure) {
        // When the parent cannot be told, it has gone, and the main loop ends for that reason.
        let _told = self.send(&ToParent::Failed(failure));
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let _closed = stream.shutdown(Shutdown::Both);
    }
}

/// Runs the VM that the first message describes, until the parent closes `control` or the VM fails. The caller must
/// then end the process: threads may be stuck in guest memory that nobody fills any more. `interpreter` runs guests that are not
/// to run on KVM.
///
/// # Errors
/// When the VM fails or the parent breaks the protocol.
pub fn serve(control: UnixStream, interpreter: Option<MakeInterpreter>) -> Result<(), ServeError> {
    let sending = control.try_clone().map_err(ServeError::Control)?;
    let outbox = Arc::new(Outbox { stream: Mutex::new(sending) });
    let Some(frame) = socket::receive(&control).map_err(ServeError::Control)? else {
        return Ok(());
    };
    let running = match start(frame, &outbox, interpreter) {
        Ok(running) => running,
        Err(failure) => {
            outbox.fail(failure);
            return Err(failure.into());
        }
    };
    while let Some(frame) = socket::receive(&control).map_err(ServeError::Control)? {
        match ToChild::decode(&frame.bytes) {
            Ok(ToChild::Release { batch }) => running.staging.release(batch),
            Ok(ToChild::SetInterval { interval_ns }) => {
                running.interval_ns.store(interval_ns, Ordering::Relaxed);
            }
            Ok(ToChild::Hold) => running.gate.hold(Hold::Stand),
            Ok(ToChild::Pause) => running.gate.hold(Hold::Pause),
            Ok(ToChild::Resume) => running.gate.hold(Hold::Run),
            Ok(ToChild::Start(_)) | Err(_) => return Err(ServeError::Protocol),
        }
    }
    Ok(())
}

/// What the control loop acts on.
struct Running {
    staging: Arc<Staging>,
    interval_ns: Arc<AtomicU64>,
    gate: Arc<Gate>,
}

fn start(
    frame: Frame,
    outbox: &Arc<Outbox>,
    interpreter: Option<MakeInterpreter>,
) -> Result<Running, VmFailure> {
    let Ok(ToChild::Start(start)) = ToChild::decode(&frame.bytes) else {
        return Err(VmFailure::StartInvalid);
    };
    let [ram, staging] = <[_; 2]>::try_from(frame.fds).map_err(|_| VmFailure::StartInvalid)?;
    let memory = |error: io::Error| VmFailure::system(Call::Memory, &error);
    let map = match start.residency {
        Residency::Complete | Residency::Lazy => SharedMemory::from_fd,
        Residency::Cloned => SharedMemory::own_view_of_fd,
    };
    let ram = Arc::new(map(ram, start.ram_pages as usize).map_err(memory)?);
    let staging = SharedMemory::from_fd(staging, start.staging_slots as usize).map_err(memory)?;
    check_staging(&start)?;
    // A fault while a page is copied would cost five times the copy.
    staging.populate().map_err(memory)?;
    let staging = Arc::new(Staging::new(staging));
    let uffd = match start.residency {
        Residency::Complete | Residency::Cloned => None,
        Residency::Lazy => Some(register_lazy(&ram)?),
    };
    let devices = Devices::decode(&start.state.devices).map_err(|_| VmFailure::StartInvalid)?;
    let processor = match start.processor {
        ProcessorKind::Kvm => {
            let machine = Machine::new(&ram)?;
            restore(&machine, &start.state)?;
            Processor::Kvm(Box::new(machine))
        }
        ProcessorKind::Interpreter => {
            let make = interpreter.ok_or(VmFailure::NoInterpreter)?;
            let canonical = CpuState::decode(&start.state.cpu).map_err(|_| VmFailure::StartInvalid)?;
            Processor::interpreted(make(&canonical, GuestRam::new(Arc::clone(&ram)))?, ram.pages())
        }
    };
    kvm::install_kick().map_err(|error| VmFailure::system(Call::Thread, &error))?;
    let fds: Vec<BorrowedFd<'_>> = uffd.iter().map(AsFd::as_fd).collect();
    outbox
        .send_with(&ToParent::Ready { base: ram.base() as u64 }, &fds)
        .map_err(|error| VmFailure::system(Call::Control, &error))?;
    let reports = Arc::new(Reports::default());
    spawn_reporter(outbox, &reports)?;
    launch(*start, processor, devices, &Shared { ram, staging, reports, outbox: Arc::clone(outbox) })
}

/// What the threads share.
struct Shared {
    ram: Arc<SharedMemory>,
    staging: Arc<Staging>,
    reports: Arc<Reports>,
    outbox: Arc<Outbox>,
}

fn launch(
    start: Start,
    processor: Processor,
    devices: Devices,
    shared: &Shared,
) -> Result<Running, VmFailure> {
    let gate = Arc::new(Gate::new());
    let interval_ns = Arc::new(AtomicU64::new(start.interval_ns));
    let collector = Collector::new(processor.log(), Arc::clone(&shared.ram), Arc::clone(&shared.staging));
    // A guest that still fills its base image asks for the first boundary itself.
    let due = (devices.phase == Phase::Running || devices.phase == Phase::Stopped)
        .then(|| Instant::now() + Duration::from_nanos(start.interval_ns));
    let plan = Plan {
        processor: start.processor,
        strategy: start.strategy,
        residency: start.residency,
        first_kind: start.first_kind,
        first_index: start.first_index,
        witness_dir: PathBuf::from(OsString::from_vec(start.witness_dir)),
        witness: start.witness,
        pages_per_second_set: match start.pace {
            PaceMode::Rate { dirty_pages_per_second, .. } => u64::from(dirty_pages_per_second),
            PaceMode::Verify { .. } => 0,
        },
        pages_told_before: devices.pages_told,
    };
    let outside = Outside::new(devices, Pace::new(start.pace), Arc::clone(&shared.reports));
    let vcpu = Vcpu { processor, outside, gate: Arc::clone(&gate), ram: Arc::clone(&shared.ram) };
    let outbox = Arc::clone(&shared.outbox);
    let vcpu = thread::Builder::new().name("vcpu".into()).spawn(move || {
        raise_priority();
        // A thread that is gone would leave a VM that stands still for ever; a process that is gone is noticed.
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| vcpu.run()));
        outbox.fail(ran.unwrap_or_else(|_| std::process::abort()));
    });
    let vcpu = vcpu.map_err(|error| VmFailure::system(Call::Thread, &error))?;
    let copier = Copier {
        plan,
        gate: Arc::clone(&gate),
        outbox: Arc::clone(&shared.outbox),
        staging: Arc::clone(&shared.staging),
        interval_ns: Arc::clone(&interval_ns),
        vcpu,
    };
    let outbox = Arc::clone(&shared.outbox);
    let spawned = thread::Builder::new().name("copier".into()).spawn(move || {
        if let Err(failure) = copier.run(collector, due) {
            outbox.fail(failure);
        }
    });
    spawned.map_err(|error| VmFailure::system(Call::Thread, &error))?;
    Ok(Running { staging: Arc::clone(&shared.staging), interval_ns, gate })
}

fn check_staging(start: &Start) -> Result<(), VmFailure> {
    let needed = match start.strategy {
        Strategy::StopAndCopy => start.ram_pages,
        _ => u32::try_from(STAGING_SLOTS_MIN).expect("a small constant"),
    };
    if start.staging_slots < needed {
        return Err(VmFailure::StagingTooSmall { slots: start.staging_slots, needed });
    }
    Ok(())
}

/// Puts the saved state into the fresh vCPU.
fn restore(machine: &Machine, saved: &SavedState) -> Result<(), VmFailure> {
    let canonical = CpuState::decode(&saved.cpu).map_err(|_| VmFailure::StartInvalid)?;
    let state = if saved.attachment.is_empty() {
        KvmState::from_canonical(&machine.vcpu, &canonical)?
    } else {
        KvmState::decode(&saved.attachment).map_err(|_| VmFailure::StartInvalid)?
    };
    if state.canonical() != canonical {
        return Err(VmFailure::StateDisagrees);
    }
    state.restore(&machine.vcpu)
}

/// Makes every access to a missing page of `ram` in this process wait for whoever has the descriptor.
fn register_lazy(ram: &SharedMemory) -> Result<Uffd, VmFailure> {
    let uffd = open_userfaultfd()?;
    uffd.register(ram.base().cast(), ram.pages() * PAGE_BYTES).map_err(userfaultfd_failure)?;
    Ok(uffd)
}

/// Whether guests of this process's children can be given their memory lazily.
///
/// # Errors
///
/// [`VmFailure`]: there is no userfaultfd, or it may not be used for faults inside the kernel.
pub fn probe_userfaultfd() -> Result<(), VmFailure> {
    open_userfaultfd().map(drop)
}

fn open_userfaultfd() -> Result<Uffd, VmFailure> {
    // KVM's accesses come from inside the kernel, so faults of user mode alone would not do.
    let mut builder = UffdBuilder::new();
    builder.close_on_exec(true).non_blocking(true).user_mode_only(false);
    builder.require_features(FeatureFlags::MISSING_SHMEM).create().map_err(userfaultfd_failure)
}

fn userfaultfd_failure(error: userfaultfd::Error) -> VmFailure {
    match error {
        userfaultfd::Error::OpenDevUserfaultfd(_) => VmFailure::UserfaultfdDenied,
        userfaultfd::Error::SystemError(errno) => match errno as i32 {
            libc::ENOSYS => VmFailure::UserfaultfdMissing,
            libc::EPERM | libc::EACCES => VmFailure::UserfaultfdDenied,
            errno => VmFailure::System { call: Call::Userfaultfd, errno },
        },
        _ => VmFailure::System { call: Call::Userfaultfd, errno: libc::EINVAL },
    }
}

/// The vCPU thread's pauses are short only if nobody preempts it.
fn raise_priority() {
    crate::priority::precede(VCPU_PRECEDENCE);
}

/// Starts the thread that sends console text and figures, at most every [`REPORT_PERIOD`].
fn spawn_reporter(outbox: &Arc<Outbox>, reports: &Arc<Reports>) -> Result<(), VmFailure> {
    let (outbox, reports) = (Arc::clone(outbox), Arc::clone(reports));
    let send = move || -> io::Result<()> {
        let mut last = None::<Report>;
        loop {
            let waiting = reports.take();
            if !waiting.console.is_empty() {
                outbox.send(&ToParent::Console(waiting.console))?;
            }
            if let Some(report) = waiting.report.filter(|report| last != Some(*report)) {
                outbox.send(&ToParent::Report(report))?;
                last = Some(report);
            }
            thread::sleep(REPORT_PERIOD);
        }
    };
    let spawned = thread::Builder::new().name("report".into()).spawn(move || {
        // It ends when the parent has gone, and the main loop notices that too.
        let _ended = send();
    });
    spawned.map(drop).map_err(|error| VmFailure::system(Call::Thread, &error))
}
