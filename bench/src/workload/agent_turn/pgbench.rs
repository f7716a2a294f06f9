//! The limit: pgbench, which sends prepared statements and does nothing else.

use std::{fs, path::Path, process::Stdio};

use serde_json::json;
use tokio::process::Command;
use yai_agentkit_persistence::DatabaseConfig;

use super::{Load, Outcome, shape};
use crate::{
    Result,
    database::{Database, Usage},
};

/// Where a client is: what the arguments refer to.
const PLACE: &str = include_str!("../../../pgbench/place.sql");
/// The fewest and plainest statements that write LangGraph's rows.
const PLAIN_STEP: &str = include_str!("../../../pgbench/plain_step.sql");

/// Our statements, as the tests of the persistence find them sent.
const OUR_PUT: &str = include_str!("../../../../crates/persistence/sql/postgres/put.sql");
const OUR_PUT_WRITES: &str =
    include_str!("../../../../crates/persistence/sql/postgres/put_writes_first_stays.sql");
const OUR_GET: &str = include_str!("../../../../crates/persistence/sql/postgres/get_latest.sql");

/// LangGraph's redundant indexes.
const INDEXES: &str = "CREATE INDEX checkpoints_thread_id_idx ON checkpoints (thread_id);
CREATE INDEX checkpoint_blobs_thread_id_idx ON checkpoint_blobs (thread_id);
CREATE INDEX checkpoint_writes_thread_id_idx ON checkpoint_writes (thread_id);";

const THREAD: &str = "lpad(:thread::text, 36, '0')";
const CHECKPOINT: &str = "lpad(:step::text, 36, '0')";
const CHANNELS: &str = "ARRAY['messages', 'context']";
const TYPES: &str = "ARRAY['msgpack', 'msgpack']";

/// The arguments of our statements.
const GET: &[&str] = &[THREAD, "''"];
const PUT: &[&str] = &[
    THREAD,
    "''",
    CHANNELS,
    "array_fill(lpad(:step::text, 32, '0') || '.0123456789012345', ARRAY[2])",
    TYPES,
    "ARRAY[substr(:messages::bytea, 1, :length::int), :context::bytea]",
    CHECKPOINT,
    "lpad((:step - 1)::text, 36, '0')",
    "replace(:checkpoint, '@', lpad(:step::text, 32, '0'))",
    ":metadata",
];
const PUT_WRITES: &[&str] = &[
    THREAD,
    "''",
    CHECKPOINT,
    ":task",
    ":task_path",
    "ARRAY[0, 1]",
    CHANNELS,
    TYPES,
    "ARRAY[:message::bytea, :context::bytea]",
];

/// What it sends.
#[derive(Clone, Copy)]
pub(super) enum Statements {
    /// Our own.
    Ours,
    /// No list of threads.
    Plain,
}

