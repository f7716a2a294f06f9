//! The conformance suites of `yai-agentkit-conformance` on every back end, a named test each; on Citus where
//! `AGENTKIT_TEST_CITUS_URL` names a database of it. What needs pgvector runs on a server that has it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;
use yai_agentkit_conformance::cases;
use yai_agentkit_core::Storage;
use yai_agentkit_persistence::{Database, DatabaseConfig};

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
    let [postgres, pooled] = ["conformance", "conformance_pooled"]
        .map(|name| runtime.block_on(support::PostgresDatabase::create(name)));

    let tenant = support::PostgresDatabase::create_for_server("conformance_tenant");
    let (tenant, _) = runtime.block_on(tenant);
    let vectors = runtime.block_on(support::PostgresDatabase::create_with_vectors());
    let file = format!("sqlite:{}", directory.join("agentkit.db").display());
    let urls = [
        ("sqlite", file.as_str()),
        ("sqlite_memory", "sqlite::memory:"),
        ("postgres", &postgres.url),
        ("pgbouncer", &pooled.pgbouncer_url),
        ("pgvector", &vectors.url),
        ("tenant", &tenant.url),
    ];
    let configs = urls.map(|(name, url)| {
        let config = DatabaseConfig::new(url).expect("a URL");
        match name {
            "tenant" => (name, config.tenants(true).tenant("acme")),
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
        _ => true,
    }
}

/// Runs a script in a schema with our tables.
async fn run(config: &DatabaseConfig, script: &str) {
    let database = Database::connect(config).await.expect("a connection");
    database.execute_script(script).await.expect(script);
    database.close().await;
}
