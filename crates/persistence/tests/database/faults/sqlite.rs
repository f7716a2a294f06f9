use std::time::Duration;

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
