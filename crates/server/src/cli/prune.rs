use std::io::{Write, stdout};

use serde_json::json;
use yai_agentkit_core::{
    Storage, Stores,
    audit::Action,
    error::BoxError,
    retention::{Removed, Sweep},
};
use yai_agentkit_persistence::Database;

use crate::{audit::command, settings::Settings};

/// How many conversations are looked at at once.
const AT_ONCE: u64 = 100;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Tell what would go, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    let database = Database::connect(&settings.database).await?;
    let store = database.retention();
    let mut removed = Removed::default();
    let mut sweep = Sweep {
        after: None,
        limit: AT_ONCE,
        dry_run: arguments.dry_run,
    };
    loop {
        let swept = store.sweep(&settings.retention, sweep).await?;
        removed += swept.removed;
        match swept.next {
            Some(next) => sweep.after = Some(next),
            None => break,
        }
    }
    if !arguments.dry_run {
        if let Some(age) = settings.retention.audit_age {
            database.audit().expire(age).await?;
        }
        let what = format!("{} conversations", removed.conversations);
        let act = command().does(Action::Pruned, what);
        let act = act.counting(removed.checkpoints);
        database.audit().record(&act).await?;
    }
    database.close().await;
    let Removed {
        conversations,
        checkpoints,
        bytes,
    } = removed;
    let mut out = stdout().lock();
    if arguments.json {
        let counts = json!({
            "conversations": conversations,
            "checkpoints": checkpoints,
            "bytes": bytes,
            "dry_run": arguments.dry_run,
        });
        writeln!(out, "{counts}")?;
    } else {
        let would = if arguments.dry_run {
            "would go"
        } else {
            "are gone"
        };
        writeln!(
            out,
            "{conversations} conversations and {checkpoints} checkpoints {would}, {bytes} bytes of checkpoints"
        )?;
    }
    Ok(())
}
