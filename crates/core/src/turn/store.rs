use std::time::Duration;

use async_trait::async_trait;

use super::{Announcements, EventBatch, LatestBatches, Turn};
use crate::{
    ConversationId, Fence, Message, MessageId, NewCheckpoint, NewWrites, Result, TurnId,
    turn::{IdempotencyKey, OwnerId},
};

/// Where the message of a turn stands among those of its conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// It is new, and goes on from the last one of the chosen branch.
    #[default]
    Last,
    /// It is new, and goes on from this one, or is the first. That becomes the chosen branch: what
    /// came behind is on another one from now on.
    Behind(Option<MessageId>),
    /// It is stored already, and becomes the last one of the chosen branch.
    Stored,
}

/// A turn that begins, and all that is stored with it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TurnBegin {
    /// The turn; its thread is raised to [`Turn::epoch`].
    pub turn: Turn,
    /// The message that it answers.
    pub message: Message,
    /// Where the message stands. One that it names must be there, else nothing is stored
    /// ([`Error::NotFound`](crate::Error::NotFound)).
    pub place: Place,
    /// The use of the key with which the message was sent.
    pub key: Option<IdempotencyKey>,
    /// The turn as it waited, if it did: it is replaced, and its message, which is stored already,
    /// moves behind what was said meanwhile.
    pub queued: Option<Turn>,
    /// The state that knows the message.
    pub checkpoint: NewCheckpoint,
    /// Its first events.
    pub events: EventBatch,
}

impl TurnBegin {
    /// The begin of `turn`, which has not waited, by a message without a key.
    pub fn new(
        turn: Turn,
        message: Message,
        checkpoint: NewCheckpoint,
        events: EventBatch,
    ) -> Self {
        Self {
            turn,
            message,
            place: Place::Last,
            key: None,
            queued: None,
            checkpoint,
            events,
        }
    }
}

/// A step of a turn.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TurnStep {
    /// [`Turn::epoch`], which the thread must have.
    pub epoch: u64,
    /// The state after the step.
    pub checkpoint: NewCheckpoint,
    /// The events of the step.
    pub events: EventBatch,
}

impl TurnStep {
    /// The step of a turn with this epoch.
    pub fn new(epoch: u64, checkpoint: NewCheckpoint, events: EventBatch) -> Self {
        Self {
            epoch,
            checkpoint,
            events,
        }
    }
}

/// What becomes of a turn: it ends, asks a person, goes on, passes to somebody else. Made by
/// [`new`](Self::new) and what follows it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TurnChange {
    /// The turn as it is expected to be.
    pub seen: Turn,
    /// What replaces it.
    pub next: Turn,
    /// The use of the key of the request that asks for it.
    pub key: Option<IdempotencyKey>,
    /// The answer to its message.
    pub answer: Option<Message>,
    /// The state that it leaves, and what that asks of the thread.
    pub checkpoint: Option<(NewCheckpoint, Fence)>,
    /// What is written to its latest checkpoint, and what that asks of the thread.
    pub writes: Option<(Vec<NewWrites>, Fence)>,
    /// The events of the change.
    pub events: Option<EventBatch>,
}

impl TurnChange {
    /// `seen` becomes `next`.
    pub fn new(seen: Turn, next: Turn) -> Self {
        Self {
            seen,
            next,
            key: None,
            answer: None,
            checkpoint: None,
            writes: None,
            events: None,
        }
    }

    /// With the use of a key, if there is one.
    #[must_use]
    pub fn with_key(mut self, key: Option<IdempotencyKey>) -> Self {
        self.key = key;
        self
    }

    /// With the answer, if there is one.
    #[must_use]
    pub fn with_answer(mut self, answer: Option<Message>) -> Self {
        self.answer = answer;
        self
    }

    /// With a checkpoint that asks `fence`.
    #[must_use]
    pub fn with_checkpoint(mut self, checkpoint: NewCheckpoint, fence: Fence) -> Self {
        self.checkpoint = Some((checkpoint, fence));
        self
    }

    /// With pending writes that ask `fence`.
    #[must_use]
    pub fn with_writes(mut self, writes: Vec<NewWrites>, fence: Fence) -> Self {
        self.writes = Some((writes, fence));
        self
    }

