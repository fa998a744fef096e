//! The canonical architectural state of the one vCPU, with exactly one byte form.
//!
//! It holds what a ring-3 guest of this ABI can see or change. Normalised: RFLAGS without RF (bit 16), because
//! executors differ in it. Excluded: x87 and MMX (the guest does not use them; they are in their initial state),
//! AVX and later (CR4.OSXSAVE is clear), model-specific registers other than EFER, and the local APIC (there is none).

use crate::abi;
use crate::bytes::{BytesError, Reader};
use crate::layout;

/// RFLAGS.RF: set or not depending on who executes an interrupted instruction, so never part of the state.
pub const RFLAGS_RESUME: u64 = 1 << 16;
/// RFLAGS with the bit that is always one. IOPL is 0, as some executors show it to a ring-3 guest whatever it was
/// given; the task state segment's bitmap is what allows ports.
const RFLAGS_START: u64 = 0x2;
const MXCSR_START: u32 = 0x1f80;
const VERSION: u8 = 1;
/// Attribute bits that exist: type, S, DPL, P, AVL, L, D/B, G as in a descriptor, and unusable (bit 8).
const ATTRIBUTES: u16 = 0xf1ff;

/// Bytes of every encoded [`CpuState`].
pub const CPU_STATE_BYTES: usize = 1 + 18 * 8 + 8 * 16 + 2 * 10 + 5 * 8 + 16 * 16 + 4;

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes, after granularity.
    pub limit: u32,
    /// Bits 0-7 and 12-15 as bits 40-47 and 52-55 of a descriptor; bit 8: the segment is unusable.
    pub attributes: u16,
}

/// A descriptor table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// The canonical architectural state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuState {
    /// General registers in encoding order: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    pub general: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags, without RF.
    pub rflags: u64,
    /// Segments in encoding order: es, cs, ss, ds, fs, gs.
    pub segments: [Segment; 6],
    /// Task register.
    pub task: Segment,
    /// Local descriptor table register.
    pub local_table: Segment,
    /// Global descriptor table register.
    pub gdt: Table,
    /// Interrupt descriptor table register.
    pub idt: Table,
    /// CR0, CR2, CR3, CR4.
    pub control: [u64; 4],
    /// Extended feature enable register.
    pub efer: u64,
    /// XMM0 to XMM15, little-endian.
    pub xmm: [[u8; 16]; 16],
    /// SSE control and status.
    pub mxcsr: u32,
}

impl Segment {
    /// The descriptor (its low 64 bits for a system segment) that this segment was loaded from.
    pub(crate) fn descriptor(&self) -> u64 {
        let limit = if self.attributes & 0x8000 == 0 { self.limit } else { self.limit >> 12 };
        let (limit, attributes) = (u64::from(limit), u64::from(self.attributes & 0xf0ff));
        (limit & 0xffff)
            | (self.base & 0xff_ffff) << 16
            | attributes << 40
            | (limit >> 16 & 0xf) << 48
            | (self.base >> 24 & 0xff) << 56
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.base.to_le_bytes());
        out.extend(self.limit.to_le_bytes());
        out.extend(self.selector.to_le_bytes());
        out.extend(self.attributes.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, BytesError> {
        let (base, limit) = (reader.u64()?, reader.u32()?);
        let segment = Self { base, limit, selector: reader.u16()?, attributes: reader.u16()? };
        if segment.attributes & !ATTRIBUTES != 0 {
            return Err(reader.impossible());
        }
        Ok(segment)
    }
}

impl Table {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.base.to_le_bytes());
        out.extend(self.limit.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, BytesError> {
        Ok(Self { base: reader.u64()?, limit: reader.u16()? })
    }
}

impl CpuState {
    /// The state in which a guest of this ABI starts at `entry`: ring 3, long mode, all ports allowed by the bitmap.
    #[must_use]
    pub fn start(entry: u64) -> Self {
        let mut general = [0; 16];
        // As after a call: the stack pointer is 8 below a multiple of 16.
        general[4] = abi::STACK_TOP - 8;
        let data = layout::stack_segment();
        Self {
            general,
            rip: entry,
            rflags: RFLAGS_START,
            segments: [data, layout::code_segment(), data, data, data, data],
            task: layout::task_segment(),
            local_table: Segment { attributes: 0x100, ..Segment::default() },
            gdt: layout::gdt(),
            idt: Table::default(),
            // PG AM WP NE ET MP PE; PAE OSFXSR OSXMMEXCPT.
            control: [0x8005_0033, 0, abi::PML4_BASE, 0x620],
            // LMA LME SCE.
            efer: 0x501,
            xmm: [[0; 16]; 16],
            mxcsr: MXCSR_START,
        }
    }

