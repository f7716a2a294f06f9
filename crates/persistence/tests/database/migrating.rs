use sqlx::{Connection, PgConnection};
use yai_agentkit_core::Stores;
use yai_agentkit_persistence::{Database, MigrationState};

use crate::{
    fixture::{
        assert_configuration, child, child_url, config, connect, refusal, sqlite_file,
        store_something, tables,
    },
    support::{PostgresDatabase, execute},
};

const PROCESSES: usize = 16;

#[tokio::test]
async fn processes_that_start_at_once_migrate_postgres_once() {
    const NAME: &str = "migrating::processes_that_start_at_once_migrate_postgres_once";
    if let Some(url) = child_url() {
        store_something(&connect(&url).await).await;
        return;
    }
    let postgres = PostgresDatabase::create("migrating").await;
    let urls = [&*postgres.url, &postgres.pgbouncer_url];
    start_at_once(NAME, urls).await;
    assert_is_migrated_and_used(&postgres.url).await;
    postgres.remove().await;
}

#[tokio::test]
async fn processes_that_start_at_once_migrate_sqlite_once() {
    const NAME: &str = "migrating::processes_that_start_at_once_migrate_sqlite_once";
    if let Some(url) = child_url() {
        store_something(&connect(&url).await).await;
        return;
    }
    let (_directory, _, url) = sqlite_file();
    start_at_once(NAME, [&*url, &url]).await;
    assert_is_migrated_and_used(&url).await;
}

async fn start_at_once(test: &str, urls: [&str; 2]) {
    let urls = urls.into_iter().cycle().take(PROCESSES);
    let processes = urls.map(|url| child(test, url).spawn().unwrap());
    let processes: Vec<_> = processes.collect();
    for process in processes {
        let output = process.wait_with_output().await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
    }
}

async fn assert_is_migrated_and_used(url: &str) {
    let database = connect(url).await;
    assert_eq!(states(&database).await, [MigrationState::Applied; 11]);
    let all = Default::default();
    let stored = database.conversations().count(&all).await.unwrap();
    assert_eq!(stored, PROCESSES as u64);
    database.close().await;
}

#[tokio::test]
async fn an_old_open_transaction_does_not_disturb_a_new_database() {
    let postgres = PostgresDatabase::create("migrating").await;
    execute(&postgres.url, "CREATE TABLE other (id INT)").await;
    let mut old = PgConnection::connect(&postgres.url).await.unwrap();
    let mut transaction = old.begin().await.unwrap();
    sqlx::query("SELECT * FROM other")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let database = connect(&postgres.url).await;
    store_something(&database).await;
    transaction.rollback().await.unwrap();
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn without_schema_generation_an_empty_database_is_refused_and_stays_empty() {
    let postgres = PostgresDatabase::create("migrating").await;
    let (_directory, _, file) = sqlite_file();
    for url in [&postgres.url, &postgres.pgbouncer_url, &file] {
        let config = config(url).generate_schemas(false);
        assert_configuration(&refusal(&config).await, "run `agentkit migrate`");
        let database = Database::connect_unmigrated(&config).await.unwrap();
        assert_eq!(states(&database).await, [MigrationState::Pending; 11]);
        database.close().await;
    }
    assert!(tables(&postgres.url).await.is_empty());

    for url in [&postgres.url, &file] {
        let config = config(url).generate_schemas(false);
        let database = Database::connect_unmigrated(&config).await.unwrap();
        assert_eq!(database.migrate().await.unwrap().len(), 11);
        assert_eq!(database.migrate().await.unwrap(), []);
        database.close().await;
        let database = Database::connect(&config).await.unwrap();
        store_something(&database).await;
        database.close().await;
    }
    postgres.remove().await;
}

#[tokio::test]
async fn the_status_needs_no_more_than_the_right_to_read() {
    let postgres = PostgresDatabase::create("migrating").await;
    let role = format!("reader_{}", uuid::Uuid::new_v4().simple());
    execute(&postgres.url, &format!("CREATE ROLE {role} LOGIN")).await;
    let mut url: url::Url = postgres.url.parse().unwrap();
    url.set_username(&role).unwrap();
    let reader = config(url.as_str()).generate_schemas(false);
    let reader = Database::connect_unmigrated(&reader).await.unwrap();
    assert_eq!(states(&reader).await, [MigrationState::Pending; 11]);
    assert!(tables(&postgres.url).await.is_empty());

    connect(&postgres.url).await.close().await;
    let grant = format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}");
    execute(&postgres.url, &grant).await;
    assert_eq!(states(&reader).await, [MigrationState::Applied; 11]);
    reader.close().await;
    let script = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    execute(&postgres.url, &script).await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let postgres = PostgresDatabase::create("migrating").await;
    let database = connect(&postgres.url).await;
    let newer = "INSERT INTO agentkit_migrations (version, applied_at) VALUES ('9999_newer', 0)";
    database.execute_script(newer).await.unwrap();
    let error = database.migrations().await.unwrap_err();
    assert_configuration(&error, "newer version");
    database.close().await;
    for generate_schemas in [true, false] {
        let config = config(&postgres.url).generate_schemas(generate_schemas);
        assert_configuration(&refusal(&config).await, "newer version");
    }
    postgres.remove().await;
}

#[tokio::test]
async fn tables_of_another_application_are_left_alone() {
    for table in ["threads", "checkpoints", "agent_turns"] {
        let postgres = PostgresDatabase::create("migrating").await;
        execute(&postgres.url, &format!("CREATE TABLE {table} (id INT)")).await;
        for url in [&postgres.url, &postgres.pgbouncer_url] {
            assert_configuration(&refusal(&config(url)).await, "set DB_SCHEMA");
        }
        assert_eq!(tables(&postgres.url).await, [format!("public.{table}")]);

        let apart = config(&postgres.url).schema("agentkit").unwrap();
        let database = Database::connect(&apart).await.unwrap();
        store_something(&database).await;
        database.close().await;
        postgres.remove().await;
    }
}

#[tokio::test]
async fn a_file_of_langgraphs_saver_is_called_so_and_left_alone() {
    let (_directory, _, url) = sqlite_file();
    let database = Database::connect_unmigrated(&config(&url)).await.unwrap();
    let theirs = "CREATE TABLE checkpoints (thread_id TEXT); CREATE TABLE writes (thread_id TEXT)";
    database.execute_script(theirs).await.unwrap();
    database.close().await;
    let refused = refusal(&config(&url)).await;
    assert_configuration(&refused, "a file of LangGraph's own SQLite saver");
}

#[tokio::test]
async fn a_migration_of_sqlite_that_fails_leaves_nothing() {
    let (_directory, _, url) = sqlite_file();
    let database = Database::connect_unmigrated(&config(&url)).await.unwrap();
    let other = "CREATE TABLE threads (id INT)";
    database.execute_script(other).await.unwrap();
    assert_configuration(
        &database.migrate().await.unwrap_err(),
        "another application",
    );
    assert_eq!(states(&database).await, [MigrationState::Pending; 11]);
    // What the migrations before the failed one had made is gone.
    database
        .execute_script("CREATE TABLE checkpoints (id INT)")
        .await
        .unwrap();
    database.close().await;
}

async fn states(database: &Database) -> Vec<MigrationState> {
    let migrations = database.migrations().await.unwrap();
    migrations.iter().map(|migration| migration.state).collect()
}
