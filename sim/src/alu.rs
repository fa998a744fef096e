//! Arithmetic by the host's own instructions, so that results and flags that the manuals leave undefined are those of
//! the processor, too. The only unsafe code of this crate: single instructions, which have registers for operands and
//! nothing else, and stretches of them in `translation`.
//!
//! Operands narrower than 64 bits come with zeros above, and so do results.

mod divide;
mod integer;
pub(crate) mod translation;
mod vector;

pub(crate) use divide::{Quotient, divide_signed, divide_unsigned, multiply_signed, multiply_unsigned};
pub(crate) use integer::*;
pub(crate) use vector::*;

/// The six arithmetic flags as LAHF leaves them in AH (bits 8-15), with OF in bit 0.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Status(pub(crate) u16);

/// CF, PF, AF, ZF and SF, where RFLAGS and AH agree.
const LOW: u64 = 0xd5;
const OVERFLOW: u64 = 1 << 11;

impl Status {
    /// The arithmetic flags' bits in RFLAGS.
    pub(crate) const RFLAGS: u64 = LOW | OVERFLOW;

    /// The arithmetic flags of RFLAGS.
    pub(crate) fn from_rflags(rflags: u64) -> Self {
        let [low, high, ..] = rflags.to_le_bytes();
        Self(u16::from(low) << 8 | u16::from(high >> 3 & 1))
    }

    /// As bits of RFLAGS.
    pub(crate) fn to_rflags(self) -> u64 {
        u64::from(self.0) >> 8 & LOW | u64::from(self.0 & 1) << 11
    }

    /// Whether condition `C`, by its number in the encoding of Jcc, holds.
    #[inline(always)]
    pub(crate) fn holds<const C: u8>(self) -> bool {
        let has = |bits: u16| self.0 & bits != 0;
        let (carry, parity, zero, sign, overflow) = (0x100, 0x400, 0x4000, 0x8000, 1);
        let positive = match C >> 1 {
            0 => has(overflow),
            1 => has(carry),
            2 => has(zero),
            3 => has(carry | zero),
            4 => has(sign),
            5 => has(parity),
            6 => has(sign) != has(overflow),
            _ => has(zero) || has(sign) != has(overflow),
        };
        positive != (C & 1 != 0)
    }
}

/// The low `B` bytes.
#[inline(always)]
pub(crate) const fn low<const B: usize>(value: u64) -> u64 {
    if B == 8 { value } else { value & ((1 << (8 * B)) - 1) }
}

/// The low `B` bytes as a signed number, in 64 bits.
#[inline(always)]
pub(crate) const fn signed<const B: usize>(value: u64) -> u64 {
    let unused = 64 - 8 * B;
    ((value << unused).cast_signed() >> unused).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_keep_their_places() {
        for bits in 0..0x1000_u64 {
            let flags = bits & Status::RFLAGS;
            let status = Status::from_rflags(bits);
            assert_eq!(status.to_rflags(), flags);
        }
    }

    #[test]
    fn the_host_computes_flags_as_known_cases_want() {
        let none = Status::default();
        let (value, status) = add::<1>(0xff, 1, none);
        // CF, PF, AF and ZF.
        assert_eq!((value, status.to_rflags()), (0, 0x55));
        let (value, status) = subtract::<4>(0, 1, none);
        assert_eq!((value, status.to_rflags()), (0xffff_ffff, 0x95));
        let (value, status) = add_with_carry::<2>(0x7fff, 0, Status::from_rflags(1));
        assert_eq!((value, status.to_rflags()), (0x8000, 0x894));
        let (value, status) = increment::<8>(u64::MAX, Status::from_rflags(1));
        assert_eq!((value, status.to_rflags()), (0, 0x55));
        // A shift by nothing changes no flag, OF among them.
        let all = Status::from_rflags(Status::RFLAGS);
        let (value, status) = shift_left::<4>(5, 32, all);
        assert_eq!((value, status.to_rflags()), (5, Status::RFLAGS));
    }

    #[test]
    fn conditions_are_those_of_the_encoding() {
        let zero = Status::from_rflags(0x40);
        assert!(zero.holds::<4>() && !zero.holds::<5>());
        assert!(zero.holds::<6>() && zero.holds::<14>() && !zero.holds::<15>());
        let negative = Status::from_rflags(0x80);
        assert!(negative.holds::<12>() && negative.holds::<8>() && !negative.holds::<13>());
        assert!(Status::from_rflags(0x880).holds::<13>());
        assert!(Status::from_rflags(4).holds::<10>() && Status::from_rflags(1).holds::<2>());
    }
}
