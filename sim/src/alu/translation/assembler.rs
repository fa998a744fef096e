//! Bytes of host code: instructions that the encoder makes, fixed sequences that it need not make, and labels.
//!
//! RBP holds the frame; RAX and RSI are for the sequences here; all other registers but RSP are the guest's.

use super::executable::{WIDEST, field};
use crate::limits::TLB_ENTRIES;
use crate::tlb::Entry;
use iced_x86::{Encoder, Instruction};

/// A place in the code, known or not yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label(usize);

/// The instruction cannot be encoded with other registers.
#[derive(Debug)]
pub(super) struct NotEncodable;

/// Which of the TLB's tables.
#[derive(Clone, Copy, Debug)]
pub(super) enum Table {
    Reads,
    Writes,
}

pub(super) struct Assembler {
    bytes: Vec<u8>,
    encoder: Encoder,
    /// Where each label is.
    labels: Vec<Option<usize>>,
    /// Distances of 4 bytes to be filled in: where, and to what.
    jumps: Vec<(usize, Label)>,
}

/// JA, JAE, JG and JMP as [`Assembler::jump`] takes them.
pub(super) const IF_ABOVE: &[u8] = &[0x0f, 0x87];
pub(super) const IF_NOT_BELOW: &[u8] = &[0x0f, 0x83];
pub(super) const IF_GREATER: &[u8] = &[0x0f, 0x8f];
pub(super) const ALWAYS: &[u8] = &[0xe9];

/// An entry's place in its table is bits 12 and up of the address, times the entry's size.
const ENTRY_SHIFT: u32 = 12 - size_of::<Entry>().trailing_zeros();
const ENTRY_MASK: [u8; 4] = {
    let [a, b, c, d, ..] = ((TLB_ENTRIES - 1) * size_of::<Entry>()).to_le_bytes();
    [a, b, c, d]
};
const _: () = assert!(size_of::<Entry>() == 16 && TLB_ENTRIES <= 1 << 20);

impl Assembler {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), encoder: Encoder::new(64), labels: Vec::new(), jumps: Vec::new() }
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Here is `label`.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.bytes.len());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn instruction(&mut self, instruction: &Instruction) -> Result<(), NotEncodable> {
        self.encoder.encode(instruction, 0).map_err(|_| NotEncodable)?;
        self.bytes.extend(self.encoder.take_buffer());
        Ok(())
    }

    /// A jump whose opcode is `opcode`.
    pub(super) fn jump(&mut self, opcode: &[u8], to: Label) {
        self.bytes(opcode);
        self.jumps.push((self.bytes.len(), to));
        self.bytes(&[0; 4]);
    }

    /// Flags to the frame: LAHF; SETO AL; MOV [RBP+STATUS], AX. The flags themselves stay.
    pub(super) fn save_flags(&mut self) {
        self.bytes(&[0x9f, 0x0f, 0x90, 0xc0, 0x66, 0x89, 0x45, field::STATUS]);
    }

    /// Flags from the frame: MOVZX EAX, WORD [RBP+STATUS]; ADD AL, 127 (makes OF of 1); SAHF.
    pub(super) fn restore_flags(&mut self) {
        self.bytes(&[0x0f, 0xb7, 0x45, field::STATUS, 0x04, 127, 0x9e]);
    }

    /// Makes the virtual address in RSI the host's address of the same byte, or goes to `miss`: where the TLB has no
    /// entry, `size` bytes are not on one page, or they are not in RAM. Flags are lost.
    pub(super) fn look_up(&mut self, table: Table, size: usize, miss: Label) {
        let table = match table {
            Table::Reads => field::READS,
            Table::Writes => field::WRITES,
        };
        let last = u32::try_from(4096 - size.min(WIDEST)).expect("a page is small");
        // MOV RAX, RSI; SHR RAX, shift; AND EAX, mask; ADD RAX, [RBP+table]: the entry.
        self.bytes(&[0x48, 0x89, 0xf0, 0x48, 0xc1, 0xe8, ENTRY_SHIFT.to_le_bytes()[0], 0x25]);
        self.bytes(&ENTRY_MASK);
        self.bytes(&[0x48, 0x03, 0x45, table]);
        // SUB RSI, [RAX]; CMP RSI, last; JA: the place in the page, unless it is another page.
        self.bytes(&[0x48, 0x2b, 0x30, 0x48, 0x81, 0xfe]);
        self.bytes(&last.to_le_bytes());
        self.jump(IF_ABOVE, miss);
        // ADD RSI, [RAX+8]; CMP RSI, [RBP+LIMIT]; JAE: the guest-physical address.
        self.bytes(&[0x48, 0x03, 0x70, 0x08, 0x48, 0x3b, 0x75, field::LIMIT]);
        self.jump(IF_NOT_BELOW, miss);
        // ADD RSI, [RBP+RAM].
        self.bytes(&[0x48, 0x03, 0x75, field::RAM]);
    }

    /// Takes `work` from the budget and goes to `to` if some is left: SUB QWORD [RBP+BUDGET], work; JG.
    pub(super) fn go_round(&mut self, work: u32, to: Label) {
        self.bytes(&[0x48, 0x81, 0x6d, field::BUDGET]);
        self.bytes(&work.to_le_bytes());
        self.jump(IF_GREATER, to);
    }

    /// MOV EAX, exit; JMP end.
    pub(super) fn leave(&mut self, exit: u32, end: Label) {
        self.bytes(&[0xb8]);
        self.bytes(&exit.to_le_bytes());
        self.jump(ALWAYS, end);
    }

    /// The code, with all jumps filled in.
    pub(super) fn finish(mut self) -> Vec<u8> {
        for (at, label) in self.jumps {
            let to = self.labels[label.0].expect("every label is placed");
            let distance = to.cast_signed() - (at + 4).cast_signed();
            let distance = i32::try_from(distance).expect("a stretch is short");
            self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        self.bytes
    }
}
