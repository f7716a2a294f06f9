//! The agents that ship with AgentKit, and the tools that they share.

pub mod offline;
pub mod openai;
pub mod tools;
