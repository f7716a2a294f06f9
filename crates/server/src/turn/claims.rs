use std::{collections::HashSet, sync::Arc};

use tokio::sync::watch;
use yai_agentkit_core::ConversationId;

use super::TurnError;

/// Which conversations are in use in this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<watch::Sender<InUse>>);

#[derive(Debug, Default)]
struct InUse {
    conversations: HashSet<ConversationId>,
    stopping: bool,
}

/// The right to work on a conversation, alone in this process, until dropped.
#[derive(Debug)]
pub struct Claim {
    claims: Claims,
    conversation_id: ConversationId,
}

impl Claims {
    pub(super) fn claim(&self, conversation_id: ConversationId) -> Result<Claim, TurnError> {
        let mut refused = None;
        self.0.send_if_modified(|in_use| {
            if in_use.stopping {
                refused = Some(TurnError::ShuttingDown);
            } else if !in_use.conversations.insert(conversation_id) {
                refused = Some(TurnError::Busy(conversation_id));
            }
            refused.is_none()
        });
        match refused {
            Some(error) => Err(error),
            None => Ok(Claim {
                claims: self.clone(),
                conversation_id,
            }),
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

    async fn wait_for(&self, condition: impl FnMut(&InUse) -> bool) {
        let mut in_use = self.0.subscribe();
        let found = in_use.wait_for(condition).await;
        found.expect("the sender is alive, `self` holds it");
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.send_modify(|in_use| {
            in_use.conversations.remove(&self.conversation_id);
        });
    }
}
