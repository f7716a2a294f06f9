//! What people do to a turn: answer its question, or cancel it.

use tokio::{sync::watch, time::Instant};
use yai_agentkit_core::{
    ConversationId, Entity, Error, Fence, ListQuery, Turn, TurnId, TurnStatus,
    checkpoint::CheckpointSource,
    turn::{IdempotencyKey, Interrupt, InterruptId, TurnChange, TurnFilter},
};

use super::{
    ClientInput, RequestKey, TurnEngine, TurnError, TurnHandle, TurnOutcome,
    chat::{Chat, closed, ended},
    event::TurnEvent,
    log::EventLog,
};
use crate::agent::AgentState;

/// What a turn that waits goes on with.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// What a person says to its question; of a call of a tool of the client's, its result.
    Text(String),
    /// What the client's tools have come to, with what it gives the agent from now on. Where there
    /// are more, the turn goes on waiting for them.
    Results {
        /// By tool call.
        results: Vec<(String, String)>,
        /// In place of what was given before.
        client: ClientInput,
    },
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Answer {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Answer {
    /// The results of the calls that `asked` waits for.
    pub(super) fn to<'a>(&'a self, asked: &'a Interrupt) -> Vec<(&'a str, &'a str)> {
        match self {
            Self::Text(text) => vec![(&asked.tool_call_id, text)],
            Self::Results { results, .. } => {
                let results = results
                    .iter()
                    .filter(|(call, _)| asked.client_calls.contains(call));
                results.map(|(call, result)| (&**call, &**result)).collect()
            }
        }
    }

    fn has_nul(&self) -> bool {
        match self {
            Self::Text(text) => text.contains('\0'),
            Self::Results { results, .. } => results.iter().any(|(_, text)| text.contains('\0')),
        }
    }
}

const CANCELLED: &str = "the turn was cancelled";

impl TurnEngine {
    /// A turn of a conversation.
    pub async fn turn(&self, conversation: ConversationId, id: TurnId) -> Result<Turn, TurnError> {
        let found = self.storage.turns().get(&conversation.key(id)).await?;
        Ok(found.ok_or_else(|| Error::not_found("turn", id))?)
    }

    /// What the conversation's turn waits for, if it does.
    pub async fn asking(
        &self,
        conversation: ConversationId,
    ) -> Result<Option<(TurnId, Interrupt)>, TurnError> {
        let unfinished = ListQuery::filtered(TurnFilter::unfinished().of(conversation));
        let page = self.storage.turns().list(&unfinished).await?;
        let mut asking = page.items.into_iter();
        Ok(asking.find_map(|turn| Some((turn.id, turn.interrupt?))))
    }

    /// Gives a waiting turn what it waits for, at any time and in any engine, and returns the
    /// turn as soon as the answer is stored, to go on. [`TurnError::NotAsked`] where it does not ask
    /// this, or not any more.
    pub async fn resume(
        &self,
        conversation: ConversationId,
        id: TurnId,
        interrupt: InterruptId,
        answer: impl Into<Answer>,
    ) -> Result<TurnHandle, TurnError> {
        let answer = answer.into();
        self.resume_by(conversation, id, interrupt, answer, None)
            .await
    }

    /// As [`resume`](Self::resume), and returns `None` where an earlier request with the same key has
    /// already given this answer. [`TurnError::KeyReused`] where it has given another.
    pub async fn resume_once(
        &self,
        conversation: ConversationId,
        id: TurnId,
        interrupt: InterruptId,
        answer: impl Into<Answer>,
        key: &RequestKey,
    ) -> Result<Option<TurnHandle>, TurnError> {
        let key = key.used(conversation.0, id.0);
        let resumed = self
            .resume_by(
                conversation,
                id,
                interrupt,
                answer.into(),
                Some(key.clone()),
            )
            .await;
        let refused = match resumed {
            Err(refused @ TurnError::NotAsked) => refused,
            resumed => return resumed.map(Some),
        };
        match self.storage.idempotency_keys().get(&key.id()).await? {
            Some(earlier) if earlier.fingerprint == key.fingerprint => Ok(None),
            Some(_) => Err(TurnError::KeyReused),
            None => Err(refused),
        }
    }

