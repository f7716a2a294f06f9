use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::watch;
use uuid::Uuid;
use yai_agentkit_core::{
    ConflictKind, ConversationId, Entity, Error, ListQuery, Message, MessageId, Repository, Role,
    TurnId, UnitOfWork,
    turn::{IdempotencyKey, Place, TurnFilter},
};

use super::{
    ClientInput, OnBusy, TurnEngine, TurnError, TurnHandle, TurnOutcome, branch, chat::Chat,
    entries::Entry,
};

/// How a message is sent.
#[derive(Clone, Debug, Default)]
pub struct SendOptions {
    /// What becomes of it where the chat is busy; `None` is [`TurnLimits::on_busy`].
    ///
    /// [`TurnLimits::on_busy`]: super::TurnLimits::on_busy
    pub on_busy: Option<OnBusy>,
    /// Makes a repetition lead to the first answer.
    pub key: Option<RequestKey>,
    /// Where the message stands. One that begins another branch is not enqueued.
    pub place: Place,
    /// What the client gives the agent beside the message.
    pub client: ClientInput,
}

/// The key of a request, and all that the request says.
#[derive(Clone, Debug)]
pub struct RequestKey {
    /// The client's key.
    pub key: String,
    /// The request, for another one with the same key is refused.
    pub request: Vec<u8>,
}

impl RequestKey {
    /// Its use within `scope`, which has led to `resource_id`.
    pub fn used(&self, scope: Uuid, resource_id: Uuid) -> IdempotencyKey {
        IdempotencyKey::new(scope, &self.key, &self.request, resource_id)
    }
}

/// A message that is to be stored, with the use of its key.
pub(super) struct Incoming {
    pub(super) message: Message,
    /// The turn that answers it; a system message has none.
    pub(super) turn_id: TurnId,
    /// What the turn is given, as it is stored.
    pub(super) input: ClientInput,
    pub(super) key: Option<IdempotencyKey>,
    /// Where the message stands.
    place: Mutex<Place>,
    /// Learns of the turn as soon as it is stored.
    turn: watch::Sender<Option<TurnId>>,
    /// The same request waits for it, until it is stored or refused.
    entry: Mutex<Option<Entry>>,
    /// Its key is stored as pending, by this request or an equal one.
    is_announced: AtomicBool,
}

/// How often one looks for an equal request that nothing is seen of.
const LOOKS: u32 = 3;

impl Incoming {
    /// Stores the message, and the use of its key.
    pub(super) async fn store(
        &self,
        unit: &dyn UnitOfWork,
        message: Message,
    ) -> Result<Message, Error> {
        self.use_key(unit).await?;
        unit.messages().add(message).await
    }

    /// Stores the use of its key.
    pub(super) async fn use_key(&self, unit: &dyn UnitOfWork) -> Result<(), Error> {
        let Some(key) = &self.key else {
            return Ok(());
        };
        let keys = unit.idempotency_keys();
        if !self.is_announced() {
            return keys.add(key.clone()).await.map(drop);
        }
        let used = |stored: &mut IdempotencyKey| match stored.is_pending() {
            true => {
                stored.clone_from(key);
                Ok(())
            }
            false => Err(Error::Conflict(IdempotencyKey::conflict(&key.id()))),
        };
        match keys.update(&key.id(), &used).await {
            // An equal request was refused meanwhile.
            Err(Error::NotFound { .. }) => keys.add(key.clone()).await.map(drop),
            used => used.map(drop),
        }
    }

    /// Where the message stands.
    pub(super) fn place(&self) -> Place {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The message takes the place of those that it has cancelled, unless it has one of its own.
    fn stand_at(&self, cancelled: Place) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if *place == Place::Last {
            *place = cancelled;
        }
    }

    /// Whether its key is stored already.
    pub(super) fn is_announced(&self) -> bool {
        self.is_announced.load(Ordering::Relaxed)
    }

