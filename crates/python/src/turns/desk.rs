//! What becomes of a turn that is asked for.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use uuid::Uuid;
use yai_agentkit_core::{
    CheckpointSelector, Clock, ConflictKind, ConversationId, Entity, Error, ListQuery, Message,
    MessageId, Result, Role, Stores, ThreadId, Turn, TurnId, TurnStatus, Value,
    checkpoint::Values,
    conversation::ConversationFilter,
    turn::{
        IdempotencyKey, Opened, OwnerId, TurnChange, TurnClosing, TurnFilter, TurnLedger,
        TurnOpening, TurnRecord,
    },
};
use yai_agentkit_persistence::Database;

use crate::engine::LazyDatabase;

/// The records of what a turn is given and what it has come to.
const INPUT: &str = "input";
const RESULT: &str = "result";

/// The field of a checkpoint's metadata that names the turn that made it, as the server has it too.
const RUN_ID: &str = "run_id";

/// How often a turn tries to get in beside others that come and go.
const ATTEMPTS: u32 = 100;

/// What becomes of a turn that is asked for while another has not ended.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum OnBusy {
    Reject,
    Enqueue,
    Interrupt,
    Rollback,
}

/// A turn that is asked for.
pub(super) struct Request {
    pub(super) thread_id: ThreadId,
    pub(super) key: Option<String>,
    pub(super) input: Value,
    /// What the person said.
    pub(super) message: Option<String>,
    pub(super) on_busy: OnBusy,
    pub(super) lease: Duration,
}

/// What came of it.
pub(super) enum Found {
    Owned(Box<Owned>),
    /// Another turn has not ended.
    Busy,
    /// It is stored, and somebody else has it, or those before it have not ended.
    Waits(ConversationId, TurnId),
    Ended(Box<Turn>, Option<Value>),
}

/// A turn that is this process's to run.
pub(super) struct Owned {
    pub(super) turn: Turn,
    pub(super) thread_id: ThreadId,
    pub(super) input: Option<Value>,
    /// Whether a checkpoint knows it.
    pub(super) is_taken_in: bool,
    pub(super) is_lost: Arc<AtomicBool>,
}

/// Where the turns of one saver are asked for, and those under way are known.
pub(super) struct Desk {
    pub(super) database: Arc<LazyDatabase>,
    pub(super) owner: OwnerId,
    under_way: Mutex<HashMap<TurnId, UnderWay>>,
    /// Those that a call is about to own: the same owner may take a turn from itself.
    claimed: Mutex<HashSet<TurnId>>,
}

/// Keeps the other calls of this process from a turn.
struct Claim<'a> {
    desk: &'a Desk,
    id: TurnId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.desk.claimed().remove(&self.id);
    }
}

pub(super) struct UnderWay {
    pub(super) conversation_id: ConversationId,
    pub(super) lease: Duration,
    pub(super) is_lost: Arc<AtomicBool>,
}

impl Desk {
    pub(super) fn new(database: Arc<LazyDatabase>) -> Self {
        Self {
            database,
            owner: OwnerId::new(),
            under_way: Mutex::default(),
            claimed: Mutex::default(),
        }
    }

