//! The keys of a tenant, as they are in the database.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use sea_orm::QueryResult;
use yai_agentkit_core::{Error, Result};
use zeroize::Zeroizing;

use super::{
    EncryptionError, MasterKey, Policy, Readable, SETTING,
    cipher::{DataKey, KEY_BYTES, KeyRing},
};
use crate::{
    connection::{Connection, retrying},
    error::storage_error,
    sql::{Query, Sql},
};

/// For how long a process encrypts with the key that was the newest.
pub const REFRESH: Duration = Duration::from_secs(10);

const LIST: &str = "SELECT number, wrapped FROM agent_data_keys ORDER BY number";

const ADD: Sql = Sql::same(
    "INSERT INTO agent_data_keys (number, wrapped) VALUES ($1, $2) ON CONFLICT DO NOTHING",
);

/// Whether there is anything of before the first key.
const HAS_ROWS: &str = "SELECT EXISTS (SELECT 1 FROM agent_conversations)
    OR EXISTS (SELECT 1 FROM checkpoints) OR EXISTS (SELECT 1 FROM checkpoint_writes)
    OR EXISTS (SELECT 1 FROM store)";

const WRAP: Sql = Sql::same("UPDATE agent_data_keys SET wrapped = $2 WHERE number = $1");

/// The keys of a tenant. A clone is the same.
#[derive(Clone)]
pub(crate) struct Keys {
    /// None where nothing is encrypted, and of who sees rows as they are stored: within the database, or
    /// those of all tenants.
    source: Option<Arc<Source>>,
    readable: Readable,
}

impl Default for Keys {
    fn default() -> Self {
        Self::none(Readable::Messages)
    }
}

struct Source {
    master: Arc<dyn MasterKey>,
    policy: Policy,
    /// A pool: what it adds stays.
    connection: Connection,
    held: RwLock<Option<(Instant, Arc<KeyRing>)>>,
}

/// Does `$work` with the keys of `$keys`, and again with those that were added since, where it meets one
/// that it does not know.
macro_rules! opening {
    ($keys:expr, $connection:expr, |$ring:ident| $work:expr) => {{
        let $ring = $keys.ring($connection).await?;
        let $ring = $ring.as_deref();
        match $work {
            Err(error) if $crate::encryption::Keys::are_old(&error) => {
                let $ring = $keys.read_again($connection).await?;
                let $ring = $ring.as_deref();
                $work
            }
            done => done,
        }
    }};
}
pub(crate) use opening;

impl Keys {
    pub(crate) fn new(master: Arc<dyn MasterKey>, policy: Policy, connection: Connection) -> Self {
        let source = Source {
            master,
            policy,
            connection,
            held: RwLock::default(),
        };
        Self {
            source: Some(Arc::new(source)),
            readable: policy.readable,
        }
    }

    /// None, where so much is readable.
    pub(crate) fn none(readable: Readable) -> Self {
        Self {
            source: None,
            readable,
        }
    }

    /// Those to encrypt and decrypt with, for a call on `connection`; the first time the first key is
    /// made.
    pub(crate) async fn ring(&self, connection: &Connection) -> Result<Option<Arc<KeyRing>>> {
        let Some(source) = &self.source else {
            return Ok(None);
        };
        match source.held() {
            Some((since, ring)) if since.elapsed() < REFRESH || connection.is_transaction() => {
                Ok(Some(ring))
            }
            Some(_) => source.read(&source.connection).await,
            None => match source.read(&source.connection).await? {
                Some(ring) => Ok(Some(ring)),
                // By whoever is first.
                None => source.begin().await.map(Some),
            },
        }
    }

    /// What can be searched.
    pub(crate) fn readable(&self) -> Readable {
        self.readable
    }

    /// The same, as the database has them now. (A transaction may be on the only connection.)
    pub(crate) async fn read_again(&self, connection: &Connection) -> Result<Option<Arc<KeyRing>>> {
        match &self.source {
            Some(source) => source.read(connection).await,
            None => Ok(None),
        }
    }

    /// Adds a key, and wraps all with the first master key. Its number.
    pub(crate) async fn add(&self) -> Result<u32> {
        let Some(source) = &self.source else {
            return Err(Error::configuration(SETTING, "is not set"));
        };
        let connection = &source.connection;
        let mut number = 0;
        for (old, sealed) in wrapped(connection).await? {
            let again = source
                .wrap(old, &source.unwrap(old, &sealed).await?)
                .await?;
            let wrap = WRAP.query(connection).with(i64::from(old)).with(again);
            let wrapped = retrying!(connection, wrap.clone().execute(connection));
            wrapped.map_err(|error| storage_error("encrypt a key", error))?;
            number = old;
        }
        source.add(number + 1).await.map(|ring| ring.newest())
    }

