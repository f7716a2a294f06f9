//! [`MemoryStore`] in the table `store`: on PostgreSQL that of LangGraph's `PostgresStore`, with its
//! namespaces as labels joined by points.
//!
//! A batch is one statement there, whose reads see what was before its writes. Gets and puts that come
//! at once go together; what may read much goes alone.

mod answers;
mod filter;
#[cfg(test)]
mod plans;
mod ranked;
mod read;
mod vectors;
mod write;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sea_orm::DbErr;
use yai_agentkit_core::{
    Result,
    store::{Answer, ItemKey, MemoryStore, NewItem, Operation, VectorIndex},
};

use answers::Answers;

use crate::{
    coalescer::{Call, Coalescer, Policy},
    connection::{Connection, retrying},
    encryption::{self, KeyRing, Keys, opening},
    error::storage_error,
    sql::{Query, Sql},
};

const BATCH: &str = "memory store";

/// How long after the last sweep who puts an item that dies sweeps again.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(5 * 60);

/// SQLite has no clock with microseconds; the process that writes lends it its own.
const SWEEP: Sql = Sql {
    postgres: "DELETE FROM store WHERE expires_at <= statement_timestamp()",
    sqlite: "DELETE FROM store WHERE expires_at <= $1",
};

/// On a pool or within a transaction.
pub(crate) struct SqlStore {
    connection: Connection,
    keys: Keys,
    calls: Option<StoreCalls>,
}

/// What goes together on a pool.
#[derive(Clone)]
pub(crate) struct StoreCalls {
    gets: Coalescer<StoreCall>,
    puts: Coalescer<StoreCall>,
    swept_at: Arc<Mutex<Option<Instant>>>,
}

impl StoreCalls {
    pub(crate) fn new(connection: &Connection, patience: Duration) -> Self {
        let puts = Policy::of_writes(connection, patience);
        Self {
            gets: Coalescer::new(connection.clone(), Policy::of_reads(patience)),
            puts: Coalescer::new(connection.clone(), puts),
            swept_at: Arc::default(),
        }
    }

    /// Whether it is time to sweep, for who puts an item that will die.
    fn is_to_sweep(&self) -> bool {
        let mut swept_at = self.swept_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = swept_at.is_none_or(|swept_at| swept_at.elapsed() > BETWEEN_SWEEPS);
        if is_due {
            *swept_at = Some(Instant::now());
        }
        is_due
    }

    pub(crate) async fn idle(&self) {
        self.gets.idle().await;
        self.puts.idle().await;
    }
}

/// The gets, puts and deletes of a batch.
struct StoreCall(Vec<Operation>);

impl Call for StoreCall {
    type Answer = Vec<Answer>;
    type Key = ();

    fn bytes(&self) -> usize {
        let bytes = |operation: &Operation| match operation {
            Operation::Put(item) => item.value.len() + vectors::bytes(&item.vectors),
            _ => 0,
        };
        self.0.iter().map(bytes).sum()
    }

    async fn run(connection: &Connection, calls: &[Self]) -> Result<Vec<Vec<Answer>>, DbErr> {
        let operations: Vec<&Operation> = calls.iter().flat_map(|call| &call.0).collect();
        let lock = calls.iter().map(|call| Lock::of(&call.0)).max();
        let lock = lock.unwrap_or(Lock::None);
        let mut answers = run(connection, &operations, lock).await?.into_iter();
        let of_call = |call: &Self| answers.by_ref().take(call.0.len()).collect();
        Ok(calls.iter().map(of_call).collect())
    }
}

impl SqlStore {
    pub(crate) fn new(connection: Connection, keys: Keys, calls: Option<StoreCalls>) -> Self {
        Self {
            connection,
            keys,
            calls,
        }
    }

    async fn batch_stored(&self, operations: Vec<Operation>) -> Result<Vec<Answer>> {
        let is_small = |operation: &Operation| {
            !matches!(operation, Operation::Search(_) | Operation::Namespaces(_))
        };
        let answers = match &self.calls {
            Some(calls) if operations.iter().all(is_small) => {
                let writes = operations.iter().any(is_write);
                let together = if writes { &calls.puts } else { &calls.gets };
                together.call(StoreCall(operations)).await
            }
            _ => {
                let lock = Lock::of(&operations);
                let operations: Vec<&Operation> = operations.iter().collect();
                run(&self.connection, &operations, lock).await
            }
        };
        answers.map_err(|error| storage_error(BATCH, error))
    }
}

#[async_trait]
impl MemoryStore for SqlStore {
    async fn batch(&self, operations: Vec<Operation>) -> Result<Vec<Answer>> {
        operations.iter().try_for_each(Operation::validate)?;
        let dies = operations.iter().any(will_die);
        let answers = opening!(self.keys, &self.connection, |ring| {
            let mut operations = operations.clone();
            if let Some(ring) = ring {
                operations
                    .iter_mut()
                    .try_for_each(|operation| sealed(operation, ring))?;
            }
            let mut answers = self.batch_stored(operations).await?;
            let opened = ring.map_or(Ok(()), |ring| ring.open_answers(&mut answers));
            opened.map(|()| answers)
        });
        let answers = answers?;
        if dies && self.calls.as_ref().is_some_and(StoreCalls::is_to_sweep) {
            // What stays is not seen, and goes with the next.
            drop(self.sweep().await);
        }
        Ok(answers)
    }

