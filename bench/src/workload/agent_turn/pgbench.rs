//! The limit: pgbench, which sends prepared statements and does nothing else.

use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use super::{Load, Measured, Outcome, shape};
use crate::{Result, database::Database};

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
) -> Result<Measured> {
    database.migrate().await?;
    if redundant_indexes {
        database.execute(INDEXES).await?;
    }
    database.settle().await?;

    let directory = tempfile::tempdir()?;
    let script = directory.path().join("step.sql");
    std::fs::write(&script, GET.to_owned() + statements.step())?;
    let seconds = load.warm_up.as_secs() + load.measured.as_secs();
    let jobs = std::thread::available_parallelism()?
        .get()
        .min(load.threads);
    let mut pgbench = Command::new("pgbench");
    pgbench
        .args(["--no-vacuum", "--protocol=prepared", "--progress=1"])
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
    let (out, progress) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if !output.status.success() {
        return Err(format!("pgbench: {progress}").into());
    }
    let steps_per_second = steps_per_second(&progress, load.warm_up.as_secs())?;
    let steps = out
        .lines()
        .find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    let steps = steps.ok_or("pgbench has no count")?.trim().parse()?;
    Ok(Measured {
        outcome: Outcome {
            steps_per_second,
            steps,
            get: None,
            put: None,
            put_writes: None,
        },
        usage,
    })
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

/// The mean of the seconds after the warm-up.
fn steps_per_second(progress: &str, warm_up: u64) -> Result<f64> {
    let rates: Vec<f64> = progress
        .lines()
        .filter_map(|line| line.strip_prefix("progress: "))
        .filter_map(|line| line.split(", ").nth(1)?.strip_suffix(" tps")?.parse().ok())
        .skip(usize::try_from(warm_up)?)
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    match rates.len() {
        0 => Err(format!("pgbench has no progress: {progress}").into()),
        count => Ok(rates.iter().sum::<f64>() / count as f64),
    }
}
