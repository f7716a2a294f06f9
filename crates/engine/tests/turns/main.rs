//! What turns do, over a storage in memory that can fail.

mod agents;
mod branches;
mod bytes;
mod durable;
mod long;
mod queue;
mod rolling;
mod streams;
mod turns;
