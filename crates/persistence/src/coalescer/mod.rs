//! Group commit, and reads alike: calls that come at once go to the database together.
//!
//! A call that finds nothing under way goes out at once and alone. Those that come meanwhile go out
//! together, when it is done or as the [`Policy`] says, so that each still sees what was committed
//! before it came. Calls of one key never overtake each other, and one that the database refuses
//! fails alone.

mod policy;
mod queue;

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    iter, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use sea_orm::DbErr;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

pub(crate) use self::policy::Policy;
use self::{
    policy::HEADWAY,
    queue::{Next, Queue, Waiting},
};
use crate::{
    connection::Connection,
    error::{interrupted, overdue},
};

/// What goes together with others of its kind.
pub(crate) trait Call: Sized + Send + Sync + 'static {
    type Answer: Send + 'static;
    type Key: Clone + Eq + Hash + Send + 'static;

    /// Calls of one key come one after the other; without one they wait for no other.
    fn key(&self) -> Option<Self::Key> {
        None
    }

    /// About as many as go over the wire, where that can be many.
    fn bytes(&self) -> usize {
        0
    }

    /// Whether one group takes both, which have one key.
    fn goes_with(&self, other: &Self) -> bool {
        let _ = other;
        true
    }

    /// Runs all of `calls`, or none, and answers each in order.
    fn run(
        connection: &Connection,
        calls: &[Self],
    ) -> impl Future<Output = Result<Vec<Self::Answer>, DbErr>> + Send;
}

/// Takes the answer to a call.
type Done<C> = oneshot::Sender<Result<<C as Call>::Answer, DbErr>>;

/// Runs calls in groups. A clone is the same.
pub(crate) struct Coalescer<C: Call>(Arc<Shared<C>>);

impl<C: Call> Clone for Coalescer<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Shared<C: Call> {
    connection: Connection,
    policy: Policy,
    queue: Mutex<Queue<C>>,
    /// One for each group that may be under way.
    permits: Arc<Semaphore>,
    /// Wakes who waits for the next group to be large enough.
    may_set_out: Notify,
}

impl<C: Call> Coalescer<C> {
    /// On `connection`, a pool.
    pub(crate) fn new(connection: Connection, policy: Policy) -> Self {
        Self(Arc::new(Shared {
            connection,
            permits: Arc::new(Semaphore::new(policy.most_groups as usize)),
            policy,
            queue: Mutex::default(),
            may_set_out: Notify::new(),
        }))
    }

    /// Returns the answer when what it did is durable. Whoever stops waiting takes the call back,
    /// unless it is under way. Nobody waits longer than twice the [patience](Policy::patience): once
    /// for a group, once for what that does, though each of it may be run alone behind that.
    pub(crate) async fn call(&self, call: C) -> Result<C::Answer, DbErr> {
        let (done, answer) = oneshot::channel();
        {
            let mut queue = self.0.queue();
            queue.waiting.push_back(Waiting {
                call,
                since: Instant::now(),
                done,
            });
            if queue.looking == 0 {
                self.0.start_running();
                if queue.may_set_out(&self.0.policy) {
                    self.0.may_set_out.notify_one();
                }
            }
        }
        match timeout(2 * self.0.policy.patience, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(interrupted())),
            Err(_) => Err(overdue()),
        }
    }

    /// Waits until no group is under way and nothing waits.
    pub(crate) async fn idle(&self) {
        let permits = self.0.permits.acquire_many(self.0.policy.most_groups).await;
        drop(permits); // Nobody closes them.
    }
}

impl<C: Call> Shared<C> {
    fn queue(&self) -> MutexGuard<'_, Queue<C>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task that runs what waits, where another one may be. With the queue locked.
    fn start_running(self: &Arc<Self>) {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            let turn = Turn {
                shared: Arc::clone(self),
                permit: Some(permit),
            };
            tokio::spawn(turn.run_groups());
        }
    }

    /// Runs the group that has begun then, or each of its calls alone where they don't go together.
    /// Who does is about to look for the next.
    async fn run_group(self: &Arc<Self>, begun: Instant, group: Vec<Waiting<C>>) {
        let (calls, done): (Vec<_>, Vec<_>) = group
            .into_iter()
            .map(|waiting| (waiting.call, waiting.done))
            .unzip();
        let lock = Lock::of(self, &calls);
        let outcome = C::run(&self.connection, &calls).await;
        {
            let mut queue = self.queue();
            queue.ended(begun);
            queue.looking += 1;
        }
        match outcome {
            Err(error) if calls.len() > 1 && (self.policy.alone_after)(&error) => {
                tracing::debug!(%error, calls = calls.len(), "running each alone");
                lock.run_each_alone(iter::zip(calls, done));
            }
            // A receiver that is gone has lost its interest.
            Ok(answers) => iter::zip(done, answers).for_each(|(done, answer)| {
                let _ = done.send(Ok(answer));
            }),
            Err(error) => done.into_iter().for_each(|done| {
                let _ = done.send(Err(error.clone()));
            }),
        }
    }
}

