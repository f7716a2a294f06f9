use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbErr, EntityTrait, QuerySelect, Statement};
use sea_orm_migration::MigratorTrait;
use uuid::Uuid;
use yai_agentkit_core::{
    ConversationId, Error, Repository, Result, Storage, Stores, ThreadId, UnitOfWork,
    conversation::ConversationSearch,
    retention::RetentionStore,
    storage::{HasStores, Tenants},
};

use crate::{
    DatabaseConfig, Migration,
    checkpointer::RawCheckpoints,
    config::Target,
    connection::{Connection, Transaction, retrying},
    encryption::{self, Keys, Progress, refuse_encrypted},
    entity::conversation,
    error::{code, not_writable, storage_error},
    migration,
    open::open,
    repository::StoredEntity,
    retention::SqlRetention,
    search::SqlSearch,
    stores::SqlStores,
    vacuum::vacuum,
};

/// How many tenants' groups of writes and reads are kept in memory.
const MOST_TENANTS: usize = 10_000;

/// A connected database: hands out repositories and the checkpointer, and runs units of work.
///
/// A clone shares the connections. Lost connections are replaced; the call that finds one lost is
/// repeated where it runs alone, and fails with [`Error::Unavailable`] within a unit of work.
///
/// ```
/// use yai_agentkit_core::{Conversation, Message, Role, Storage, Stores};
/// use yai_agentkit_persistence::{Database, DatabaseConfig};
///
/// # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
/// let database = Database::connect(&DatabaseConfig::new("sqlite::memory:")?).await?;
/// let unit = database.begin().await?;
/// let conversation = unit.conversations().add(Conversation::titled("First chat")).await?;
/// unit.messages().add(Message::new(conversation.id, Role::User, "Hello")).await?;
/// unit.commit().await?;
/// database.close().await;
/// # Ok::<(), yai_agentkit_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Database {
    pub(crate) connection: Connection,
    pub(crate) keys: Keys,
    stores: SqlStores,
    config: Arc<DatabaseConfig>,
    /// Those of tenants that were asked for by [`Tenants::storage`].
    tenants: Arc<Mutex<HashMap<String, Self>>>,
}

impl Database {
    /// Connects, trying again with growing pauses within the start timeout. Then migrates, or with
    /// `generate_schemas` off refuses an outdated schema.
    pub async fn connect(config: &DatabaseConfig) -> Result<Self> {
        if let Target::Sqlite(file) = config.target()?
            && !config.values.generate_schemas
            && !file.path.exists()
        {
            let reason = "names a SQLite file that does not exist: run `agentkit migrate`";
            return Err(Error::configuration(config.url_name.clone(), reason));
        }
        let database = Self::connect_unmigrated(config).await?;
        if config.values.tenants {
            database.connection.refuse_bypass().await?;
        }
        if config.values.generate_schemas {
            database.migrate().await?;
        } else {
            let pending = migration::pending(&database.connection.of_system()).await?;
            if let Some(first) = pending.first() {
                let reason = format!(
                    "lacks {} of this version's migrations, from {} on: run `agentkit migrate`",
                    pending.len(),
                    first.name,
                );
                return Err(Error::configuration("database schema", reason));
            }
        }
        database.check_keys().await?;
        Ok(database)
    }

    /// Connects without looking at the schema, to [`migrate`](Self::migrate) by hand.
    pub async fn connect_unmigrated(config: &DatabaseConfig) -> Result<Self> {
        let connection = open(config).await?.with_clock(config.clock.clone());
        if config.values.tenants && connection.undivided().is_none() {
            let reason =
                "is for a PostgreSQL without Citus; a file of SQLite is that of one tenant";
            return Err(Error::configuration("DB_TENANTS", reason));
        }
        let mut config = config.clone();
        config.read_master_key().await?;
        let database = Self::on(connection, Arc::new(config));
        match &database.config.values.tenant {
            Some(tenant) => database.tenant(tenant),
            None => Ok(database),
        }
    }

