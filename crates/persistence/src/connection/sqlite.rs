use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sea_orm::DbErr;
use sqlx::{SqlSafeStr, Sqlite, SqlitePool};
use tokio::sync::Mutex;
use yai_agentkit_core::Clock;

use super::{
    files::ProcessDirectory,
    pool::{Pool, Pooled},
    session::{Session, Unit, Work},
};
use crate::{
    error::from_sqlx,
    presence::{LockFile, Presences},
};

/// SQLite asks after this many of its instructions whether the time is up: some 10 µs.
const INSTRUCTIONS_BETWEEN_CLOCK_READS: i32 = 2_000;

/// SQLite lets one connection write and any number read.
#[derive(Clone)]
pub(crate) struct SqliteSource {
    pub(crate) writer: Pool<Sqlite>,
    pub(super) readers: Pool<Sqlite>,
    query_timeout: Duration,
    /// What was opened first.
    file: FileIdentity,
    log: Log,
    /// Holds the files of a database that is gone with its last connection.
    _directory: Option<Arc<ProcessDirectory>>,
    pub(crate) presences: Arc<Presences<LockFile>>,
    pub(super) clock: Clock,
    /// The transaction to run in.
    pub(super) unit: Option<Unit<Sqlite>>,
}

impl SqliteSource {
    pub(crate) fn new(
        writer: SqlitePool,
        readers: SqlitePool,
        query_timeout: Duration,
        file: FileIdentity,
        log: Log,
        directory: Option<Arc<ProcessDirectory>>,
    ) -> Self {
        Self {
            writer: Pool::new(writer),
            readers: Pool::new(readers),
            query_timeout,
            file,
            log,
            _directory: directory,
            presences: Arc::default(),
            clock: Clock::default(),
            unit: None,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.writer.connect_options().get_filename().to_owned()
    }

    /// Refuses a file that is no longer the one that was opened: what is written now would be lost
    /// with it.
    fn check_file(&self) -> Result<(), DbErr> {
        let options = self.writer.connect_options();
        let reason = match FileIdentity::of(options.get_filename()) {
            now if now == self.file => match self.log.is_in_place() {
                true => return Ok(()),
                false => {
                    "the log of the SQLite file (-wal) was deleted or replaced: put it back, or restart"
                }
            },
            FileIdentity(None) => "the SQLite file was deleted: put it back, or restart",
            FileIdentity(Some(_)) => "the SQLite file was replaced: restart",
        };
        let stale = io::Error::new(io::ErrorKind::StaleNetworkFileHandle, reason);
        Err(from_sqlx(sqlx::Error::Io(stale)))
    }

    /// A transaction that may write from its begin on: one that began reading could not be made to
    /// wait for another writer.
    pub(super) async fn begin(&self) -> Result<Self, DbErr> {
        self.check_file()?;
        let begun = self.writer.begin("BEGIN IMMEDIATE".into_sql_str()).await;
        let unit = Arc::new(Mutex::new(Work::Open(begun.map_err(from_sqlx)?)));
        self.log.is_open();
        Ok(Self {
            unit: Some(unit),
            ..self.clone()
        })
    }

    /// For `sql`, which SQLite itself will end at the time limit.
    pub(super) async fn session(&self, sql: &str) -> Result<Session<Sqlite>, DbErr> {
        let mut session = match &self.unit {
            Some(unit) => Session::of_unit(unit).await?,
            None => {
                let pool = if reads(sql) {
                    &self.readers
                } else {
                    self.check_file()?;
                    &self.writer
                };
                Session::Alone(pool.acquire(None).await.map_err(from_sqlx)?)
            }
        };
        match TimeLimit::begin(session.connection(), self.query_timeout).await {
            Ok(()) => Ok(session),
            Err(error) => session.end(Err(error)).await,
        }
    }
}

/// The file beside that of the database to which SQLite writes first: that of the writer's connection.
#[derive(Clone)]
pub(crate) struct Log {
    path: PathBuf,
    opened: Arc<std::sync::Mutex<FileIdentity>>,
}

impl Log {
    pub(crate) fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self {
            path: path.into(),
            opened: Arc::new(std::sync::Mutex::new(FileIdentity(None))),
        }
    }

    /// A new connection will open it: the last one to close has removed that of before.
    pub(crate) fn is_closed(&self) {
        *self.opened() = FileIdentity(None);
    }

    /// A connection has it open.
    fn is_open(&self) {
        let mut opened = self.opened();
        if opened.0.is_none() {
            *opened = FileIdentity::of(&self.path);
        }
    }

    /// Whether the next one to look will find the same.
    fn is_in_place(&self) -> bool {
        let opened = *self.opened();
        opened.0.is_none() || opened == FileIdentity::of(&self.path)
    }

    fn opened(&self) -> MutexGuard<'_, FileIdentity> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None of our statements is `WITH … INSERT`, and a reader would refuse it.
fn reads(sql: &str) -> bool {
    let first_word = sql.split_whitespace().next().unwrap_or_default();
    ["select", "with"]
        .iter()
        .any(|word| first_word.eq_ignore_ascii_case(word))
}

/// Tells a file from another one in its place: device and inode.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileIdentity(Option<(u64, u64)>);

impl FileIdentity {
    pub(crate) fn of(path: &Path) -> Self {
        #[cfg(unix)]
        return Self(path.metadata().ok().map(|file| {
            use std::os::unix::fs::MetadataExt;
            (file.dev(), file.ino())
        }));
        #[cfg(not(unix))]
        Self(path.metadata().ok().map(|_| (0, 0)))
    }
}

/// When SQLite ends the statement under way on a connection.
#[derive(Default)]
pub(super) struct TimeLimit(Option<Arc<AtomicU64>>);

impl TimeLimit {
    /// Ends what runs on `connection` longer than `timeout` from now. The handler is set once a
    /// connection, since that is a question to its thread.
    async fn begin(connection: &mut Pooled<Sqlite>, timeout: Duration) -> Result<(), sqlx::Error> {
        let deadline = milliseconds(Instant::now() + timeout);
        if let Self(Some(shared)) = &connection.time_limit {
            shared.store(deadline, Ordering::Relaxed);
            return Ok(());
        }
        let shared = Arc::new(AtomicU64::new(deadline));
        let read = Arc::clone(&shared);
        connection
            .lock_handle()
            .await?
            .set_progress_handler(INSTRUCTIONS_BETWEEN_CLOCK_READS, move || {
                milliseconds(Instant::now()) <= read.load(Ordering::Relaxed)
            });
        connection.time_limit = Self(Some(shared));
        Ok(())
    }
}

/// Since the first call.
fn milliseconds(time: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(time.saturating_duration_since(*START).as_millis()).unwrap_or(u64::MAX)
}
