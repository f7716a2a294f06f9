//! Group commit: what is written at once, to whatever threads, shares a transaction.
//!
//! A write that finds the database idle goes out at once and alone. Those that come while it is
//! under way go out together: when it is done, or as soon as they are as many, so that two groups of
//! one size take turns at the database and at those who wait for them. A write never begins before
//! the earlier ones of its thread are done, and one that the database refuses fails alone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    iter, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sea_orm::DbErr;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};
use yai_agentkit_core::ThreadId;

use super::write::{Write, write};
use crate::{
    connection::Connection,
    error::{from_sqlx, interrupted, is_without_connection},
};

/// The largest group: what is behind it in the queue waits for all of it.
const MOST_WRITES: usize = 256;
const MOST_BYTES: usize = 4 << 20;

/// How many groups are under way at once on PostgreSQL: two, and where these take their time, more.
const POSTGRES_GROUPS: u32 = 4;

/// How long the groups under way have been so before the next sets out whatever its size. Fewer and
/// larger ones cost less, but one that waits, for the network or for a thread that somebody holds,
/// must not keep the others.
const HEADWAY: Duration = Duration::from_millis(5);

/// SQLite has one writer.
const SQLITE_GROUPS: u32 = 1;

/// On Citus a group is of one thread: groups of several would meet on all of its servers.
const CITUS_GROUPS: u32 = 16;

/// Writes to a database in groups. A clone is the same.
#[derive(Clone)]
pub(crate) struct Group(Arc<Shared>);

struct Shared {
    connection: Connection,
    queue: Mutex<Queue>,
    /// One for each group that may be under way.
    permits: Arc<Semaphore>,
    /// Wakes who waits for the next group to be large enough.
    may_set_out: Notify,
    most_groups: u32,
    /// How long a write waits for its turn.
    patience: Duration,
}

#[derive(Default)]
struct Queue {
    /// Whether each group is of one thread, and waits for no other.
    is_distributed: bool,
    waiting: VecDeque<Waiting>,
    /// The threads that are written to.
    writing: HashSet<ThreadId>,
    under_way: Vec<UnderWay>,
    /// How many who have just written a group are about to look for the next.
    looking: usize,
}

/// A group.
struct UnderWay {
    since: Instant,
    writes: usize,
}

struct Waiting {
    write: Write,
    since: Instant,
    done: Done,
}

/// Takes whether the write's fence admitted it.
type Done = oneshot::Sender<Result<bool, DbErr>>;

impl Group {
    /// Groups on `connection`, a pool.
    pub(crate) fn new(connection: Connection, patience: Duration) -> Self {
        let is_distributed = connection.is_distributed();
        let most_groups = match &connection {
            _ if is_distributed => CITUS_GROUPS,
            Connection::Postgres(_) => POSTGRES_GROUPS,
            Connection::Sqlite(_) => SQLITE_GROUPS,
        };
        let queue = Queue {
            is_distributed,
            ..Queue::default()
        };
        Self(Arc::new(Shared {
            connection,
            queue: Mutex::new(queue),
            permits: Arc::new(Semaphore::new(most_groups as usize)),
            may_set_out: Notify::new(),
            most_groups,
            patience,
        }))
    }

    /// Returns `true` when it is durable, `false` where its fence refused it. It must not raise an
    /// epoch. Whoever stops waiting takes it back, unless it is under way.
    pub(super) async fn write(&self, write: Write) -> Result<bool, DbErr> {
        let (done, outcome) = oneshot::channel();
        {
            let mut queue = self.0.queue();
            queue.waiting.push_back(Waiting {
                write,
                since: Instant::now(),
                done,
            });
            if queue.looking == 0 {
                self.0.start_writing();
                if queue.may_set_out() {
                    self.0.may_set_out.notify_one();
                }
            }
        }
        outcome.await.unwrap_or_else(|_| Err(interrupted()))
    }

    /// Waits until no group is under way and nothing waits.
    pub(crate) async fn idle(&self) {
        let permits = self.0.permits.acquire_many(self.0.most_groups).await;
        drop(permits); // Nobody closes them.
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task that writes what waits, where another one may be. With the queue locked.
    fn start_writing(self: &Arc<Self>) {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            let turn = Turn {
                shared: Arc::clone(self),
                permit: Some(permit),
            };
            tokio::spawn(turn.write_groups());
        }
    }

    /// Writes one group, or each of its writes alone where they don't go together.
    async fn write_group(self: &Arc<Self>, group: Vec<Waiting>) {
        let (writes, done): (Vec<_>, Vec<_>) = group
            .into_iter()
            .map(|waiting| (waiting.write, waiting.done))
            .unzip();
        let lock = Lock::of(self, &writes);
        match write(&self.connection, &writes).await {
            Err(error) if writes.len() > 1 && !is_without_connection(&error) => {
                tracing::debug!(%error, writes = writes.len(), "writing each alone");
                lock.write_each_alone(iter::zip(writes, done));
            }
            // A receiver that is gone has lost its interest.
            Ok(admitted) => iter::zip(done, admitted).for_each(|(done, admitted)| {
                let _ = done.send(Ok(admitted));
            }),
            Err(error) => done.into_iter().for_each(|done| {
                let _ = done.send(Err(error.clone()));
            }),
        }
    }
}

