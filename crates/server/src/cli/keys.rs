use std::io::{Write, stdout};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::{Value as Json, json};
use uuid::Uuid;
use yai_agentkit_core::{
    Entity, ListQuery, Repository, Storage, Stores,
    access::{ApiKey, Scope},
    audit::Action,
    error::BoxError,
};
use yai_agentkit_persistence::Database;

use crate::{audit::command, keys::Token, settings::Settings};

/// How many keys are read at once.
const PAGE: u64 = 1000;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Of this tenant [default: DB_TENANT]
    #[arg(long, global = true)]
    pub(super) tenant: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a key, and print it: nobody can show it again
    Create(NewKey),
    /// List the keys, newest first
    List {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Refuse a key from now on, on every server
    Revoke {
        /// The id that `create` and `list` show
        id: Uuid,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct NewKey {
    /// What it is for
    name: String,
    /// What its holder may do, each also what those before it may
    #[arg(long, default_value = "write", value_parser = scopes())]
    scope: Scope,
    /// Only in the conversations of this owner [default: of all]
    #[arg(long)]
    owner: Option<String>,
    /// In how many days it expires [default: never]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    expires_in: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn scopes() -> impl TypedValueParser<Value = Scope> {
    let names = PossibleValuesParser::new(Scope::ALL.map(Scope::as_str));
    names.try_map(|name| Scope::named(&name).ok_or("no scope"))
}

pub(super) async fn run(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    let config = match arguments.tenant {
        Some(tenant) => settings.database.tenant(tenant),
        None => settings.database,
    };
    let database = Database::connect(&config).await?;
    let keys = database.api_keys();
    match arguments.command {
        Command::Create(new) => create(&database, new).await?,
        Command::List { json } => list(&*keys, json).await?,
        Command::Revoke { id, json } => revoke(&database, id, json).await?,
    }
    database.close().await;
    Ok(())
}

async fn create(database: &Database, new: NewKey) -> Result<(), BoxError> {
    let token = Token::new()?;
    let key = token.key(&new.name, new.scope).with(|key| {
        key.owner = new.owner;
        let days = new.expires_in.map(|days| TimeDelta::days(days.into()));
        key.expires_at = days.map(|days| key.created_at + days);
    });
    let unit = database.begin().await?;
    let key = unit.api_keys().add(key).await?;
    let act = command().does(Action::KeyCreated, key.id);
    unit.audit().record(&act).await?;
    unit.commit().await?;
    let mut out = stdout().lock();
    if new.json {
        let mut shown = as_json(&key);
        shown["key"] = json!(token.text());
        writeln!(out, "{shown}")?;
    } else {
        eprintln!("{}", line(&key));
        eprintln!("Keep it: it is not stored, and not shown again.");
        writeln!(out, "{}", token.text())?;
    }
    Ok(())
}

async fn list(keys: &dyn Repository<ApiKey>, json: bool) -> Result<(), BoxError> {
    let mut query = ListQuery::default().limit(PAGE);
    loop {
        let page = keys.list(&query).await?;
        let mut out = stdout().lock();
        for key in &page.items {
            print(&mut out, key, json)?;
        }
        drop(out);
        match page.next {
            Some(next) => query = query.after(next),
            None => return Ok(()),
        }
    }
}

async fn revoke(database: &Database, id: Uuid, json: bool) -> Result<(), BoxError> {
    let now = Utc::now();
    let change = |key: &mut ApiKey| {
        key.revoked_at.get_or_insert(now);
        Ok(())
    };
    let unit = database.begin().await?;
    let revoked = unit.api_keys().update(&id, &change).await?;
    let act = command().does(Action::KeyRevoked, id);
    unit.audit().record(&act).await?;
    unit.commit().await?;
    print(&mut stdout().lock(), &revoked, json)?;
    Ok(())
}

fn print(out: &mut impl Write, key: &ApiKey, json: bool) -> std::io::Result<()> {
    match json {
        true => writeln!(out, "{}", as_json(key)),
        false => writeln!(out, "{}", line(key)),
    }
}

fn line(key: &ApiKey) -> String {
    let end = match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", time(at)),
        (None, Some(at)) if at <= Utc::now() => format!("expired {}", time(at)),
        (None, Some(at)) => format!("expires {}", time(at)),
        (None, None) => "does not expire".to_owned(),
    };
    let owner = key.owner.as_ref();
    let owner = owner.map_or_else(String::new, |owner| format!("  for {owner}"));
    let (id, scope, name) = (key.id, key.scope.as_str(), &key.name);
    format!("{id}  {scope}{owner}  {end}  {name}")
}

fn as_json(key: &ApiKey) -> Json {
    json!({
        "id": key.id,
        "name": key.name,
        "scope": key.scope.as_str(),
        "owner": key.owner,
        "created_at": time(key.created_at),
        "expires_at": key.expires_at.map(time),
        "revoked_at": key.revoked_at.map(time),
    })
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