    fn on(connection: Connection, config: Arc<DatabaseConfig>) -> Self {
        let keys = match &config.master_key {
            // Who works for all tenants has the keys of none.
            Some(_) if connection.is_divided() && !connection.is_of_tenant() => {
                Keys::none(config.encryption_policy().readable)
            }
            Some(master) => {
                let policy = config.encryption_policy();
                Keys::new(Arc::clone(master), policy, connection.clone())
            }
            None => Keys::default(),
        };
        let patience = config.values.connection_timeout;
        Self {
            stores: SqlStores::on_pool(connection.clone(), keys.clone(), patience),
            connection,
            keys,
            config,
            tenants: Arc::default(),
        }
    }

    /// That the keys of the database are those of the configuration, as far as that can be asked before a
    /// tenant is named.
    async fn check_keys(&self) -> Result<()> {
        if self.config.master_key.is_none() {
            return refuse_encrypted(&self.connection.of_system()).await;
        }
        if self.connection.is_of_tenant() || !self.connection.is_divided() {
            self.keys.ring(&self.connection).await?;
        }
        Ok(())
    }

    /// The same database as one tenant has it: nothing else is seen, changed or in the way of its
    /// names. All share the connections, and each clone of this its groups of writes and reads. Where
    /// the installation is divided ([`DatabaseConfig::tenants`]), a database without a tenant refuses
    /// whatever is asked of it; else one with a tenant can't be had.
    ///
    /// Whoever can connect as the role of this can choose any tenant: what is kept apart is what goes
    /// through here, whatever the statement.
    pub fn tenant(&self, name: &str) -> Result<Self> {
        self.check_divided()?;
        let connection = self.connection.of_tenant(name)?;
        Ok(Self::on(connection, Arc::clone(&self.config)))
    }

    /// The same database as whoever works for all tenants has it, the [`Tenants`] behind requests: what
    /// it reads, changes and deletes is anybody's, and nothing can be added. Threads and items have names
    /// that more than one tenant may have, so that no call may name them here.
    #[must_use]
    pub fn of_all_tenants(&self) -> Self {
        Self {
            tenants: Arc::clone(&self.tenants),
            ..Self::on(self.connection.of_system(), Arc::clone(&self.config))
        }
    }

    fn check_divided(&self) -> Result<()> {
        if self.connection.is_divided() {
            return Ok(());
        }
        let reason = "is false: the installation is not divided among tenants";
        Err(Error::configuration("DB_TENANTS", reason))
    }

    /// Every migration with its state. Changes nothing.
    pub async fn migrations(&self) -> Result<Vec<Migration>> {
        migration::status(&self.connection.of_system()).await
    }

    /// Applies the pending migrations, all or none, and returns them. Safe to run from any number
    /// of processes at once.
    pub async fn migrate(&self) -> Result<Vec<Migration>> {
        let schema = self.config.values.schema.as_deref();
        migration::migrate(
            &self.connection.of_system(),
            schema,
            self.config.values.connection_timeout,
        )
        .await
    }

    /// Applies the pending migrations of the application's own tables as [`migrate`](Self::migrate)
    /// does ours, and returns their names. They run in the schema of ours, and may refer to it.
    pub async fn migrate_with<M: MigratorTrait>(&self) -> Result<Vec<String>> {
        let schema = self.config.values.schema.as_deref();
        let patience = self.config.values.connection_timeout;
        migration::migrate_with::<M>(&self.connection.of_system(), schema, patience).await
    }

    /// The repository of any entity, an application's own included; see [`StoredEntity`].
    pub fn repository<E: StoredEntity>(&self) -> Arc<dyn Repository<E>> {
        self.stores.repository()
    }

    /// The checkpoints with their JSON as text.
    pub fn raw_checkpoints(&self) -> RawCheckpoints {
        RawCheckpoints(self.stores.checkpoints())
    }

    /// Begins a [`DatabaseUnitOfWork`], the unit of work that an application's own entities can
    /// take part in.
    pub async fn begin_unit(&self) -> Result<DatabaseUnitOfWork> {
        // A key that was made within would go with it.
        self.keys.ring(&self.connection).await?;
        let transaction = self.connection.begin().await;
        let transaction = transaction.map_err(|error| storage_error("begin", error))?;
        Ok(DatabaseUnitOfWork {
            stores: SqlStores::within(transaction.clone(), self.keys.clone()),
            transaction,
        })
    }

