use std::io::{Write, stdout};

use serde_json::json;
use yai_agentkit_core::error::BoxError;
use yai_agentkit_engine::Migration;
use yai_agentkit_persistence::Database;

use super::turn_engine;
use crate::settings::Settings;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Store what agents keep in conversations as this program's agents do; else that is done when a chat goes on
    Migrate(Arguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Tell what would be migrated and what can't be, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(settings: Settings, command: Command) -> Result<(), BoxError> {
    let Command::Migrate(arguments) = command;
    let database = Database::connect(&settings.database).await?;
    let engine = turn_engine(&settings, &database).await?;
    let migration = engine.migrate_states(arguments.dry_run).await;
    database.close().await;
    let migration = migration?;
    write(&mut stdout().lock(), &migration, &arguments)?;
    match migration.failed.len() {
        0 => Ok(()),
        failed => Err(format!("{failed} states can't be migrated").into()),
    }
}

fn write(
    out: &mut impl Write,
    migration: &Migration,
    arguments: &Arguments,
) -> Result<(), BoxError> {
    let failed = migration.failed.iter();
    if arguments.json {
        let failed = failed.map(|(id, reason)| json!({"conversation_id": id, "reason": reason}));
        let counts = json!({
            "current": migration.current,
            "migrated": migration.migrated,
            "later": migration.later,
            "newer": migration.newer,
            "failed": failed.collect::<Vec<_>>(),
            "dry_run": arguments.dry_run,
        });
        writeln!(out, "{counts}")?;
        return Ok(());
    }
    for (id, reason) in failed {
        writeln!(out, "{id}: {reason}")?;
    }
    let done = match arguments.dry_run {
        true => "would be migrated",
        false => "migrated",
    };
    writeln!(
        out,
        "{} {done}, {} when their turn goes on, {} up to date, {} newer than this program",
        migration.migrated, migration.later, migration.current, migration.newer
    )?;
    Ok(())
}
