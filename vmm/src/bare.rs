//! A machine without devices, in this process: runs short programs from one state to their first port access.

use crate::failure::{Call, GuestExit, VmFailure};
use crate::kvm::Machine;
use crate::memory::{PageBytes, SharedMemory};
use crate::state::KvmState;
use kvm_ioctls::VcpuExit;
use pageswarm_machine::{CpuState, PAGE_BYTES, PageNumber};

/// One vCPU and RAM. The programs must end by themselves: nothing here stops one.
#[derive(Debug)]
pub struct BareMachine {
    machine: Machine,
    ram: SharedMemory,
    state: KvmState,
}

impl BareMachine {
    /// A machine whose RAM holds `ram`, a whole number of pages.
    ///
    /// # Errors
    /// When this host has no KVM or refuses the machine.
    pub fn new(ram: &[u8]) -> Result<Self, VmFailure> {
        let memory = SharedMemory::create(ram.len() / PAGE_BYTES)
            .map_err(|error| VmFailure::system(Call::Memory, &error))?;
        let pages = ram.as_chunks::<PAGE_BYTES>().0;
        for (page, bytes) in (0..).map(PageNumber).zip(pages) {
            if bytes.iter().any(|&byte| byte != 0) {
                memory.write(page, bytes);
            }
        }
        let machine = Machine::new(&memory)?;
        let state = KvmState::from_canonical(&machine.vcpu, &CpuState::start(0))?;
        state.restore(&machine.vcpu)?;
        Ok(Self { machine, ram: memory, state })
    }

    /// Copies a page out.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn read(&self, page: PageNumber, out: &mut PageBytes) {
        self.ram.read(page, out);
    }

    /// Copies a page in.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn write(&self, page: PageNumber, bytes: &PageBytes) {
        self.ram.write(page, bytes);
    }

    /// Runs from `start` until an access to a port is complete, and gives the state after it.
    ///
    /// # Errors
    /// When the program ends in any other way.
    pub fn run(&mut self, start: &CpuState) -> Result<CpuState, VmFailure> {
        self.state.put(start);
        self.state.restore_registers(&self.machine.vcpu)?;
        let exit = loop {
            match self.machine.vcpu.run() {
                Ok(VcpuExit::IoOut(..) | VcpuExit::IoIn(..)) => {
                    return Ok(self.machine.save()?.canonical());
                }
                Ok(VcpuExit::Intr) => {}
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
                Ok(VcpuExit::Shutdown) => break GuestExit::TripleFault,
                Ok(VcpuExit::InternalError) => break GuestExit::Internal,
                Ok(VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..)) => break GuestExit::OutsideRam,
                Ok(_) => break GuestExit::Other,
                Err(error) => return Err(VmFailure::System { call: Call::Run, errno: error.errno() }),
            }
        };
        Err(self.machine.guest_failure(exit))
    }
}
