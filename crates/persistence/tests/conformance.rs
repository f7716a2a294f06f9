//! The conformance suites of `yai-agentkit-core` on every back end, a named test each.

use std::{process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;
use yai_agentkit_core::{Storage, conformance};
use yai_agentkit_persistence::{Database, DatabaseConfig};

mod support;

fn main() -> ExitCode {
    let runtime = Arc::new(Runtime::new().expect("a runtime"));
    let arguments = Arguments::from_args();
    let directory = std::env::temp_dir().join(format!("agentkit-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&directory).expect("a directory");
    let postgres = runtime.block_on(support::PostgresDatabase::create("conformance"));

    let file = format!("sqlite:{}", directory.join("agentkit.db").display());
    let urls = [
        ("sqlite", file.as_str()),
        ("sqlite_memory", "sqlite::memory:"),
        ("postgres", &postgres.url),
        ("pgbouncer", &postgres.pgbouncer_url),
    ];
    let mut databases = Vec::new();
    let mut trials = Vec::new();
    for (name, url) in urls {
        let config = DatabaseConfig::new(url).expect("a URL");
        let database = runtime.block_on(Database::connect(&config)).expect(name);
        databases.push(database.clone());
        for case in conformance::cases() {
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
    std::fs::remove_dir_all(&directory).expect("to remove the directory");
    conclusion.exit_code()
}
