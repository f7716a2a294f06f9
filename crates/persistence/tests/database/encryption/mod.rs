//! Encryption at rest: nothing that was said is in the database, nothing that was moved is read, and keys
//! are replaced beside those who work.

mod keys;
mod moved;
mod planted;

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tempfile::TempDir;
use yai_agentkit_core::{Error, error::BoxError};
use yai_agentkit_persistence::{
    Database, DatabaseConfig,
    encryption::{EncryptionError, LocalKeys},
};

use self::planted::{WORD, plant, read, whole};
use crate::{fixture::config, support::PostgresDatabase};

/// A database of each kind.
struct Place {
    url: String,
    postgres: Option<PostgresDatabase>,
    directory: Option<TempDir>,
}

impl Place {
    fn of_sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            url: format!("sqlite:{}", directory.path().join("agentkit.db").display()),
            postgres: None,
            directory: Some(directory),
        }
    }

    async fn of_postgres() -> Self {
        let postgres = PostgresDatabase::create("encryption").await;
        Self {
            url: postgres.url.clone(),
            postgres: Some(postgres),
            directory: None,
        }
    }

    async fn connect(&self, key: &str) -> Database {
        Database::connect(&self.config(key)).await.unwrap()
    }

    fn config(&self, key: &str) -> DatabaseConfig {
        let master = LocalKeys::parse(key).unwrap();
        config(&self.url).master_key(Arc::new(master))
    }

    /// Where the word is: of SQLite files, of PostgreSQL tables.
    async fn with_word(&self) -> Vec<String> {
        match (&self.postgres, &self.directory) {
            (Some(postgres), _) => tables_with(&postgres.url, WORD).await,
            (_, Some(directory)) => {
                let files = std::fs::read_dir(directory.path()).unwrap();
                let files = files.map(|file| file.unwrap().path());
                let has_word = |path: &std::path::PathBuf| {
                    let bytes = std::fs::read(path).unwrap();
                    bytes
                        .windows(WORD.len())
                        .any(|part| part == WORD.as_bytes())
                };
                files
                    .filter(has_word)
                    .map(|path| path.display().to_string())
                    .collect()
            }
            _ => unreachable!("a database is of one kind"),
        }
    }

    async fn remove(self) {
        if let Some(postgres) = self.postgres {
            postgres.remove().await;
        }
    }
}

/// The tables with a row that has the word, as text or in bytes.
async fn tables_with(url: &str, word: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()";
    let tables = sqlx::query(tables)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let mut found = Vec::new();
    let digits: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
    for table in tables {
        let table: String = table.get(0);
        let count = format!(
            "SELECT count(*) FROM {table} t
WHERE strpos(t::text, '{word}') > 0 OR strpos(t::text, '{digits}') > 0"
        );
        let count = sqlx::query(AssertSqlSafe(count))
            .fetch_one(&mut connection)
            .await;
        if count.unwrap().get::<i64, _>(0) > 0 {
            found.push(table);
        }
    }
    found
}

/// The key of most tests.
const KEY: &str = "0707070707070707070707070707070707070707070707070707070707070707";

/// Of whoever has another one.
const OTHER: &str = "0808080808080808080808080808080808080808080808080808080808080808";

/// Why something could not be decrypted.
fn cause(error: &Error) -> EncryptionError {
    let Error::Unreadable { source, .. } = error else {
        panic!("{error:?}");
    };
    let source: &BoxError = source;
    *source.downcast_ref().expect("it is of encryption")
}

async fn what_is_said_is_nowhere(place: Place) {
    let plain = Database::connect(&config(&place.url)).await.unwrap();
    plain.close().await;
    let database = place.connect(KEY).await;
    let planted = plant(&database).await;
    let before = whole(&database, &planted).await;
    database.close().await;
    assert_eq!(place.with_word().await, Vec::<String>::new());
    let database = place.connect(KEY).await;
    assert_eq!(whole(&database, &planted).await, before);
    database.close().await;
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_is_in_no_file_of_sqlite() {
    what_is_said_is_nowhere(Place::of_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_is_in_no_row_of_postgres() {
    what_is_said_is_nowhere(Place::of_postgres().await).await;
}
