//! Turns: a user message, the agent's steps, the answer; finished whatever happens on the way.

mod claims;
mod error;
mod run;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use tracing::Instrument;
use yai_agentkit_core::{
    ConversationId, Entity, Error, ListQuery, Message, Result, Role, Storage, TurnFilter,
};

use crate::agent::Agent;
use run::Chat;

pub use claims::Claim;
pub use error::TurnError;

/// In the metadata of a checkpoint, the last message of the conversation that its state knows.
pub(crate) const MESSAGE_ID: &str = "message_id";

/// How many turns are finished at once after a start.
const CONCURRENT_RESUMES: usize = 8;

/// Runs the turns of an [`Agent`] over a [`Storage`]. A clone shares everything.
///
/// Every step ends with a checkpoint. A turn that a crash, a shutdown or a failing storage cuts
/// short stays recorded as running; it goes on from its last checkpoint when the chat is next used,
/// or by [`resume_all`](Self::resume_all). Within this process a conversation has one turn at a
/// time, and a turn goes on although its caller is gone.
#[derive(Clone)]
pub struct TurnEngine {
    storage: Arc<dyn Storage>,
    agent: Arc<dyn Agent>,
    max_steps: usize,
    claims: claims::Claims,
}

impl TurnEngine {
    /// How many steps an agent may take in one turn, unless told otherwise.
    pub const DEFAULT_MAX_STEPS: usize = 50;

    /// An engine without turns.
    pub fn new(storage: Arc<dyn Storage>, agent: Arc<dyn Agent>) -> Self {
        Self {
            storage,
            agent,
            max_steps: Self::DEFAULT_MAX_STEPS,
            claims: claims::Claims::default(),
        }
    }

    /// A turn whose agent wants more steps than this fails.
    #[must_use]
    pub fn with_max_steps(mut self, max_steps: usize) -> Self {
        self.max_steps = max_steps;
        self
    }

    /// Takes a message to its conversation, after finishing what is unfinished there.
    ///
    /// A user's message is answered: returns the answer. A system message is kept for the agent to
    /// heed from now on: returns the message. No other role may speak.
    pub async fn send(&self, message: Message) -> Result<Message, TurnError> {
        message.validate()?;
        if message.content.is_empty() {
            return Err(Error::invalid("content", "must not be empty").into());
        }
        if !matches!(message.role, Role::User | Role::System) {
            return Err(Error::invalid("role", "must be `user` or `system`").into());
        }
        self.in_chat(message.conversation_id, |mut chat| async move {
            match chat.finish().await {
                // That turn is kept, but this message is not.
                Err(TurnError::Interrupted) => return Err(TurnError::ShuttingDown),
                Err(error) if error.ends_turn() => {
                    tracing::warn!(%error, "the unfinished turn before failed");
                }
                finished => drop(finished?),
            }
            if message.role == Role::System {
                chat.instruct(message).await
            } else {
                chat.answer(message).await
            }
        })
        .await
    }

    /// Finishes the unfinished turn of a conversation, if it has one, and returns the answer.
    pub async fn resume(
        &self,
        conversation_id: ConversationId,
    ) -> Result<Option<Message>, TurnError> {
        self.in_chat(
            conversation_id,
            |mut chat| async move { chat.finish().await },
        )
        .await
    }

    /// Finishes the unfinished turns of all conversations, some at a time. What fails is logged.
    pub async fn resume_all(&self) -> Result<()> {
        let mut query = ListQuery::filtered(TurnFilter::running()).oldest_first();
        loop {
            let page = self.storage.turns().list(&query).await?;
            if !page.items.is_empty() {
                tracing::info!(turns = page.items.len(), "finishing unfinished turns");
            }
            futures::stream::iter(page.items)
                .for_each_concurrent(CONCURRENT_RESUMES, |turn| async move {
                    let conversation = turn.conversation_id;
                    match self.resume(conversation).await {
                        Ok(_) => tracing::info!(%conversation, turn = %turn.id, "turn finished"),
                        // Whoever uses the chat finishes it.
                        Err(TurnError::Busy(_)) => {}
                        Err(error) => tracing::warn!(
                            %conversation,
                            turn = %turn.id,
                            error = crate::error_chain(&error),
                            "turn not finished"
                        ),
                    }
                })
                .await;
            match page.next {
                Some(next) if !self.is_stopping() => query = query.after(next),
                _ => return Ok(()),
            }
        }
    }

    /// Keeps turns out of a conversation while the claim lives, for who changes it as a whole.
    pub fn claim(&self, conversation_id: ConversationId) -> Result<Claim, TurnError> {
        self.claims.claim(conversation_id)
    }

    /// From now on no turn starts, and those under way stop at their next checkpoint.
    pub fn stop(&self) {
        self.claims.stop();
    }

    /// Whether [`stop`](Self::stop) was called.
    pub fn is_stopping(&self) -> bool {
        self.claims.is_stopping()
    }

    /// Waits for [`stop`](Self::stop).
    pub async fn stopped(&self) {
        self.claims.stopped().await;
    }

    /// Stops, and waits at most `limit` until nothing is under way; says whether that is so.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        self.stop();
        tokio::time::timeout(limit, self.claims.idle())
            .await
            .is_ok()
    }

    /// Runs `work` with the conversation claimed, in a task of its own that outlives the caller.
    async fn in_chat<T, W>(
        &self,
        conversation_id: ConversationId,
        work: impl FnOnce(Chat) -> W + Send + 'static,
    ) -> Result<T, TurnError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, TurnError>> + Send,
    {
        let claim = self.claim(conversation_id)?;
        let engine = self.clone();
        let task = async move {
            let _claim = claim;
            work(Chat::open(engine, conversation_id).await?).await
        };
        match tokio::spawn(task.in_current_span()).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
