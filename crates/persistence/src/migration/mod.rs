//! The schema, one migration after the other. To change it, add a migration to [`MIGRATIONS`] with
//! its SQL for both databases; one that has been released never changes.

mod apply;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};
use yai_agentkit_core::{Error, Result, error::Outcome};

use crate::{connection::Connection, error};

pub(crate) use apply::{migrate, migrate_with};

/// One migration of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// Its name.
    pub name: String,
    /// Whether the database has it.
    pub state: MigrationState,
    /// The SQL that it runs on this database.
    pub sql: &'static str,
}

/// Whether a database has a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationState {
    /// It has.
    Applied,
    /// Not yet.
    Pending,
}

#[derive(Clone, Copy)]
struct Script {
    name: &'static str,
    postgres: &'static str,
    sqlite: &'static str,
}

macro_rules! script {
    ($number:literal, $name:literal) => {
        Script {
            name: concat!($number, "_", $name),
            postgres: include_str!(concat!("postgres/", $name, ".sql")),
            sqlite: include_str!(concat!("sqlite/", $name, ".sql")),
        }
    };
}

const MIGRATIONS: [Script; 11] = [
    script!("0001", "checkpoints"),
    script!("0002", "threads"),
    script!("0003", "conversations"),
    script!("0004", "turns"),
    script!("0005", "events"),
    script!("0006", "ledger"),
    script!("0007", "api_keys"),
    script!("0008", "store"),
    script!("0009", "search"),
    script!("0010", "audit"),
    script!("0011", "data_keys"),
];

/// Divides an installation among tenants, where it is to be, and runs again behind each migration.
const TENANTS: Script = Script {
    name: "tenants",
    postgres: include_str!("postgres/tenants.sql"),
    sqlite: "",
};

impl Script {
    fn sql(self, backend: DbBackend) -> &'static str {
        match backend {
            DbBackend::Postgres => self.postgres,
            _ => self.sqlite,
        }
    }

    fn migration(self, state: MigrationState, backend: DbBackend) -> Migration {
        Migration {
            name: self.name.to_owned(),
            state,
            sql: self.sql(backend),
        }
    }
}

/// Every migration with its state. Reads only.
pub(crate) async fn status(connection: &Connection) -> Result<Vec<Migration>> {
    let is_divided = connection.is_divided();
    let pending = unapplied(connection, is_divided)
        .await
        .map_err(schema_error)?;
    let backend = connection.get_database_backend();
    let state = |script: &Script| match pending.iter().any(|other| other.name == script.name) {
        true => MigrationState::Pending,
        false => MigrationState::Applied,
    };
    let migrations = MIGRATIONS.iter().chain(is_divided.then_some(&TENANTS));
    Ok(migrations
        .map(|script| script.migration(state(script), backend))
        .collect())
}

pub(crate) async fn pending(connection: &Connection) -> Result<Vec<Migration>> {
    let mut migrations = status(connection).await?;
    migrations.retain(|migration| migration.state == MigrationState::Pending);
    Ok(migrations)
}

/// The migrations that the database lacks.
async fn unapplied(
    connection: &impl ConnectionTrait,
    is_divided: bool,
) -> Result<Vec<Script>, DbErr> {
    let mut scripts = MIGRATIONS.to_vec();
    scripts.extend(is_divided.then_some(TENANTS));
    let backend = connection.get_database_backend();
    let has_any = match backend {
        DbBackend::Postgres => {
            "SELECT 1 FROM pg_catalog.pg_class WHERE relname = 'agentkit_migrations'
    AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema())"
        }
        _ => "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'agentkit_migrations'",
    };
    let has_any = Statement::from_string(backend, has_any);
    if connection.query_one_raw(has_any).await?.is_none() {
        if backend == DbBackend::Sqlite && is_of_langgraph(connection).await? {
            return Err(DbErr::Custom(
                "is a file of LangGraph's own SQLite saver, whose tables are others than those of \
                 AgentKit: choose another file"
                    .into(),
            ));
        }
        return Ok(scripts);
    }
    let applied = Statement::from_string(backend, "SELECT version FROM agentkit_migrations");
    let rows = connection.query_all_raw(applied).await?;
    let applied = rows.iter().map(|row| row.try_get_by_index(0));
    let applied = applied.collect::<Result<Vec<String>, _>>()?;
    if !is_divided && applied.iter().any(|name| name == TENANTS.name) {
        return Err(DbErr::Custom(
            "is divided among tenants, of which nobody may see the others': set DB_TENANTS=true"
                .into(),
        ));
    }
    let known = |name: &String| scripts.iter().any(|script| script.name == name);
    if !applied.iter().all(known) {
        return Err(DbErr::Custom(
            "has migrations that this version of AgentKit does not know: use a newer version"
                .into(),
        ));
    }
    let is_applied = |script: &Script| applied.iter().any(|name| name == script.name);
    scripts.retain(|script| !is_applied(script));
    Ok(scripts)
}

/// Whether a SQLite file is one of LangGraph's `SqliteSaver`.
async fn is_of_langgraph(connection: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'checkpoints'
    AND EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'writes')";
    let tables = Statement::from_string(DbBackend::Sqlite, tables);
    Ok(connection.query_one_raw(tables).await?.is_some())
}

/// What an error says about our schema.
fn schema_error(error: DbErr) -> Error {
    const TABLE_EXISTS: &str = "42P07";
    const NO_SUCH_COLUMN: &str = "42703";
    // What SQLite says of both.
    const SQLITE_ERROR: &str = "1";
    if let DbErr::Custom(reason) = error {
        return Error::configuration("database schema", reason);
    }
    match error::code(&error).as_deref() {
        Some(TABLE_EXISTS | NO_SUCH_COLUMN | SQLITE_ERROR) => Error::configuration(
            "database schema",
            "holds a table of another application with the name of one of ours \
             (checkpoints, checkpoint_*, threads, store, agent_*): set DB_SCHEMA, or for SQLite another file",
        ),
        _ => migration_error(error),
    }
}

/// What an error says about any migration.
fn migration_error(error: DbErr) -> Error {
    const LOCKED: &str = "55P03";
    if error::code(&error).as_deref() == Some(LOCKED) {
        return Error::unavailable(
            "migrate: another transaction keeps a table locked; end it (see pg_stat_activity)",
            Outcome::NotDone,
            error,
        );
    }
    error::storage_error("migrate", error)
}
