//! Looking for words in the files of a database.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{crash::Installation, process::text};

/// An installation whose files can be read.
pub(crate) struct Files {
    pub(crate) installation: Installation,
    data: PathBuf,
    postgres: Option<OwnPostgres>,
}

/// A PostgreSQL of its own, which ends with its input.
struct OwnPostgres {
    process: Child,
    url: String,
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        drop(self.process.wait());
    }
}

impl Files {
    pub(crate) fn of_sqlite() -> Self {
        let installation = Installation::sqlite();
        Self {
            data: installation.directory.path().to_owned(),
            installation,
            postgres: None,
        }
    }

    pub(crate) async fn of_postgres() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos/postgres.sh");
        let mut script = Command::new(script);
        let script = script.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = script.spawn().unwrap();
        let mut url = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut url).unwrap();
        let url = url.trim().to_owned();
        let postgres = OwnPostgres { process, url };
        // Segments of the log are kept, to be written over some time.
        postgres.run(&["ALTER SYSTEM SET wal_recycle = off"]).await;
        postgres.run(&["SELECT pg_reload_conf()"]).await;
        let mut connection = PgConnection::connect(&postgres.url).await.unwrap();
        let data = sqlx::query_scalar("SHOW data_directory");
        let data: String = data.fetch_one(&mut connection).await.unwrap();
        let mut installation = Installation::sqlite();
        installation.variables = vec![("DATABASE_URL", postgres.url.clone())];
        Self {
            installation,
            data: data.into(),
            postgres: Some(postgres),
        }
    }

    /// For several tenants, as a role that policies hold.
    pub(crate) async fn of_tenants() -> Self {
        let mut files = Self::of_postgres().await;
        let postgres = files.postgres.as_ref().unwrap();
        let role = "CREATE ROLE agentkit_server LOGIN";
        let schema = "CREATE SCHEMA tenants AUTHORIZATION agentkit_server";
        postgres.run(&[role, schema]).await;
        let (_, place) = postgres.url.split_once('@').unwrap();
        files.installation.variables = vec![
            (
                "DATABASE_URL",
                format!("postgresql://agentkit_server@{place}"),
            ),
            ("DB_SCHEMA", "tenants".to_owned()),
            ("DB_TENANTS", "true".to_owned()),
        ];
        files
    }

    /// What a command prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let mut command = self.installation.command("0", "1");
        let output = command.args(arguments).output().unwrap();
        let error = text(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        text(&output.stdout)
    }

    /// Writes over what was deleted; on PostgreSQL with what its log still has.
    pub(crate) async fn overwrite(&self) {
        self.run(&["vacuum"]);
        if let Some(postgres) = &self.postgres {
            // Which the server's role may not.
            postgres.run(&["VACUUM FULL pg_catalog.pg_statistic"]).await;
            let next = ["CHECKPOINT", "SELECT pg_switch_wal()"];
            postgres.run(&[next, next, next].concat()).await;
            postgres.run(&["CHECKPOINT"]).await;
        }
    }

    /// Runs a script as the server's role would.
    pub(crate) async fn execute(&self, script: &str) {
        let mut variables = self.installation.variables.iter();
        let (_, url) = variables.find(|(name, _)| *name == "DATABASE_URL").unwrap();
        let mut connection = PgConnection::connect(url).await.unwrap();
        let done = sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut connection);
        done.await.unwrap();
    }

    /// The files in which the word is.
    pub(crate) fn with(&self, word: &str) -> Vec<String> {
        with(&self.data, word)
    }
}

impl OwnPostgres {
    async fn run(&self, texts: &[&'static str]) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        for sql in texts {
            let done = sqlx::query(AssertSqlSafe(*sql)).execute(&mut connection);
            done.await.unwrap();
        }
    }
}

fn with(directory: &Path, word: &str) -> Vec<String> {
    let mut found = Vec::new();
    // PostgreSQL removes some meanwhile.
    let Ok(entries) = fs::read_dir(directory) else {
        return found;
    };
    for entry in entries.map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(with(&path, word));
            continue;
        }
        let bytes = fs::read(&path).unwrap_or_default();
        let mut windows = bytes.windows(word.len());
        if windows.any(|window| window == word.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}
