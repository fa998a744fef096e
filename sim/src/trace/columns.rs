//! The columns of one row group while they are filled: for each access whether a column speaks, and what it says.

use crate::limits::TRACE_GROUP_ROWS;
use crate::observe::Access;
use crate::trace::Values;
use crate::trace::arrangement::{Arrangement, Column, Side};
use std::convert::Infallible;

/// One column. The number behind the last one noted is scratch.
#[derive(Debug)]
pub(crate) struct Filled {
    levels: Box<[i16]>,
    numbers: Box<[i64]>,
    noted: usize,
}

/// All columns, and which instructions they are about.
#[derive(Debug)]
pub(crate) struct Columns {
    filled: Vec<Filled>,
    rows: usize,
    /// Least and greatest instruction number.
    instructions: (u64, u64),
}

impl Filled {
    fn new() -> Self {
        Self {
            levels: vec![0; TRACE_GROUP_ROWS].into_boxed_slice(),
            numbers: vec![0; TRACE_GROUP_ROWS].into_boxed_slice(),
            noted: 0,
        }
    }
}

impl Columns {
    pub(crate) fn new(values: Values) -> Self {
        let filled = Column::of(values).iter().map(|_| Filled::new()).collect();
        Self { filled, rows: 0, instructions: (u64::MAX, 0) }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn instructions(&self) -> (u64, u64) {
        self.instructions
    }

    pub(crate) fn clear(&mut self) {
        self.rows = 0;
        self.instructions = (u64::MAX, 0);
        for column in &mut self.filled {
            column.noted = 0;
        }
    }

    /// Levels (1 where the column speaks) and numbers of each column.
    pub(crate) fn filled(&self) -> impl Iterator<Item = (&[i16], &[i64])> {
        self.filled.iter().map(|column| (&column.levels[..self.rows], &column.numbers[..column.noted]))
    }

    /// Takes as many of `accesses` as there is room for; gives back the rest.
    pub(crate) fn fill<'a>(&mut self, arrangement: &mut Arrangement, accesses: &'a [Access]) -> &'a [Access] {
        let (now, later) = accesses.split_at(accesses.len().min(TRACE_GROUP_ROWS - self.rows));
        for access in now {
            let (least, greatest) = self.instructions;
            self.instructions = (least.min(access.instruction), greatest.max(access.instruction));
            let Ok(_same) = arrangement.pass(self, access);
            self.rows += 1;
        }
        later
    }
}

impl Side for Columns {
    type Error = Infallible;

    #[inline(always)]
    fn settle(&mut self, column: Column, predicted: Option<u64>, given: u64) -> Result<u64, Infallible> {
        let row = self.rows;
        let Filled { levels, numbers, noted } = &mut self.filled[column as usize];
        let speaks = predicted != Some(given);
        levels[row] = i16::from(speaks);
        numbers[*noted] = given.cast_signed();
        *noted += usize::from(speaks);
        Ok(given)
    }

    fn impossible_shape(&mut self) -> Infallible {
        unreachable!("a size of one byte is what the access has")
    }
}
