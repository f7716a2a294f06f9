//! What many ask at once is asked once, and what many add at once is added by one statement.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sea_orm::DbErr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::interrupted;

/// The largest batch.
const MOST: usize = 64;

/// Calls of one kind. One that finds nothing under way goes out at once and alone; those that come
/// meanwhile go out together, so that each still sees what was committed before it came.
pub(crate) struct Batches<Q, A> {
    waiting: Mutex<VecDeque<Waiting<Q, A>>>,
    permits: Arc<Semaphore>,
}

struct Waiting<Q, A> {
    question: Q,
    answer: oneshot::Sender<Result<A, DbErr>>,
}

impl<Q: Send + 'static, A: Send + 'static> Batches<Q, A> {
    /// Of which so many may be under way at once.
    pub(crate) fn new(batches: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            permits: Arc::new(Semaphore::new(batches)),
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
            let mut waiting = self.waiting();
            waiting.push_back(Waiting {
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

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting<Q, A>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
            let (questions, senders): (Vec<_>, Vec<_>) = {
                let mut waiting = self.batches.waiting();
                waiting.retain(|waiting| !waiting.answer.is_closed());
                if waiting.is_empty() {
                    // Under the lock: who comes next finds the permit.
                    self.permit = None;
                    return;
                }
                let most = waiting.len().min(MOST);
                let batch = waiting.drain(..most);
                batch
                    .map(|waiting| (waiting.question, waiting.answer))
                    .unzip()
            };
            for (sender, answer) in senders.into_iter().zip(ask(questions).await) {
                let _ = sender.send(answer);
            }
        }
    }
}

impl<Q: Send + 'static, A: Send + 'static> Drop for Turn<Q, A> {
    /// With its runtime, half-way: nobody may wait for ever.
    fn drop(&mut self) {
        if self.permit.is_some() {
            self.batches.waiting().clear();
        }
    }
}
