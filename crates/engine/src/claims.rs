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
    /// With what tells that the work is to be given up.
    conversations: HashMap<ConversationId, Arc<Notify>>,
    stopping: bool,
}

/// The right to work on a conversation, alone in this process, until dropped.
#[derive(Debug)]
pub struct Claim {
    claims: Claims,
    conversation_id: ConversationId,
    given_up: Arc<Notify>,
}

impl Claims {
    pub(super) fn claim(&self, conversation_id: ConversationId) -> Result<Claim, TurnError> {
        let mut claimed = Err(TurnError::ShuttingDown);
        self.0.send_if_modified(|in_use| {
            if !in_use.stopping {
                claimed = match in_use.conversations.entry(conversation_id) {
                    Entry::Occupied(_) => Err(TurnError::Busy(conversation_id)),
                    Entry::Vacant(free) => Ok(Arc::clone(free.insert(Arc::default()))),
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
            work.notify_one();
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

    /// Waits until the work is to be given up.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.send_modify(|in_use| {
            in_use.conversations.remove(&self.conversation_id);
        });
    }
}