    async fn resume_by(
        &self,
        conversation: ConversationId,
        id: TurnId,
        interrupt: InterruptId,
        answer: Answer,
        key: Option<IdempotencyKey>,
    ) -> Result<TurnHandle, TurnError> {
        let (stored, mut goes_on) = watch::channel(None);
        let engine = self.clone();
        let mut work = Box::pin(async move {
            let work = async move |engine: Self| {
                engine
                    .take_answer((conversation, id), interrupt, (answer, key), stored)
                    .await
            };
            engine.detached(work).await
        });
        let done = tokio::select! {
            biased;
            Ok(_) = goes_on.wait_for(Option::is_some) => None,
            done = &mut work => Some(done),
        };
        let goes_on = *goes_on.borrow();
        let Some(after) = goes_on else {
            // Whoever has an outcome has stored the answer.
            let refused = done.and_then(Result::err);
            return Err(refused.unwrap_or(TurnError::Lost));
        };
        let outcome = async move {
            match done {
                Some(done) => done,
                None => work.await,
            }
        };
        let turn = (conversation, id);
        Ok(TurnHandle::new(
            self.clone(),
            turn,
            after,
            Box::pin(outcome),
        ))
    }

    /// Says to `stored` behind which of its events the turn goes on.
    async fn take_answer(
        self,
        (conversation, id): (ConversationId, TurnId),
        interrupt: InterruptId,
        (answer, key): (Answer, Option<IdempotencyKey>),
        stored: watch::Sender<Option<u64>>,
    ) -> Result<TurnOutcome, TurnError> {
        if answer.has_nul() {
            return Err(Error::invalid("answer", "must not contain a NUL character").into());
        }
        let engine = self;
        let mut epoch = 0;
        let begun = Instant::now();
        let (mut chat, turn) = loop {
            let turn = engine.turn(conversation, id).await?;
            let asked = turn.interrupt.clone().filter(|asked| asked.id == interrupt);
            let asked = asked.filter(|_| turn.status == TurnStatus::Waiting);
            let asked = asked.ok_or(TurnError::NotAsked)?;
            let claim = match engine.claim(conversation).await {
                // Those who wait for the turn look at the chat now and then.
                Err(TurnError::Busy(_)) if begun.elapsed() < engine.limits.lease => {
                    engine.until_free(conversation).await;
                    continue;
                }
                claim => claim?,
            };
            let mut chat = Chat::open(engine.clone(), claim, epoch.max(turn.epoch)).await?;
            let writes = chat.answer_writes(&asked, &answer)?;
            let turns = engine.storage.turn_store();
            let mut log = EventLog::load(engine.subscriptions.clone(), &*turns, &turn).await?;
            let asked_at = log.sequence();
            let batch = log.started(&chat.state);
            let (events, unpublished) = log.stage(batch);
            let next = chat.owned(turn.clone()).with(|turn| {
                turn.status = TurnStatus::Running;
                if let Answer::Results { client, .. } = &answer {
                    turn.input = client.stored_beside(&chat.state.own);
                }
                turn.interrupt = None;
                turn.started_at = Some(engine.clock.now());
            });
            let raise = Fence::Raise(next.epoch);
            let goes_on = TurnChange::new(turn, next)
                .with_key(key.clone())
                .with_writes(writes, raise)
                .with_events(events);
            match turns.change(goes_on).await {
                Ok(turn) => {
                    unpublished.publish();
                    stored.send_replace(Some(asked_at));
                    chat.log = Some(log);
                    break (chat, turn);
                }
                Err(Error::Fenced { epoch: met, .. }) => epoch = met,
                Err(error) => match TurnError::of_owner(error) {
                    TurnError::Lost => return Err(TurnError::NotAsked),
                    error => return Err(error),
                },
            }
        };
        let checkpointer = engine.storage.checkpointer();
        chat.read(&*checkpointer).await?;
        let ran = if chat.state.answering == Some(turn.user_message_id) {
            chat.run(turn).await
        } else {
            // Another server has taken the turn over and ended it: the state is a later one's.
            Err(TurnError::Lost)
        };
        match ran {
            Err(TurnError::Lost) => {
                drop(chat);
                engine.outcome(conversation, id).await
            }
            done => done,
        }
    }

