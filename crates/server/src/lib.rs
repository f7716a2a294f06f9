//! The AgentKit server: HTTP and the command line around a turn engine.

mod audit;
pub mod cli;
pub mod http;
pub mod inspect;
mod keys;
mod mcp;
mod owner;
pub mod serve;
pub mod settings;