    /// The one byte form, [`CPU_STATE_BYTES`] long.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CPU_STATE_BYTES);
        out.push(VERSION);
        for value in self.general.iter().chain([&self.rip, &(self.rflags & !RFLAGS_RESUME)]) {
            out.extend(value.to_le_bytes());
        }
        for segment in self.segments.iter().chain([&self.task, &self.local_table]) {
            segment.encode(&mut out);
        }
        self.gdt.encode(&mut out);
        self.idt.encode(&mut out);
        for value in self.control.iter().chain([&self.efer]) {
            out.extend(value.to_le_bytes());
        }
        self.xmm.iter().for_each(|register| out.extend(register));
        out.extend(self.mxcsr.to_le_bytes());
        out
    }

    /// Reads the byte form.
    ///
    /// # Errors
    /// Unless `encode` of the result would give exactly these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, BytesError> {
        let mut reader = Reader::new(bytes);
        let found = reader.u8()?;
        if found != VERSION {
            return Err(BytesError::Version { found });
        }
        let mut state = Self::start(0);
        for value in state.general.iter_mut().chain([&mut state.rip, &mut state.rflags]) {
            *value = reader.u64()?;
        }
        if state.rflags & RFLAGS_RESUME != 0 {
            return Err(reader.impossible());
        }
        let more = [&mut state.task, &mut state.local_table];
        for segment in state.segments.iter_mut().chain(more) {
            *segment = Segment::decode(&mut reader)?;
        }
        state.gdt = Table::decode(&mut reader)?;
        state.idt = Table::decode(&mut reader)?;
        for value in state.control.iter_mut().chain([&mut state.efer]) {
            *value = reader.u64()?;
        }
        for register in &mut state.xmm {
            *register = reader.array()?;
        }
        state.mxcsr = reader.u32()?;
        reader.finish()?;
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_start_state_has_the_stated_length_and_reads_back() {
        let state = CpuState::start(0x10_0000);
        assert_eq!(state.encode().len(), CPU_STATE_BYTES);
        assert_eq!(CpuState::decode(&state.encode()), Ok(state));
    }

    #[test]
    fn descriptors_are_those_of_the_manual() {
        // A flat 64-bit ring-3 code segment and a flat ring-3 data segment, accessed.
        assert_eq!(layout::code_segment().descriptor(), 0x00af_fb00_0000_ffff);
        assert_eq!(layout::stack_segment().descriptor(), 0x00cf_f300_0000_ffff);
        assert_eq!(layout::task_segment().descriptor(), 0x0000_8b00_2000_2068);
    }

    proptest! {
        /// Any bytes of the right length either fail to decode or are exactly what their decoding encodes to.
        #[test]
        fn bytes_and_states_match_one_to_one(
            mut bytes in prop::collection::vec(any::<u8>(), CPU_STATE_BYTES),
            repair in any::<bool>(),
        ) {
            bytes[0] = VERSION;
            if repair {
                bytes[1 + 17 * 8 + 2] &= !1;
                for segment in 0..8 {
                    bytes[1 + 18 * 8 + segment * 16 + 15] &= 0xf1;
                }
                prop_assert!(CpuState::decode(&bytes).is_ok());
            }
            if let Ok(state) = CpuState::decode(&bytes) {
                prop_assert_eq!(state.encode(), bytes);
            }
        }

        #[test]
        fn other_lengths_are_refused(length in 0..2 * CPU_STATE_BYTES) {
            prop_assume!(length != CPU_STATE_BYTES);
            let mut bytes = CpuState::start(0).encode();
            bytes.resize(length, 0);
            prop_assert!(CpuState::decode(&bytes).is_err());
        }
    }
}
