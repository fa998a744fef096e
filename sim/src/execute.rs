//! What each instruction does. Each module knows a family and selects what runs an instruction of it.

pub(crate) mod arithmetic;
pub(crate) mod atomics;
pub(crate) mod bits;
pub(crate) mod control;
pub(crate) mod flags;
pub(crate) mod moves;
pub(crate) mod products;
pub(crate) mod quiet;
pub(crate) mod shifts;
pub(crate) mod shuffles;
pub(crate) mod stack;
pub(crate) mod strings;
pub(crate) mod system;
pub(crate) mod vector_moves;
pub(crate) mod vectors;

/// `$run` for each width in bytes that is listed.
macro_rules! by_width {
    ($width:expr, $run:ident::<$($generic:ty),*>, [1]) => {
        match $width {
            1 => Some($run::<$($generic,)* 1> as crate::op::Run<M, O>),
            _ => None,
        }
    };
    ($width:expr, $run:ident::<$($generic:ty),*>, [4, 8]) => {
        match $width {
            4 => Some($run::<$($generic,)* 4> as crate::op::Run<M, O>),
            8 => Some($run::<$($generic,)* 8> as crate::op::Run<M, O>),
            _ => None,
        }
    };
    ($width:expr, $run:ident::<$($generic:ty),*>, [2, 4, 8]) => {
        match $width {
            2 => Some($run::<$($generic,)* 2> as crate::op::Run<M, O>),
            4 => Some($run::<$($generic,)* 4> as crate::op::Run<M, O>),
            8 => Some($run::<$($generic,)* 8> as crate::op::Run<M, O>),
            _ => None,
        }
    };
    ($width:expr, $run:ident::<$($generic:ty),*>, [1, 2, 4, 8]) => {
        match $width {
            1 => Some($run::<$($generic,)* 1> as crate::op::Run<M, O>),
            2 => Some($run::<$($generic,)* 2> as crate::op::Run<M, O>),
            4 => Some($run::<$($generic,)* 4> as crate::op::Run<M, O>),
            8 => Some($run::<$($generic,)* 8> as crate::op::Run<M, O>),
            _ => None,
        }
    };
}

/// `$run` for any first operand that can be written and any width.
macro_rules! by_place {
    ($operands:expr, $run:ident::<$($generic:ty),*>) => {
        match $operands.form {
            Form::Register => by_width!($operands.width, $run::<$($generic,)* First, M, O>, [1, 2, 4, 8]),
            Form::Memory => by_width!($operands.width, $run::<$($generic,)* InMemory, M, O>, [1, 2, 4, 8]),
            Form::Byte => by_width!($operands.width, $run::<$($generic,)* FirstByte, M, O>, [1]),
            _ => None,
        }
    };
}

/// `$run` for any two operands and any width.
macro_rules! by_form {
    ($operands:expr, $run:ident) => {
        by_form!($operands, $run::<>)
    };
    ($operands:expr, $run:ident::<$($generic:ty),*>) => {
        match $operands.form {
            Form::RegisterRegister => {
                by_width!($operands.width, $run::<$($generic,)* First, Second, M, O>, [1, 2, 4, 8])
            }
            Form::RegisterMemory => {
                by_width!($operands.width, $run::<$($generic,)* First, InMemory, M, O>, [1, 2, 4, 8])
            }
            Form::RegisterImmediate => {
                by_width!($operands.width, $run::<$($generic,)* First, Immediate, M, O>, [1, 2, 4, 8])
            }
            Form::MemoryRegister => {
                by_width!($operands.width, $run::<$($generic,)* InMemory, Second, M, O>, [1, 2, 4, 8])
            }
            Form::MemoryImmediate => {
                by_width!($operands.width, $run::<$($generic,)* InMemory, Immediate, M, O>, [1, 2, 4, 8])
            }
            Form::ByteByte => {
                by_width!($operands.width, $run::<$($generic,)* FirstByte, SecondByte, M, O>, [1])
            }
            Form::ByteMemory => {
                by_width!($operands.width, $run::<$($generic,)* FirstByte, InMemory, M, O>, [1])
            }
            Form::ByteImmediate => {
                by_width!($operands.width, $run::<$($generic,)* FirstByte, Immediate, M, O>, [1])
            }
            Form::MemoryByte => {
                by_width!($operands.width, $run::<$($generic,)* InMemory, SecondByte, M, O>, [1])
            }
            _ => None,
        }
    };
}

use {by_form, by_place, by_width};
