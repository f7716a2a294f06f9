//! Each target on its corpus, as it is and changed at random.

use std::{fs, path::Path};

use proptest::{prelude::*, sample::Index, test_runner::TestRunner};

#[test]
fn values() {
    run(fuzz::values, "values", 50_000);
}

#[test]
fn connection_strings() {
    run(fuzz::connection_strings, "connection_strings", 10_000);
}

#[test]
fn cursors_and_events() {
    run(fuzz::cursors_and_events, "cursors_and_events", 50_000);
}

#[test]
fn requests() {
    run(fuzz::requests, "requests", 2_000);
}

/// Calls `target` with each file of its corpus, then with so many changed ones.
fn run(target: fn(&[u8]), name: &str, cases: u32) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let files = fs::read_dir(corpus).unwrap();
    let corpus: Vec<_> = files
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect();
    assert!(!corpus.is_empty());
    corpus.iter().for_each(|input| target(input));
    let places = any::<(Index, Index, Index)>();
    let bytes = prop::collection::vec(any::<u8>(), 0..16);
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..Default::default()
    };
    let tried = TestRunner::new(config).run(&(places, bytes), |((file, from, to), bytes)| {
        let mut input = file.get(&corpus).clone();
        let (from, to) = (from.index(input.len() + 1), to.index(input.len() + 1));
        input.splice(from.min(to)..from.max(to), bytes);
        target(&input);
        Ok(())
    });
    tried.unwrap();
}
