//! What many ask at once is asked once, and what many add at once is added by one statement.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sea_orm::DbErr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::interrupted;

/// The largest batch.
const MOST: usize = 64;

/// How many batches are under way at once, where the first takes its time.
const BATCHES: usize = 4;

/// How long those under way have been so before the next sets out as well. Fewer and larger ones
/// cost less, but one whose connection is silent must not keep the others.
const HEADWAY: Duration = Duration::from_millis(5);

/// Calls of one kind. One that finds nothing under way goes out at once and alone; those that come
/// meanwhile go out together, so that each still sees what was committed before it came.
pub(crate) struct Batches<Q, A> {
    queue: Mutex<Queue<Q, A>>,
    permits: Arc<Semaphore>,
    size: fn(usize) -> usize,
}

struct Queue<Q, A> {
    waiting: VecDeque<Waiting<Q, A>>,
    /// When each batch under way set out.
    under_way: Vec<Instant>,
}

struct Waiting<Q, A> {
    question: Q,
    answer: oneshot::Sender<Result<A, DbErr>>,
}

impl<Q: Send + 'static, A: Send + 'static> Batches<Q, A> {
    /// `size` says how many of those that wait go together.
    pub(crate) fn new(size: fn(usize) -> usize) -> Self {
        Self {
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                under_way: Vec::new(),
            }),
            permits: Arc::new(Semaphore::new(BATCHES)),
            size,
        }
    }

    /// What `ask` answers to `question`; it answers to each in order.
    pub(crate) async fn get<R>(
        self: &Arc<Self>,
        question: Q,
        ask: impl Fn(Vec<Q>) -> R + Send + 'static,
    ) -> Result<A, DbErr>
    where
        R: Future<Output = Vec<Result<A, DbErr>>> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        {
            let mut queue = self.queue();
            queue.waiting.push_back(Waiting {
                question,
                answer: sender,
            });
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                let turn = Turn {
                    batches: Arc::clone(self),
                    permit: Some(permit),
                };
                tokio::spawn(turn.ask_in_batches(ask));
            }
        }
        answer.await.unwrap_or_else(|_| Err(interrupted()))
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Q, A>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Q, A> Queue<Q, A> {
    /// Those that go next, none where nobody waits; `None` where they are to wait for the batch
    /// before.
    fn take(&mut self, size: fn(usize) -> usize, now: Instant) -> Option<Vec<Waiting<Q, A>>> {
        self.waiting.retain(|waiting| !waiting.answer.is_closed());
        if self.waiting.is_empty() {
            return Some(Vec::new());
        }
        if self.under_way.iter().any(|begun| now - *begun < HEADWAY) {
            return None;
        }
        self.under_way.push(now);
        let size = size(self.waiting.len().min(MOST));
        Some(self.waiting.drain(..size).collect())
    }

    /// Of a batch that had begun then.
    fn ended(&mut self, begun: Instant) {
        if let Some(batch) = self.under_way.iter().position(|time| *time == begun) {
            self.under_way.swap_remove(batch);
        }
    }
}

/// The right to send batches.
struct Turn<Q: Send + 'static, A: Send + 'static> {
    batches: Arc<Batches<Q, A>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<Q: Send + 'static, A: Send + 'static> Turn<Q, A> {
    /// Until nothing waits.
    async fn ask_in_batches<R>(mut self, ask: impl Fn(Vec<Q>) -> R)
    where
        R: Future<Output = Vec<Result<A, DbErr>>>,
    {
        loop {
            let begun = Instant::now();
            let batch = {
                let mut queue = self.batches.queue();
                let batch = queue.take(self.batches.size, begun);
                if batch.as_ref().is_some_and(Vec::is_empty) {
                    // Under the lock: who comes next finds the permit.
                    self.permit = None;
                    return;
                }
                batch
            };
            let Some(batch) = batch else {
                tokio::time::sleep(HEADWAY).await;
                continue;
            };
            let (questions, senders): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|waiting| (waiting.question, waiting.answer))
                .unzip();
            let answers = ask(questions).await;
            self.batches.queue().ended(begun);
            for (sender, answer) in senders.into_iter().zip(answers) {
                let _ = sender.send(answer);
            }
        }
    }
}

impl<Q: Send + 'static, A: Send + 'static> Drop for Turn<Q, A> {
    /// With its runtime, half-way: nobody may wait for ever.
    fn drop(&mut self) {
        if self.permit.is_some() {
            self.batches.queue().waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use super::*;

    async fn answer(questions: Vec<u32>) -> Vec<Result<u32, DbErr>> {
        if questions.contains(&0) {
            future::pending::<()>().await;
        }
        questions.into_iter().map(Ok).collect()
    }

    #[tokio::test]
    async fn a_batch_that_gets_no_answer_keeps_no_other_waiting() {
        let batches = Arc::new(Batches::new(|waiting| waiting));
        let silent = tokio::spawn({
            let batches = Arc::clone(&batches);
            async move { batches.get(0, answer).await }
        });
        while batches.queue().under_way.is_empty() {
            tokio::task::yield_now().await;
        }
        let later = batches.get(1, answer);
        let later = tokio::time::timeout(Duration::from_secs(60), later).await;
        assert_eq!(later.expect("an answer").unwrap(), 1);
        silent.abort();
    }
}
