use std::time::Duration;

use serde_json::Value as Json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use yai_agentkit_core::{
    ConflictKind, ConversationId, Error, MessageId, Result, ThreadState, Turn, TurnId, TurnStore,
    turn::{EventBatch, Interrupt, TurnChange},
};

use super::{
    event::{StepKind, TurnEvent, changes, stored},
    subscriptions::Subscriptions,
    told,
};
use crate::agent::AgentState;

/// What an agent says is stored after this time,
const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// or when it is this many bytes.
const FLUSH_AT: usize = 4096;

/// How many of the last batches tell where a turn stands. But for those of who took it over and was
/// cut short again, one is enough.
const TAIL: u64 = 16;

/// Writes down what happens in one turn, for those who watch it.
///
/// A batch has its sequence as its key: of two engines that believe to own a turn, the one whose
/// next sequence is taken has lost it. Who takes a turn over stores a batch first, so that from
/// then on the other one is refused. Of no use any more once a batch could not be stored.
pub(super) struct EventLog {
    subscriptions: Subscriptions,
    turn: Turn,
    sequence: u64,
    /// Whether it goes on, as far as was said.
    is_started: bool,
    /// The step under way.
    step: Option<StepKind>,
    /// What the agent says in the step under way.
    text: Option<Text>,
}

/// A batch that nobody has been notified of.
#[must_use = "those who watch wait for what is not published"]
pub(super) struct Unpublished {
    subscriptions: Subscriptions,
    conversation_id: ConversationId,
    turn_id: TurnId,
    sequence: u64,
}

impl Unpublished {
    /// The batch is durable: those who watch may read it.
    pub(super) fn publish(self) {
        let subscriptions = self.subscriptions;
        subscriptions.notify(self.conversation_id, self.turn_id, self.sequence);
    }
}

struct Text {
    message_id: MessageId,
    said: String,
    /// How much of it is stored; `None` before the message began.
    stored: Option<usize>,
}

impl EventLog {
    /// Of a turn that begins.
    pub(super) fn new(subscriptions: Subscriptions, turn: &Turn) -> Self {
        Self {
            subscriptions,
            turn: turn.clone(),
            sequence: 0,
            is_started: false,
            step: None,
            text: None,
        }
    }

    /// Of a turn that was cut short and taken over: stores that it goes on, so that whoever had it
    /// is refused. Who has lost it since then stores nothing: [`Error::Conflict`] of the turn.
    pub(super) async fn resume(
        subscriptions: Subscriptions,
        turns: &dyn TurnStore,
        turn: &Turn,
        state: &AgentState,
    ) -> Result<Self> {
        loop {
            let mut log = Self::load(subscriptions.clone(), turns, turn).await?;
            let mut batch = Vec::new();
            if !log.is_started {
                batch.push(log.start(Some(state)));
            }
            batch.extend(log.text.take().and_then(Text::discarded));
            batch.push(TurnEvent::Resumed {
                attempt: turn.attempt,
            });
            let resumed = TurnChange::new(turn.clone(), turn.clone());
            let (events, unpublished) = log.stage(batch);
            match turns.change(resumed.with_events(events)).await {
                // Something of before came last.
                Err(Error::Conflict(ConflictKind::EventBatch { .. })) => {}
                resumed => {
                    resumed?;
                    unpublished.publish();
                    return Ok(log);
                }
            }
        }
    }

    /// Of a turn that has begun, as it is. What it costs does not depend on how much was told.
    pub(super) async fn load(
        subscriptions: Subscriptions,
        turns: &dyn TurnStore,
        turn: &Turn,
    ) -> Result<Self> {
        let mut log = Self::new(subscriptions, turn);
        let place = (turn.conversation_id, turn.id);
        let latest = turns.latest_events(&[place]).await?;
        let before = latest
            .get(&turn.id)
            .map_or(0, |latest| latest.saturating_sub(TAIL));
        if before > 0 {
            // A step whose beginning is not read is one that says much.
            log.step = Some(StepKind::Agent);
        }
        for batch in turns.events(place.0, place.1, before, TAIL).await? {
            log.sequence = batch.sequence;
            // What the answer says is of no use here.
            for event in TurnEvent::read(batch.events, None) {
                log.recall(&event);
            }
        }
        Ok(log)
    }

