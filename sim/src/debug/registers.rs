//! The canonical state as gdb's registers.

use gdbstub_arch::x86::reg::{X86_64CoreRegs, X86SegmentRegs, X87FpuInternalRegs};
use pageswarm_machine::CpuState;

/// The places of RAX, RBX, RCX, RDX, RSI, RDI, RBP and RSP in the order of the encoding.
const ORDER: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];
/// What FNINIT sets: the guest uses no x87.
const X87_CONTROL: u32 = 0x37f;
const X87_TAGS: u32 = 0xffff;

pub(super) fn registers(cpu: &CpuState) -> X86_64CoreRegs {
    let selector = |place: usize| u32::from(cpu.segments[place].selector);
    X86_64CoreRegs {
        regs: ORDER.map(|place| cpu.general[place]),
        eflags: u32::try_from(cpu.rflags & 0xffff_ffff).unwrap_or(0),
        rip: cpu.rip,
        segments: X86SegmentRegs {
            cs: selector(1),
            ss: selector(2),
            ds: selector(3),
            es: selector(0),
            fs: selector(4),
            gs: selector(5),
        },
        st: [[0; 10]; 8],
        fpu: X87FpuInternalRegs { fctrl: X87_CONTROL, ftag: X87_TAGS, ..X87FpuInternalRegs::default() },
        xmm: cpu.xmm.map(u128::from_le_bytes),
        mxcsr: cpu.mxcsr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn general_registers_are_in_the_order_of_gdb() {
        let mut cpu = CpuState::start(0x1234);
        (0..).zip(&mut cpu.general).for_each(|(number, register)| *register = number);
        // RAX 0, RCX 1, RDX 2, RBX 3, RSP 4, RBP 5, RSI 6, RDI 7 in the encoding.
        assert_eq!(registers(&cpu).regs[..8], [0, 3, 1, 2, 6, 7, 5, 4]);
        assert_eq!((registers(&cpu).rip, registers(&cpu).segments.cs), (0x1234, 0x33));
    }
}
