//! The `agentkit` binary.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A third more requests a second than with glibc's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    yai_agentkit_server::cli::run().await
}
