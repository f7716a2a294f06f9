use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};
use yai_agentkit_core::Result;

use crate::settings::{LogFormat, Settings};

/// What a server logs by default. The MCP library tells of each request at `info`.
pub(crate) const SERVING: &str = "info,rmcp=warn";

/// Logs to stderr from now on: what the settings say, else `default`. Of no effect where the program
/// logs already.
pub(crate) fn start(settings: &Settings, default: &str) -> Result<()> {
    let wanted = settings.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(wanted).map_err(|error| {
        let reason = format!("`{wanted}` is not allowed ({error}); write as in info,sqlx=debug");
        settings.refused("RUST_LOG", reason)
    })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    let lines = match settings.log_format {
        LogFormat::Text => lines.with_ansi(stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let log = tracing_subscriber::registry().with(lines.with_filter(filter));
    drop(log.try_init());
    Ok(())
}
