//! The conformance suites on the in-memory storage.

use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use yai_agentkit_conformance::cases;
use yai_agentkit_core::memory::MemoryStorage;

fn main() {
    let runtime = Arc::new(tokio::runtime::Runtime::new().expect("a runtime"));
    let trials = cases().map(|case| {
        let runtime = Arc::clone(&runtime);
        Trial::test(format!("memory::{}", case.name), move || {
            runtime.block_on((case.run)(Arc::new(MemoryStorage::default())));
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
