//! Stretches of a block as code of the host: the guest's own instructions, encoded again with other registers.
//!
//! Guest and host have one instruction set, so that the translation of an instruction is that instruction: results
//! and flags, the undefined ones among them, are the processor's. What is added is what an interpreter does, too:
//! - Registers and flags are loaded before a stretch and stored behind it.
//! - An access to memory goes through the soft TLB. Where that has no entry, or the access crosses a page's end, the
//!   stretch is left *before* the instruction, nothing of which was done then; the interpreter runs it: it walks page
//!   tables, raises faults, notes written pages, sees code that changes, and teaches the TLB.
//! - A stretch that jumps to its own begin goes round until the work allowed is done.
//!
//! [`part`] says what is translated, [`stretch`] translates it, with the registers that [`hosts`] allots; [`assembler`]
//! puts bytes together and [`executable`] keeps and runs them. Nothing of this is needed: where there is no executable
//! memory, everything is interpreted.

mod assembler;
mod executable;
mod hosts;
mod part;
mod stretch;

pub(crate) use executable::{CodeMemory, Entry, Machine, NotKept};
pub(crate) use stretch::{Ahead, Done, Leaving, translatable, translate};

/// Who makes the accesses to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accesses {
    /// The translated code, which tells nobody.
    Direct,
    /// The interpreter, because each one is observed, or RAM is not one piece.
    Interpreted,
}
