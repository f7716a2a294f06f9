//! The workload "agent turn": a thread loads its latest checkpoint, then does ten steps of `put` and
//! `put_writes`. Each client has a thread of its own, and begins another after ten turns; the
//! list of messages begins anew with each turn, so that a step costs the same at any speed.

mod pgbench;
mod python;
mod rust;
mod shape;

use std::time::Duration;

use serde::Deserialize;

use self::pgbench::Statements;
use crate::{
    Options, Result,
    database::{Kind, Usage},
    report::{Report, Table},
};

const WARM_UP: Duration = Duration::from_secs(1);

/// How the work is done, and on what.
const CONTENDERS: &[(&str, Kind, Contender)] = &[
    ("AgentKit, Rust", Kind::Postgres, Contender::Rust),
    (
        "AgentKit, Python",
        Kind::Postgres,
        Contender::Python("agentkit"),
    ),
    (
        "AsyncPostgresSaver, one connection",
        Kind::Postgres,
        Contender::Python("postgres"),
    ),
    (
        "AsyncPostgresSaver, pool of 20",
        Kind::Postgres,
        Contender::Python("postgres-pool"),
    ),
    (
        "pgbench, AgentKit's statements",
        Kind::Postgres,
        Contender::Pgbench(Statements::Ours, false),
    ),
    (
        "pgbench, AgentKit's statements, redundant indexes",
        Kind::Postgres,
        Contender::Pgbench(Statements::Ours, true),
    ),
    (
        "pgbench, LangGraph's rows only",
        Kind::Postgres,
        Contender::Pgbench(Statements::Plain, false),
    ),
    (
        "pgbench, LangGraph's rows only, redundant indexes",
        Kind::Postgres,
        Contender::Pgbench(Statements::Plain, true),
    ),
    ("AgentKit, Rust", Kind::Sqlite, Contender::Rust),
    (
        "AgentKit, Python",
        Kind::Sqlite,
        Contender::Python("agentkit"),
    ),
    (
        "AsyncSqliteSaver",
        Kind::Sqlite,
        Contender::Python("sqlite"),
    ),
];

#[derive(Clone, Copy)]
enum Contender {
    Rust,
    /// A saver by the name that `harness.py` gives it.
    Python(&'static str),
    Pgbench(Statements, bool),
}

#[derive(Clone, Copy)]
struct Load {
    threads: usize,
    warm_up: Duration,
    measured: Duration,
}

struct Measured {
    outcome: Outcome,
    /// Warm-up included.
    usage: Usage,
}

#[derive(Deserialize)]
struct Outcome {
    /// After the warm-up.
    steps_per_second: f64,
    /// Warm-up included.
    steps: u64,
    get: Option<Percentiles>,
    put: Option<Percentiles>,
    put_writes: Option<Percentiles>,
}

/// Of times in microseconds.
#[derive(Clone, Copy, Deserialize)]
struct Percentiles {
    p50: u32,
    p99: u32,
}

impl Percentiles {
    fn of(mut times: Vec<u32>) -> Option<Self> {
        times.sort_unstable();
        let at = |percent| times.get(times.len() * percent / 100).copied();
        Some(Self {
            p50: at(50)?,
            p99: at(99)?,
        })
    }
}

pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    report.write("\n## Agent turn\n");
    report.write(
        "A thread loads its latest checkpoint, then does ten steps of put (three channels: a list \
         that grows by one message of 400 bytes a step, a small dict, one without value) and \
         put_writes (two writes). Pools are of 20 connections, AgentKit's default. Times are p50 / p99. CPU and bytes are of one step; bytes on \
         SQLite are all that was written to the log and the file. Size is of 1,000 turns.\n",
    );
    for kind in [Kind::Postgres, Kind::Sqlite] {
        let title = kind.name();
        let mut table = Table::new(&[
            title,
            "threads",
            "steps/s",
            "get ms",
            "put ms",
            "put_writes ms",
            "CPU client µs",
            "CPU server µs",
            "bytes written",
            "size MB",
        ]);
        for &threads in &options.threads {
            for (name, on, contender) in CONTENDERS {
                if *on != kind || !options.takes(kind, name) {
                    continue;
                }
                let load = Load {
                    threads,
                    warm_up: WARM_UP,
                    measured: options.seconds(),
                };
                let (measured, size) = measure(options, kind, *contender, load).await?;
                let key = format!("agent-turn/{title}/{name}/{threads}");
                table.row(row(name, threads, &measured, size));
                report.progress(&table);
                report.record(format!("{key}/steps"), measured.outcome.steps_per_second);
                if let Some(put) = measured.outcome.put {
                    report.record(format!("{key}/put p99"), f64::from(put.p99) / 1e3);
                }
            }
        }
        report.table(&table);
    }
    Ok(())
}

/// In a database of its own. And how much a turn adds to it, in bytes.
async fn measure(
    options: &Options,
    kind: Kind,
    contender: Contender,
    load: Load,
) -> Result<(Measured, f64)> {
    let database = options.database(kind).await?;
    let measured = match contender {
        Contender::Rust => rust::run(&database, load).await,
        Contender::Python(saver) => python::run(saver, &database, load).await,
        Contender::Pgbench(statements, indexes) => {
            pgbench::run(statements, indexes, &database, load).await
        }
    };
    let size = database.size().await;
    database.remove().await?;
    let measured = measured?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "bytes and steps of some seconds"
    )]
    let size = size? as f64 * shape::STEPS as f64 / measured.outcome.steps as f64;
    Ok((measured, size))
}

fn row(name: &str, threads: usize, measured: &Measured, size: f64) -> Vec<String> {
    let Measured { outcome, usage } = measured;
    let times = |times: Option<Percentiles>| {
        let milliseconds = |time| f64::from(time) / 1e3;
        times.map_or("–".to_owned(), |Percentiles { p50, p99 }| {
            format!("{:.2} / {:.2}", milliseconds(p50), milliseconds(p99))
        })
    };
    #[expect(clippy::cast_precision_loss, reason = "a count far below 2^53")]
    let steps = outcome.steps as f64;
    vec![
        name.to_owned(),
        threads.to_string(),
        format!("{:.0}", outcome.steps_per_second),
        times(outcome.get),
        times(outcome.put),
        times(outcome.put_writes),
        format!("{:.0}", usage.client_seconds / steps * 1e6),
        usage.server_seconds.map_or("–".to_owned(), |seconds| {
            format!("{:.0}", seconds / steps * 1e6)
        }),
        format!("{:.0}", usage.bytes / steps),
        format!("{:.1}", size * 1000.0 / 1e6),
    ]
}
