use std::io::{Write, stdout};

use yai_agentkit_core::error::BoxError;
use yai_agentkit_persistence::{Database, MigrationState};

use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    /// Print the SQL that would run, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the migrations and whether the database has them
    Status,
}

pub(super) async fn run(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    let database = Database::connect_unmigrated(&settings.database).await?;
    let mut out = stdout().lock();
    if let Some(Command::Status) = arguments.command {
        for migration in database.migrations().await? {
            let state = match migration.state {
                MigrationState::Applied => "applied",
                MigrationState::Pending => "pending",
            };
            writeln!(out, "{state}  {}", migration.name)?;
        }
    } else if arguments.dry_run {
        let mut migrations = database.migrations().await?;
        migrations.retain(|migration| migration.state == MigrationState::Pending);
        for migration in &migrations {
            writeln!(out, "-- {}\n{}\n", migration.name, migration.sql)?;
        }
        if migrations.is_empty() {
            writeln!(out, "-- the schema is up to date")?;
        }
    } else {
        let applied = database.migrate().await?;
        for migration in &applied {
            writeln!(out, "applied  {}", migration.name)?;
        }
        if applied.is_empty() {
            writeln!(out, "the schema is up to date")?;
        }
    }
    database.close().await;
    Ok(())
}
