//! The project as a whole: real processes, judged from outside. One program, because each that links a node takes as long
//! to build as all of them together do here.

mod arrows;
mod back_pressure;
mod bad_input;
mod bound;
mod browser;
mod compose;
mod demo;
mod fuzz_corpus;
mod hostile;
mod import;
mod insight;
mod integrity;
mod interpreter;
mod lineage;
mod membership;
mod multicast;
mod racks;
mod schedulers;
mod simulation;
mod traces;
mod transfer;
mod worker;
