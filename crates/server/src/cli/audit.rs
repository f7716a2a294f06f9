use std::io::{Write, stdout};

use chrono::SecondsFormat;
use serde_json::json;
use yai_agentkit_core::{
    Stores,
    access::{owner_id, validate_owner},
    audit::AuditQuery,
    error::BoxError,
};
use yai_agentkit_persistence::Database;

use crate::{audit::Told, settings::Settings};

#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(super) struct Arguments {
    /// How many at most
    #[arg(long, default_value_t = 100)]
    limit: u64,
    /// Only what was done for this owner
    #[arg(long)]
    owner: Option<String>,
    /// Go on behind this place, which the page before has named
    #[arg(long, value_name = "CURSOR")]
    after: Option<i64>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Told are keys that were made and revoked, conversations that were deleted and erased, messages that were
redacted, prunes, imports and exports: who (the id of a key, `command`, a server), what, with which id,
and when by the database's clock. Nothing of what was said. The database refuses changes of entries, and
lets none go that is younger than 30 days.";

pub(super) async fn run(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    let database = Database::connect(&settings.database).await?;
    if let Some(owner) = &arguments.owner {
        validate_owner(owner)?;
    }
    let query = AuditQuery {
        before: arguments.after,
        owner: arguments.owner.as_deref().map(owner_id),
        limit: arguments.limit,
    };
    let entries = database.audit().list(&query).await?;
    database.close().await;
    let is_full = entries.len() as u64 == arguments.limit;
    let next = entries.last().filter(|_| is_full).map(|last| last.position);
    let mut out = stdout().lock();
    for told in entries.into_iter().map(Told::from) {
        if arguments.json {
            writeln!(out, "{}", json!(told))?;
            continue;
        }
        let at = told.at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let owner = told
            .owner
            .map_or_else(String::new, |owner| format!(" for {owner}"));
        let count = told
            .count
            .map_or_else(String::new, |count| format!(" ({count})"));
        let (who, action, subject) = (told.who, told.action, told.subject);
        writeln!(out, "{at}  {who}{owner}  {action}  {subject}{count}")?;
    }
    if let Some(next) = next {
        eprintln!("More: --after {next}");
    }
    Ok(())
}
