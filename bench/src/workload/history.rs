//! The workload "history": reading where there is much else, on PostgreSQL.

use std::{sync::Arc, time::Instant};

use chrono::DateTime;
use sqlx::{Connection, PgConnection, Row};
use yai_agentkit_core::{
    CheckpointId, CheckpointQuery, CheckpointSelector, Checkpointer, Namespace, Stores, ThreadId,
    checkpoint::ThreadCursor,
};
use yai_agentkit_persistence::DatabaseConfig;

use crate::{
    Options, Result,
    database::{Database, Kind},
    report::{Report, Table, grouped},
    rounds::median,
};

const CHECKPOINTS: &str = include_str!("../../sql/checkpoints.sql");
const THREADS: &str = include_str!("../../sql/threads.sql");

/// Checkpoints of a thread.
const EACH: usize = 100;
const FEW: usize = 1_000;
const MANY: usize = 1_000_000;
const LONG: usize = 100_000;
const ALL_THREADS: usize = 1_000_000;
/// Threads that are read, at random; once before it counts.
const READ: usize = 500;
const PAGE: u64 = 20;
const PAGE_OF_THREADS: u64 = 100;

/// Its checkpoints, and the threads to read.
struct Store {
    database: Database,
    storage: yai_agentkit_persistence::Database,
    checkpointer: Arc<dyn Checkpointer>,
    threads: Vec<ThreadId>,
}

pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    if !options.takes(Kind::Postgres, "AgentKit, Rust") {
        return Ok(());
    }
    report.write(&format!(
        "\n## History\n\nOur Rust API on PostgreSQL, one call at a time: of {READ} threads at random, \
         read once before it counts. A page of history is {PAGE} checkpoints, one of threads \
         {PAGE_OF_THREADS}.\n"
    ));
    let few = Store::with(options, FEW / EACH, EACH).await?;
    let many = Store::with(options, MANY / EACH, EACH).await?;
    let mut table = Table::new(&["what", "p50 ms", "p99 ms"]);
    checkpoints(options, &few, &many, report, &mut table).await?;
    few.remove().await?;
    long_thread(&many, report, &mut table).await?;
    threads(&many, report, &mut table).await?;
    many.remove().await?;
    report.table(&table);
    Ok(())
}

impl Store {
    async fn with(options: &Options, threads: usize, checkpoints: usize) -> Result<Self> {
        let database = options.database(Kind::Postgres).await?;
        let config = DatabaseConfig::new(database.url())?;
        let storage = yai_agentkit_persistence::Database::connect(&config).await?;
        fill(&database, "thread", threads, checkpoints).await?;
        let mut connection = PgConnection::connect(database.url()).await?;
        let random = sqlx::query_scalar("SELECT thread_id FROM threads ORDER BY random() LIMIT $1");
        let random: Vec<String> = random
            .bind(i64::try_from(READ)?)
            .fetch_all(&mut connection)
            .await?;
        Ok(Self {
            database,
            checkpointer: storage.checkpointer(),
            storage,
            threads: random.into_iter().map(ThreadId::from).collect(),
        })
    }

    /// One for each read, however few there are.
    fn thread(&self, number: usize) -> &ThreadId {
        &self.threads[number % self.threads.len()]
    }

    async fn latest(&self, thread: &ThreadId) -> Result<f64> {
        let selector = CheckpointSelector::latest(thread.clone());
        let begun = Instant::now();
        let found = self.checkpointer.get(&selector).await?;
        let time = begun.elapsed().as_secs_f64() * 1e3;
        let found = found.ok_or("no checkpoint")?;
        match (
            found.checkpoint.channel_values.len(),
            found.pending_writes.len(),
        ) {
            (2, 2) => Ok(time),
            other => Err(format!("{other:?} values and writes").into()),
        }
    }

    async fn page(&self, thread: &ThreadId, before: Option<CheckpointId>) -> Result<f64> {
        let query = CheckpointQuery {
            namespace: Some(Namespace::root()),
            limit: Some(PAGE),
            before,
            ..CheckpointQuery::of(thread.clone())
        };
        let begun = Instant::now();
        let found = self.checkpointer.list(&query).await?;
        let time = begun.elapsed().as_secs_f64() * 1e3;
        match u64::try_from(found.len())? {
            PAGE => Ok(time),
            other => Err(format!("a page of {other}").into()),
        }
    }

    async fn remove(self) -> Result<()> {
        self.storage.close().await;
        self.database.remove().await
    }
}

/// Adds threads with so many checkpoints each.
async fn fill(database: &Database, name: &str, threads: usize, checkpoints: usize) -> Result<()> {
    let script = CHECKPOINTS
        .replace("{name}", name)
        .replace("{threads}", &threads.to_string())
        .replace("{checkpoints}", &checkpoints.to_string());
    database.execute(&script).await?;
    database.execute("VACUUM ANALYZE").await?;
    database.settle().await
}

