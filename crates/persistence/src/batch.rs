//! What many ask at once is asked once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sea_orm::DbErr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::interrupted;

/// How many batches are under way at once: one is prepared while another is answered.
const BATCHES: usize = 2;

/// The largest batch.
const MOST: usize = 64;

/// Reads of one kind by key. One that finds nothing under way goes out at once and alone; those
/// that come meanwhile go out together, so that each still sees what was committed before it came.
pub(crate) struct Batches<K, V> {
    waiting: Mutex<VecDeque<Waiting<K, V>>>,
    permits: Arc<Semaphore>,
}

struct Waiting<K, V> {
    key: K,
    found: oneshot::Sender<Result<Option<V>, DbErr>>,
}

impl<K: Send + 'static, V: Send + 'static> Batches<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            permits: Arc::new(Semaphore::new(BATCHES)),
        }
    }

    /// What is found under `key` by `read`, which answers for each key in order.
    pub(crate) async fn get<R>(
        self: &Arc<Self>,
        key: K,
        read: impl Fn(Vec<K>) -> R + Send + 'static,
    ) -> Result<Option<V>, DbErr>
    where
        R: Future<Output = Result<Vec<Option<V>>, DbErr>> + Send + 'static,
    {
        let (sender, found) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            waiting.push_back(Waiting { key, found: sender });
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                let turn = Turn {
                    batches: Arc::clone(self),
                    permit: Some(permit),
                };
                tokio::spawn(turn.read_batches(read));
            }
        }
        found.await.unwrap_or_else(|_| Err(interrupted()))
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting<K, V>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to read batches.
struct Turn<K: Send + 'static, V: Send + 'static> {
    batches: Arc<Batches<K, V>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<K: Send + 'static, V: Send + 'static> Turn<K, V> {
    /// Until nothing waits.
    async fn read_batches<R>(mut self, read: impl Fn(Vec<K>) -> R)
    where
        R: Future<Output = Result<Vec<Option<V>>, DbErr>>,
    {
        loop {
            let (keys, senders): (Vec<_>, Vec<_>) = {
                let mut waiting = self.batches.waiting();
                waiting.retain(|waiting| !waiting.found.is_closed());
                if waiting.is_empty() {
                    // Under the lock: who comes next finds the permit.
                    self.permit = None;
                    return;
                }
                let most = waiting.len().min(MOST);
                let batch = waiting.drain(..most);
                batch.map(|waiting| (waiting.key, waiting.found)).unzip()
            };
            match read(keys).await {
                Ok(found) => senders.into_iter().zip(found).for_each(|(sender, value)| {
                    let _ = sender.send(Ok(value));
                }),
                Err(error) => senders.into_iter().for_each(|sender| {
                    let _ = sender.send(Err(error.clone()));
                }),
            }
        }
    }
}

impl<K: Send + 'static, V: Send + 'static> Drop for Turn<K, V> {
    /// With its runtime, half-way: nobody may wait for ever.
    fn drop(&mut self) {
        if self.permit.is_some() {
            self.batches.waiting().clear();
        }
    }
}
