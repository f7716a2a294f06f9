//! What is measured: one module for each workload, with a `run` that prints its table.

pub(crate) mod start;
pub(crate) mod turn;
