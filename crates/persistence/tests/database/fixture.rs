use std::{path::PathBuf, process::Stdio, time::Duration};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::process::Command;
use yai_agentkit_core::{Conversation, Error, Stores, checkpoint::CheckpointerExt, error::Outcome};
use yai_agentkit_persistence::{Database, DatabaseConfig};

/// The password of every URL that a test expects to be refused.
pub(crate) const PASSWORD: &str = "hunter2";

/// Tells a test that it runs in a process of another, on this database.
const CHILD_URL: &str = "AGENTKIT_TEST_CHILD_URL";

/// With timeouts for tests: long enough for a busy machine, short enough to wait for.
pub(crate) fn config(url: &str) -> DatabaseConfig {
    DatabaseConfig::new(url)
        .and_then(|config| config.connection_timeout(Duration::from_secs(15)))
        .and_then(|config| config.start_timeout(Duration::from_secs(15)))
        .unwrap()
}

pub(crate) async fn connect(url: &str) -> Database {
    Database::connect(&config(url)).await.unwrap()
}

/// The error of connecting, which shows no password.
pub(crate) async fn refusal(config: &DatabaseConfig) -> Error {
    let Err(error) = Database::connect(config).await else {
        panic!("connected with {config:?}");
    };
    assert!(!format!("{error} {error:?}").contains(PASSWORD));
    error
}

#[track_caller]
pub(crate) fn assert_configuration(error: &Error, expected: &str) {
    let is_configuration = matches!(error, Error::Configuration { .. });
    assert!(is_configuration, "{error:?}");
    assert!(error.to_string().contains(expected), "{error}");
}

#[track_caller]
pub(crate) fn assert_not_done<T>(result: Result<T, Error>) {
    assert_eq!(outcome(result), Outcome::NotDone);
}

/// What became of a call that found the storage unavailable.
#[track_caller]
pub(crate) fn outcome<T>(result: Result<T, Error>) -> Outcome {
    match result {
        Err(Error::Unavailable { outcome, .. }) => outcome,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it succeeded"),
    }
}

#[track_caller]
pub(crate) fn assert_unavailable<T>(result: Result<T, Error>) {
    outcome(result);
}

/// Stores a row in a table of ours and one in each of LangGraph's but `checkpoint_writes`.
pub(crate) async fn store_something(database: &Database) -> Conversation {
    let conversation = Conversation::titled("A conversation");
    let state = serde_json::json!({"list": [1, 2]});
    let checkpointer = database.checkpointer();
    let thread = conversation.thread_id();
    checkpointer.save(&thread, &state).await.unwrap();
    database.conversations().add(conversation).await.unwrap()
}

/// The first column of a query on PostgreSQL, as text.
pub(crate) async fn texts(url: &str, query: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let rows = sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&mut connection);
    rows.await.unwrap()
}

/// Every table with its schema, and every recorded migration.
pub(crate) async fn tables(url: &str) -> Vec<String> {
    let query = "SELECT schemaname || '.' || tablename FROM pg_tables
        WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1";
    texts(url, query).await
}

/// A directory, and the URL of a file in it that is not there yet.
pub(crate) fn sqlite_file() -> (TempDir, PathBuf, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agentkit.db");
    let url = format!("sqlite:{}", file.display());
    (directory, file, url)
}

/// The same test in another process, which finds `url` as its [`child_url`].
pub(crate) fn child(test: &str, url: &str) -> Command {
    let mut command = Command::new("sh");
    command
        // A limit of files is an error of the write, not the end of the process.
        .args(["-c", r#"trap '' XFSZ; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_URL, url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(crate) fn child_url() -> Option<String> {
    std::env::var(CHILD_URL).ok()
}