    /// Runs one SQL script as it stands, for an application's own tables. The query timeout holds
    /// for all of it.
    pub async fn execute_script(&self, sql: &str) -> Result<()> {
        // It can't be repeated, so that it must not meet a lost connection.
        self.connection.replace_dead_connections().await;
        let done = self.connection.execute_unprepared(sql).await;
        done.map(drop)
            .map_err(|error| storage_error("execute script", error))
    }

    /// Writes the database anew without what was deleted, whose space it gives back: SQLite's file; on
    /// PostgreSQL each of our tables and LangGraph's, which nobody can use meanwhile, and what the
    /// catalogue knows of their values. It asks for the rights of the owner, and for no pooler. The
    /// query timeout holds for each table.
    pub async fn vacuum(&self) -> Result<()> {
        vacuum(&self.connection.of_system()).await
    }

    /// Adds a key for the data of the tenant, with which all is encrypted from now on, by other processes
    /// within seconds; and wraps the older ones with the first master key. Nothing is encrypted anew: see
    /// [`encrypt`](Self::encrypt). Returns its number.
    pub async fn add_data_key(&self) -> Result<u32> {
        self.keys.add().await
    }

    /// Encrypts with the newest key what is not, a few rows at once, beside those who work; and returns
    /// how many. It may be ended and repeated. What a process has written since that did not know the
    /// newest key yet is left for the next time.
    pub async fn encrypt(&self, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<u64> {
        encryption::all(&self.connection, &self.keys, progress).await
    }

    /// Waits for what is under way, then closes all connections.
    pub async fn close(&self) {
        self.stores.idle().await;
        let tenants = mem::take(&mut *self.known_tenants());
        for tenant in tenants.into_values() {
            tenant.stores.idle().await;
        }
        self.connection.close().await;
    }

    fn known_tenants(&self) -> MutexGuard<'_, HashMap<String, Self>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With the statements for Citus, on a PostgreSQL without.
    #[cfg(test)]
    pub(crate) fn into_distributed(self) -> Self {
        Self::on(self.connection.into_distributed(), self.config)
    }
}

impl HasStores for Database {
    fn stores(&self) -> &dyn Stores {
        &self.stores
    }
}

#[async_trait]
impl Storage for Database {
    fn search(&self) -> Arc<dyn ConversationSearch> {
        Arc::new(SqlSearch(self.connection.clone(), self.keys.clone()))
    }

    fn retention(&self) -> Arc<dyn RetentionStore> {
        Arc::new(SqlRetention(self.connection.clone(), self.keys.clone()))
    }

    async fn begin(&self) -> Result<Box<dyn UnitOfWork>> {
        Ok(Box::new(self.begin_unit().await?))
    }

    async fn thread_of(&self, id: ConversationId) -> Result<Option<ThreadId>> {
        let select = || {
            let row = conversation::Entity::find_by_id(id.0).select_only();
            let thread = row.column(conversation::Column::CheckpointThreadId);
            thread.into_tuple::<Uuid>()
        };
        let thread = retrying!(self.connection, select().one(&self.connection));
        let thread = thread.map_err(|error| storage_error("get the thread", error))?;
        Ok(thread.map(|thread| thread.to_string().into()))
    }

    fn tenant(&self) -> Option<&str> {
        self.connection.tenant_name()
    }

    fn tenants(&self) -> Option<Arc<dyn Tenants>> {
        let is_of_none = self.connection.is_divided() && !self.connection.is_of_tenant();
        is_of_none.then(|| Arc::new(self.clone()) as Arc<dyn Tenants>)
    }

    async fn ping(&self) -> Result<()> {
        let connection = match self.tenants() {
            Some(_) => self.connection.of_system(),
            None => self.connection.clone(),
        };
        let written = retrying!(connection, write_nothing(&connection));
        written.map_err(not_writable)
    }
}

#[async_trait]
impl Tenants for Database {
    fn storage(&self, tenant: &str) -> Result<Arc<dyn Storage>> {
        let mut known = self.known_tenants();
        if let Some(known) = known.get(tenant) {
            return Ok(Arc::new(known.clone()));
        }
        let new = self.tenant(tenant)?;
        if known.len() >= MOST_TENANTS {
            // Who uses one goes on with it.
            known.clear();
        }
        known.insert(tenant.to_owned(), new.clone());
        Ok(Arc::new(new))
    }