    /// Ends a turn without an answer. One that runs, wherever it does, is taken from its owner, who
    /// stops at its next checkpoint and can't store it. [`TurnError::Ended`] where it has ended.
    pub async fn cancel(
        &self,
        conversation: ConversationId,
        id: TurnId,
    ) -> Result<Turn, TurnError> {
        loop {
            let turn = self.turn(conversation, id).await?;
            let cancelled = match turn.status {
                status if status.is_final() => return Err(TurnError::Ended),
                // What runs before it goes on.
                TurnStatus::Queued => self.cancel_queued(&turn).await,
                _ => {
                    let cancelled = self.cancel_begun(&turn).await;
                    cancelled.inspect(|_| self.claims.give_up(conversation))
                }
            };
            match cancelled {
                Ok(cancelled) => return Ok(cancelled),
                // It went on meanwhile.
                Err(Error::Fenced { .. } | Error::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn cancel_queued(&self, turn: &Turn) -> Result<Turn, Error> {
        let nothing = AgentState::default();
        let mut log = EventLog::new(self.subscriptions.clone(), turn);
        let batch = log.given_up(&nothing, &nothing, TurnEvent::Cancelled);
        let cancelled = ended(turn, TurnStatus::Cancelled, None);
        let (events, unpublished) = log.stage(batch);
        let cancel = TurnChange::new(turn.clone(), cancelled).with_events(events);
        let cancelled = self.storage.turn_store().change(cancel).await?;
        unpublished.publish();
        Ok(cancelled)
    }

    async fn cancel_begun(&self, turn: &Turn) -> Result<Turn, Error> {
        let conversation = self
            .storage
            .conversations()
            .get(&turn.conversation_id)
            .await?;
        let conversation =
            conversation.ok_or_else(|| Error::not_found("conversation", turn.conversation_id))?;
        let epoch = turn.epoch + 1;
        let unit = self.storage.begin().await?;
        let checkpointer = unit.checkpointer();
        let thread_id = conversation.thread_id();
        let has_thread = match checkpointer.raise_epoch(&thread_id, epoch).await {
            Ok(()) => true,
            Err(Error::Fenced { epoch: 0, .. }) => false,
            Err(error) => return Err(error),
        };
        let mut chat = Chat::of(self.clone(), conversation);
        let cancelled = ended(turn, TurnStatus::Cancelled, None).with(|turn| turn.epoch = epoch);
        let mut cancel = TurnChange::new(turn.clone(), cancelled);
        let mut state = AgentState::default();
        if has_thread {
            // What the owner has left.
            chat.read(&*checkpointer).await?;
            state = closed(chat.state.clone(), CANCELLED);
            let (source, message) = (CheckpointSource::Loop, turn.user_message_id);
            let id = Some(turn.id);
            let staged = chat.stage(&*checkpointer, state.clone(), source, message, epoch, id);
            let (checkpoint, _) = staged.await?;
            cancel = cancel.with_checkpoint(checkpoint, Fence::Hold(epoch));
        }
        let turns = unit.turn_store();
        let mut log = EventLog::load(self.subscriptions.clone(), &*turns, turn).await?;
        let batch = log.given_up(&chat.state, &state, TurnEvent::Cancelled);
        let (events, unpublished) = log.stage(batch);
        let cancelled = turns.change(cancel.with_events(events)).await?;
        unit.commit().await?;
        unpublished.publish();
        Ok(cancelled)
    }
}
