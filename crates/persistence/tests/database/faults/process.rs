//! Faults that a whole process has: each test runs itself in another one.

use std::{path::Path, process::Command};

use sqlx::{Connection, SqliteConnection};

use super::work::{Rig, TABLES};
use crate::fixture::{child, child_url, sqlite_file};

/// More than a run needs, less than it would take without a bound.
const MOST_ROUNDS: usize = 300;

async fn in_another_process(test: &str) {
    let (_directory, _, url) = sqlite_file();
    let output = child(&format!("faults::process::{test}"), &url)
        .output()
        .await
        .unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

/// The system's limit of the size of a file, which ends a write as a disk does that is worn out.
fn limit_files(bytes: Option<u64>) {
    let limit = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
    let set = Command::new("prlimit")
        .arg(format!("--pid={}", std::process::id()))
        .arg(format!("--fsize={limit}:unlimited"))
        .status()
        .expect("prlimit, of util-linux");
    assert!(set.success());
}

#[tokio::test]
async fn a_write_that_the_system_refuses_does_not_wedge_the_writer() {
    let Some(url) = child_url() else {
        in_another_process("a_write_that_the_system_refuses_does_not_wedge_the_writer").await;
        return;
    };
    let file = url.strip_prefix("sqlite:").unwrap();
    let log = format!("{file}-wal");
    let mut rig = Rig::at(url.clone(), |config| config).await;
    let mut refused = 0;
    for round in 0..MOST_ROUNDS {
        rig.execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
        assert_eq!(Path::new(&log).metadata().map_or(0, |log| log.len()), 0);
        // Pages go to the log at once, so that each statement may be the one that fails.
        let small_cache = "PRAGMA cache_size = 1";
        rig.database.execute_script(small_cache).await.unwrap();
        limit_files(Some(1 + 4_200 * round as u64));
        let done = rig.unit().await;
        let errors = rig.group().await;
        limit_files(None);
        rig.assert_sound().await;
        if done.is_ok() && errors.is_empty() {
            break;
        }
        refused += usize::from(done.is_err());
    }
    assert!(
        (TABLES.len()..MOST_ROUNDS - 1).contains(&refused),
        "{refused}"
    );
}

/// Memory of SQLite that nothing else can have.
struct Ballast(SqliteConnection);

impl Ballast {
    async fn empty() -> Self {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let table = sqlx::raw_sql("CREATE TABLE ballast (bytes)");
        table.execute(&mut connection).await.unwrap();
        Self(connection)
    }

    /// Whether there was room for it.
    async fn add(&mut self, bytes: i64) -> bool {
        let insert = sqlx::query("INSERT INTO ballast VALUES (zeroblob(?))").bind(bytes);
        insert.execute(&mut self.0).await.is_ok()
    }

    async fn free(self) {
        self.0.close().await.unwrap();
    }

    async fn fill(&mut self) {
        let mut bytes = 1 << 20;
        while bytes >= 1 << 10 {
            if !self.add(bytes).await {
                bytes /= 2;
            }
        }
    }
}

#[tokio::test]
async fn memory_that_runs_out_does_not_wedge_the_writer() {
    let Some(url) = child_url() else {
        in_another_process("memory_that_runs_out_does_not_wedge_the_writer").await;
        return;
    };
    const LIMIT: u32 = 64 << 20;
    let mut rig = Rig::at(url, |config| config).await;
    // For the whole process, and never to be raised again.
    let limit = format!("PRAGMA hard_heap_limit = {LIMIT}");
    rig.database.execute_script(&limit).await.unwrap();
    let mut refused = 0;
    for round in 0..MOST_ROUNDS {
        // A connection alone is some room: a little more each round.
        let mut room = Ballast::empty().await;
        assert!(room.add(4_000 * round as i64).await);
        let mut rest = Ballast::empty().await;
        rest.fill().await;
        room.free().await;
        let done = rig.unit().await;
        let errors = rig.group().await;
        rest.free().await;
        rig.assert_sound().await;
        if done.is_ok() && errors.is_empty() {
            break;
        }
        refused += usize::from(done.is_err());
    }
    assert!(
        (TABLES.len()..MOST_ROUNDS - 1).contains(&refused),
        "{refused}"
    );
}
