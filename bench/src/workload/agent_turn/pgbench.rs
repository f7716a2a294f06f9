//! The limit: pgbench, which sends prepared statements and does nothing else.

use std::{fs, path::Path, process::Stdio};

use serde_json::json;
use tokio::process::Command;

use super::{Load, Outcome, shape};
use crate::{
    Result,
    database::{Database, Usage},
};

const GET: &str = include_str!("../../../pgbench/get.sql");
/// LangGraph's redundant indexes.
const INDEXES: &str = "CREATE INDEX checkpoints_thread_id_idx ON checkpoints (thread_id);
CREATE INDEX checkpoint_blobs_thread_id_idx ON checkpoint_blobs (thread_id);
CREATE INDEX checkpoint_writes_thread_id_idx ON checkpoint_writes (thread_id);";

/// What it sends.
#[derive(Clone, Copy)]
pub(super) enum Statements {
    /// Our own.
    Ours,
    /// The fewest and plainest that write LangGraph's rows: no list of threads.
    Plain,
}

impl Statements {
    fn step(self) -> &'static str {
        match self {
            Self::Ours => include_str!("../../../pgbench/step.sql"),
            Self::Plain => include_str!("../../../pgbench/plain_step.sql"),
        }
    }
}

pub(super) async fn run(
    statements: Statements,
    redundant_indexes: bool,
    database: &Database,
    load: Load,
) -> Result<(Outcome, Usage)> {
    database.migrate().await?;
    if redundant_indexes {
        database.execute(INDEXES).await?;
    }
    database.settle().await?;

    let directory = tempfile::tempdir()?;
    let script = directory.path().join("step.sql");
    fs::write(&script, GET.to_owned() + statements.step())?;
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
    fn a_rate_begins_after_the_warm_up() {
        let ends = [10.0, 10.2, 10.6, 11.0, 12.5];
        assert_eq!(rate(&ends, 0.5), Some(1.5));
        assert_eq!(rate(&ends, 3.0), None);
        assert_eq!(rate(&[], 0.5), None);
    }
}
