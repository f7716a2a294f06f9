//! The texts of the statements: what each call sends to each database stands in the directory `sql`
//! beside `src`, in files that these tests compare with what the calls send. After a change
//! `UPDATE_GOLDEN=1 cargo test -p yai-agentkit-persistence --lib golden` writes them anew.
//!
//! The calls run on the databases themselves, so that each statement is known to be one that its
//! database takes.

mod checkpoints;
mod ledger;
mod repositories;
mod store;
mod turns;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use sea_orm::ConnectionTrait;

use crate::{Database, DatabaseConfig};

thread_local! {
    /// What the calls of this test send; a test has a thread of its own.
    static SENT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Takes down a statement, where a test asks for it.
pub(crate) fn record(sql: &str) {
    SENT.with_borrow_mut(|sent| {
        if let Some(sent) = sent {
            sent.push(sql.trim_end().to_owned());
        }
    });
}

/// A database, and what the calls have sent to it.
struct Golden {
    /// Of the files.
    directory: &'static str,
    config: DatabaseConfig,
    is_distributed: bool,
    /// For what has to be there before a call.
    database: Database,
    texts: BTreeMap<String, String>,
}

impl Golden {
    async fn on_postgres(directory: &'static str, is_distributed: bool) -> Self {
        let url = std::env::var("AGENTKIT_TEST_POSTGRES_URL");
        let url = url.expect("AGENTKIT_TEST_POSTGRES_URL is not set: run ./test");
        let schema = format!("golden_{}", uuid::Uuid::new_v4().simple());
        let config = DatabaseConfig::new(url).and_then(|config| config.schema(&*schema));
        // What is asked on connecting is known.
        let config = config.unwrap().transaction_pooler(false);
        Self::new(directory, config, is_distributed).await
    }

    async fn new(directory: &'static str, config: DatabaseConfig, is_distributed: bool) -> Self {
        Self {
            directory,
            database: Database::connect(&config).await.unwrap(),
            config,
            is_distributed,
            texts: BTreeMap::new(),
        }
    }

    /// What `call` sends, by one connection, that nobody has used yet.
    async fn call(&mut self, name: &str, call: impl AsyncFnOnce(&Database)) {
        let config = self.config.clone().max_connections(1).unwrap();
        let mut database = Database::connect_unmigrated(&config).await.unwrap();
        if self.is_distributed {
            database = database.into_distributed();
        }
        SENT.set(Some(Vec::new()));
        call(&database).await;
        let sent = SENT.take().unwrap_or_default();
        database.close().await;
        assert!(!sent.is_empty(), "{name} sends nothing");
        let is_new = self
            .texts
            .insert(name.to_owned(), sent.join(";\n\n") + ";\n");
        assert!(is_new.is_none(), "{name} is there twice");
    }

    /// Compares all with the files.
    async fn finish(self) {
        if self.database.connection.is_postgres() {
            let schema = self.config.values.schema.as_deref().unwrap_or_default();
            let drop = format!("DROP SCHEMA {schema} CASCADE");
            let dropped = self.database.connection.execute_unprepared(&drop).await;
            dropped.unwrap();
        }
        self.database.close().await;

        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let directory = manifest.join("sql").join(self.directory);
        let file = |name: &str| directory.join(format!("{name}.sql"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir_all(&directory).unwrap();
            for (name, text) in &self.texts {
                fs::write(file(name), text).unwrap();
            }
        }
        let files = fs::read_dir(&directory).unwrap().map(|file| {
            let path = file.unwrap().path();
            path.file_stem().unwrap().to_str().unwrap().to_owned()
        });
        let files: BTreeSet<String> = files.collect();
        let names: BTreeSet<String> = self.texts.keys().cloned().collect();
        let how = "run with UPDATE_GOLDEN=1 to write them anew";
        assert_eq!(names, files, "other calls than files: {how}");
        for (name, text) in &self.texts {
            let expected = fs::read_to_string(file(name)).unwrap();
            let path = file(name);
            assert!(
                *text == expected,
                "{} is\n{expected}\nand the call sends\n{text}\n{how}",
                path.display()
            );
        }
    }

    async fn check(mut self) {
        checkpoints::call_all(&mut self).await;
        turns::call_all(&mut self).await;
        ledger::call_all(&mut self).await;
        repositories::call_all(&mut self).await;
        store::call_all(&mut self).await;
        self.finish().await;
    }
}

#[tokio::test]
async fn what_is_sent_to_postgres_stands_in_the_files() {
    Golden::on_postgres("postgres", false).await.check().await;
}

#[tokio::test]
async fn what_is_sent_to_citus_stands_in_the_files() {
    Golden::on_postgres("citus", true).await.check().await;
}

#[tokio::test]
async fn what_is_sent_to_sqlite_stands_in_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("golden.db");
    let config = DatabaseConfig::new(format!("sqlite:{}", file.display())).unwrap();
    Golden::new("sqlite", config, false).await.check().await;
}

/// Shards refuse it: each copy of a row would get another value.
#[test]
fn no_update_on_postgres_sets_what_a_volatile_function_returns() {
    const VOLATILE: [&str; 5] = [
        "clock_timestamp",
        "random",
        "nextval",
        "set_config",
        "timeofday",
    ];
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut updates = 0;
    for directory in ["postgres", "citus"] {
        for file in fs::read_dir(manifest.join("sql").join(directory)).unwrap() {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            for set in text.split(" SET ").skip(1) {
                let end = ["WHERE", "RETURNING", ";"].map(|word| set.find(word));
                let end = end.into_iter().flatten().min().unwrap_or(set.len());
                let is_volatile = VOLATILE.iter().any(|name| set[..end].contains(name));
                assert!(!is_volatile, "{} sets {}", path.display(), &set[..end]);
                updates += 1;
            }
        }
    }
    assert!(updates > 20, "only {updates} updates were found");
}
