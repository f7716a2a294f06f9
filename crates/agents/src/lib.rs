//! The agents that ship with AgentKit, the tools that they share, and the tools of MCP servers.

pub mod agui;
mod asking;
pub mod mcp;
pub mod offline;
pub mod openai;
pub mod remote;
mod sse;
pub mod tools;

use std::time::Duration;

use chrono::DateTime;
pub use reqwest::Url;
use reqwest::{Response, header::RETRY_AFTER};
use yai_agentkit_core::{Clock, Error, Result};

/// A URL of HTTP.
pub fn http_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

/// How long the answer asks to wait: so many seconds, or until a date.
fn retry_after(response: &Response) -> Option<Duration> {
    let wanted = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = wanted.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(wanted).ok()?.to_utc();
    Some((date - Clock::default().now()).to_std().unwrap_or_default())
}

/// A client with the system's root certificates. It does not connect yet.
pub fn http_client() -> Result<reqwest::Client> {
    // It fails when a provider was chosen before, which is then as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().build();
    client.map_err(|error| Error::backend("prepare an HTTP client", error))
}
