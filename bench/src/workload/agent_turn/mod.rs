//! The workload "agent turn": a thread loads its latest checkpoint, then does ten steps of `put` and
//! `put_writes`. Each client has a thread of its own, and begins another after ten turns; the
//! list of messages begins anew with each turn, so that a step costs the same at any speed. The first
//! turns of the clients begin at different steps, so that at any time some load and some write long
//! lists.

mod pgbench;
mod python;
mod rust;
mod shape;

use std::time::Duration;

use serde::Deserialize;

use self::pgbench::Statements;
use crate::{
    Options, Result, WARM_UP,
    database::Kind,
    report::{Report, Table},
    rounds::{self, median},
};

/// What the table tells the size of: 1,000 turns.
const STEPS_OF_SIZE: f64 = 1000.0 * shape::STEPS as f64;

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

/// In one round. All but the outcome is of one step, warm-up included.
struct Measured {
    outcome: Outcome,
    client_seconds: f64,
    server_seconds: Option<f64>,
    bytes: f64,
    /// On the disk, in bytes.
    size: f64,
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
         put_writes (two writes). Pools are of 20 connections, AgentKit's default. Times are p50 / \
         p99. CPU and bytes are of one step; bytes on SQLite are all that was written to the log and \
         the file. Size is of 1,000 turns.\n",
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
        let contenders: Vec<_> = CONTENDERS
            .iter()
            .filter(|(name, on, _)| *on == kind && options.takes(kind, name))
            .collect();
        for &threads in &options.threads {
            let load = Load {
                threads,
                warm_up: WARM_UP,
                measured: Duration::from_secs_f64(options.seconds),
            };
            let key = |name| format!("agent-turn/{title}/{name}/{threads}");
            let measured = rounds::measure(
                &contenders,
                |(name, ..)| options.rounds_of(&format!("{}/steps", key(name))),
                async |(_, _, contender), _| measure(options, kind, *contender, load).await,
            );
            for ((name, ..), rounds) in contenders.iter().zip(measured.await?) {
                table.row(row(name, threads, &rounds));
                report.progress(&table);
                let steps = rounds.iter().map(|m| m.outcome.steps_per_second);
                let put = rounds.iter().filter_map(|m| m.outcome.put);
                let put_p99 = put.map(|put| f64::from(put.p99) / 1e3);
                report.record(format!("{}/steps", key(name)), steps.collect());
                report.record(format!("{}/put p99", key(name)), put_p99.collect());
            }
        }
        report.table(&table);
    }
    Ok(())
}

/// In a database of its own.
async fn measure(
    options: &Options,
    kind: Kind,
    contender: Contender,
    load: Load,
) -> Result<Measured> {
    let database = options.database(kind).await?;
    let used = match contender {
        Contender::Rust => rust::run(&database, load).await,
        Contender::Python(saver) => python::run(saver, &database, load).await,
        Contender::Pgbench(statements, indexes) => {
            pgbench::run(statements, indexes, &database, load).await
        }
    };
    let size = database.size().await;
    database.remove().await?;
    let (outcome, usage) = used?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "bytes and steps of some seconds"
    )]
    let (size, steps) = (size? as f64, outcome.steps as f64);
    Ok(Measured {
        outcome,
        client_seconds: usage.client_seconds / steps,
        server_seconds: usage.server_seconds.map(|seconds| seconds / steps),
        bytes: usage.bytes / steps,
        size: size / steps,
    })
}

fn row(name: &str, threads: usize, rounds: &[Measured]) -> Vec<String> {
    let cell = |decimals: usize, figure: &dyn Fn(&Measured) -> Option<f64>| {
        let figures: Vec<_> = rounds.iter().filter_map(figure).collect();
        match figures.is_empty() {
            true => "–".to_owned(),
            false => format!("{:.decimals$}", median(figures)),
        }
    };
    let times = |times: fn(&Outcome) -> Option<Percentiles>| {
        let p50 = cell(2, &|m| Some(f64::from(times(&m.outcome)?.p50) / 1e3));
        let p99 = cell(2, &|m| Some(f64::from(times(&m.outcome)?.p99) / 1e3));
        match rounds.iter().any(|m| times(&m.outcome).is_some()) {
            true => format!("{p50} / {p99}"),
            false => "–".to_owned(),
        }
    };
    vec![
        name.to_owned(),
        threads.to_string(),
        cell(0, &|m| Some(m.outcome.steps_per_second)),
        times(|outcome| outcome.get),
        times(|outcome| outcome.put),
        times(|outcome| outcome.put_writes),
        cell(0, &|m| Some(m.client_seconds * 1e6)),
        cell(0, &|m| Some(m.server_seconds? * 1e6)),
        cell(0, &|m| Some(m.bytes)),
        cell(1, &|m| Some(m.size * STEPS_OF_SIZE / 1e6)),
    ]
}
