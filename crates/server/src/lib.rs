//! The AgentKit server: a turn engine over [`yai_agentkit_core::Storage`], agents, HTTP and CLI.

pub mod agent;
