//! The agents that ship with AgentKit, and the tools that they share.

pub mod offline;
pub mod openai;
pub mod remote;
pub mod tools;

use yai_agentkit_core::{Error, Result};

/// With the system's root certificates. It does not connect yet.
fn http_client() -> Result<reqwest::Client> {
    // It fails when a provider was chosen before, which is then as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().build();
    client.map_err(|error| Error::backend("prepare an HTTP client", error))
}
