//! The `agentkit` binary.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    yai_agentkit_server::cli::run().await
}
