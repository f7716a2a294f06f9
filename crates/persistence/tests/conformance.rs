//! The conformance suites of `yai-agentkit-conformance` on every back end, a named test each; on Citus where
//! `AGENTKIT_TEST_CITUS_URL` names a database of it. What needs pgvector runs on a server that has it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;
use yai_agentkit_conformance::cases;
use yai_agentkit_core::Storage;
use yai_agentkit_persistence::{
    Database, DatabaseConfig,
    encryption::{LocalKeys, Readable},
};

mod support;

/// As the README says, in few shards.
const DISTRIBUTE: &str = "
SET citus.shard_count = 4;
ALTER TABLE threads ALTER COLUMN thread_id TYPE text COLLATE \"default\";
SELECT create_distributed_table('threads', 'thread_id');
SELECT create_distributed_table('checkpoints', 'thread_id', colocate_with => 'threads');
SELECT create_distributed_table('checkpoint_blobs', 'thread_id', colocate_with => 'threads');
SELECT create_distributed_table('checkpoint_writes', 'thread_id', colocate_with => 'threads');";

fn main() -> ExitCode {
    let runtime = Arc::new(Runtime::new().expect("a runtime"));
    let arguments = Arguments::from_args();
    let directory = std::env::temp_dir().join(format!("agentkit-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&directory).expect("a directory");
    // One each: a case looks at rows that another run of it, at the same time, would change.
    let [postgres, pooled, encrypted] =
        ["conformance", "conformance_pooled", "conformance_encrypted"]
            .map(|name| runtime.block_on(support::PostgresDatabase::create(name)));

    let tenant = support::PostgresDatabase::create_for_server("conformance_tenant");
    let (tenant, _) = runtime.block_on(tenant);
    let vectors = runtime.block_on(support::PostgresDatabase::create_with_vectors());
    let file = format!("sqlite:{}", directory.join("agentkit.db").display());
    let [sealed, readable] = ["encrypted.db", "readable.db"]
        .map(|name| format!("sqlite:{}", directory.join(name).display()));
    let master = LocalKeys::parse(&"07".repeat(32)).expect("a key");
    let master: Arc<LocalKeys> = Arc::new(master);
    let urls = [
        ("sqlite", file.as_str()),
        ("sqlite_memory", "sqlite::memory:"),
        ("postgres", &postgres.url),
        ("pgbouncer", &pooled.pgbouncer_url),
        ("pgvector", &vectors.url),
        ("tenant", &tenant.url),
        ("encrypted_sqlite", &sealed),
        ("encrypted_postgres", &encrypted.url),
        ("encrypted_readable", &readable),
    ];
    let configs = urls.map(|(name, url)| {
        let config = DatabaseConfig::new(url).expect("a URL");
        match name {
            "tenant" => (name, config.tenants(true).tenant("acme")),
            "encrypted_readable" => {
                let config = config.master_key(master.clone());
                (name, config.encryption_readable(Readable::Messages))
            }
            _ if name.starts_with("encrypted") => (name, config.master_key(master.clone())),
            _ => (name, config),
        }
    });
    let on_citus = std::env::var("AGENTKIT_TEST_CITUS_URL").ok();
    let schema = format!("conformance_{}", uuid::Uuid::new_v4().simple());
    let on_citus = on_citus.map(|url| {
        let config = DatabaseConfig::new(url).and_then(|config| config.schema(&*schema));
        // To distribute a table takes seconds.
        let config = config.and_then(|config| config.query_timeout(Duration::from_secs(300)));
        ("citus", config.expect("a URL"))
    });
    if let Some((_, config)) = &on_citus {
        runtime.block_on(run(config, DISTRIBUTE));
    }
    let mut databases = Vec::new();
    let mut trials = Vec::new();
    for (name, config) in configs.into_iter().chain(on_citus.clone()) {
        let database = runtime.block_on(Database::connect(&config)).expect(name);
        databases.push(database.clone());
        for case in cases().filter(|case| runs(name, case.name)) {
            let (runtime, storage) = (Arc::clone(&runtime), Arc::new(database.clone()));
            trials.push(Trial::test(format!("{name}::{}", case.name), move || {
                runtime.block_on((case.run)(storage as Arc<dyn Storage>));
                Ok(())
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);

    for database in databases {
        runtime.block_on(database.close());
    }
    runtime.block_on(postgres.remove());
    runtime.block_on(pooled.remove());
    runtime.block_on(encrypted.remove());
    runtime.block_on(tenant.remove());
    runtime.block_on(vectors.remove());
    if let Some((_, config)) = on_citus {
        runtime.block_on(run(&config, &format!("DROP SCHEMA {schema} CASCADE")));
    }
    std::fs::remove_dir_all(&directory).expect("to remove the directory");
    conclusion.exit_code()
}

/// Whether a case is for a back end.
fn runs(back_end: &str, case: &str) -> bool {
    let needs_vectors = case.starts_with("vectors::");
    match back_end {
        "pgvector" => needs_vectors || case.starts_with("items::") || case.starts_with("ranking::"),
        "postgres" | "pgbouncer" | "citus" | "tenant" => !needs_vectors,
        "encrypted_sqlite" => !needs_plain(case),
        // What differs from SQLite.
        "encrypted_postgres" => {
            let topic = case.split("::").next().unwrap_or_default();
            ENCRYPTED_ON_POSTGRES.contains(&topic) && !needs_plain(case)
        }
        // The rest; pages of many rows are those of less bytes.
        "encrypted_readable" => {
            needs_plain(case)
                && !case.starts_with("items::")
                && !case.starts_with("ranking::")
                && !case.starts_with("vectors::")
                && !PAGES_BY_BYTES.contains(&case)
        }
        _ => true,
    }
}

/// What goes through statements of PostgreSQL that bring values.
const ENCRYPTED_ON_POSTGRES: [&str; 14] = [
    "branches",
    "checkpoint_lists",
    "checkpoints",
    "conversations",
    "copying",
    "delta_channels",
    "events",
    "items",
    "ledger",
    "messages",
    "pending_writes",
    "retention",
    "turns",
    "unit_of_work",
];

/// They count what is stored.
const PAGES_BY_BYTES: [&str; 2] = [
    "messages::a_page_is_bounded_by_its_long_parts_too",
    "pages::a_page_ends_where_its_bytes_do",
];

/// Whether a case looks for what is encrypted, which is refused, or counts its bytes.
fn needs_plain(case: &str) -> bool {
    const OTHERS: [&str; 11] = [
        "conversations::filters_take_exact_values",
        "items::filters_compare_values_as_what_they_are",
        "items::filters_find_awkward_names_and_texts",
        "items::filters_look_into_objects_and_arrays",
        "items::a_batch_reads_what_was_before_it",
        "items::many_batches_at_once_are_each_whole",
        "items::an_item_dies_when_its_time_is_over_unless_it_is_read",
        "items::a_unit_of_work_takes_its_items_back",
        "vectors::a_text_and_a_vector_are_fused",
        "vectors::a_filter_and_a_namespace_do_not_empty_what_is_found",
        "model::random_operations_do_the_same_as_in_memory",
    ];
    let topics = ["search::", "ranking::"];
    topics.iter().any(|topic| case.starts_with(topic))
        || OTHERS.contains(&case)
        || PAGES_BY_BYTES.contains(&case)
}

/// Runs a script in a schema with our tables.
async fn run(config: &DatabaseConfig, script: &str) {
    let database = Database::connect(config).await.expect("a connection");
    database.execute_script(script).await.expect(script);
    database.close().await;
}
