use futures::{Stream, future::BoxFuture};
use yai_agentkit_core::{ConversationId, Message, Result, Turn, TurnId};

use super::{Published, TurnEngine, TurnError};

/// What a turn has come to.
#[derive(Clone, Debug, PartialEq)]
pub enum TurnOutcome {
    /// It is completed with this answer.
    Answered(Message),
    /// It waits for a person's answer to its [`Turn::interrupt`].
    Waiting(Box<Turn>),
}

impl TurnOutcome {
    /// The answer, if there is one.
    pub fn answer(self) -> Option<Message> {
        match self {
            Self::Answered(answer) => Some(answer),
            Self::Waiting(_) => None,
        }
    }
}

/// A turn that is stored, and goes on whether this is kept or not.
#[must_use = "a turn goes on, but nobody waits for it"]
pub struct TurnHandle {
    engine: TurnEngine,
    conversation_id: ConversationId,
    turn_id: TurnId,
    after: u64,
    outcome: BoxFuture<'static, Result<TurnOutcome, TurnError>>,
}

impl TurnHandle {
    pub(super) fn new(
        engine: TurnEngine,
        (conversation_id, turn_id): (ConversationId, TurnId),
        after: u64,
        outcome: BoxFuture<'static, Result<TurnOutcome, TurnError>>,
    ) -> Self {
        Self {
            engine,
            conversation_id,
            turn_id,
            after,
            outcome,
        }
    }

    /// The turn.
    pub fn turn_id(&self) -> TurnId {
        self.turn_id
    }

    /// The sequence of its last events before it began or went on: 0 unless it has waited.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// What happens in the turn from its begin, or from the answer with which it goes on; see
    /// [`watch`](TurnEngine::watch).
    pub fn events(&self) -> impl Stream<Item = Result<Published>> + use<> {
        self.engine
            .watch(self.conversation_id, self.turn_id, self.after)
    }

    /// Waits until the turn has ended, or waits for a person.
    pub async fn outcome(self) -> Result<TurnOutcome, TurnError> {
        self.outcome.await
    }
}
