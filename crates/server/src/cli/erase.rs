use std::{
    io::{Write, stdout},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value as Json, json};
use yai_agentkit_core::{ConversationId, Error, Stores, access::validate_owner, error::BoxError};
use yai_agentkit_engine::Conversations;
use yai_agentkit_persistence::Database;

use crate::{
    audit::command,
    owner::{self, Erased, Whose},
    settings::Settings,
};

/// A large table takes its time to be written anew.
const VACUUM_TIMEOUT: Duration = Duration::from_secs(86_400);

#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    what: What,
    /// Tell what would go, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn names_tenant(&self) -> bool {
        self.what.tenant.is_some()
    }
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// This conversation, also while a turn runs in it
    conversation: Option<ConversationId>,
    /// All of this owner: conversations, items of the store, keys
    #[arg(long)]
    owner: Option<String>,
    /// All of this tenant: conversations, other threads, items of the store, keys
    #[arg(long)]
    tenant: Option<String>,
}

const HELP: &str = "\
Erased is gone for good: a turn that still runs on some server writes nothing any more. The bytes are in
the database's files until their space is used again; `agentkit vacuum` overwrites it. Backups, replicas
and the log of PostgreSQL (pg_wal, archives) are yours to let go.";

pub(super) async fn erase(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    let config = match &arguments.what.tenant {
        Some(tenant) => settings.database.tenant(tenant),
        None => settings.database,
    };
    let database = Database::connect(&config).await?;
    let conversations = Conversations::new(Arc::new(database.clone())).by(command());
    let What {
        conversation,
        owner,
        tenant,
    } = &arguments.what;
    let erased = match conversation {
        Some(id) => {
            let is_there = match arguments.dry_run {
                true => database.conversations().exists(id).await?,
                false => conversations.erase(*id).await?,
            };
            if !is_there {
                return Err(Error::not_found("conversation", id).into());
            }
            Erased {
                conversations: 1,
                ..Erased::default()
            }
        }
        None => {
            let whose = match (owner.as_deref(), tenant.as_deref()) {
                (Some(owner), _) => {
                    validate_owner(owner)?;
                    Whose::Owner(owner)
                }
                (None, tenant) => Whose::Tenant(tenant.unwrap_or_default()),
            };
            match arguments.dry_run {
                true => owner::count(&database, whose).await?,
                false => owner::erase(&database, conversations, whose, &command()).await?,
            }
        }
    };
    database.close().await;
    print(&erased, &arguments)?;
    Ok(())
}

fn print(erased: &Erased, arguments: &Arguments) -> Result<(), BoxError> {
    let mut out = stdout().lock();
    if arguments.json {
        let mut counts = json!(erased);
        counts["dry_run"] = Json::from(arguments.dry_run);
        writeln!(out, "{counts}")?;
        return Ok(());
    }
    let done = match arguments.dry_run {
        true => "would be erased",
        false => "are erased",
    };
    let Erased {
        conversations,
        items,
        keys,
    } = erased;
    writeln!(
        out,
        "{conversations} conversations, {items} items and {keys} keys {done}"
    )?;
    Ok(())
}

pub(super) async fn vacuum(settings: Settings) -> Result<(), BoxError> {
    let config = settings.database.query_timeout(VACUUM_TIMEOUT)?;
    let database = Database::connect(&config).await?;
    database.vacuum().await?;
    database.close().await;
    Ok(())
}
