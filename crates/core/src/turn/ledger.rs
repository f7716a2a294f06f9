use std::time::Duration;

use async_trait::async_trait;

use super::{IdempotencyKey, Turn};
use crate::{
    ConversationId, Entity, Message, Result, ThreadId, TurnId, Value, turn::OwnerId, validate,
};

/// Something that a turn has recorded under a name: what it was given, what it has come to, an
/// effect that it has on the world.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnRecord {
    /// Under which the turn finds it again; at most [`MAX_NAME`](Self::MAX_NAME) bytes.
    pub name: String,
    /// What is recorded; `None` while it is under way.
    pub value: Option<Value>,
}

impl TurnRecord {
    /// The longest name, in bytes.
    pub const MAX_NAME: usize = 500;

    /// Refuses what no back end can store.
    pub fn validate(&self) -> Result<()> {
        validate::text("name", &self.name)?;
        if self.name.len() > Self::MAX_NAME {
            let reason = format!("must not have more than {} bytes", Self::MAX_NAME);
            return Err(crate::Error::invalid("name", reason));
        }
        let value = self.value.as_ref();
        value.map_or(Ok(()), |value| validate::text("type", value.type_tag()))
    }
}

/// A turn that is opened, and all that is stored with it.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnOpening {
    /// The turn. Its epoch is assigned.
    pub turn: Turn,
    /// The thread that it works in.
    pub thread_id: ThreadId,
    /// The message that it answers, if that is kept as one.
    pub message: Option<Message>,
    /// The use of the key with which it was asked for.
    pub key: Option<IdempotencyKey>,
    /// What it is given.
    pub records: Vec<TurnRecord>,
}

impl TurnOpening {
    /// Refuses what no back end can store.
    pub fn validate(&self) -> Result<()> {
        self.turn.validate()?;
        self.thread_id.validate()?;
        let message = self.message.as_ref();
        message.map_or(Ok(()), Message::validate)?;
        self.records.iter().try_for_each(TurnRecord::validate)
    }
}

/// The end of a turn that was opened.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnClosing {
    /// The turn as it is expected to be.
    pub seen: Turn,
    /// What replaces it.
    pub next: Turn,
    /// What was said in it, in order.
    pub messages: Vec<Message>,
    /// What it has come to.
    pub records: Vec<TurnRecord>,
}

impl TurnClosing {
    /// Refuses what no back end can store.
    pub fn validate(&self) -> Result<()> {
        self.next.validate()?;
        self.messages.iter().try_for_each(Message::validate)?;
        self.records.iter().try_for_each(TurnRecord::validate)
    }
}

/// Who owns an opened turn, and where it works.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnOwner {
    /// The thread.
    pub thread_id: ThreadId,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The turn.
    pub turn_id: TurnId,
    /// [`Turn::epoch`], which the thread must have.
    pub epoch: u64,
}

/// An opened turn that waits for somebody to work on it.
#[derive(Clone, Debug, PartialEq)]
pub struct DueTurn {
    /// The turn.
    pub turn: Turn,
    /// The thread that it works in.
    pub thread_id: ThreadId,
}

/// What came of opening a turn.
#[derive(Clone, Debug, PartialEq)]
pub enum Opened {
    /// It runs, as it is stored.
    Turn(Box<Turn>),
    /// Another turn of the conversation has not ended. Nothing is stored.
    Busy,
}

