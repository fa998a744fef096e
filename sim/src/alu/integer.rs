//! Integer instructions on one or two operands.

use super::Status;
use std::arch::asm;

/// `value` and `right` given to `$mnemonic`; the flags that it leaves. `$before` makes the flags that it finds.
macro_rules! host {
    ($mnemonic:literal, $modifier:literal, $value:expr, $right:expr, $status:expr, [$($before:literal),*]) => {{
        let mut value: u64 = $value;
        let mut status: u16 = $status;
        // SAFETY: the instructions read and write the named registers and the flags only.
        unsafe {
            asm!(
                $($before,)*
                concat!($mnemonic, " {value:", $modifier, "}, {right:", $modifier, "}"),
                "lahf",
                "seto al",
                value = inout(reg) value,
                right = in(reg) $right,
                inout("ax") status,
                options(pure, nomem, nostack),
            );
        }
        (value, Status(status))
    }};
}

/// An instruction on two operands of any width.
macro_rules! binary {
    ($(#[$note:meta])* $name:ident, $mnemonic:literal, [$($before:literal),*]) => {
        $(#[$note])*
        #[inline(always)]
        pub(crate) fn $name<const B: usize>(value: u64, right: u64, status: Status) -> (u64, Status) {
            match B {
                1 => host!($mnemonic, "l", value, right, status.0, [$($before),*]),
                2 => host!($mnemonic, "x", value, right, status.0, [$($before),*]),
                4 => host!($mnemonic, "e", value, right, status.0, [$($before),*]),
                _ => host!($mnemonic, "r", value, right, status.0, [$($before),*]),
            }
        }
    };
}

/// An instruction on two operands of 16 bits or more.
macro_rules! wide {
    ($(#[$note:meta])* $name:ident, $mnemonic:literal) => {
        $(#[$note])*
        #[inline(always)]
        pub(crate) fn $name<const B: usize>(value: u64, right: u64, status: Status) -> (u64, Status) {
            match B {
                2 => host!($mnemonic, "x", value, right, status.0, ["add al, 127", "sahf"]),
                4 => host!($mnemonic, "e", value, right, status.0, ["add al, 127", "sahf"]),
                _ => host!($mnemonic, "r", value, right, status.0, ["add al, 127", "sahf"]),
            }
        }
    };
}

/// An instruction whose flags depend on its operands only: what was in the flags before is not even loaded.
macro_rules! fresh {
    ($name:ident, $mnemonic:literal) => {
        #[inline(always)]
        pub(crate) fn $name<const B: usize>(value: u64, right: u64, _: Status) -> (u64, Status) {
            match B {
                1 => host!($mnemonic, "l", value, right, 0, []),
                2 => host!($mnemonic, "x", value, right, 0, []),
                4 => host!($mnemonic, "e", value, right, 0, []),
                _ => host!($mnemonic, "r", value, right, 0, []),
            }
        }
    };
}

fresh!(add, "add");
fresh!(subtract, "sub");
fresh!(and, "and");
fresh!(or, "or");
fresh!(xor, "xor");
fresh!(test, "test");
binary!(add_with_carry, "adc", ["bt eax, 8"]);
binary!(subtract_with_borrow, "sbb", ["bt eax, 8"]);
wide!(multiply, "imul");
wide!(
    /// BT; the bit's number is taken modulo the width.
    bit_test, "bt"
);
wide!(bit_set, "bts");
wide!(bit_reset, "btr");
wide!(bit_complement, "btc");
wide!(
    /// BSF. `value` is all 64 bits of the destination: without a bit set it stays as it is.
    scan_forward, "bsf"
);
wide!(scan_reverse, "bsr");
wide!(count_trailing_zeros, "tzcnt");
wide!(count_leading_zeros, "lzcnt");
wide!(count_ones, "popcnt");

/// One operand; all flags in and out.
macro_rules! one {
    ($mnemonic:literal, $modifier:literal, $after:literal, $value:expr, $count:expr, $status:expr) => {{
        let mut value: u64 = $value;
        let mut status: u16 = $status.0;
        // SAFETY: the instructions read and write the named registers and the flags only.
        unsafe {
            asm!(
                "add al, 127",
                "sahf",
                concat!($mnemonic, " {value:", $modifier, "}", $after),
                "lahf",
                "seto al",
                value = inout(reg) value,
                in("cl") $count,
                inout("ax") status,
                options(pure, nomem, nostack),
            );
        }
        (value, Status(status))
    }};
}

macro_rules! unary {
    ($name:ident, $mnemonic:literal) => {
        #[inline(always)]
        pub(crate) fn $name<const B: usize>(value: u64, status: Status) -> (u64, Status) {
            match B {
                1 => one!($mnemonic, "l", "", value, 0_u8, status),
                2 => one!($mnemonic, "x", "", value, 0_u8, status),
                4 => one!($mnemonic, "e", "", value, 0_u8, status),
                _ => one!($mnemonic, "r", "", value, 0_u8, status),
            }
        }
    };
}

unary!(increment, "inc");
unary!(decrement, "dec");
unary!(negate, "neg");

macro_rules! shift {
    ($name:ident, $mnemonic:literal) => {
        #[inline(always)]
        pub(crate) fn $name<const B: usize>(value: u64, count: u8, status: Status) -> (u64, Status) {
            match B {
                1 => one!($mnemonic, "l", ", cl", value, count, status),
                2 => one!($mnemonic, "x", ", cl", value, count, status),
                4 => one!($mnemonic, "e", ", cl", value, count, status),
                _ => one!($mnemonic, "r", ", cl", value, count, status),
            }
        }
    };
}

shift!(shift_left, "shl");
shift!(shift_right, "shr");
shift!(shift_right_signed, "sar");
shift!(rotate_left, "rol");
shift!(rotate_right, "ror");
shift!(rotate_left_with_carry, "rcl");
shift!(rotate_right_with_carry, "rcr");

macro_rules! double_shift {
    ($mnemonic:literal, $modifier:literal, $value:expr, $filler:expr, $count:expr, $status:expr) => {{
        let mut value: u64 = $value;
        let mut status: u16 = $status.0;
        // SAFETY: the instructions read and write the named registers and the flags only.
        unsafe {
            asm!(
                "add al, 127",
                "sahf",
                concat!($mnemonic, " {value:", $modifier, "}, {filler:", $modifier, "}, cl"),
                "lahf",
                "seto al",
                value = inout(reg) value,
                filler = in(reg) $filler,
                in("cl") $count,
                inout("ax") status,
                options(pure, nomem, nostack),
            );
        }
        (value, Status(status))
    }};
}

macro_rules! double {
    ($name:ident, $mnemonic:literal) => {
        #[inline(always)]
        pub(crate) fn $name<const B: usize>(
            value: u64,
            filler: u64,
            count: u8,
            status: Status,
        ) -> (u64, Status) {
            match B {
                2 => double_shift!($mnemonic, "x", value, filler, count, status),
                4 => double_shift!($mnemonic, "e", value, filler, count, status),
                _ => double_shift!($mnemonic, "r", value, filler, count, status),
            }
        }
    };
}

double!(double_shift_left, "shld");
double!(double_shift_right, "shrd");

macro_rules! exchange {
    ($modifier:literal, $accumulator:expr, $value:expr, $fresh:expr) => {{
        let (mut accumulator, mut value): (u64, u64) = ($accumulator, $value);
        let status: u64;
        // SAFETY: the instructions read and write the named registers and the flags only.
        unsafe {
            asm!(
                concat!("cmpxchg {value:", $modifier, "}, {fresh:", $modifier, "}"),
                "mov {saved}, rax",
                "lahf",
                "seto al",
                "movzx {status:e}, ax",
                "mov rax, {saved}",
                saved = out(reg) _,
                status = out(reg) status,
                value = inout(reg) value,
                fresh = in(reg) $fresh,
                inout("rax") accumulator,
                options(pure, nomem, nostack),
            );
        }
        let [low, high, ..] = status.to_le_bytes();
        (accumulator, value, Status(u16::from_le_bytes([low, high])))
    }};
}

/// CMPXCHG on registers: all 64 bits of the accumulator and the destination go in and out.
#[inline(always)]
pub(crate) fn compare_exchange<const B: usize>(
    accumulator: u64,
    value: u64,
    fresh: u64,
) -> (u64, u64, Status) {
    match B {
        1 => exchange!("l", accumulator, value, fresh),
        2 => exchange!("x", accumulator, value, fresh),
        4 => exchange!("e", accumulator, value, fresh),
        _ => exchange!("r", accumulator, value, fresh),
    }
}