    fn claimed(&self) -> MutexGuard<'_, HashSet<TurnId>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` where another call of this process has the turn.
    fn claim(&self, id: TurnId) -> Option<Claim<'_>> {
        let is_new = self.claimed().insert(id);
        let claim = is_new.then(|| Claim { desk: self, id })?;
        // Asked once it is claimed: who owns it has noted so before the claim ends.
        (!self.under_way().contains_key(&id)).then_some(claim)
    }

    pub(super) fn under_way(&self) -> MutexGuard<'_, HashMap<TurnId, UnderWay>> {
        let under_way = self.under_way.lock();
        under_way.unwrap_or_else(PoisonError::into_inner)
    }

    /// Of what is under way.
    pub(super) fn shortest_lease(&self) -> Option<Duration> {
        self.under_way().values().map(|turn| turn.lease).min()
    }

    /// Opens a turn, or finds what its key has led to.
    pub(super) async fn open(&self, request: Request) -> Result<Found> {
        let database = self.database.get().await?;
        let ledger = database.turn_ledger();
        let mut conversation = conversation_of(&request.thread_id)?;
        let mut cancelled = Vec::new();
        for _ in 0..ATTEMPTS {
            let opening = self.opening(&request, conversation);
            let key = opening.key.clone();
            // Until it is noted as under way.
            let _claim = self.claim(opening.turn.id);
            match ledger.open(opening).await {
                Ok(Opened::Turn(turn)) => {
                    if request.on_busy == OnBusy::Rollback {
                        undo(database, &cancelled).await?;
                    }
                    let input = Some(request.input);
                    return Ok(self.owned(*turn, request.thread_id, input, false));
                }
                Ok(Opened::Busy)
                | Err(Error::Conflict(ConflictKind::Turn(_) | ConflictKind::IdempotencyKey(_))) => {
                }
                // Another conversation may have adopted the thread.
                Err(Error::NotFound { .. }) => {
                    conversation = adopting(database, &request.thread_id).await?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            if let Some(found) = self.earlier(&request, key).await? {
                return Ok(found);
            }
            match request.on_busy {
                OnBusy::Reject => return Ok(Found::Busy),
                OnBusy::Enqueue => match self.enqueue(&*ledger, &request, conversation).await {
                    // An equal request was faster.
                    Err(Error::Conflict(ConflictKind::IdempotencyKey(_))) => {}
                    waits => return waits,
                },
                OnBusy::Interrupt | OnBusy::Rollback => {
                    cancelled.extend(cancel(database, conversation).await?);
                }
            }
        }
        Ok(Found::Busy)
    }

    fn opening(&self, request: &Request, conversation: ConversationId) -> TurnOpening {
        let text = request.message.as_deref();
        let message = text.map(|text| Message::new(conversation, Role::User, text));
        let message_id = message.as_ref().map_or_else(MessageId::new, |own| own.id);
        let mut turn = Turn::new(conversation, message_id);
        (turn.lease_owner, turn.lease) = (Some(self.owner), request.lease);
        let key = request.key.as_deref();
        TurnOpening {
            thread_id: request.thread_id.clone(),
            message,
            // The same key is the same turn, however its input is written down.
            key: key.map(|key| IdempotencyKey::new(conversation.0, key, b"", turn.id.0)),
            records: vec![TurnRecord {
                name: INPUT.to_owned(),
                value: Some(request.input.clone()),
            }],
            turn,
        }
    }

    async fn enqueue(
        &self,
        ledger: &dyn TurnLedger,
        request: &Request,
        conversation: ConversationId,
    ) -> Result<Found> {
        let mut opening = self.opening(request, conversation);
        opening.turn.status = TurnStatus::Queued;
        opening.turn.started_at = None;
        opening.turn.lease_owner = None;
        let queued = ledger.enqueue(opening).await?;
        Ok(Found::Waits(queued.conversation_id, queued.id))
    }

    async fn earlier(
        &self,
        request: &Request,
        key: Option<IdempotencyKey>,
    ) -> Result<Option<Found>> {
        let Some(key) = key else {
            return Ok(None);
        };
        let keys = self.database.get().await?.idempotency_keys();
        let Some(earlier) = keys.get(&key.id()).await? else {
            return Ok(None);
        };
        let turn = TurnId(earlier.resource_id);
        let thread_id = request.thread_id.clone();
        let found = self.look(thread_id, key.scope, turn, request.lease).await?;
        Ok(Some(found))
    }

    /// What has become of a turn; it is owned from now on if nobody else has it.
    pub(super) async fn look(
        &self,
        thread_id: ThreadId,
        conversation: ConversationId,
        id: TurnId,
        lease: Duration,
    ) -> Result<Found> {
        let database = self.database.get().await?;
        let ledger = database.turn_ledger();
        let claim = self.claim(id);
        let turn = database.turns().get(&conversation.key(id)).await?;
        let turn = turn.ok_or_else(|| Error::not_found("turn", id))?;
        let taken = match turn.status {
            TurnStatus::Running | TurnStatus::Queued if claim.is_none() => None,
            TurnStatus::Running => ledger.take_opened(&turn, self.owner, lease).await?,
            TurnStatus::Queued => {
                let mut running = turn;
                (running.status, running.started_at) =
                    (TurnStatus::Running, Some(Clock::default().now()));
                (running.lease_owner, running.lease) = (Some(self.owner), lease);
                ledger.begin_opened(&thread_id, running).await?
            }
            TurnStatus::Waiting => None,
            _ => {
                let records = ledger.records(conversation, id).await?;
                return Ok(Found::Ended(Box::new(turn), recorded(records, RESULT)));
            }
        };
        match taken {
            Some(taken) => self.take_over(database, thread_id, taken).await,
            None => Ok(Found::Waits(conversation, id)),
        }
    }

    /// Makes sure that nobody else writes for the turn, and reads what is left of it.
    async fn take_over(
        &self,
        database: &Database,
        thread_id: ThreadId,
        turn: Turn,
    ) -> Result<Found> {
        let checkpointer = database.checkpointer();
        let waits = Found::Waits(turn.conversation_id, turn.id);
        match checkpointer.raise_epoch(&thread_id, turn.epoch).await {
            Ok(()) => {}
            // It was begun with this epoch.
            Err(Error::Fenced { epoch, .. }) if epoch == turn.epoch => {}
            Err(Error::Fenced { epoch: 0, .. }) => {
                let reason = Some("its thread was deleted".to_owned());
                let ended = ended(&turn, TurnStatus::Failed, reason);
                let failed = TurnChange::new(turn, ended);
                let turn = database.turn_store().change(failed).await?;
                return Ok(Found::Ended(Box::new(turn), None));
            }
            Err(Error::Fenced { .. }) => return Ok(waits),
            Err(error) => return Err(error),
        }
        let latest = CheckpointSelector {
            values: Values::Nothing,
            ..CheckpointSelector::latest(thread_id.clone())
        };
        let run = checkpointer.get(&latest).await?.and_then(|mut tuple| {
            let run = tuple.metadata.0.remove(RUN_ID);
            run.and_then(|run| run.as_str().map(str::to_owned))
        });
        let is_taken_in = run.is_some_and(|run| run == turn.id.to_string());
        let ledger = database.turn_ledger();
        let records = ledger.records(turn.conversation_id, turn.id).await?;
        let input = recorded(records, INPUT);
        Ok(self.owned(turn, thread_id, input, is_taken_in))
    }

    fn owned(
        &self,
        turn: Turn,
        thread_id: ThreadId,
        input: Option<Value>,
        is_taken_in: bool,
    ) -> Found {
        let is_lost = Arc::new(AtomicBool::new(false));
        let under_way = UnderWay {
            conversation_id: turn.conversation_id,
            lease: turn.lease,
            is_lost: Arc::clone(&is_lost),
        };
        self.under_way().insert(turn.id, under_way);
        Found::Owned(Box::new(Owned {
            turn,
            thread_id,
            input,
            is_taken_in,
            is_lost,
        }))
    }

    /// Lets somebody else go on with the turn at once.
    pub(super) async fn give_back(&self, turn: Turn) -> Result<()> {
        let mut given_back = turn.clone();
        given_back.lease_owner = None;
        let turns = self.database.get().await?.turn_store();
        let given_back = turns.change(TurnChange::new(turn, given_back)).await;
        given_back.map(drop)
    }

    /// Ends a turn, with what was said in it and what it has come to.
    pub(super) async fn close(
        &self,
        seen: Turn,
        status: TurnStatus,
        error: Option<String>,
        messages: Vec<Message>,
        result: Option<Value>,
    ) -> Result<()> {
        let mut next = ended(&seen, status, error);
        let answer = messages
            .iter()
            .rfind(|message| message.role == Role::Assistant);
        next.assistant_message_id = answer.map(|message| message.id);
        let record = |value| TurnRecord {
            name: RESULT.to_owned(),
            value: Some(value),
        };
        let closing = TurnClosing {
            seen,
            next,
            messages,
            records: result.map(record).into_iter().collect(),
        };
        let ledger = self.database.get().await?.turn_ledger();
        ledger.close(closing).await.map(drop)
    }

    /// Renews the leases of what is under way, and notes what was lost. Returns the running turns
    /// of conversations in which this process has none under way.
    pub(super) async fn renew(&self) -> Result<Vec<ConversationId>> {
        let database = self.database.get().await?;
        let begun: Vec<TurnId> = self.under_way().keys().copied().collect();
        let own = database.turn_store().renew(self.owner).await?;
        let under_way = self.under_way();
        for id in begun {
            if let Some(turn) = under_way.get(&id)
                && !own.contains(&turn.conversation_id)
            {
                turn.is_lost.store(true, Ordering::Release);
            }
        }
        let is_known = |conversation: &ConversationId| {
            let mut known = under_way.values();
            known.any(|turn| turn.conversation_id == *conversation)
        };
        Ok(own.into_iter().filter(|id| !is_known(id)).collect())
    }

    /// Gives back what this process owns in a conversation without knowing.
    pub(super) async fn disown(&self, conversation: ConversationId) -> Result<()> {
        let running = ListQuery::filtered(TurnFilter::running().of(conversation));
        let turns = self.database.get().await?.turns();
        for turn in turns.list(&running).await?.items {
            let claim = self.claim(turn.id);
            if claim.is_some() && turn.lease_owner == Some(self.owner) {
                self.give_back(turn).await?;
            }
        }
        Ok(())
    }
}

/// A turn's conversation has the id of its thread.
fn conversation_of(thread_id: &ThreadId) -> Result<ConversationId> {
    let id = thread_id.as_str().parse::<Uuid>().ok();
    let id = id.filter(|id| id.to_string() == thread_id.as_str());
    id.map(ConversationId).ok_or_else(|| {
        let reason = "must be a UUID, as in str(uuid.uuid4()), for a thread that has turns";
        Error::invalid("thread_id", reason)
    })
}

async fn adopting(database: &Database, thread_id: &ThreadId) -> Result<ConversationId> {
    let filter = ConversationFilter::default().thread(conversation_of(thread_id)?.0);
    let query = ListQuery::filtered(filter);
    let found = database.conversations().list(&query).await?;
    let found = found.items.into_iter().next();
    let found = found.ok_or_else(|| Error::not_found("conversation", thread_id.as_str()))?;
    Ok(found.id)
}

/// Cancels what has not ended, the newest first, so that none of it begins meanwhile.
async fn cancel(database: &Database, conversation: ConversationId) -> Result<Vec<Turn>> {
    let unfinished = ListQuery::filtered(TurnFilter::unfinished().of(conversation));
    let (turns, store) = (database.turns(), database.turn_store());
    let mut cancelled = Vec::new();
    for turn in turns.list(&unfinished).await?.items {
        let next = ended(&turn, TurnStatus::Cancelled, None);
        match store.change(TurnChange::new(turn, next)).await {
            Ok(turn) => cancelled.push(turn),
            // It has ended by itself, or passed to somebody else.
            Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(cancelled)
}

/// Takes away what turns that were cancelled have left.
async fn undo(database: &Database, cancelled: &[Turn]) -> Result<()> {
    let runs: Vec<String> = cancelled.iter().map(|turn| turn.id.to_string()).collect();
    if runs.is_empty() {
        return Ok(());
    }
    database.checkpointer().delete_for_runs(&runs).await?;
    let messages = database.messages();
    for turn in cancelled {
        let message = turn.conversation_id.key(turn.user_message_id);
        messages.delete(&message).await?;
    }
    Ok(())
}

fn ended(turn: &Turn, status: TurnStatus, error: Option<String>) -> Turn {
    let mut ended = turn.clone();
    ended.status = status;
    // PostgreSQL stores no NUL.
    ended.error = error.map(|error| error.replace('\0', "\u{fffd}"));
    (ended.interrupt, ended.lease_owner) = (None, None);
    ended
}

fn recorded(records: Vec<TurnRecord>, name: &str) -> Option<Value> {
    let record = records.into_iter().find(|record| record.name == name);
    record.and_then(|record| record.value)
}
