//! One VM with one vCPU and one stretch of RAM, its dirty log, and the signal that stops its vCPU.

use crate::failure::{Call, GuestExit, VmFailure};
use crate::memory::SharedMemory;
use crate::processor::WrittenPages;
use crate::state::{KvmState, StateSaver, Synced};
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES, kvm_dirty_log, kvm_dirty_log__bindgen_ty_1, kvm_run,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

const RAM_SLOT: u32 = 0;
/// `_IOW(0xAE, 0x42, struct kvm_dirty_log)`: the wrapper in kvm-ioctls allocates its bitmap on every call.
const KVM_GET_DIRTY_LOG: libc::c_ulong =
    1 << 30 | (size_of::<kvm_dirty_log>() as libc::c_ulong) << 16 | 0xae42;
const _: () = assert!(KVM_GET_DIRTY_LOG == 0x4010_ae42);

/// The run page of this process's one vCPU, for the signal handler.
static RUN_PAGE: AtomicPtr<kvm_run> = AtomicPtr::new(std::ptr::null_mut());

/// A VM ready to run.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) vcpu: VcpuFd,
    pub(crate) saver: StateSaver,
    pub(crate) synced: Synced,
    pub(crate) log: DirtyLog,
}

/// Which pages a guest wrote.
#[derive(Clone, Debug)]
pub(crate) enum DirtyLog {
    /// KVM's dirty log.
    Kvm { vm: Arc<VmFd>, words: usize },
    /// What an interpreter noted.
    Written(Arc<WrittenPages>),
}

impl Machine {
    /// Creates the VM over `ram`, all of it at guest-physical address 0, with its dirty log on.
    pub(crate) fn new(ram: &SharedMemory) -> Result<Self, VmFailure> {
        let kvm = open()?;
        let vm = kvm.create_vm().map_err(VmFailure::kvm(Call::CreateVm))?;
        let region = kvm_userspace_memory_region {
            slot: RAM_SLOT,
            flags: KVM_MEM_LOG_DIRTY_PAGES,
            guest_phys_addr: 0,
            memory_size: (ram.pages() * pageswarm_machine::PAGE_BYTES) as u64,
            userspace_addr: ram.base() as u64,
        };
        // SAFETY: the region is exactly a mapping that lives until this process ends.
        unsafe { vm.set_user_memory_region(region) }.map_err(VmFailure::kvm(Call::MemorySlot))?;
        let mut vcpu = vm.create_vcpu(0).map_err(VmFailure::kvm(Call::CreateVcpu))?;
        let failed = VmFailure::kvm(Call::Features);
        let features = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(&failed)?;
        vcpu.set_cpuid2(&features).map_err(&failed)?;
        RUN_PAGE.store(vcpu.get_kvm_run(), Ordering::SeqCst);
        let synced = if vm.check_extension(Cap::SyncRegs) { Synced::RunPage } else { Synced::Not };
        let saver = StateSaver::new(&vcpu)?;
        let log = DirtyLog::Kvm { vm: Arc::new(vm), words: ram.pages().div_ceil(64) };
        Ok(Self { vcpu, saver, synced, log })
    }

    /// Finishes a port access that KVM holds half done, then saves the vCPU's state.
    pub(crate) fn save(&mut self) -> Result<KvmState, VmFailure> {
        self.synced.set(&mut self.vcpu);
        self.vcpu.set_kvm_immediate_exit(1);
        let interrupted = match self.vcpu.run() {
            Err(error) if error.errno() == libc::EINTR => Ok(()),
            Err(error) => Err(VmFailure::System { call: Call::Run, errno: error.errno() }),
            Ok(_) => Err(VmFailure::System { call: Call::Run, errno: libc::EPROTO }),
        };
        self.vcpu.set_kvm_immediate_exit(0);
        interrupted?;
        let state = self.saver.save(&self.vcpu, self.synced).map_err(VmFailure::kvm(Call::Save));
        Synced::clear(&mut self.vcpu);
        state
    }

    /// The failure of a guest that left the CPU by `exit`.
    pub(crate) fn guest_failure(&self, exit: GuestExit) -> VmFailure {
        let rip = self.vcpu.get_regs().map_or(0, |regs| regs.rip);
        VmFailure::Guest { exit, rip }
    }
}

impl DirtyLog {
    /// 64-bit words of one bitmap.
    pub(crate) fn words(&self) -> usize {
        match self {
            Self::Kvm { words, .. } => *words,
            Self::Written(written) => written.words(),
        }
    }

    /// Replaces `bitmap` by the pages written since the last call and write-protects them again. Anything copied
    /// after this call and written once more is in the next one.
    pub(crate) fn fetch(&self, bitmap: &mut [u64]) -> io::Result<()> {
        assert_eq!(bitmap.len(), self.words());
        let vm = match self {
            Self::Kvm { vm, .. } => vm,
            Self::Written(written) => {
                written.fetch(bitmap);
                return Ok(());
            }
        };
        let log = kvm_dirty_log {
            slot: RAM_SLOT,
            padding1: 0,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: bitmap.as_mut_ptr().cast() },
        };
        // SAFETY: the bitmap has a bit for each page of the slot, as the call wants, and is writable.
        match unsafe { libc::ioctl(vm.as_raw_fd(), KVM_GET_DIRTY_LOG, &raw const log) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Whether guests of this process's children can run on KVM.
///
/// # Errors
///
/// [`VmFailure::KvmMissing`] or [`VmFailure::KvmDenied`], or what the system says.
pub fn probe() -> Result<(), VmFailure> {
    open().map(drop)
}

/// Opens /dev/kvm, or says what to do.
fn open() -> Result<Kvm, VmFailure> {
    Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => VmFailure::KvmMissing,
        libc::EACCES | libc::EPERM => VmFailure::KvmDenied,
        errno => VmFailure::System { call: Call::Open, errno },
    })
}

/// The signal that makes `KVM_RUN` return.
pub(crate) fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// A signal that lands outside `KVM_RUN` would be lost; the flag makes the next `KVM_RUN` return at once.
extern "C" fn kicked(_signal: libc::c_int) {
    let run = RUN_PAGE.load(Ordering::SeqCst);
    if !run.is_null() {
        // SAFETY: the page is mapped until the process ends (the vCPU is never dropped while its thread runs).
        let flag = unsafe { &raw mut (*run).immediate_exit };
        // SAFETY: the flag is a byte that KVM and the vCPU thread read; this handler runs on that thread.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the handler of [`kick_signal`].
pub(crate) fn install_kick() -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid action: no flags, empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = kicked as *const () as libc::sighandler_t;
    // SAFETY: the action is valid and its handler only stores one byte.
    match unsafe { libc::sigaction(kick_signal(), &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