/// Turns whose state their owner keeps by itself, as LangGraph does, and the ledger in which such a
/// turn records what must not be forgotten or done twice.
///
/// An opened turn is a row as those of [`TurnStore`](super::TurnStore), with the same lease, taken
/// and renewed in the same way; but it is due for those who open turns, and nobody else. It works
/// in the thread of its conversation, and fences what it writes there with its epoch.
///
/// ```
/// use std::time::Duration;
/// use yai_agentkit_core::{
///     ConversationId, Entity, MessageId, Stores, ThreadId, Turn, TurnStatus, Value,
///     memory::MemoryStorage,
///     turn::{Opened, TurnClosing, TurnOpening, TurnOwner, TurnRecord},
/// };
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let ledger = MemoryStorage::default().turn_ledger();
/// let conversation_id = ConversationId::new();
/// let thread_id = ThreadId::from(conversation_id.to_string());
/// let opening = TurnOpening {
///     turn: Turn::new(conversation_id, MessageId::new())
///         .with(|turn| turn.lease = Duration::from_secs(30)),
///     thread_id: thread_id.clone(),
///     message: None,
///     key: None,
///     records: Vec::new(),
/// };
/// let Opened::Turn(turn) = ledger.open(opening.clone()).await? else {
///     panic!("nobody else is there");
/// };
/// assert_eq!(ledger.open(opening).await?, Opened::Busy);
///
/// // Who finds nothing recorded has the effect, and records what came of it.
/// let owner = TurnOwner { thread_id, conversation_id, turn_id: turn.id, epoch: turn.epoch };
/// let begun = TurnRecord { name: "charge".to_owned(), value: None };
/// assert_eq!(ledger.record(&owner, begun.clone()).await?, None);
/// let receipt = Value::encode("receipt 7").unwrap();
/// let done = TurnRecord { value: Some(receipt), ..begun.clone() };
/// ledger.record(&owner, done.clone()).await?;
/// // Who takes the turn over finds it.
/// assert_eq!(ledger.record(&owner, begun).await?, Some(done));
///
/// let next = Turn::clone(&turn).with(|turn| turn.status = TurnStatus::Completed);
/// let closing = TurnClosing { seen: *turn, next, messages: Vec::new(), records: Vec::new() };
/// ledger.close(closing).await?;
/// assert!(ledger.due_opened(10).await?.is_empty());
/// # Ok::<(), yai_agentkit_core::Error>(()) }).unwrap();
/// ```
#[async_trait]
pub trait TurnLedger: Send + Sync {
    /// Opens a turn, unless one of its conversation has not ended: raises the thread by one, which
    /// becomes the turn's epoch, and stores the turn, its message, the use of a key and the
    /// records. A conversation that does not exist is made if its id is that of the thread. One
    /// round trip on PostgreSQL.
    ///
    /// Nothing is stored where the id of the turn or of the message or the key is taken
    /// ([`Error::Conflict`](crate::Error::Conflict) of each), or the conversation is gone
    /// ([`Error::NotFound`](crate::Error::NotFound)). Repeated it is refused.
    async fn open(&self, opening: TurnOpening) -> Result<Opened>;

    /// As [`open`](Self::open), for a turn that waits until [`begin_opened`](Self::begin_opened):
    /// whoever else is at work goes on, and the thread stays as it is.
    async fn enqueue(&self, opening: TurnOpening) -> Result<Turn>;

    /// Begins a turn that has waited, if it is the next of its conversation: raises the thread, and
    /// stores `next` with the epoch that this gives. `None` where it is not the next, or not queued
    /// any more.
    async fn begin_opened(&self, thread_id: &ThreadId, next: Turn) -> Result<Option<Turn>>;

    /// As [`TurnStore::take`](super::TurnStore::take), of an opened turn.
    async fn take_opened(
        &self,
        seen: &Turn,
        owner: OwnerId,
        lease: Duration,
    ) -> Result<Option<Turn>>;

    /// Replaces a turn by its next state, if its status and epoch are those that were seen, and
    /// stores what was said and recorded. One round trip on PostgreSQL.
    ///
    /// Nothing is stored where the turn is not as it was seen, or the id of a message is taken
    /// ([`Error::Conflict`](crate::Error::Conflict)). Repeated it is refused.
    async fn close(&self, closing: TurnClosing) -> Result<Turn>;

    /// Records something, if the thread has the epoch of the owner, else
    /// [`Error::Fenced`](crate::Error::Fenced). A record that has a value stays as it is; one that
    /// has none gets that of `record`. Returns the record as it was before; `None` where there was
    /// none. Of two that record at once under one name one gets `None`. May be repeated with a
    /// value; without one it then tells nothing. One round trip on PostgreSQL.
    async fn record(&self, owner: &TurnOwner, record: TurnRecord) -> Result<Option<TurnRecord>>;

    /// The records of a turn, by name.
    async fn records(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
    ) -> Result<Vec<TurnRecord>>;

    /// The opened turns that wait for somebody to work on them, as
    /// [`TurnStore::due`](super::TurnStore::due) has the others.
    async fn due_opened(&self, limit: u64) -> Result<Vec<DueTurn>>;
}
