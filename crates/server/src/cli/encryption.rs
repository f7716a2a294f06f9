use std::io::{Write, stdout};

use serde_json::json;
use yai_agentkit_core::error::BoxError;
use yai_agentkit_persistence::{Database, encryption::REFRESH};

use crate::settings::Settings;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add a key, with which all is encrypted from now on, and encrypt with it what is there; and wrap
    /// all keys with the first master key
    Rotate(Arguments),
    /// Encrypt what is not encrypted with the newest key: what was there before, or what was left when
    /// `rotate` was ended
    Encrypt(Arguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(settings: Settings, command: Command) -> Result<(), BoxError> {
    let database = Database::connect(&settings.database).await?;
    let (key, arguments) = match command {
        Command::Rotate(arguments) => (Some(database.add_data_key().await?), arguments),
        Command::Encrypt(arguments) => (None, arguments),
    };
    let mut rows = encrypt(&database).await?;
    if key.is_some() {
        // What servers write with the key that they know.
        tokio::time::sleep(REFRESH).await;
        rows += encrypt(&database).await?;
    }
    database.close().await;
    let mut out = stdout().lock();
    if arguments.json {
        writeln!(out, "{}", json!({"key": key, "rows": rows}))?;
    } else {
        let key = key.map(|key| format!("key {key} encrypts now, "));
        let key = key.unwrap_or_default();
        writeln!(out, "{key}{rows} rows were encrypted with the newest key")?;
    }
    Ok(())
}

/// Tells how far it is, a line a table.
async fn encrypt(database: &Database) -> Result<u64, BoxError> {
    let mut tell = |progress: yai_agentkit_persistence::encryption::Progress| {
        if progress.percent == 100 && progress.encrypted > 0 {
            eprintln!("{}: {} rows", progress.table, progress.encrypted);
        }
    };
    Ok(database.encrypt(&mut tell).await?)
}