    /// Whether a call failed for want of a key.
    pub(crate) fn are_old(error: &Error) -> bool {
        matches!(error, Error::Unreadable { source, .. } if matches!(
            source.downcast_ref(),
            Some(EncryptionError::UnknownKey(_))
        ))
    }
}

impl Source {
    fn held(&self) -> Option<(Instant, Arc<KeyRing>)> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    /// `None` where there are none yet.
    async fn read(&self, connection: &Connection) -> Result<Option<Arc<KeyRing>>> {
        let mut keys = Vec::new();
        for (number, wrapped) in wrapped(connection).await? {
            let secret = self.unwrap(number, &wrapped).await?;
            keys.extend(DataKey::new(number, &secret));
        }
        let ring = KeyRing::new(keys, self.policy).map(Arc::new);
        if let Some(ring) = &ring {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            *held = Some((Instant::now(), Arc::clone(ring)));
        }
        Ok(ring)
    }

    async fn unwrap(&self, number: u32, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let secret = self.master.unwrap(&self.context(number), wrapped).await;
        secret.map_err(|error| {
            tracing::error!(number, error, "a key of the data can't be decrypted");
            let reason = "names another master key than that of this database";
            Error::configuration(SETTING, reason)
        })
    }

    /// What a key belongs to.
    fn context(&self, number: u32) -> String {
        let tenant = self.connection.tenant_name().unwrap_or_default();
        format!("agentkit data key {number} {tenant}")
    }

    /// Makes the first key, but refuses to encrypt only what comes in a database that has rows, unless
    /// these may be read.
    async fn begin(&self) -> Result<Arc<KeyRing>> {
        if self.policy.admits_plain {
            return self.add(1).await;
        }
        let connection = &self.connection;
        let rows = retrying!(
            connection,
            Query::new(connection, HAS_ROWS).rows(connection)
        );
        let has_rows = rows.and_then(|rows| match rows.first() {
            Some(row) => row.try_get_by_index(0),
            None => Ok(true),
        });
        if !has_rows.map_err(|error| storage_error("look for rows", error))? {
            return self.add(1).await;
        }
        // Of whoever has begun meanwhile.
        if let Some(ring) = self.read(connection).await? {
            return Ok(ring);
        }
        let reason = "must be true as long as the database has rows that are not encrypted; \
                      `agentkit encryption encrypt` encrypts them";
        Err(Error::configuration("DB_ENCRYPTION_ADMITS_PLAIN", reason))
    }

    /// Adds a key, unless somebody has.
    async fn add(&self, number: u32) -> Result<Arc<KeyRing>> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        let random = getrandom::fill(&mut *secret);
        random.map_err(|error| Error::backend("make a key", error))?;
        let wrapped = self.wrap(number, &*secret).await?;
        let add = ADD.query(&self.connection);
        let add = add.with(i64::from(number)).with(wrapped);
        let added = retrying!(self.connection, add.clone().execute(&self.connection));
        added.map_err(|error| storage_error("add a key", error))?;
        let ring = self.read(&self.connection).await?;
        ring.ok_or_else(|| Error::backend("add a key", "the key that was added is not there"))
    }

    async fn wrap(&self, number: u32, secret: &[u8]) -> Result<Vec<u8>> {
        let wrapped = self.master.wrap(&self.context(number), secret).await;
        wrapped.map_err(|error| Error::backend("encrypt a key", error))
    }
}

/// Those of the database, encrypted.
async fn wrapped(connection: &Connection) -> Result<Vec<(u32, Vec<u8>)>> {
    let rows = retrying!(connection, Query::new(connection, LIST).rows(connection));
    let key = |row: &QueryResult| {
        let number: i64 = row.try_get_by_index(0)?;
        Ok((
            u32::try_from(number).unwrap_or(u32::MAX),
            row.try_get_by_index(1)?,
        ))
    };
    let keys = rows.and_then(|rows| rows.iter().map(key).collect());
    keys.map_err(|error| storage_error("read the keys", error))
}

/// Refuses to read a database without keys that has some: everything would be garbage.
pub(crate) async fn refuse_encrypted(connection: &Connection) -> Result<()> {
    if wrapped(connection).await?.is_empty() {
        return Ok(());
    }
    let reason = "is not set, but the database is encrypted: name its master key";
    Err(Error::configuration(SETTING, reason))
}