    fn recall(&mut self, event: &TurnEvent) {
        self.is_started = !event.ends_run();
        match event {
            TurnEvent::Started { .. } => self.step = None,
            TurnEvent::StepStarted { step } => self.step = Some(*step),
            TurnEvent::StepFinished { .. } => self.step = None,
            TurnEvent::TextStarted { message_id } | TurnEvent::TextSaid { message_id, .. } => {
                self.text = Some(Text {
                    message_id: *message_id,
                    said: String::new(),
                    stored: Some(0),
                });
            }
            TurnEvent::TextEnded { .. } => self.text = None,
            _ => {}
        }
    }

    /// The next batch, for who stores it with something else and publishes it then.
    pub(super) fn stage(&mut self, events: Vec<TurnEvent>) -> (EventBatch, Unpublished) {
        self.stage_stored(stored::write(&events, stored::json))
    }

    /// The next batch, for who stores it with the state of this thread.
    pub(super) fn stage_with(
        &mut self,
        events: &[TurnEvent],
        thread: &ThreadState,
    ) -> (EventBatch, Unpublished) {
        let other = |event: &TurnEvent| told::stored(event, thread);
        self.stage_stored(stored::write(events, other))
    }

    fn stage_stored(&mut self, events: Vec<Json>) -> (EventBatch, Unpublished) {
        self.sequence += 1;
        let batch = EventBatch::new(
            self.turn.conversation_id,
            self.turn.id,
            self.sequence,
            events,
        );
        let unpublished = Unpublished {
            subscriptions: self.subscriptions.clone(),
            conversation_id: self.turn.conversation_id,
            turn_id: self.turn.id,
            sequence: self.sequence,
        };
        (batch, unpublished)
    }