pub(super) async fn run(
    statements: Statements,
    redundant_indexes: bool,
    database: &Database,
    load: Load,
) -> Result<(Outcome, Usage)> {
    let [put, put_writes, get] = our_statements(database).await?;
    if redundant_indexes {
        database.execute(INDEXES).await?;
    }
    database.settle().await?;

    let directory = tempfile::tempdir()?;
    let script = directory.path().join("step.sql");
    let step = match statements {
        Statements::Ours => format!("{put};\n{put_writes};\n"),
        Statements::Plain => PLAIN_STEP.to_owned(),
    };
    fs::write(
        &script,
        format!("{PLACE}\\if :place % 10 = 0\n{get};\n\\endif\n{step}"),
    )?;
    let log = directory.path().join("log");
    fs::create_dir(&log)?;
    let seconds = (load.warm_up + load.measured).as_secs_f64().ceil();
    let jobs = std::thread::available_parallelism()?
        .get()
        .min(load.threads);
    let mut pgbench = Command::new("pgbench");
    pgbench
        .args(["--no-vacuum", "--protocol=prepared", "--log"])
        .arg(format!("--log-prefix={}", log.join("job").display()))
        .arg(format!("--client={}", load.threads))
        .arg(format!("--jobs={jobs}"))
        .arg(format!("--time={seconds}"))
        .args(variables().map(|(name, value)| format!("--define={name}={value}")))
        .arg(format!("--file={}", script.display()))
        .arg(database.url())
        .stdin(Stdio::null());
    let before = database.usage(std::process::id()).await?;
    let output = pgbench.output().await?;
    let usage = database.usage(std::process::id()).await? - before;
    if !output.status.success() {
        return Err(format!("pgbench: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let ends = ends(&log)?;
    let outcome = Outcome {
        steps_per_second: rate(&ends, load.warm_up.as_secs_f64()).ok_or("pgbench did nothing")?,
        steps: ends.len().try_into()?,
        get: None,
        put: None,
        put_writes: None,
    };
    Ok((outcome, usage))
}

/// What our Rust API sends for `put`, `put_writes` and `get`, with pgbench's arguments. Makes our
/// tables.
async fn our_statements(database: &Database) -> Result<[String; 3]> {
    let config = DatabaseConfig::new(database.url())?;
    let storage = yai_agentkit_persistence::Database::connect(&config).await?;
    storage.close().await;
    Ok([
        with_arguments(OUR_PUT, PUT)?,
        with_arguments(OUR_PUT_WRITES, PUT_WRITES)?,
        with_arguments(OUR_GET, GET)?,
    ])
}

/// A statement with these for its parameters, which must be as many.
fn with_arguments(statement: &str, arguments: &[&str]) -> Result<String> {
    let other = || format!("not {} parameters: {statement}", arguments.len());
    let statement = statement.trim_end().trim_end_matches(';');
    let mut parts = statement.split('$');
    let mut text = parts.next().unwrap_or_default().to_owned();
    let mut used = vec![false; arguments.len()];
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = part.split_at(digits);
        let index = number.parse::<usize>()?.wrapping_sub(1);
        text += arguments.get(index).ok_or_else(other)?;
        text += rest;
        used[index] = true;
    }
    match used.contains(&false) {
        false => Ok(text),
        true => Err(other().into()),
    }
}

/// What the statements refer to.
fn variables() -> [(&'static str, String); 8] {
    let message = |message: &shape::Message| format!("{:<1$}", message.content, shape::MESSAGE);
    let messages: Vec<_> = shape::messages().iter().map(message).collect();
    // `@` is where the version goes.
    let version = "@.0123456789012345";
    let versions = json!({
        shape::MESSAGES: version, shape::CONTEXT: version, shape::TRIGGER: version,
    });
    let checkpoint = json!({
        "v": 4,
        "id": "1f0a1b2c-3d4e-6f70-8123-456789abcdef",
        "ts": "2026-01-01T00:00:00.000000+00:00",
        "channel_values": {},
        "channel_versions": versions,
        "versions_seen": {"__input__": {}, "agent": versions, "tools": versions},
        "updated_channels": [shape::TRIGGER, shape::CONTEXT, shape::MESSAGES],
    });
    let metadata = json!({"source": "loop", "step": 10, "parents": {}});
    [
        ("count", "-1".to_owned()),
        ("messages", messages.concat()),
        ("message", messages[0].clone()),
        ("context", shape::context(10).to_string()),
        ("checkpoint", checkpoint.to_string()),
        ("metadata", metadata.to_string()),
        ("task", "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9".to_owned()),
        ("task_path", shape::TASK_PATH.to_owned()),
    ]
}

/// When each transaction ended, in seconds: the fifth and the sixth field of a line.
fn ends(log: &Path) -> Result<Vec<f64>> {
    let mut ends = Vec::new();
    for file in fs::read_dir(log)? {
        for line in fs::read_to_string(file?.path())?.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            let [_, _, _, _, seconds, microseconds, ..] = fields[..] else {
                return Err(format!("a log of another kind: {line}").into());
            };
            ends.push(seconds.parse::<f64>()? + microseconds.parse::<f64>()? / 1e6);
        }
    }
    Ok(ends)
}

/// How many ended in a second after the warm-up, which begins with the first.
fn rate(ends: &[f64], warm_up: f64) -> Option<f64> {
    let from = ends.iter().copied().min_by(f64::total_cmp)? + warm_up;
    let until = ends.iter().copied().max_by(f64::total_cmp)?;
    let count = ends.iter().filter(|end| **end > from).count();
    #[expect(clippy::cast_precision_loss, reason = "transactions of some seconds")]
    (count > 0).then(|| count as f64 / (until - from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_takes_its_arguments() -> Result<()> {
        let arguments = ["a", "b", "c", "d", "e", "f", "g", "h", "i", ":j"];
        let statement = "$1 $2 $3 $4 $5::int $6 $7 $8 $9 $10::text[] $1";
        let text = with_arguments(statement, &arguments)?;
        assert_eq!(text, "a b c d e::int f g h i :j::text[] a");
        for (ours, arguments) in [(OUR_PUT, PUT), (OUR_PUT_WRITES, PUT_WRITES), (OUR_GET, GET)] {
            with_arguments(ours, arguments)?;
        }
        assert!(with_arguments(statement, &arguments[..9]).is_err());
        assert!(with_arguments("$1 $3", &["a", "b", "c"]).is_err());
        Ok(())
    }

    #[test]
    fn a_rate_begins_after_the_warm_up() {
        let ends = [10.0, 10.2, 10.6, 11.0, 12.5];
        assert_eq!(rate(&ends, 0.5), Some(1.5));
        assert_eq!(rate(&ends, 3.0), None);
        assert_eq!(rate(&[], 0.5), None);
    }
}
