//! SSE2 instructions on two 128-bit operands that neither read nor change MXCSR.

use std::arch::asm;
use std::arch::x86_64::__m128i;

/// An instruction with a destination that is also its first source.
pub(crate) trait Vector {
    /// The new destination.
    fn apply(value: u128, right: u128) -> u128;
}

/// Gives `$use` all of them: the name that the decoder has for it, and the assembler's.
macro_rules! with_vectors {
    ($use:ident) => {
        $use! {
            Paddb "paddb", Paddw "paddw", Paddd "paddd", Paddq "paddq",
            Paddsb "paddsb", Paddsw "paddsw", Paddusb "paddusb", Paddusw "paddusw",
            Psubb "psubb", Psubw "psubw", Psubd "psubd", Psubq "psubq",
            Psubsb "psubsb", Psubsw "psubsw", Psubusb "psubusb", Psubusw "psubusw",
            Pmullw "pmullw", Pmulhw "pmulhw", Pmulhuw "pmulhuw", Pmuludq "pmuludq", Pmaddwd "pmaddwd",
            Pavgb "pavgb", Pavgw "pavgw", Psadbw "psadbw",
            Pminub "pminub", Pmaxub "pmaxub", Pminsw "pminsw", Pmaxsw "pmaxsw",
            Pand "pand", Pandn "pandn", Por "por", Pxor "pxor",
            Andps "andps", Andnps "andnps", Orps "orps", Xorps "xorps",
            Andpd "andpd", Andnpd "andnpd", Orpd "orpd", Xorpd "xorpd",
            Pcmpeqb "pcmpeqb", Pcmpeqw "pcmpeqw", Pcmpeqd "pcmpeqd",
            Pcmpgtb "pcmpgtb", Pcmpgtw "pcmpgtw", Pcmpgtd "pcmpgtd",
            Packsswb "packsswb", Packssdw "packssdw", Packuswb "packuswb",
            Punpcklbw "punpcklbw", Punpcklwd "punpcklwd", Punpckldq "punpckldq", Punpcklqdq "punpcklqdq",
            Punpckhbw "punpckhbw", Punpckhwd "punpckhwd", Punpckhdq "punpckhdq", Punpckhqdq "punpckhqdq",
            Unpcklps "unpcklps", Unpckhps "unpckhps", Unpcklpd "unpcklpd", Unpckhpd "unpckhpd",
            Psllw "psllw", Pslld "pslld", Psllq "psllq", Psrlw "psrlw", Psrld "psrld", Psrlq "psrlq",
            Psraw "psraw", Psrad "psrad"
        }
    };
}
pub(crate) use with_vectors;

macro_rules! define {
    ($($name:ident $mnemonic:literal),*) => {
        $(
            #[derive(Debug)]
            pub(crate) struct $name;

            impl Vector for $name {
                #[inline(always)]
                fn apply(value: u128, right: u128) -> u128 {
                    let mut value = to_register(value);
                    // SAFETY: the instruction reads and writes the named registers only.
                    unsafe {
                        asm!(
                            concat!($mnemonic, " {value}, {right}"),
                            value = inout(xmm_reg) value,
                            right = in(xmm_reg) to_register(right),
                            options(pure, nomem, nostack, preserves_flags),
                        );
                    }
                    from_register(value)
                }
            }
        )*
    };
}
with_vectors!(define);

fn to_register(value: u128) -> __m128i {
    // SAFETY: both types are 16 bytes for which every pattern is a value.
    unsafe { std::mem::transmute(value) }
}

fn from_register(value: __m128i) -> u128 {
    // SAFETY: as above.
    unsafe { std::mem::transmute(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_where_the_manual_has_them() {
        assert_eq!(Paddb::apply(0xff01, 0x0102), 0x0003);
        assert_eq!(Paddw::apply(0xff01, 0x0102), 0x0003);
        assert_eq!(Punpcklbw::apply(0x0201, 0x0403), 0x0402_0301);
        assert_eq!(Psllq::apply(1 << 64 | 1, 4), 16 << 64 | 16);
    }
}