    /// The last batch.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Waits for the `step` of an agent, and publishes meanwhile what it says. What it says last is
    /// stored with its outcome.
    pub(super) async fn publish_during<T>(
        &mut self,
        turns: &dyn TurnStore,
        mut deltas: mpsc::Receiver<String>,
        step: impl Future<Output = T>,
    ) -> Result<T> {
        let mut step = std::pin::pin!(step);
        let mut flush_at = None;
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut step => break outcome,
                Some(delta) = deltas.recv() => {
                    flush_at.get_or_insert_with(|| Instant::now() + FLUSH_AFTER);
                    self.collect(&delta);
                    if self.unsaid() < FLUSH_AT {
                        continue;
                    }
                }
                () = sleep_until(flush_at.unwrap_or_else(Instant::now)), if flush_at.is_some() => {}
            }
            flush_at = None;
            self.flush(turns).await?;
        };
        while let Ok(delta) = deltas.try_recv() {
            self.collect(&delta);
        }
        Ok(outcome)
    }

    fn collect(&mut self, delta: &str) {
        let text = self.text.get_or_insert_with(Text::new);
        text.said.push_str(delta);
    }

    /// How many bytes of what was said are not stored.
    fn unsaid(&self) -> usize {
        let unsaid = |text: &Text| text.said.len() - text.stored.unwrap_or_default();
        self.text.as_ref().map_or(0, unsaid)
    }

    async fn flush(&mut self, turns: &dyn TurnStore) -> Result<()> {
        let Some(text) = &mut self.text else {
            return Ok(());
        };
        let mut batch = Vec::new();
        text.say(&text.said.clone(), &mut batch);
        if !batch.is_empty() {
            let (events, unpublished) = self.stage(batch);
            turns.append(events).await?;
            unpublished.publish();
        }
        Ok(())
    }

    /// The turn begins with `state`, or goes on after a person's answer.
    pub(super) fn started(&mut self, state: &AgentState) -> Vec<TurnEvent> {
        vec![self.start(Some(state)), self.begin_step(state)]
    }

    /// A step has led from `before` to `state`, and the next begins.
    pub(super) fn stepped(&mut self, before: &AgentState, state: &AgentState) -> Vec<TurnEvent> {
        let mut batch = self.step_outcome(before, state);
        batch.push(self.begin_step(state));
        batch
    }

    /// The last step has led to `state`; what is missing is the answer as it is stored with that.
    pub(super) fn completed(&mut self, before: &AgentState, state: &AgentState) -> Vec<TurnEvent> {
        self.is_started = false;
        self.step_outcome(before, state)
    }

    /// The turn waits for a person's answer, and the state stays.
    pub(super) fn waiting(&mut self, state: &AgentState, interrupt: Interrupt) -> Vec<TurnEvent> {
        let batch = self.step_outcome(state, state);
        self.ended(batch, TurnEvent::Waiting { interrupt })
    }

    /// The turn has failed or was cancelled: `end` says so.
    pub(super) fn given_up(
        &mut self,
        before: &AgentState,
        state: &AgentState,
        end: TurnEvent,
    ) -> Vec<TurnEvent> {
        let mut batch = Vec::new();
        if !self.is_started {
            // Nobody works on it: it waits for the turns before it, or for a person.
            batch.push(self.start(None));
        }
        batch.extend(self.text.take().and_then(Text::discarded));
        batch.extend(self.step_outcome(before, state));
        self.ended(batch, end)
    }

    fn ended(&mut self, mut batch: Vec<TurnEvent>, end: TurnEvent) -> Vec<TurnEvent> {
        self.is_started = false;
        batch.push(end);
        batch
    }

    fn start(&mut self, state: Option<&AgentState>) -> TurnEvent {
        self.is_started = true;
        TurnEvent::Started {
            state: state.map(|state| state.own.clone()),
        }
    }

    /// The step that follows from `state`.
    fn begin_step(&mut self, state: &AgentState) -> TurnEvent {
        let step = if state.open_tool_calls().is_empty() {
            StepKind::Agent
        } else {
            StepKind::Tools
        };
        self.step = Some(step);
        TurnEvent::StepStarted { step }
    }

    /// What the step has said, decided and changed.
    fn step_outcome(&mut self, before: &AgentState, state: &AgentState) -> Vec<TurnEvent> {
        let mut batch = Vec::new();
        let added = state.messages.get(before.messages.len()..);
        for message in added.unwrap_or_default() {
            match &message.tool_call_id {
                None => {
                    let message_id = self.say_all(&message.content, &mut batch);
                    batch.extend(message.tool_calls.iter().map(|call| TurnEvent::ToolCalled {
                        call: call.clone(),
                        message_id,
                    }));
                }
                Some(call_id) => batch.push(TurnEvent::ToolReturned {
                    call_id: call_id.clone(),
                    result: message.content.clone(),
                }),
            }
        }
        let patch = changes(&before.own, &state.own);
        if !patch.0.is_empty() {
            batch.push(TurnEvent::StateChanged { patch });
        }
        let step = self.step.take();
        batch.extend(step.map(|step| TurnEvent::StepFinished { step }));
        batch
    }

    /// What is left to publish of a message that says `content`, and its id.
    fn say_all(&mut self, content: &str, batch: &mut Vec<TurnEvent>) -> Option<MessageId> {
        let mut text = self.text.take();
        // What an agent has said while it worked is not always what it says in the end.
        if let Some(void) = text.take_if(|text| !content.starts_with(&text.said)) {
            batch.extend(void.discarded());
        }
        if content.is_empty() {
            return None;
        }
        let mut text = text.unwrap_or_else(Text::new);
        text.say(content, batch);
        let message_id = text.message_id;
        batch.push(TurnEvent::TextEnded {
            message_id,
            is_void: false,
        });
        Some(message_id)
    }
}

