use std::sync::Arc;

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use yai_agentkit_core::{Conversation, Message, MessageId, Role, Turn, TurnId};

/// In which turn an agent or a tool works, and a way to be heard. A clone is the same.
#[derive(Clone, Debug)]
pub struct Context {
    work: Arc<Work>,
    said: Option<mpsc::Sender<String>>,
    alive: Option<watch::Receiver<()>>,
}

#[derive(Debug)]
struct Work {
    conversation: Conversation,
    turn: Turn,
    deadline: Option<Instant>,
    key: String,
}

impl Context {
    pub(crate) fn new(
        conversation: Conversation,
        turn: Turn,
        deadline: Option<Instant>,
        step: usize,
    ) -> Self {
        let key = format!("{}-{step}", turn.id);
        let work = Work {
            conversation,
            turn,
            deadline,
            key,
        };
        Self {
            work: Arc::new(work),
            said: None,
            alive: None,
        }
    }

    /// Of no turn, where nobody listens: for a test of an agent alone.
    pub fn detached() -> Self {
        let conversation = Conversation::new(None, None);
        let message = Message::new(conversation.id, Role::User, "");
        let turn = Turn::new(conversation.id, message.id);
        Self::new(conversation, turn, None, 0)
    }

    /// The same, and what receives what is said into it; who says more than it takes waits.
    pub fn heard(self) -> (Self, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel(64);
        let said = Some(sender);
        (Self { said, ..self }, receiver)
    }

    /// The same, given up once the second part is dropped.
    pub(crate) fn alive(self) -> (Self, watch::Sender<()>) {
        let (sender, receiver) = watch::channel(());
        let alive = Some(receiver);
        (Self { alive, ..self }, sender)
    }

    /// The conversation, with the metadata that the application keeps with it, as it was when this
    /// server began to work in it.
    pub fn conversation(&self) -> &Conversation {
        &self.work.conversation
    }

    /// The turn.
    pub fn turn_id(&self) -> TurnId {
        self.work.turn.id
    }

    /// The user's message that the turn answers.
    pub fn user_message_id(&self) -> MessageId {
        self.work.turn.user_message_id
    }

    /// How often a server has begun to work on the turn: 1 unless it was cut short.
    pub fn attempt(&self) -> u32 {
        self.work.turn.attempt
    }

    /// When the turn fails because it takes too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.work.deadline
    }

    /// Names the step under way: the same whenever it is tried again, on whichever server. With the
    /// id of a call it names the call.
    pub fn step_key(&self) -> &str {
        &self.work.key
    }

    /// Says what comes next in the content of the step. What a tool says is not heard.
    pub async fn say(&self, text: &str) {
        // PostgreSQL can't store a NUL.
        let text = text.replace('\0', "\u{fffd}");
        if let Some(said) = &self.said
            && !text.is_empty()
        {
            // Who does not listen any more need not hear it.
            drop(said.send(text).await);
        }
    }

    /// Whether nobody waits for the result any more: the turn was cancelled or took too long. Futures
    /// are dropped by then; this is for work on threads of its own.
    pub fn is_cancelled(&self) -> bool {
        let alive = self.alive.as_ref();
        alive.is_some_and(|alive| alive.has_changed().is_err())
    }
}
