//! Measures AgentKit, its peers and the limits of the database on the same work, in one run, and
//! prints tables in Markdown. `bench/run` makes what it needs first and takes the same arguments.
//!
//! Each workload is a module of [`workload`]. They make databases of their own and remove them.

mod database;
mod machine;
mod picture;
mod process;
mod proxy;
mod python;
mod report;
mod rounds;
mod server;
mod targets;
mod workload;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use database::{Database, Kind};
use mimalloc::MiMalloc;
use report::{Report, Table};

/// As in `agentkit`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const THREADS: [usize; 4] = [1, 16, 64, 256];

/// Before every measurement.
const WARM_UP: Duration = Duration::from_millis(500);

/// The page begins with this.
const PAGE: &str = "# Benchmark

`bench/run` wrote this page: our code, its peers and the limit on the same work, in one run, on a
PostgreSQL that it started and on SQLite files. Everything that is acknowledged is committed:
`fsync` and `synchronous_commit` are on, SQLite's `synchronous` is `FULL`.

Contenders are measured in rounds: in one, they follow one another directly, so that a change of the
machine meets all alike; what no target needs is measured in one round only. Figures are medians over
the rounds. A ratio is the median of the ratios of the rounds, in each to the best of those that it is
against.

![Durable steps a second](benchmark.svg)
";

/// Measures AgentKit, its peers and the limits of the database on the same work.
#[derive(Parser)]
struct Options {
    /// What to measure: everything if none is named
    workloads: Vec<Workload>,
    /// Only on databases, or by savers, whose name contains this, in any case (repeatable)
    #[arg(long)]
    only: Vec<String>,
    /// How many threads, or connections, at once
    #[arg(long, value_delimiter = ',', default_values_t = THREADS)]
    threads: Vec<usize>,
    /// How often to measure, an odd number; a whole run does once what no target needs
    #[arg(long, default_value_t = 3, value_parser = odd)]
    rounds: usize,
    /// How long one measurement takes, after its warm-up; wrk and pgbench take whole seconds
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// A PostgreSQL where databases may be made: postgresql://USER@HOST:PORT/DATABASE
    #[arg(long, env = "BENCH_POSTGRES_URL", hide_env_values = true)]
    postgres: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Checkpoints as an agent writes them, against LangGraph's savers and pgbench
    AgentTurn,
    /// LangGraph itself on each saver
    Graph,
    /// Reading where there is much else
    History,
    /// The server against the original design's stack
    Http,
    /// Turns of durable steps over HTTP, against DBOS and Restate
    DurableTurn,
    /// What an early and a late turn of our own agent write
    Growth,
    /// What one turn of our own agent costs
    Turn,
    /// How soon the server is ready
    Start,
}

impl Options {
    /// The whole, of which a page is written.
    fn is_everything(&self) -> bool {
        self.workloads.is_empty()
            && self.only.is_empty()
            && self.threads == THREADS
            && self.postgres.is_some()
    }

    fn has(&self, kind: Kind) -> bool {
        kind == Kind::Sqlite || self.postgres.is_some()
    }

    fn measures(&self, workload: Workload) -> bool {
        self.workloads.is_empty() || self.workloads.contains(&workload)
    }

    /// Whether somebody of this name is to be measured on this database.
    fn takes(&self, kind: Kind, name: &str) -> bool {
        if !self.has(kind) {
            return false;
        }
        let name = format!("{}: {name}", kind.name()).to_lowercase();
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

    /// How often to measure this figure.
    fn rounds_of(&self, figure: &str) -> usize {
        if self.is_everything() && !targets::need(figure) {
            1
        } else {
            self.rounds
        }
    }
}

/// So that a median is a value that was measured.
fn odd(text: &str) -> Result<usize> {
    let number: usize = text.parse()?;
    match number % 2 {
        1 => Ok(number),
        _ => Err("an odd number".into()),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let begun = Instant::now();
    let options = Options::parse();
    // Built beside the server, reqwest has TLS, and wants to know whose even if it uses none.
    let provider = rustls::crypto::ring::default_provider().install_default();
    provider.map_err(|_| "there is a provider already")?;
    let with_server = [
        Workload::Http,
        Workload::DurableTurn,
        Workload::Growth,
        Workload::Turn,
        Workload::Start,
    ];
    if with_server
        .iter()
        .any(|workload| options.measures(*workload))
    {
        server::build()?;
    }
    let mut report = Report::default();
    report.write(&machine::description(&options).await?);
    run(&options, &mut report).await?;
    let seconds = begun.elapsed().as_secs();
    report.write(&format!(
        "The run took {} minutes and {} seconds, with {} rounds.",
        seconds / 60,
        seconds % 60,
        options.rounds,
    ));
    let targets = targets::table(&report.figures);
    if options.is_everything() {
        write_page(&report, &targets)?;
    }
    report.table(&targets);
    Ok(())
}

async fn run(options: &Options, report: &mut Report) -> Result<()> {
    for workload in Workload::value_variants() {
        if !options.measures(*workload) {
            continue;
        }
        match workload {
            Workload::AgentTurn => workload::agent_turn::run(options, report).await?,
            Workload::Graph => workload::graph::run(options, report).await?,
            Workload::History => workload::history::run(options, report).await?,
            Workload::Http => workload::http::run(options, report).await?,
            Workload::DurableTurn => workload::durable_turn::run(options, report).await?,
            Workload::Growth => workload::growth::run(options, report).await?,
            Workload::Turn => workload::turn::run(options, report).await?,
            Workload::Start => workload::start::run(report).await?,
        }
    }
    Ok(())
}

/// `docs/benchmark.md` and its picture.
fn write_page(report: &Report, targets: &Table) -> Result<()> {
    let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
    fs::create_dir_all(docs)?;
    let picture = picture::agent_turn(&report.figures).ok_or("nothing to draw")?;
    fs::write(docs.join("benchmark.svg"), picture)?;
    let page = format!(
        "{PAGE}\n{targets}\n{}",
        report.markdown.replace("\n\n\n", "\n\n")
    );
    Ok(fs::write(docs.join("benchmark.md"), page)?)
}