    /// Lets equal requests on other servers wait, while the turn before is finished here.
    pub(super) async fn announce(
        &self,
        keys: &dyn Repository<IdempotencyKey>,
    ) -> Result<(), Error> {
        let Some(key) = &self.key else {
            return Ok(());
        };
        match keys.add(key.clone().pending()).await {
            // An equal request was here first: which of them stores its turn is decided there.
            Err(Error::Conflict(_)) => {}
            added => {
                added?;
            }
        }
        self.is_announced.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The turn that answers it is stored.
    pub(super) fn is_stored(&self, turn: TurnId) {
        self.turn.send_replace(Some(turn));
        let mut entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        drop(entry.take());
    }
}

/// What the delivery of a message has come to.
enum Delivered {
    /// The message is a system's, and this is how it is stored.
    Instruction(Message),
    /// The message is a user's, and this is what its turn has come to.
    Outcome(TurnOutcome),
    /// The message is answered by a turn that was enqueued, or is that of an equal request which
    /// came before, or has passed to another engine.
    Stored,
}

impl TurnEngine {
    /// Takes a user's message to its conversation, after finishing what is unfinished there, and
    /// returns the turn that answers it as soon as both are stored.
    pub async fn start(
        &self,
        message: Message,
        options: SendOptions,
    ) -> Result<TurnHandle, TurnError> {
        check(&message, Role::User)?;
        let conversation = message.conversation_id;
        let (incoming, on_busy) = self.incoming(message, options);
        let mut turn = incoming.turn.subscribe();
        let mut delivery = {
            let engine = self.clone();
            Box::pin(async move { engine.deliver(&incoming, on_busy).await })
        };
        let delivered = tokio::select! {
            biased;
            Ok(_) = turn.wait_for(Option::is_some) => None,
            delivered = &mut delivery => Some(delivered),
        };
        let stored = *turn.borrow();
        let Some(turn) = stored else {
            // Whoever has an outcome has stored the turn.
            let refused = delivered.and_then(Result::err);
            return Err(refused.unwrap_or(TurnError::Lost));
        };
        let engine = self.clone();
        let outcome = async move {
            let delivered = match delivered {
                Some(delivered) => delivered,
                None => delivery.await,
            };
            match delivered? {
                Delivered::Outcome(outcome) => Ok(outcome),
                _ => engine.outcome(conversation, turn).await,
            }
        };
        let turn = (conversation, turn);
        Ok(TurnHandle::new(self.clone(), turn, 0, Box::pin(outcome)))
    }

    /// [Starts](Self::start) a turn without options, and waits for its outcome.
    pub async fn send(&self, message: Message) -> Result<TurnOutcome, TurnError> {
        let turn = self.start(message, SendOptions::default()).await?;
        turn.outcome().await
    }

    /// Takes a system message to its conversation, for the agent to heed from now on, and returns
    /// it. Nothing is answered.
    pub async fn instruct(
        &self,
        message: Message,
        options: SendOptions,
    ) -> Result<Message, TurnError> {
        check(&message, Role::System)?;
        let (incoming, on_busy) = self.incoming(message, options);
        match self.deliver(&incoming, on_busy).await? {
            Delivered::Instruction(message) => Ok(message),
            // It has no turn.
            _ => Err(TurnError::Lost),
        }
    }

    fn incoming(&self, message: Message, options: SendOptions) -> (Arc<Incoming>, OnBusy) {
        let turn_id = TurnId::new();
        let resource = match message.role {
            Role::System => message.id.0,
            _ => turn_id.0,
        };
        let scope = message.conversation_id.0;
        let key = options.key.map(|key| key.used(scope, resource));
        let on_busy = options.on_busy.unwrap_or(self.limits.on_busy);
        let incoming = Incoming {
            message,
            turn_id,
            input: options.client,
            place: Mutex::new(options.place),
            key,
            turn: watch::Sender::default(),
            entry: Mutex::default(),
            is_announced: AtomicBool::default(),
        };
        (Arc::new(incoming), on_busy)
    }

