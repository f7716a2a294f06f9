//! What is measured: one module for each workload, with a `run` that adds to the report.

pub(crate) mod agent_turn;
pub(crate) mod durable_turn;
pub(crate) mod graph;
pub(crate) mod growth;
pub(crate) mod history;
pub(crate) mod http;
pub(crate) mod start;
pub(crate) mod turn;