/// The right to run groups.
struct Turn<C: Call> {
    shared: Arc<Shared<C>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<C: Call> Turn<C> {
    /// Until nothing is left.
    async fn run_groups(mut self) {
        loop {
            let begun = Instant::now();
            let next = {
                let mut queue = self.shared.queue();
                let next = queue.take(&self.shared.policy, begun);
                match &next {
                    // With the queue locked: who comes next finds the permit.
                    Next::Nothing => self.permit = None,
                    Next::Group(_) if !queue.waiting.is_empty() => self.shared.start_running(),
                    Next::Group(_) | Next::Later => {}
                }
                next
            };
            let group = match next {
                Next::Group(group) => group,
                Next::Nothing => return,
                Next::Later => {
                    let _ = timeout(HEADWAY, self.shared.may_set_out.notified()).await;
                    continue;
                }
            };
            self.shared.run_group(begun, group).await;
            // Who has just got an answer may have the next call at hand: for one group with those
            // that wait.
            tokio::task::yield_now().await;
            let mut queue = self.shared.queue();
            queue.looking = queue.looking.saturating_sub(1);
        }
    }
}

impl<C: Call> Drop for Turn<C> {
    /// With its runtime, half-way: nobody may wait for ever.
    fn drop(&mut self) {
        if self.permit.is_some() {
            let mut queue = self.shared.queue();
            queue.waiting.clear();
            queue.looking = 0;
        }
    }
}

/// Marks the keys of a group in [`Queue::running`] until it is dropped.
struct Lock<C: Call> {
    shared: Arc<Shared<C>>,
    keys: HashSet<C::Key>,
}

impl<C: Call> Lock<C> {
    /// Of calls whose keys are marked already.
    fn of(shared: &Arc<Shared<C>>, calls: &[C]) -> Self {
        Self {
            shared: Arc::clone(shared),
            keys: calls.iter().filter_map(C::key).collect(),
        }
    }

    /// Those of one key one after the other; whom a key keeps waiting holds up no other.
    fn run_each_alone(mut self, calls: impl Iterator<Item = (C, Done<C>)>) {
        let mut by_key: HashMap<Option<C::Key>, Vec<_>> = HashMap::new();
        for (call, done) in calls {
            by_key.entry(call.key()).or_default().push((call, done));
        }
        for (key, calls) in by_key {
            if let Some(key) = &key {
                self.keys.remove(key);
            }
            let lock = Self {
                shared: Arc::clone(&self.shared),
                keys: key.into_iter().collect(),
            };
            tokio::spawn(async move {
                for (call, done) in calls {
                    let answer = C::run(&lock.shared.connection, &[call]).await;
                    let only = |mut answers: Vec<_>| answers.pop().ok_or_else(interrupted);
                    let _ = done.send(answer.and_then(only));
                }
                drop(lock);
            });
        }
    }
}

impl<C: Call> Drop for Lock<C> {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        for key in mem::take(&mut self.keys) {
            queue.running.remove(&key);
        }
        // A call alone was not within a turn, which would look for more by itself.
        if !queue.waiting.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            self.shared.start_running();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future, time::Duration};

    use yai_agentkit_core::{Error, error::Outcome};

    use super::*;
    use crate::{Database, DatabaseConfig, error::storage_error};

    /// Its answer is itself, but 0 gets none.
    struct Echo(u32);

    impl Call for Echo {
        type Answer = u32;
        type Key = ();

        async fn run(_: &Connection, calls: &[Self]) -> Result<Vec<u32>, DbErr> {
            if calls.iter().any(|call| call.0 == 0) {
                future::pending::<()>().await;
            }
            Ok(calls.iter().map(|call| call.0).collect())
        }
    }

    #[tokio::test]
    async fn who_gets_no_answer_in_time_is_told_so() {
        let config = DatabaseConfig::new("sqlite::memory:").unwrap();
        let database = Database::connect(&config).await.unwrap();
        let policy = Policy::of_reads(Duration::from_millis(50));
        let calls = Coalescer::new(database.connection.clone(), policy);
        let waiting = timeout(Duration::from_secs(60), calls.call(Echo(0)));
        let error = storage_error("echo", waiting.await.expect("an answer").unwrap_err());
        let Error::Unavailable { outcome, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(outcome, Outcome::Unknown);
        database.close().await;
    }

    #[tokio::test]
    async fn a_group_that_gets_no_answer_keeps_no_other_waiting() {
        let config = DatabaseConfig::new("sqlite::memory:").unwrap();
        let database = Database::connect(&config).await.unwrap();
        let patience = Duration::from_secs(60);
        for policy in [Policy::of_reads(patience), Policy::of_adds(patience)] {
            let calls = Coalescer::new(database.connection.clone(), policy);
            let silent = tokio::spawn({
                let calls = calls.clone();
                async move { calls.call(Echo(0)).await }
            });
            while calls.0.queue().under_way.is_empty() {
                tokio::task::yield_now().await;
            }
            let later = timeout(patience, calls.call(Echo(1))).await;
            assert_eq!(later.expect("an answer").unwrap(), 1);
            silent.abort();
        }
        database.close().await;
    }
}