    /// Until the message is answered or enqueued. What is not stored yet is forgotten with who
    /// waits here.
    async fn deliver(
        &self,
        incoming: &Arc<Incoming>,
        on_busy: OnBusy,
    ) -> Result<Delivered, TurnError> {
        if let Some(key) = &incoming.key {
            let entry = self.keys.enter(key.id).await;
            *incoming
                .entry
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(entry);
        }
        loop {
            if let Some(earlier) = self.earlier(incoming).await? {
                return self.repeat(incoming, earlier).await;
            }
            match self.first_delivery(incoming, on_busy).await {
                // The same request was faster, or is about to be.
                Err(TurnError::Storage(Error::Conflict(ConflictKind::IdempotencyKey(_)))) => {}
                // Another engine finishes it.
                Err(TurnError::Lost) => return Ok(Delivered::Stored),
                done => return done,
            }
        }
    }

    /// The use of the key that has led to something. One that is pending is this request's as well.
    async fn earlier(&self, incoming: &Incoming) -> Result<Option<IdempotencyKey>, TurnError> {
        let Some(key) = &incoming.key else {
            return Ok(None);
        };
        let earlier = self.storage.idempotency_keys().get(&key.id()).await?;
        match &earlier {
            Some(earlier) if earlier.fingerprint != key.fingerprint => Err(TurnError::KeyReused),
            earlier if earlier.as_ref().is_some_and(IdempotencyKey::is_pending) => {
                incoming.is_announced.store(true, Ordering::Relaxed);
                Ok(None)
            }
            _ => Ok(earlier),
        }
    }

    /// What the first request with the key has led to.
    async fn repeat(
        &self,
        incoming: &Incoming,
        earlier: IdempotencyKey,
    ) -> Result<Delivered, TurnError> {
        if incoming.message.role == Role::System {
            let id = MessageId(earlier.resource_id);
            let stored = self
                .storage
                .messages()
                .get(&incoming.message.conversation_id.key(id))
                .await?;
            let stored = stored.ok_or_else(|| Error::not_found("message", id))?;
            return Ok(Delivered::Instruction(stored));
        }
        let turn = TurnId(earlier.resource_id);
        incoming.is_stored(turn);
        Ok(Delivered::Stored)
    }

    async fn first_delivery(
        &self,
        incoming: &Arc<Incoming>,
        on_busy: OnBusy,
    ) -> Result<Delivered, TurnError> {
        let id = incoming.message.conversation_id;
        // The epoch that a refused attempt has met.
        let mut epoch = 0;
        let mut looks = 0;
        loop {
            let attempt = {
                let incoming = Arc::clone(incoming);
                self.detached(async move |engine| engine.attempt(&incoming, epoch).await)
            };
            match attempt.await {
                Err(TurnError::Busy(_)) => {}
                // Something was written to the thread just now, or by a program of somebody's own.
                Err(TurnError::Storage(Error::Fenced { epoch: met, .. })) => {
                    epoch = met;
                    continue;
                }
                done => return done,
            }
            // With the same request it is not busy.
            if let Some(earlier) = self.earlier(incoming).await? {
                return self.repeat(incoming, earlier).await;
            }
            match (on_busy, &incoming.message.role) {
                (OnBusy::Reject, _) => {
                    if !self.is_pending_elsewhere(incoming, &mut looks).await? {
                        return Err(TurnError::Busy(id));
                    }
                }
                (OnBusy::Enqueue, Role::User) if incoming.place() == Place::Last => {
                    let incoming = Arc::clone(incoming);
                    let enqueued =
                        self.detached(async move |engine| engine.enqueue(&incoming).await);
                    enqueued.await?;
                    return Ok(Delivered::Stored);
                }
                (OnBusy::Enqueue, _) => {}
                (OnBusy::Interrupt, _) => drop(self.cancel_unfinished(id).await?),
                (OnBusy::Rollback, _) => {
                    if let Some(first) = self.cancel_unfinished(id).await? {
                        incoming.stand_at(self.beside(id, first).await?);
                    }
                }
            }
            self.until_free(id).await;
        }
    }

