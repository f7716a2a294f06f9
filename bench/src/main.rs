//! Measures AgentKit, its peers and the limits of the database on the same work, in one run, and
//! prints tables in Markdown. `bench/run` makes what it needs first and takes the same arguments.
//!
//! Each workload is a module of [`workload`]. They make databases of their own and remove them.

mod database;
mod machine;
mod process;
mod proxy;
mod python;
mod report;
mod server;
mod workload;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use database::{Database, Kind};
use report::Report;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Measures AgentKit, its peers and the limits of the database on the same work.
#[derive(Parser)]
struct Options {
    /// What to measure: everything if none is named
    workloads: Vec<Workload>,
    /// Only on databases, or by savers, whose name contains this, in any case (repeatable)
    #[arg(long)]
    only: Vec<String>,
    /// How many threads, or connections, at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    threads: Vec<usize>,
    /// How long one measurement takes, after its warm-up
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// A PostgreSQL where databases may be made: postgresql://USER@HOST:PORT/DATABASE
    #[arg(long, env = "BENCH_POSTGRES_URL", hide_env_values = true)]
    postgres: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Checkpoints as an agent writes them, against LangGraph's savers and pgbench
    AgentTurn,
    /// What one turn of our own agent costs
    Turn,
    /// How soon the server is ready
    Start,
}

impl Options {
    fn measures(&self, workload: Workload) -> bool {
        self.workloads.is_empty() || self.workloads.contains(&workload)
    }

    /// Whether somebody of this name is to be measured on this database.
    fn takes(&self, kind: Kind, name: &str) -> bool {
        if kind == Kind::Postgres && self.postgres.is_none() {
            return false;
        }
        let database = match kind {
            Kind::Postgres => "postgresql",
            Kind::Sqlite => "sqlite",
        };
        let name = format!("{database}: {}", name.to_lowercase());
        self.only
            .iter()
            .all(|part| name.contains(&part.to_lowercase()))
    }

    /// A new one.
    async fn database(&self, kind: Kind) -> Result<Database> {
        match (kind, &self.postgres) {
            (Kind::Sqlite, _) => Database::sqlite().await,
            (Kind::Postgres, Some(server)) => Database::postgres(server).await,
            (Kind::Postgres, None) => Err("no --postgres".into()),
        }
    }

    fn seconds(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if options.measures(Workload::Turn) || options.measures(Workload::Start) {
        server::build()?;
    }
    let mut databases = vec![Database::sqlite().await?];
    if let Some(url) = &options.postgres {
        databases.push(Database::postgres(url).await?);
    }
    let mut report = Report::default();
    report.write(&machine::description());
    for database in &databases {
        report.write(&format!("- {}", database.name));
    }
    let measured = run(&options, &databases, &mut report).await;
    for database in databases {
        database.remove().await?;
    }
    measured
}

async fn run(options: &Options, databases: &[Database], report: &mut Report) -> Result<()> {
    if options.measures(Workload::AgentTurn) {
        workload::agent_turn::run(options, report).await?;
    }
    if options.measures(Workload::Turn) {
        workload::turn::run(databases, report).await?;
    }
    if options.measures(Workload::Start) {
        workload::start::run(report).await?;
    }
    Ok(())
}

/// The value in the middle.
fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}
