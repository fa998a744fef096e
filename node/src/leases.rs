//! Who simulates which interval: the lease table of a lineage and the node that hosts it.

pub mod host;
mod judgement;
mod policy;
mod table;
#[cfg(test)]
mod table_tests;

pub use host::LeaseHost;
pub use judgement::{Checked, Finding, Judgement, Standing, Verdict, judge};
pub use policy::{ParseShareError, Policy, Share};
pub use table::{ASK_PATIENCE, AskId, Due, Input, LeaseTable, Output, Summary};
