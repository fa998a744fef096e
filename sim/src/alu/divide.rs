//! Multiplication and division in RDX:RAX.

use super::{Status, low, signed};
use std::arch::asm;

/// Both halves and the flags.
pub(crate) type Quotient = (u64, u64, Status);

/// `$mnemonic` on the wide accumulator; `$flags` first puts the status into the flags.
macro_rules! accumulator {
    ($mnemonic:literal, $modifier:literal, $low:expr, $high:expr, $operand:expr, $status:expr) => {{
        let (mut lower, mut upper): (u64, u64) = ($low, $high);
        let mut status: u64 = u64::from($status.0);
        // SAFETY: the instructions read and write the named registers and the flags only; callers made sure that a
        // division has a quotient that fits, so it does not fault.
        unsafe {
            asm!(
                "mov {saved}, rax",
                "mov eax, {status:e}",
                "add al, 127",
                "sahf",
                "mov rax, {saved}",
                concat!($mnemonic, " {operand:", $modifier, "}"),
                "mov {saved}, rax",
                "lahf",
                "seto al",
                "movzx {status:e}, ax",
                "mov rax, {saved}",
                saved = out(reg) _,
                status = inout(reg) status,
                operand = in(reg) $operand,
                inout("rax") lower,
                inout("rdx") upper,
                options(pure, nomem, nostack),
            );
        }
        let [a, b, ..] = status.to_le_bytes();
        (lower, upper, Status(u16::from_le_bytes([a, b])))
    }};
}

/// All widths of one instruction. At 8 bits the accumulator is AX: its halves are AL and AH.
macro_rules! widths {
    ($mnemonic:literal, $b:expr, $low:expr, $high:expr, $operand:expr, $status:expr) => {
        match $b {
            1 => {
                let joined = $low | $high << 8;
                let (ax, _, status) = byte!($mnemonic, joined, $operand, $status);
                (ax & 0xff, ax >> 8 & 0xff, status)
            }
            2 => accumulator!($mnemonic, "x", $low, $high, $operand, $status),
            4 => accumulator!($mnemonic, "e", $low, $high, $operand, $status),
            _ => accumulator!($mnemonic, "r", $low, $high, $operand, $status),
        }
    };
}

macro_rules! byte {
    ($mnemonic:literal, $joined:expr, $operand:expr, $status:expr) => {{
        let mut joined: u64 = $joined;
        let mut status: u64 = u64::from($status.0);
        // SAFETY: as for the wider forms.
        unsafe {
            asm!(
                "mov {saved}, rax",
                "mov eax, {status:e}",
                "add al, 127",
                "sahf",
                "mov rax, {saved}",
                concat!($mnemonic, " {operand}"),
                "mov {saved}, rax",
                "lahf",
                "seto al",
                "movzx {status:e}, ax",
                "mov rax, {saved}",
                saved = out(reg) _,
                status = inout(reg) status,
                operand = in(reg_byte) u8::try_from($operand & 0xff).unwrap_or(0),
                inout("rax") joined,
                options(pure, nomem, nostack),
            );
        }
        let [a, b, ..] = status.to_le_bytes();
        (joined & 0xffff, 0_u64, Status(u16::from_le_bytes([a, b])))
    }};
}

/// MUL.
#[inline(always)]
pub(crate) fn multiply_unsigned<const B: usize>(value: u64, operand: u64, status: Status) -> Quotient {
    let (lower, upper, status) = widths!("mul", B, value, 0_u64, operand, status);
    (low::<B>(lower), low::<B>(upper), status)
}

/// IMUL with one operand.
#[inline(always)]
pub(crate) fn multiply_signed<const B: usize>(value: u64, operand: u64, status: Status) -> Quotient {
    let (lower, upper, status) = widths!("imul", B, value, 0_u64, operand, status);
    (low::<B>(lower), low::<B>(upper), status)
}

/// DIV: quotient and remainder, or nothing when it faults.
#[inline(always)]
pub(crate) fn divide_unsigned<const B: usize>(
    value: (u64, u64),
    operand: u64,
    status: Status,
) -> Option<Quotient> {
    if value.1 >= operand {
        return None;
    }
    let (lower, upper, status) = widths!("div", B, value.0, value.1, operand, status);
    Some((low::<B>(lower), low::<B>(upper), status))
}

/// IDIV: quotient and remainder, or nothing when it faults.
#[inline(always)]
pub(crate) fn divide_signed<const B: usize>(
    value: (u64, u64),
    operand: u64,
    status: Status,
) -> Option<Quotient> {
    if !signed_quotient_fits::<B>(value, operand) {
        return None;
    }
    let (lower, upper, status) = widths!("idiv", B, value.0, value.1, operand, status);
    Some((low::<B>(lower), low::<B>(upper), status))
}

fn signed_quotient_fits<const B: usize>(value: (u64, u64), operand: u64) -> bool {
    let wide = i128::from(signed::<B>(value.1).cast_signed()) << (8 * B) | i128::from(low::<B>(value.0));
    let operand = i128::from(signed::<B>(operand).cast_signed());
    // The one quotient that 128 bits do not hold fits no narrower width either.
    wide.checked_div(operand).is_some_and(|quotient| {
        let most = (1_i128 << (8 * B - 1)) - 1;
        (-most - 1..=most).contains(&quotient)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_that_do_not_fit_are_refused_and_others_right() {
        let none = Status::default();
        assert!(divide_unsigned::<4>((5, 0), 0, none).is_none());
        assert!(divide_unsigned::<1>((0, 3), 3, none).is_none());
        assert_eq!(divide_unsigned::<1>((7, 1), 100, none).map(|q| (q.0, q.1)), Some((2, 63)));
        assert_eq!(divide_unsigned::<8>((5, 3), 4, none).map(|q| (q.0, q.1)), Some(((3 << 62) + 1, 1)));
        assert!(divide_signed::<8>((1 << 63, u64::MAX), u64::MAX, none).is_none());
        assert!(divide_signed::<8>((0, 1 << 63), u64::MAX, none).is_none());
        let minus_seven = (u64::MAX - 6, u64::MAX);
        assert_eq!(
            divide_signed::<8>(minus_seven, 2, none).map(|q| (q.0, q.1)),
            Some((u64::MAX - 2, u64::MAX))
        );
        assert_eq!(divide_signed::<2>((0xfff9, 0xffff), 2, none).map(|q| (q.0, q.1)), Some((0xfffd, 0xffff)));
        assert_eq!(multiply_signed::<1>(0xff, 0xff, none).0, 1);
        assert_eq!(multiply_unsigned::<8>(u64::MAX, 2, none).1, 1);
    }
}