    /// Whether an equal request finishes what is unfinished in its chat, and then stores its turn.
    /// Where nothing is seen of it any more, nobody else shall wait for it.
    async fn is_pending_elsewhere(
        &self,
        incoming: &Incoming,
        looks: &mut u32,
    ) -> Result<bool, TurnError> {
        let Some(key) = incoming.key.as_ref().filter(|_| incoming.is_announced()) else {
            return Ok(false);
        };
        let running = TurnFilter::running().of(incoming.message.conversation_id);
        if self.storage.turns().count(&running).await? > 0 {
            return Ok(true);
        }
        *looks += 1;
        if *looks <= LOOKS {
            return Ok(true);
        }
        let unit = self.storage.begin().await?;
        let pending = |stored: &mut IdempotencyKey| match stored.is_pending() {
            true => Ok(()),
            false => Err(Error::Conflict(IdempotencyKey::conflict(&key.id()))),
        };
        match unit.idempotency_keys().update(&key.id(), &pending).await {
            Err(Error::NotFound { .. }) => return Ok(false),
            pending => {
                pending?;
            }
        }
        unit.idempotency_keys().delete(&key.id()).await?;
        unit.commit().await?;
        Ok(false)
    }

    /// [`TurnError::Busy`], and [`Error::Fenced`] of the storage, where nothing was stored.
    async fn attempt(&self, incoming: &Arc<Incoming>, epoch: u64) -> Result<Delivered, TurnError> {
        let id = incoming.message.conversation_id;
        let claim = self.claim(id).await?;
        let mut chat = Chat::open(self.clone(), claim, epoch).await?;
        chat.next = Some(Arc::clone(incoming));
        match chat.settle().await {
            // That turn is kept, but this message is not.
            Err(TurnError::Stopped) => return Err(TurnError::ShuttingDown),
            Ok(Some(TurnOutcome::Waiting(_))) | Err(TurnError::Lost) => {
                return Err(TurnError::Busy(id));
            }
            Err(error) if error.ends_turn() => {
                tracing::warn!(%error, "the unfinished turn before failed");
                drop(chat);
                return Box::pin(self.attempt(incoming, epoch)).await;
            }
            settled => drop(settled?),
        }
        if incoming.message.role == Role::System {
            return Ok(Delivered::Instruction(chat.instruct(incoming).await?));
        }
        match incoming.place() {
            Place::Last => {}
            Place::Behind(last) => chat.go_back(last).await?,
            Place::Stored => {
                let messages = self.storage.messages();
                let last = branch::before(&*messages, &incoming.message).await?;
                chat.go_back(last).await?;
            }
        }
        let turn = match chat.begin(incoming).await {
            Err(Error::Conflict(ConflictKind::Turn(_))) => return Err(TurnError::Busy(id)),
            begun => begun?,
        };
        chat.run(turn).await.map(Delivered::Outcome)
    }

    /// Returns the message of the first turn that was cancelled.
    async fn cancel_unfinished(
        &self,
        conversation: ConversationId,
    ) -> Result<Option<MessageId>, TurnError> {
        let mut first = None;
        let unfinished = TurnFilter::unfinished().of(conversation);
        // The newest first, so that none of them begins meanwhile.
        let turns = self.storage.turns();
        for turn in turns.list(&ListQuery::filtered(unfinished)).await?.items {
            match self.cancel(conversation, turn.id).await {
                Ok(cancelled) => first = Some(cancelled.user_message_id),
                Err(TurnError::Ended) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(first)
    }
}

/// What nobody may say to an agent as `role` is refused.
fn check(message: &Message, role: Role) -> Result<(), Error> {
    message.validate()?;
    if message.content.is_empty() && message.parts.is_empty() {
        return Err(Error::invalid("content", "must not be empty"));
    }
    if message.role != role {
        return Err(Error::invalid("role", format!("must be `{role}`")));
    }
    Ok(())
}