    /// With its events.
    #[must_use]
    pub fn with_events(mut self, events: EventBatch) -> Self {
        self.events = Some(events);
        self
    }
}

/// The turns as an engine works on them: who owns which, and what becomes durable whole.
///
/// A running turn has an owner until [`Turn::lease`] after it was stored, changed, taken or
/// renewed, by the storage's own clock, or until the storage knows that the process in which the
/// owner has renewed has died. Then anybody may [`take`](Self::take) it. Taking raises
/// [`Turn::epoch`], with which the owner fences what it writes to the thread ([`Fence`]): an owner
/// that lost its lease without knowing can do no harm.
///
/// Each call is one transaction: it happens whole or not at all, also within a
/// [`UnitOfWork`](crate::UnitOfWork), of which it is a part. After
/// [`Error::Unavailable`](crate::Error::Unavailable) with an unknown outcome one reads what is
/// stored, but where a call may be repeated.
///
/// ```
/// use std::time::Duration;
/// use yai_agentkit_core::{
///     Conversation, Entity, Fence, Message, Role, Stores, ThreadState, Turn, TurnStatus,
///     checkpoint::{CheckpointMetadata, CheckpointSource},
///     memory::MemoryStorage,
///     turn::{EventBatch, OwnerId, TurnBegin, TurnChange, TurnStep},
/// };
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let storage = MemoryStorage::default();
/// let turns = storage.turn_store();
/// let chat = storage.conversations().add(Conversation::titled("Sums")).await?;
/// let message = Message::new(chat.id, Role::User, "What is 1 + 1?");
/// let turn = Turn::new(chat.id, message.id).with(|turn| {
///     turn.epoch = 1;
///     turn.lease_owner = Some(OwnerId::new());
///     turn.lease = Duration::from_secs(30);
/// });
/// let id = turn.id;
/// let events =
///     |sequence, event: &str| EventBatch::new(chat.id, id, sequence, vec![event.into()]);
/// let metadata = || CheckpointMetadata::new(CheckpointSource::Loop, 0);
///
/// let thread = ThreadState::new(chat.thread_id(), None);
/// let (checkpoint, thread) = thread.next(&"asked", metadata())?;
/// let begin = TurnBegin::new(turn, message, checkpoint, events(1, "begun"));
/// let turn = turns.begin(begin).await?;
///
/// let (checkpoint, thread) = thread.next(&"thought", metadata())?;
/// turns.step(TurnStep::new(1, checkpoint, events(2, "thinks"))).await?;
///
/// let (checkpoint, _) = thread.next(&"answered", metadata())?;
/// let mut answer = Message::new(chat.id, Role::Assistant, "2");
/// answer.id = turn.user_message_id.answer();
/// let ended = turn.clone().with(|turn| {
///     turn.status = TurnStatus::Completed;
///     turn.assistant_message_id = Some(answer.id);
/// });
/// let end = TurnChange::new(turn.clone(), ended)
///     .with_answer(Some(answer))
///     .with_checkpoint(checkpoint, Fence::Hold(1))
///     .with_events(events(3, "ended"));
/// turns.change(end).await?;
/// assert_eq!(turns.events(chat.id, turn.id, 0, 10).await?.len(), 3);
/// assert!(turns.due(10).await?.is_empty());
/// # Ok::<(), yai_agentkit_core::Error>(()) }).unwrap();
/// ```
#[async_trait]
pub trait TurnStore: Send + Sync {
    /// Begins a turn: raises its thread, and stores the turn, its message, the use of a key, the
    /// checkpoint and the events. Returns the turn as it is stored. One round trip on PostgreSQL,
    /// unless the turn has waited.
    ///
    /// Nothing is stored where the thread has this epoch or a greater one
    /// ([`Error::Fenced`](crate::Error::Fenced)); where the id of the turn or of the message or the
    /// key is taken, another turn of the conversation runs, or the queued turn is not as it was
    /// seen ([`Error::Conflict`](crate::Error::Conflict) of each); where the conversation is gone
    /// ([`Error::NotFound`](crate::Error::NotFound)). Repeated it is refused.
    async fn begin(&self, begin: TurnBegin) -> Result<Turn>;