/// The right to write groups.
struct Turn {
    shared: Arc<Shared>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Until nothing is left.
    async fn write_groups(mut self) {
        loop {
            let begun = Instant::now();
            let next = {
                let mut queue = self.shared.queue();
                let next = queue.take_group(self.shared.patience);
                if let Some(group) = &next {
                    if group.is_empty() {
                        // With the queue locked: who comes next finds the permit.
                        self.permit = None;
                        return;
                    }
                    queue.under_way.push(UnderWay {
                        since: begun,
                        writes: group.len(),
                    });
                    if !queue.waiting.is_empty() {
                        self.shared.start_writing();
                    }
                }
                next
            };
            let Some(group) = next else {
                let _ = timeout(HEADWAY, self.shared.may_set_out.notified()).await;
                continue;
            };
            self.shared.write_group(group).await;
            {
                let mut queue = self.shared.queue();
                queue.ended(begun);
                queue.looking += 1;
            }
            // Who has just got an answer may have the next write at hand: for one group with those
            // that wait.
            tokio::task::yield_now().await;
            let mut queue = self.shared.queue();
            queue.looking = queue.looking.saturating_sub(1);
        }
    }
}

impl Drop for Turn {
    /// With its runtime, half-way: nobody may wait for ever.
    fn drop(&mut self) {
        if self.permit.is_some() {
            let mut queue = self.shared.queue();
            queue.waiting.clear();
            queue.looking = 0;
        }
    }
}

impl Queue {
    /// Of a group that had begun then.
    fn ended(&mut self, begun: Instant) {
        if let Some(group) = self.under_way.iter().position(|group| group.since == begun) {
            self.under_way.swap_remove(group);
        }
    }

    /// Whether those under way need not be waited for.
    fn may_set_out(&self) -> bool {
        match &self.under_way[..] {
            _ if self.is_distributed => true,
            [only] if self.waiting.len() >= only.writes => true,
            all => all.iter().all(|group| group.since.elapsed() >= HEADWAY),
        }
    }

    /// The next writes that may go together, and marks their threads; `None` where they are to wait
    /// for the group before. Fails those that have waited too long.
    fn take_group(&mut self, patience: Duration) -> Option<Vec<Waiting>> {
        if !self.waiting.is_empty() && !self.may_set_out() {
            return None;
        }
        let mut group: Vec<Waiting> = Vec::new();
        let mut bytes = 0;
        // With the one fence that the writes of each have.
        let mut threads = HashMap::new();
        let mut left = Vec::new();
        let mut threads_left = HashSet::new();
        while group.len() < MOST_WRITES
            && let Some(next) = self.waiting.pop_front()
        {
            if next.done.is_closed() {
                continue;
            }
            if next.since.elapsed() > patience {
                let _ = next.done.send(Err(from_sqlx(sqlx::Error::PoolTimedOut)));
                continue;
            }
            let thread = &next.write.key().thread_id;
            let place = next.write.place();
            let in_order = !self.writing.contains(thread) && !threads_left.contains(thread);
            let fits = group.is_empty() || bytes + next.write.bytes() <= MOST_BYTES;
            let goes_along = match threads.get(thread) {
                None => group.is_empty() || !self.is_distributed,
                Some(fence) => {
                    *fence == next.write.fence()
                        && group.iter().all(|other| other.write.place() != place)
                }
            };
            if in_order && fits && goes_along {
                bytes += next.write.bytes();
                threads.insert(thread.clone(), next.write.fence());
                group.push(next);
            } else {
                threads_left.insert(thread.clone());
                left.push(next);
            }
        }
        for waiting in left.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
        self.writing.extend(threads.into_keys());
        Some(group)
    }
}

/// Marks the threads of a group in [`Queue::writing`] until it is dropped.
struct Lock {
    shared: Arc<Shared>,
    threads: HashSet<ThreadId>,
}

impl Lock {
    /// Of writes whose threads are marked already.
    fn of(shared: &Arc<Shared>, writes: &[Write]) -> Self {
        let threads = writes.iter().map(|write| write.key().thread_id.clone());
        Self {
            shared: Arc::clone(shared),
            threads: threads.collect(),
        }
    }

    /// Those of one thread one after the other; whom a thread keeps waiting holds up no other.
    fn write_each_alone(mut self, writes: impl Iterator<Item = (Write, Done)>) {
        let mut by_thread: HashMap<ThreadId, Vec<_>> = HashMap::new();
        for (write, done) in writes {
            let thread = write.key().thread_id.clone();
            by_thread.entry(thread).or_default().push((write, done));
        }
        for (thread, writes) in by_thread {
            self.threads.remove(&thread);
            let lock = Self {
                shared: Arc::clone(&self.shared),
                threads: HashSet::from([thread]),
            };
            tokio::spawn(async move {
                for (alone, done) in writes {
                    let outcome = write(&lock.shared.connection, &[alone]).await;
                    let _ = done.send(outcome.map(|admitted| admitted == [true]));
                }
                drop(lock);
            });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        for thread in mem::take(&mut self.threads) {
            queue.writing.remove(&thread);
        }
        // A write alone was not within a turn, which would look for more by itself.
        if !queue.waiting.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            self.shared.start_writing();
        }
    }
}