impl Text {
    fn new() -> Self {
        Self {
            message_id: MessageId::new(),
            said: String::new(),
            stored: None,
        }
    }

    /// What is not stored yet of `whole`.
    fn say(&mut self, whole: &str, batch: &mut Vec<TurnEvent>) {
        let message_id = self.message_id;
        if self.stored.is_none() && !whole.is_empty() {
            batch.push(TurnEvent::TextStarted { message_id });
        }
        let delta = whole[self.stored.unwrap_or_default()..].to_owned();
        if !delta.is_empty() {
            batch.push(TurnEvent::TextSaid { message_id, delta });
            self.stored = Some(whole.len());
        }
    }

    /// The end of a text that is void, if it was begun.
    fn discarded(self) -> Option<TurnEvent> {
        let message_id = self.message_id;
        self.stored.map(|_| TurnEvent::TextEnded {
            message_id,
            is_void: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use yai_agentkit_core::{Conversation, Stores, memory::MemoryStorage, turn::OwnerId};

    use super::*;

    #[tokio::test]
    async fn who_takes_a_turn_over_and_loses_it_before_it_says_so_publishes_nothing() {
        let storage = MemoryStorage::default();
        let conversation = Conversation::titled("test");
        let conversation = storage.conversations().add(conversation).await.unwrap();
        let turn = Turn::new(conversation.id, MessageId::new());
        let turn = storage.turns().add(turn).await.unwrap();
        let turns = storage.turn_store();
        let take = async |turn: &Turn| {
            let taken = turns.take(turn, OwnerId::new(), Duration::ZERO).await;
            taken.unwrap().expect("its lease has ended")
        };
        let slow = take(&turn).await;
        let fast = take(&slow).await;

        let resume = async |turn| {
            let state = AgentState::default();
            EventLog::resume(Subscriptions::default(), &*turns, turn, &state).await
        };
        resume(&fast).await.unwrap();
        let refused = resume(&slow).await.err();
        assert!(
            matches!(&refused, Some(Error::Conflict(ConflictKind::Turn(_)))),
            "{refused:?}"
        );
        let published = turns.events(conversation.id, turn.id, 0, 10).await;
        assert_eq!(published.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn where_a_turn_stands_is_read_from_its_last_batches() {
        let storage = MemoryStorage::default();
        let conversation = Conversation::titled("test");
        let conversation = storage.conversations().add(conversation).await.unwrap();
        let turn = Turn::new(conversation.id, MessageId::new());
        let turn = storage.turns().add(turn).await.unwrap();
        let turns = storage.turn_store();
        let state = AgentState::default();
        let mut log = EventLog::new(Subscriptions::default(), &turn);
        let store = async |log: &mut EventLog, events| {
            let (events, _) = log.stage(events);
            turns.append(events).await.unwrap();
        };
        let is_known = async |log: &EventLog| {
            let read = EventLog::load(Subscriptions::default(), &*turns, &turn).await;
            let read = read.unwrap();
            let id = |log: &EventLog| log.text.as_ref().map(|text| text.message_id);
            let known = |log: &EventLog| (log.sequence, log.is_started, log.step, id(log));
            assert_eq!(known(&read), known(log));
        };
        is_known(&log).await;
        let begun = log.started(&state);
        store(&mut log, begun).await;
        for _ in 0..200 {
            log.collect("word");
            log.flush(&*turns).await.unwrap();
            is_known(&log).await;
        }
        log = EventLog::resume(Subscriptions::default(), &*turns, &turn, &state)
            .await
            .unwrap();
        is_known(&log).await;
        let stepped = log.stepped(&state, &state);
        store(&mut log, stepped).await;
        is_known(&log).await;
        let cancelled = log.given_up(&state, &state, TurnEvent::Cancelled);
        store(&mut log, cancelled).await;
        is_known(&log).await;
    }
}
