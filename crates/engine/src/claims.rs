use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use tokio::sync::{Notify, watch};
use yai_agentkit_core::ConversationId;

use super::TurnError;

/// Which conversations are in use in this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<watch::Sender<InUse>>);

#[derive(Debug, Default)]
struct InUse {
    conversations: HashMap<ConversationId, Work>,
    stopping: bool,
}

#[derive(Debug, Default)]
struct Work {
    /// Tells that it is to be given up.
    given_up: Arc<Notify>,
    /// Whether a turn runs, as opposed to that one looks, is about to begin, or is at its end.
    is_running: bool,
}

/// The right to work on a conversation, alone in this process, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Claims,
    conversation_id: ConversationId,
    given_up: Arc<Notify>,
}

impl Claims {
    /// [`TurnError::Busy`] while a turn runs. For whoever works on the conversation without one, or
    /// is at its end, of which others know already, this waits.
    pub(super) async fn claim(&self, conversation_id: ConversationId) -> Result<Claim, TurnError> {
        loop {
            match self.try_claim(conversation_id) {
                Err(TurnError::Busy(_)) if !self.is_running(conversation_id) => {
                    self.decided(conversation_id).await;
                }
                claimed => return claimed,
            }
        }
    }

    fn try_claim(&self, conversation_id: ConversationId) -> Result<Claim, TurnError> {
        let mut claimed = Err(TurnError::ShuttingDown);
        self.0.send_if_modified(|in_use| {
            if !in_use.stopping {
                claimed = match in_use.conversations.entry(conversation_id) {
                    Entry::Occupied(_) => Err(TurnError::Busy(conversation_id)),
                    Entry::Vacant(free) => Ok(Arc::clone(&free.insert(Work::default()).given_up)),
                };
            }
            claimed.is_ok()
        });
        Ok(Claim {
            claims: self.clone(),
            conversation_id,
            given_up: claimed?,
        })
    }

    pub(super) fn is_claimed(&self, conversation_id: ConversationId) -> bool {
        self.0.borrow().conversations.contains_key(&conversation_id)
    }

    /// Who works on the conversation need not go on: its turn is somebody else's, or nobody's.
    pub(super) fn give_up(&self, conversation_id: ConversationId) {
        if let Some(work) = self.0.borrow().conversations.get(&conversation_id) {
            work.given_up.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        self.0.send_modify(|in_use| in_use.stopping = true);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.0.borrow().stopping
    }

    pub(super) async fn stopped(&self) {
        self.wait_for(|in_use| in_use.stopping).await;
    }

    /// Waits until nothing is in use.
    pub(super) async fn idle(&self) {
        self.wait_for(|in_use| in_use.conversations.is_empty())
            .await;
    }

    /// Waits until nobody in this process works on the conversation.
    pub(super) async fn free(&self, conversation_id: ConversationId) {
        self.wait_for(|in_use| !in_use.conversations.contains_key(&conversation_id))
            .await;
    }

    fn is_running(&self, conversation_id: ConversationId) -> bool {
        let in_use = self.0.borrow();
        let work = in_use.conversations.get(&conversation_id);
        work.is_some_and(|work| work.is_running)
    }

    /// Waits until a turn runs in the conversation, or nobody works on it.
    async fn decided(&self, conversation_id: ConversationId) {
        self.wait_for(|in_use| {
            let work = in_use.conversations.get(&conversation_id);
            work.is_none_or(|work| work.is_running)
        })
        .await;
    }

    async fn wait_for(&self, condition: impl FnMut(&InUse) -> bool) {
        let mut in_use = self.0.subscribe();
        let found = in_use.wait_for(condition).await;
        found.expect("the sender is alive, `self` holds it");
    }
}

impl Claim {
    pub(super) fn conversation_id(&self) -> ConversationId {
        self.conversation_id
    }

    /// Whether a turn runs. Said before others can know that it has ended: who comes then waits
    /// for the claim, and is not refused.
    pub(super) fn set_running(&self, is_running: bool) {
        self.claims.0.send_if_modified(|in_use| {
            let work = in_use.conversations.get_mut(&self.conversation_id);
            work.is_some_and(|work| {
                std::mem::replace(&mut work.is_running, is_running) != is_running
            })
        });
    }

    /// Waits until the work is to be given up.
    pub(super) fn given_up(&self) -> impl Future<Output = ()> + use<> {
        let given_up = Arc::clone(&self.given_up);
        async move { given_up.notified().await }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.send_modify(|in_use| {
            in_use.conversations.remove(&self.conversation_id);
        });
    }
}
