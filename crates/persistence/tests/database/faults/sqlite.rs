use std::time::Duration;

use sqlx::{Connection, SqliteConnection};

use super::work::{Rig, TABLES};
use crate::fixture::assert_unavailable;

/// So many rows that no machine counts them to their end.
const ENDLESS: &str = "SELECT count(*) FROM sqlite_schema a, sqlite_schema b, sqlite_schema c,
    sqlite_schema d, sqlite_schema e, sqlite_schema f, sqlite_schema g, sqlite_schema h";

/// Makes each insert into `table` run `statement` first.
fn at_insert(table: &str, statement: &str) -> String {
    format!("CREATE TRIGGER fault BEFORE INSERT ON {table} BEGIN {statement}; END")
}

#[tokio::test]
async fn an_interrupted_transaction_does_not_wedge_the_writer() {
    let mut rig =
        Rig::new(|config| config.query_timeout(Duration::from_millis(300)).unwrap()).await;
    for table in TABLES {
        rig.execute(&at_insert(table, ENDLESS)).await;
        assert_unavailable(rig.unit().await);
        if table.starts_with("checkpoint") || table == "threads" {
            let errors = rig.group().await;
            assert!(
                table == "checkpoint_writes" || errors.len() == 8,
                "{errors:?}"
            );
        }
        rig.execute("DROP TRIGGER fault").await;
        rig.assert_sound().await;
    }
}

/// The database may not grow, as on a disk that is full, by one page more each time.
#[tokio::test]
async fn a_full_disk_does_not_wedge_the_writer() {
    let mut rig = Rig::new(|config| config).await;
    let mut refused = 0;
    for more in 0..200 {
        let pages: i64 = rig
            .texts("SELECT CAST(page_count AS text) FROM pragma_page_count")
            .await[0]
            .parse()
            .unwrap();
        let limit = format!("PRAGMA max_page_count = {}", pages + more);
        rig.database.execute_script(&limit).await.unwrap();
        let done = rig.unit().await;
        let errors = rig.group().await;
        let unlimited = "PRAGMA max_page_count = 1073741823";
        rig.database.execute_script(unlimited).await.unwrap();
        rig.assert_sound().await;
        if done.is_ok() && errors.is_empty() {
            break;
        }
        refused += usize::from(done.is_err());
    }
    // More often than there are statements: before, within and after each.
    assert!((TABLES.len()..199).contains(&refused), "{refused}");
}

#[tokio::test]
async fn a_table_that_is_damaged_takes_no_other_down_and_is_used_again_once_it_is_mended() {
    let mut rig = Rig::new(|config| config).await;
    let file = rig.url.strip_prefix("sqlite:").unwrap().to_owned();
    for table in TABLES {
        // A page of the table or of an index of it, which the connections have not read since.
        let pages = format!(
            "SELECT CAST(rootpage AS text) FROM sqlite_schema WHERE tbl_name = '{table}' AND rootpage > 0"
        );
        let mut refused = 0;
        for page in rig.texts(&pages).await {
            rig.execute("UPDATE agentkit_migrations SET version = version")
                .await;
            rig.execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
            let page: u64 = page.parse().unwrap();
            let whole = replace_page(&file, page, &[0xa5; PAGE]);
            refused += usize::from(rig.unit().await.is_err());
            rig.group().await;
            replace_page(&file, page, &whole);
            rig.assert_sound().await;
        }
        // A partial index need not be looked at.
        assert!(refused > 0, "{table}");
    }
}

/// As `open/sqlite.rs` sets it.
const PAGE: usize = 2048;

/// Returns what was there.
fn replace_page(file: &str, page: u64, bytes: &[u8]) -> Vec<u8> {
    use std::os::unix::fs::FileExt;

    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let place = (page - 1) * PAGE as u64;
    let mut before = vec![0; PAGE];
    file.read_exact_at(&mut before, place).unwrap();
    file.write_all_at(bytes, place).unwrap();
    before
}

#[tokio::test]
async fn a_file_that_another_process_holds_does_not_wedge_the_writer() {
    let mut rig =
        Rig::new(|config| config.query_timeout(Duration::from_millis(300)).unwrap()).await;
    for lock in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        let mut other = SqliteConnection::connect(&rig.url).await.unwrap();
        sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
        assert_unavailable(rig.unit().await);
        assert_eq!(rig.group().await.len(), 8);
        other.close().await.unwrap();
        rig.assert_sound().await;
    }
}
