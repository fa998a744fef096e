//! The simulator as the processor of a VM, where there is no KVM: what it records is replayed as what KVM recorded.

use pageswarm_checkpoint::{PAGE_BYTES, PageNumber};
use pageswarm_machine::CpuState;
use pageswarm_sim::{Exit, Memory, PageUnavailable, Simulator, Unobserved};
use pageswarm_vmm::{GuestExit, GuestRam, Interpreter, Ports, VmFailure};

/// Instructions between two looks at what else there is to do: about a millisecond.
const INSTRUCTIONS_TOGETHER: u64 = 200_000;

/// Makes the processor of a guest in `state`.
///
/// # Errors
///
/// [`VmFailure::Guest`] if the state enables what is not modelled.
pub fn make(state: &CpuState, ram: GuestRam) -> Result<Box<dyn Interpreter>, VmFailure> {
    let refused = |_| VmFailure::Guest { exit: GuestExit::Refused, rip: state.rip };
    let simulator = Simulator::new(state, MappedRam(ram), Unobserved).map_err(refused)?;
    Ok(Box::new(Interpreted { simulator }))
}

struct Interpreted {
    simulator: Simulator<MappedRam, Unobserved>,
}

impl Interpreter for Interpreted {
    fn run(&mut self, ports: &mut dyn Ports) -> Result<(), VmFailure> {
        let until = self.simulator.work() + INSTRUCTIONS_TOGETHER;
        match self.simulator.run(until) {
            Ok(Exit::Done | Exit::Breakpoint) => Ok(()),
            Ok(Exit::Input { port, size }) => {
                let mut bytes = [0; 4];
                ports.input(port, &mut bytes[..size])?;
                self.simulator.answer(u32::from_le_bytes(bytes));
                Ok(())
            }
            Ok(Exit::Output { port, size, value }) => ports.output(port, &value.to_le_bytes()[..size]),
            Err(refusal) => {
                // The node gets only a number of this.
                eprintln!("guest stopped: {refusal}");
                Err(VmFailure::Guest { exit: GuestExit::Refused, rip: refusal.rip })
            }
        }
    }

    fn state(&self) -> CpuState {
        self.simulator.state()
    }

    fn take_written(&mut self) -> Vec<PageNumber> {
        self.simulator.take_recently_written()
    }
}

/// RAM that other processes map too.
#[derive(Debug)]
struct MappedRam(GuestRam);

fn index(address: u64) -> usize {
    usize::try_from(address).unwrap_or(usize::MAX)
}

impl Memory for MappedRam {
    fn pages(&self) -> u32 {
        u32::try_from(self.0.pages()).expect("page numbers have 32 bits")
    }

    fn make_present(&mut self, page: PageNumber) -> Result<(), PageUnavailable> {
        if page.0 < self.pages() { Ok(()) } else { Err(PageUnavailable { page }) }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        *self.0.bytes()[index(address)..].first_chunk().expect("a present page")
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, address: u64, bytes: [u8; N]) {
        *self.0.bytes_mut()[index(address)..].first_chunk_mut().expect("a present page") = bytes;
    }

    fn page(&self, page: PageNumber) -> &[u8; PAGE_BYTES] {
        let start = page.0 as usize * PAGE_BYTES;
        self.0.bytes()[start..].first_chunk().expect("a present page")
    }

    #[inline(always)]
    fn in_one_piece(&mut self) -> Option<&mut [u8]> {
        Some(self.0.bytes_mut())
    }
}
