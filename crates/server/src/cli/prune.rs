use std::io::{Write, stdout};

use serde_json::json;
use yai_agentkit_core::{
    Result, Storage,
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
    /// Print one JSON object, where all tenants are meant one for each
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    let database = Database::connect(&settings.database).await?;
    match database.tenants() {
        None => {
            let removed = prune(&database, &settings, arguments.dry_run).await?;
            print(None, removed, &arguments)?;
        }
        Some(tenants) => {
            for tenant in tenants.all().await? {
                let storage = tenants.storage(&tenant)?;
                let removed = prune(&*storage, &settings, arguments.dry_run).await?;
                print(Some(&tenant), removed, &arguments)?;
            }
        }
    }
    database.close().await;
    Ok(())
}

async fn prune(storage: &dyn Storage, settings: &Settings, dry_run: bool) -> Result<Removed> {
    let store = storage.retention();
    let mut removed = Removed::default();
    let mut sweep = Sweep {
        after: None,
        limit: AT_ONCE,
        dry_run,
    };
    loop {
        let swept = store.sweep(&settings.retention, sweep).await?;
        removed += swept.removed;
        match swept.next {
            Some(next) => sweep.after = Some(next),
            None => break,
        }
    }
    if !dry_run {
        if let Some(age) = settings.retention.audit_age {
            storage.audit().expire(age).await?;
        }
        let what = format!("{} conversations", removed.conversations);
        let act = command().does(Action::Pruned, what);
        let act = act.counting(removed.checkpoints);
        storage.audit().record(&act).await?;
    }
    Ok(removed)
}

fn print(tenant: Option<&str>, removed: Removed, arguments: &Arguments) -> Result<(), BoxError> {
    let Removed {
        conversations,
        checkpoints,
        bytes,
    } = removed;
    let mut out = stdout().lock();
    if arguments.json {
        let mut counts = json!({
            "conversations": conversations,
            "checkpoints": checkpoints,
            "bytes": bytes,
            "dry_run": arguments.dry_run,
        });
        if let Some(tenant) = tenant {
            counts["tenant"] = json!(tenant);
        }
        writeln!(out, "{counts}")?;
        return Ok(());
    }
    let would = if arguments.dry_run {
        "would go"
    } else {
        "are gone"
    };
    let of = tenant.map_or_else(String::new, |tenant| format!("{tenant}: "));
    writeln!(
        out,
        "{of}{conversations} conversations and {checkpoints} checkpoints {would}, {bytes} bytes of checkpoints"
    )?;
    Ok(())
}