    async fn prepare(&self, index: &VectorIndex) -> Result<()> {
        index.validate()?;
        if self.connection.is_postgres() {
            vectors::prepare(&self.connection, index).await?;
        }
        Ok(())
    }

    async fn sweep(&self) -> Result<u64> {
        let sweep = || {
            let mut query = SWEEP.query(&self.connection);
            if !self.connection.is_postgres() {
                query.bind(now(&self.connection));
            }
            query
        };
        let swept = retrying!(self.connection, sweep().execute(&self.connection));
        swept.map_err(|error| storage_error("sweep the memory store", error))
    }
}

/// Encrypts what is put. What asks for what is encrypted is refused.
fn sealed(operation: &mut Operation, ring: &KeyRing) -> Result<()> {
    match operation {
        Operation::Put(item) => ring.seal_item(item),
        Operation::Search(search) if search.text.is_some() => {
            return Err(encryption::not_searched("text"));
        }
        Operation::Search(search) if !search.filter.conditions().is_empty() => {
            return Err(encryption::not_searched("filter"));
        }
        _ => {}
    }
    Ok(())
}

fn will_die(operation: &Operation) -> bool {
    matches!(operation, Operation::Put(item) if item.time_to_live.is_some())
}

fn is_write(operation: &Operation) -> bool {
    matches!(operation, Operation::Put(_) | Operation::Delete(_))
}

/// What a batch leaves at each place, in order, so that two batches don't wait for each other.
struct Writes<'a> {
    puts: Vec<&'a NewItem>,
    deletes: Vec<&'a ItemKey>,
}

impl<'a> Writes<'a> {
    fn of(operations: &[&'a Operation]) -> Self {
        let mut last: HashMap<&ItemKey, Option<&NewItem>> = HashMap::new();
        for operation in operations {
            match operation {
                Operation::Put(item) => last.insert(&item.key, Some(item)),
                Operation::Delete(key) => last.insert(key, None),
                _ => continue,
            };
        }
        let mut writes = Self {
            puts: last.values().copied().flatten().collect(),
            deletes: Vec::new(),
        };
        let deleted = last.iter().filter(|(_, put)| put.is_none());
        writes.deletes.extend(deleted.map(|(key, _)| *key));
        writes.puts.sort_by_key(|item| &item.key);
        writes.deletes.sort();
        writes
    }

    fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }
}

/// What keeps a batch whole beside others on PostgreSQL. A statement does not see what was put since it
/// began, so that what deletes beside other writes has the store to itself before it begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lock {
    None,
    /// Keeps those out that delete.
    Shared,
    Exclusive,
}

impl Lock {
    fn of(operations: &[Operation]) -> Self {
        let writes = operations.iter().filter(|operation| is_write(operation));
        let deletes = |operation: &Operation| matches!(operation, Operation::Delete(_));
        match writes.count() {
            0 | 1 => Self::None,
            _ if operations.iter().any(deletes) => Self::Exclusive,
            _ => Self::Shared,
        }
    }
}

async fn run(
    connection: &Connection,
    operations: &[&Operation],
    lock: Lock,
) -> Result<Vec<Answer>, DbErr> {
    let writes = Writes::of(operations);
    let rows = if connection.is_postgres() {
        let statement = statement(connection, operations, &writes, lock);
        if lock == Lock::Exclusive {
            retrying!(connection, write::alone(connection, statement.clone()))?
        } else {
            retrying!(connection, statement.clone().rows(connection))?
        }
    } else {
        let rows = match read::query(connection, operations) {
            Some(query) => query.rows(connection).await?,
            None => Vec::new(),
        };
        if !writes.is_empty() {
            retrying!(connection, write::on_sqlite(connection, &writes))?;
        }
        rows
    };
    let mut answers = Answers::new(operations);
    for row in &rows {
        answers.add(row)?;
    }
    let (answers, renewed) = answers.finish(!connection.is_postgres());
    if !renewed.is_empty() {
        let renew = write::renew(connection, &renewed);
        retrying!(connection, renew.clone().execute(connection))?;
    }
    Ok(answers)
}

/// A batch on PostgreSQL.
fn statement(
    connection: &Connection,
    operations: &[&Operation],
    writes: &Writes<'_>,
    lock: Lock,
) -> Query {
    let mut query = Query::on_postgres();
    write::push(&mut query, writes, lock);
    if !read::push(&mut query, connection, operations) {
        query.push("SELECT WHERE false");
    }
    query
}

/// What a batch sends to PostgreSQL.
#[cfg(test)]
pub(crate) fn text(connection: &Connection, operations: &[Operation]) -> String {
    let lock = Lock::of(operations);
    let operations: Vec<&Operation> = operations.iter().collect();
    let writes = Writes::of(&operations);
    statement(connection, &operations, &writes, lock)
        .text()
        .to_owned()
}

fn joined(namespace: &[String]) -> String {
    namespace.join(".")
}

fn labels(prefix: &str) -> Vec<String> {
    prefix.split('.').map(str::to_owned).collect()
}

/// The time of this process, in microseconds, as SQLite stores it.
fn now(connection: &Connection) -> i64 {
    connection.now().timestamp_micros()
}