    async fn all(&self) -> Result<Vec<String>> {
        self.connection.tenants().await
    }

    async fn of_key(&self, id: Uuid) -> Result<Option<String>> {
        self.connection.tenant_of_key(id).await
    }

    async fn of_conversation(&self, id: ConversationId) -> Result<Option<String>> {
        self.connection.tenant_of_conversation(id.0).await
    }
}

/// One transaction on a [`Database`]. Dropping it undoes everything.
pub struct DatabaseUnitOfWork {
    transaction: Transaction,
    stores: SqlStores,
}

impl DatabaseUnitOfWork {
    /// The repository of any entity, within this transaction.
    pub fn repository<E: StoredEntity>(&self) -> Arc<dyn Repository<E>> {
        self.stores.repository()
    }

    /// Makes everything durable, or nothing.
    pub async fn commit(self) -> Result<()> {
        let committed = self.transaction.commit().await;
        committed.map_err(|error| storage_error("commit", error))
    }
}

impl HasStores for DatabaseUnitOfWork {
    fn stores(&self) -> &dyn Stores {
        &self.stores
    }
}

#[async_trait]
impl UnitOfWork for DatabaseUnitOfWork {
    async fn commit(self: Box<Self>) -> Result<()> {
        (*self).commit().await
    }
}

/// Goes the way of a write: PostgreSQL refuses it to a session that may only read, and SQLite puts it
/// into its log, which a full disk has no room for. The row that it writes stays as it is.
async fn write_nothing(connection: &Connection) -> Result<(), DbErr> {
    let run = async |sql| {
        let statement = Statement::from_string(connection.get_database_backend(), sql);
        connection.execute_raw(statement).await.map(drop)
    };
    if !connection.is_postgres() {
        return run("UPDATE agentkit_migrations SET version = version WHERE rowid = 1").await;
    }
    run("DELETE FROM threads WHERE 1 = 0").await?;
    match run(FILL_A_FILE).await {
        // `temp_file_limit` is none of what a write meets.
        Err(error) if code(&error).as_deref() == Some("53400") => Ok(()),
        filled => filled,
    }
}

/// Has PostgreSQL write some 150 kB to a temporary file, which is on the disk of the database unless
/// `temp_tablespaces` says otherwise. A row would find room in a page that is there already, and leave
/// work for a vacuum.
const FILL_A_FILE: &str = "SELECT count(*)
FROM (SELECT set_config('work_mem', '64kB', true) AS memory OFFSET 0) small,
    LATERAL generate_series(length(memory), 10000)";

#[cfg(test)]
mod tests {
    use sea_orm::DbBackend;

    use super::*;

    #[tokio::test]
    async fn a_file_keeps_what_was_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("agentkit.db").display());
        let database = Database::connect(&DatabaseConfig::new(url).unwrap()).await;
        let connection = database.unwrap().connection;
        // The first goes to the connection that writes, the second to one that reads.
        for (pragmas, query_only) in [
            (
                "/**/ SELECT * FROM pragma_journal_mode, pragma_synchronous, pragma_foreign_keys, pragma_query_only",
                0,
            ),
            (
                "SELECT * FROM pragma_journal_mode, pragma_synchronous, pragma_foreign_keys, pragma_query_only",
                1,
            ),
        ] {
            let statement = Statement::from_string(DbBackend::Sqlite, pragmas);
            let row = connection.query_one_raw(statement).await.unwrap().unwrap();
            let row: (String, i64, i64, i64) =
                sqlx::FromRow::from_row(row.try_as_sqlite_row().unwrap()).unwrap();
            const FULL: i64 = 2;
            assert_eq!(row, ("wal".to_owned(), FULL, 1, query_only));
        }
        connection.close().await;
    }
}
