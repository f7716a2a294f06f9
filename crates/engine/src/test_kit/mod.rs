//! For tests: a scripted agent, a storage that is watched and can fail, and short calls.

mod agent;
mod failing;
mod watched;

use std::time::Duration;

use yai_agentkit_core::{
    Conversation, ConversationId, ListQuery, Message, Result, Storage, Turn,
    conversation::MessageFilter, turn::InterruptId,
};

pub use self::{
    agent::{Noted, ScriptedAgent},
    failing::{FailingStorage, Failures},
    watched::{Call, Mistake, Watch, Watched},
};
use crate::{SendOptions, TurnEngine, TurnError, TurnLimits, TurnOutcome};

/// Keeps the turns of `engine` out of a conversation until dropped, as one that looks at it does.
pub async fn claim(
    engine: &TurnEngine,
    conversation: ConversationId,
) -> Result<impl Drop + use<>, TurnError> {
    engine.claim(conversation).await
}

/// An engine's limits: five steps, and a lease that ends at once, as after a while.
pub fn limits() -> TurnLimits {
    TurnLimits {
        max_steps: 5,
        lease: Duration::ZERO,
        ..TurnLimits::default()
    }
}

/// The answer of a turn that asks nobody.
pub async fn answered(
    outcome: impl Future<Output = Result<TurnOutcome, TurnError>>,
) -> Result<Message, TurnError> {
    let outcome = outcome.await?;
    Ok(outcome.answer().expect("an answer, and no question"))
}

/// Starts a turn, and waits for its outcome.
pub async fn send_with(
    engine: &TurnEngine,
    message: Message,
    options: SendOptions,
) -> Result<TurnOutcome, TurnError> {
    engine.start(message, options).await?.outcome().await
}

/// Answers what a turn asks, and waits for its outcome.
pub async fn reply(
    engine: &TurnEngine,
    turn: &Turn,
    interrupt: InterruptId,
    answer: &str,
) -> Result<TurnOutcome, TurnError> {
    let resumed = engine.resume(turn.conversation_id, turn.id, interrupt, answer.to_owned());
    resumed.await?.outcome().await
}

/// The roles and contents of a conversation, oldest first.
pub async fn said(storage: &dyn Storage, conversation: &Conversation) -> Vec<String> {
    let query = ListQuery::filtered(MessageFilter::of(conversation.id)).oldest_first();
    let page = storage.messages().list(&query).await.unwrap();
    let lines = page
        .items
        .iter()
        .map(|message| format!("{}: {}", message.role, message.content));
    lines.collect()
}