    /// Chooses the branch that ends with this message, or an empty one: from it to the first, each
    /// message and its parent are on the chosen branch, and no other. A message that is not there is
    /// [`Error::NotFound`](crate::Error::NotFound). One statement behind a look; may be repeated.
    async fn choose(&self, conversation_id: ConversationId, last: Option<MessageId>) -> Result<()>;

    /// Stores a checkpoint and the events of a step, if the thread has the turn's epoch, else
    /// [`Error::Fenced`](crate::Error::Fenced). One round trip on PostgreSQL, shared with what
    /// other threads write at that moment. May be repeated: equal events are stored once, others
    /// under a sequence that is taken are [`Error::Conflict`](crate::Error::Conflict).
    async fn step(&self, step: TurnStep) -> Result<()>;

    /// Replaces a turn by its next state, with all that comes with that, if its status and epoch
    /// are those that were seen; its lease begins anew. The last word of who owns a turn. Returns
    /// the turn as it is stored. One round trip on PostgreSQL where a turn ends with a checkpoint
    /// that holds its thread.
    ///
    /// Nothing is stored where the turn is not as it was seen, or another one of the conversation
    /// runs and this one were to, or the answer's id or the sequence of the events is taken
    /// ([`Error::Conflict`](crate::Error::Conflict)); where the thread refuses the fence
    /// ([`Error::Fenced`](crate::Error::Fenced)). Repeated it is refused, if status or epoch change.
    async fn change(&self, change: TurnChange) -> Result<Turn>;

    /// Takes a running turn whose lease has ended, or that is `owner`'s already, for as long as
    /// `lease`: its epoch rises by one, and its attempt unless it was given back. `None` where
    /// somebody else was faster, or still has the lease. Waits for nobody. One statement.
    async fn take(&self, seen: &Turn, owner: OwnerId, lease: Duration) -> Result<Option<Turn>>;

    /// Renews all leases of `owner`, and returns the conversations whose running turn is its own.
    /// From then on the storage watches this process, if it can. May be repeated.
    async fn renew(&self, owner: OwnerId) -> Result<Vec<ConversationId>>;

    /// What waits for somebody to work on it, the first stored first: running turns whose lease
    /// has ended, and the first queued turn of every conversation in which none runs or
    /// waits for a person. At most `limit`.
    async fn due(&self, limit: u64) -> Result<Vec<Turn>>;

    /// How many turns run at this moment, in the conversations of `owner` where one is named.
    async fn running(&self, owner: Option<&str>) -> Result<u64>;

    /// Stores events that belong to no checkpoint. A sequence that the turn has already is
    /// [`Error::Conflict`](crate::Error::Conflict): the turn has another writer. A conversation
    /// that is gone is [`Error::NotFound`](crate::Error::NotFound).
    ///
    /// Batches become visible in the order of their sequence as long as one writer after the other
    /// appends to a turn.
    async fn append(&self, batch: EventBatch) -> Result<()>;

    /// The batches of a turn with a greater sequence than `after`, in order, at most `limit`.
    async fn events(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
        after: u64,
        limit: u64,
    ) -> Result<Vec<EventBatch>>;

    /// The newest sequence of each of the turns that has a batch.
    async fn latest_events(&self, turns: &[(ConversationId, TurnId)]) -> Result<LatestBatches>;

    /// Deletes the batches that are older than `age`, by the storage's clock, of turns that have
    /// ended. Returns how many. May be repeated.
    async fn forget_events(&self, age: Duration) -> Result<u64>;

    /// Forgets the keys that were used longer than `age` ago, by the storage's clock, and returns
    /// how many. May be repeated.
    async fn forget_keys(&self, age: Duration) -> Result<u64>;

    /// Notifies the other processes on this storage of the newest batches. May be lost.
    async fn announce(&self, latest: &LatestBatches) -> Result<()>;

    /// Receives what any process announces from now on; `None` where the storage notifies nobody,
    /// so that one must look oneself.
    async fn announcements(&self) -> Result<Option<Box<dyn Announcements>>>;
}
