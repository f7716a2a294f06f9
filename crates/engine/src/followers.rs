use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval},
};
use yai_agentkit_core::{Announcements, ConversationId, LatestBatches, Result, TurnId, TurnStore};

use crate::error_chain;

/// How often one looks for new batches where other processes can't tell,
const LOOK: Duration = Duration::from_secs(1);
/// and where they can, but may fail to.
const LOOK_ALTHOUGH_TOLD: Duration = Duration::from_secs(10);

/// At least so long between two announcements to other processes.
const ANNOUNCE: Duration = Duration::from_millis(10);

/// How many turns are looked for at once.
const TURNS: usize = 1000;

/// Wakes those in this process who watch turns, whoever runs them. A clone is the same.
#[derive(Clone, Default)]
pub(super) struct Followers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    followed: Mutex<HashMap<TurnId, Followed>>,
    /// What other processes have not been told; `None` while nobody would tell them.
    unannounced: Mutex<Option<LatestBatches>>,
    has_unannounced: Notify,
}

struct Followed {
    conversation_id: ConversationId,
    news: watch::Sender<News>,
}

/// What is known of a turn from afar.
#[derive(Clone, Copy, Default)]
pub(super) struct News {
    /// The newest batch.
    pub(super) latest: u64,
    /// How often a look found no batch at all.
    nothing: u64,
}

/// One who watches a turn.
pub(super) struct Follower {
    followers: Followers,
    turn_id: TurnId,
    pub(super) news: watch::Receiver<News>,
}

impl Followers {
    /// From now on every change is news.
    pub(super) fn follow(&self, conversation_id: ConversationId, turn_id: TurnId) -> Follower {
        let mut followed = lock(&self.0.followed);
        let turn = followed.entry(turn_id).or_insert_with(|| Followed {
            conversation_id,
            news: watch::Sender::default(),
        });
        Follower {
            followers: self.clone(),
            turn_id,
            news: turn.news.subscribe(),
        }
    }

    /// This process has committed a batch.
    pub(super) fn told(&self, turn_id: TurnId, sequence: u64) {
        self.learn(turn_id, sequence);
        if let Some(unannounced) = lock(&self.0.unannounced).as_mut() {
            unannounced.insert(turn_id, sequence);
            self.0.has_unannounced.notify_one();
        }
    }

    /// Whether somebody tells other processes and hears from them.
    pub(super) fn is_kept(&self) -> bool {
        lock(&self.0.unannounced).is_some()
    }

    fn learn(&self, turn_id: TurnId, sequence: u64) {
        if let Some(turn) = lock(&self.0.followed).get(&turn_id) {
            turn.news.send_if_modified(|news| {
                let is_new = sequence > news.latest;
                news.latest = news.latest.max(sequence);
                is_new
            });
        }
    }

    /// Tells other processes and hears from them, until dropped.
    pub(super) async fn keep(&self, store: &dyn TurnStore) {
        tokio::join!(self.keep_announcing(store), self.keep_listening(store));
    }

    async fn keep_announcing(&self, store: &dyn TurnStore) {
        *lock(&self.0.unannounced) = Some(LatestBatches::new());
        loop {
            self.0.has_unannounced.notified().await;
            let batches = lock(&self.0.unannounced).replace(LatestBatches::new());
            if let Err(error) = store.announce(&batches.unwrap_or_default()).await {
                // They look from time to time.
                tracing::warn!(error = error_chain(&error), "events not announced");
            }
            tokio::time::sleep(ANNOUNCE).await;
        }
    }

    async fn keep_listening(&self, store: &dyn TurnStore) {
        loop {
            match store.announcements().await {
                Ok(Some(announcements)) => {
                    let error = tokio::select! {
                        error = self.hear(announcements, store) => error,
                        never = self.keep_looking(store, LOOK_ALTHOUGH_TOLD) => match never {},
                    };
                    tracing::warn!(error = error_chain(&error), "not told of events any more");
                }
                Ok(None) => match self.keep_looking(store, LOOK).await {},
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), "not told of events");
                }
            }
            self.look(store).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Until it fails.
    async fn hear(
        &self,
        mut announcements: Box<dyn Announcements>,
        store: &dyn TurnStore,
    ) -> yai_agentkit_core::Error {
        loop {
            match announcements.next().await {
                Ok(Some(latest)) => {
                    for (turn_id, sequence) in latest {
                        self.learn(turn_id, sequence);
                    }
                }
                // Some may have been missed.
                Ok(None) => self.look(store).await,
                Err(error) => return error,
            }
        }
    }

    async fn keep_looking(&self, store: &dyn TurnStore, period: Duration) -> Infallible {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(store).await;
        }
    }

    /// Reads the newest batches of all that is followed.
    async fn look(&self, store: &dyn TurnStore) {
        let followed: Vec<_> = lock(&self.0.followed)
            .iter()
            .map(|(turn_id, turn)| (turn.conversation_id, *turn_id))
            .collect();
        for turns in followed.chunks(TURNS) {
            if let Err(error) = self.look_for(store, turns).await {
                tracing::warn!(error = error_chain(&error), "events not looked for");
                return;
            }
        }
    }

    async fn look_for(
        &self,
        store: &dyn TurnStore,
        turns: &[(ConversationId, TurnId)],
    ) -> Result<()> {
        let latest = store.latest_events(turns).await?;
        for (_, turn_id) in turns {
            match latest.get(turn_id) {
                Some(sequence) => self.learn(*turn_id, *sequence),
                // It waits for its turn, or is gone.
                None => {
                    if let Some(turn) = lock(&self.0.followed).get(turn_id) {
                        turn.news.send_modify(|news| news.nothing += 1);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followed = lock(&self.followers.0.followed);
        let is_last = followed
            .get(&self.turn_id)
            .is_some_and(|turn| turn.news.receiver_count() == 1);
        if is_last {
            followed.remove(&self.turn_id);
        }
    }
}

/// A panic elsewhere leaves whole entries.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
