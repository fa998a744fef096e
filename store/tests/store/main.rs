//! The store from outside: a model, real crashes, real damage, real limits.

#![expect(clippy::unwrap_used, reason = "also the parts of tests that are not tests themselves")]

mod checkpoints;
mod crash;
mod damage;
mod dedup;
mod disk;
mod fixture;
mod lineages;
mod model;
mod opening;
mod pages;
mod sealing;
mod sync_order;
mod threads;
