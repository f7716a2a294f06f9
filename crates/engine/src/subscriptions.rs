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
use yai_agentkit_core::{
    ConversationId, Result, TurnId, TurnStore,
    turn::{Announcements, LatestBatches},
};

use crate::error_chain;

/// How often one looks for new batches where other processes can't notify,
const LOOK: Duration = Duration::from_secs(1);
/// and where they can, but may fail to.
const LOOK_ALTHOUGH_NOTIFIED: Duration = Duration::from_secs(10);

/// At least so long between two announcements to other processes.
const ANNOUNCE: Duration = Duration::from_millis(10);

/// How many turns are looked for at once.
const TURNS: usize = 1000;

/// What is told of a conversation in place of a sequence where a turn begins: no batch has it.
const BEGAN: u64 = 0;

/// The id under which those who watch a conversation are told that a turn begins there: no turn has
/// it, since it is the conversation's.
fn of_chat(conversation: ConversationId) -> TurnId {
    TurnId(conversation.0)
}

/// Wakes those in this process who watch turns, whoever runs them. A clone is the same.
#[derive(Clone, Default)]
pub(super) struct Subscriptions(Arc<Shared>);

#[derive(Default)]
struct Shared {
    subscribed: Mutex<HashMap<TurnId, Subscribed>>,
    /// Of what other processes have not been notified; `None` while nobody would.
    unannounced: Mutex<Option<LatestBatches>>,
    has_unannounced: Notify,
}

struct Subscribed {
    conversation_id: ConversationId,
    progress: watch::Sender<Progress>,
}

/// What is known of a turn from afar.
#[derive(Clone, Copy, Default)]
pub(super) struct Progress {
    /// The newest batch.
    pub(super) latest: u64,
    /// How often a look found no batch at all.
    nothing: u64,
}

/// One who watches a turn.
pub(super) struct Subscription {
    subscriptions: Subscriptions,
    turn_id: TurnId,
    pub(super) progress: watch::Receiver<Progress>,
}

impl Subscriptions {
    /// From now on every new batch is progress.
    pub(super) fn subscribe(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
    ) -> Subscription {
        let mut subscribed = lock(&self.0.subscribed);
        let turn = subscribed.entry(turn_id).or_insert_with(|| Subscribed {
            conversation_id,
            progress: watch::Sender::default(),
        });
        Subscription {
            subscriptions: self.clone(),
            turn_id,
            progress: turn.progress.subscribe(),
        }
    }

    /// From now on every turn that begins in the conversation is progress.
    pub(super) fn subscribe_to_chat(&self, conversation_id: ConversationId) -> Subscription {
        self.subscribe(conversation_id, of_chat(conversation_id))
    }

    /// Wakes those who watch the turn, of which this process has stored a batch, and with the first
    /// one those who watch its conversation.
    pub(super) fn notify(&self, conversation: ConversationId, turn_id: TurnId, sequence: u64) {
        let chat = (sequence == 1).then(|| (of_chat(conversation), BEGAN));
        for (id, sequence) in chat.into_iter().chain([(turn_id, sequence)]) {
            self.learn(id, sequence);
            if let Some(unannounced) = lock(&self.0.unannounced).as_mut() {
                unannounced.insert(id, sequence);
                self.0.has_unannounced.notify_one();
            }
        }
    }

    /// Whether other processes are notified, and notify this one.
    pub(super) fn is_kept(&self) -> bool {
        lock(&self.0.unannounced).is_some()
    }

    fn learn(&self, turn_id: TurnId, sequence: u64) {
        if let Some(turn) = lock(&self.0.subscribed).get(&turn_id) {
            turn.progress.send_if_modified(|progress| {
                let is_new = sequence == BEGAN || sequence > progress.latest;
                progress.latest = progress.latest.max(sequence);
                is_new
            });
        }
    }

    /// Notifies other processes and is notified by them, until dropped.
    pub(super) async fn keep(&self, store: &dyn TurnStore) {
        tokio::join!(self.keep_announcing(store), self.keep_receiving(store));
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

    async fn keep_receiving(&self, store: &dyn TurnStore) {
        loop {
            match store.announcements().await {
                Ok(Some(announcements)) => {
                    let error = tokio::select! {
                        error = self.receive(announcements, store) => error,
                        never = self.keep_looking(store, LOOK_ALTHOUGH_NOTIFIED) => match never {},
                    };
                    tracing::warn!(
                        error = error_chain(&error),
                        "not notified of events any more"
                    );
                }
                Ok(None) => match self.keep_looking(store, LOOK).await {},
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), "not notified of events");
                }
            }
            self.look(store).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Until it fails.
    async fn receive(
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

    /// Reads the newest batches of all that is subscribed.
    async fn look(&self, store: &dyn TurnStore) {
        let subscribed: Vec<_> = lock(&self.0.subscribed)
            .iter()
            .map(|(turn_id, turn)| (turn.conversation_id, *turn_id))
            .collect();
        for turns in subscribed.chunks(TURNS) {
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
                    if let Some(turn) = lock(&self.0.subscribed).get(turn_id) {
                        turn.progress.send_modify(|progress| progress.nothing += 1);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribed = lock(&self.subscriptions.0.subscribed);
        let is_last = subscribed
            .get(&self.turn_id)
            .is_some_and(|turn| turn.progress.receiver_count() == 1);
        if is_last {
            subscribed.remove(&self.turn_id);
        }
    }
}

/// A panic elsewhere leaves whole entries.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