/// Both in turn, so that a change of the machine meets both; the first round does not count.
async fn checkpoints(
    options: &Options,
    few: &Store,
    many: &Store,
    report: &mut Report,
    table: &mut Table,
) -> Result<()> {
    let [mut latest, mut pages] = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    let mut ratios = Vec::new();
    for round in 0..=options.rounds {
        let first = latest[0].len();
        for number in 0..READ {
            for (index, store) in [few, many].into_iter().enumerate() {
                let thread = store.thread(number);
                let (one, page) = (store.latest(thread).await?, store.page(thread, None).await?);
                if round > 0 {
                    latest[index].push(one);
                    pages[index].push(page);
                }
            }
        }
        if round > 0 {
            let [few, many] = latest
                .each_ref()
                .map(|times| median(times[first..].to_vec()));
            ratios.push(many / few);
        }
    }
    report.record("history/latest".to_owned(), ratios);
    for (what, [few, many]) in [
        ("the latest checkpoint", latest),
        ("a page of history", pages),
    ] {
        row(
            table,
            &format!("{what}, among {} checkpoints", grouped(FEW)),
            few,
        );
        row(table, &format!("{what}, among {}", grouped(MANY)), many);
    }
    report.progress(table);
    Ok(())
}

async fn long_thread(many: &Store, report: &mut Report, table: &mut Table) -> Result<()> {
    fill(&many.database, "long", 1, LONG).await?;
    let mut connection = PgConnection::connect(many.database.url()).await?;
    let found = sqlx::query(
        "SELECT thread_id, checkpoint_id FROM checkpoints \
         WHERE thread_id = md5('long1')::uuid::text ORDER BY checkpoint_id OFFSET $1 LIMIT 1",
    );
    let middle = found
        .bind(i64::try_from(LONG / 2)?)
        .fetch_one(&mut connection)
        .await?;
    let thread = ThreadId::from(middle.try_get::<String, _>(0)?);
    let middle = CheckpointId::from(middle.try_get::<String, _>(1)?);
    let [mut latest, mut first, mut within] = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..=READ {
        let times = (
            many.latest(&thread).await?,
            many.page(&thread, None).await?,
            many.page(&thread, Some(middle.clone())).await?,
        );
        if round > 0 {
            latest.push(times.0);
            first.push(times.1);
            within.push(times.2);
        }
    }
    row(
        table,
        &format!("the latest checkpoint of a thread with {}", grouped(LONG)),
        latest,
    );
    row(table, "its first page of history", first);
    row(table, "a page in its middle", within);
    report.progress(table);
    Ok(())
}

async fn threads(many: &Store, report: &mut Report, table: &mut Table) -> Result<()> {
    let mut connection = PgConnection::connect(many.database.url()).await?;
    let there = sqlx::query_scalar("SELECT count(*) FROM threads");
    let there: i64 = there.fetch_one(&mut connection).await?;
    let missing = ALL_THREADS - usize::try_from(there)?;
    let script = THREADS.replace("{threads}", &missing.to_string());
    many.database.execute(&script).await?;
    many.database.execute("VACUUM ANALYZE threads").await?;
    many.database.settle().await?;

    let mut slowest = 0.0_f64;
    let all = i64::try_from(ALL_THREADS)?;
    let page = i64::try_from(PAGE_OF_THREADS)?;
    for (what, before) in [("first", 0), ("middle", all / 2), ("last", all - page)] {
        let cursor = match before {
            0 => None,
            before => Some(cursor(&mut connection, before - 1).await?),
        };
        let mut times = Vec::new();
        for round in 0..=READ {
            let begun = Instant::now();
            let found = many
                .checkpointer
                .threads(PAGE_OF_THREADS, cursor.as_ref())
                .await?;
            if round > 0 {
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            if u64::try_from(found.items.len())? != PAGE_OF_THREADS {
                return Err(format!("a page of {} threads", found.items.len()).into());
            }
        }
        let time = row(
            table,
            &format!("the {what} page of {} threads", grouped(ALL_THREADS)),
            times,
        );
        slowest = slowest.max(time);
    }
    report.progress(table);
    report.record("history/threads".to_owned(), vec![slowest]);
    Ok(())
}

/// The thread at this place of the list.
async fn cursor(connection: &mut PgConnection, place: i64) -> Result<ThreadCursor> {
    let found = sqlx::query(
        "SELECT thread_id, (extract(epoch FROM updated_at) * 1000000)::bigint FROM threads \
         ORDER BY updated_at DESC, thread_id DESC OFFSET $1 LIMIT 1",
    );
    let found = found.bind(place).fetch_one(connection).await?;
    let microseconds = found.try_get(1)?;
    Ok(ThreadCursor {
        updated_at: DateTime::from_timestamp_micros(microseconds).ok_or("no time")?,
        id: found.try_get::<String, _>(0)?.into(),
    })
}

/// Adds times to the table, and returns their median.
fn row(table: &mut Table, what: &str, mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    let at = |percent| times[times.len() * percent / 100];
    table.row(vec![
        what.to_owned(),
        format!("{:.2}", at(50)),
        format!("{:.2}", at(99)),
    ]);
    at(50)
}
