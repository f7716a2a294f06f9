use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use yai_agentkit_core::{
    ConflictKind, Error, EventBatch, Interrupt, Message, MessageId, Result, Storage, Turn,
    TurnEvents,
};

use super::{
    event::{Event, Outcome, Question, state_delta},
    followers::Followers,
    watch::EventPosition,
};
use crate::agent::{AgentState, ToolCall};

/// What an agent says is stored after this time,
const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// or when it is this many bytes.
const FLUSH_AT: usize = 4096;

/// The names of the steps.
const AGENT: &str = "agent";
const TOOLS: &str = "tools";

/// How many batches are read at once.
const PAGE: u64 = 100;

/// Writes down what happens in one turn, for those who watch it.
///
/// A batch has its sequence as its key: of two engines that believe to own a turn, the one whose
/// next sequence is taken has lost it. Who takes a turn over stores a batch first, so that from
/// then on the other one is refused.
pub(super) struct EventLog {
    followers: Followers,
    turn: Turn,
    sequence: u64,
    /// The step under way.
    step: Option<&'static str>,
    /// What the agent says in the step under way.
    text: Option<Text>,
}

struct Text {
    message_id: String,
    said: String,
    /// How much of it is stored; `None` before the message began.
    stored: Option<usize>,
}

impl EventLog {
    /// Of a turn that begins.
    pub(super) fn new(followers: Followers, turn: &Turn) -> Self {
        Self {
            followers,
            turn: turn.clone(),
            sequence: 0,
            step: None,
            text: None,
        }
    }

    /// Of a turn that was cut short and taken over: stores that it goes on, so that whoever had it
    /// is refused. Who has lost it since then stores nothing: [`Error::Conflict`] of the turn.
    pub(super) async fn resume(
        followers: Followers,
        storage: &dyn Storage,
        turn: &Turn,
    ) -> Result<Self> {
        loop {
            let mut log = Self::load(followers.clone(), &*storage.turn_events(), turn).await?;
            let mut batch = Vec::new();
            if log.sequence == 0 {
                batch.push(log.run_started());
            }
            if let Some(text) = log.text.take() {
                batch.extend(discarded(text.message_id));
            }
            batch.push(Event::Custom {
                name: "agentkit.resumed",
                value: json!({ "attempt": turn.attempt }),
            });
            let unit = storage.begin().await?;
            unit.leases().replace(turn, turn.clone()).await?;
            match log.append(&*unit.turn_events(), batch).await {
                // Something of before came last.
                Err(Error::Conflict(ConflictKind::EventBatch { .. })) => {}
                appended => {
                    appended?;
                    unit.commit().await?;
                    log.told();
                    return Ok(log);
                }
            }
        }
    }

    /// Of a turn that has begun, as it is.
    pub(super) async fn load(
        followers: Followers,
        events: &dyn TurnEvents,
        turn: &Turn,
    ) -> Result<Self> {
        let mut log = Self::new(followers, turn);
        loop {
            let page = events.read(turn.conversation_id, turn.id, log.sequence, PAGE);
            let page = page.await?;
            for batch in &page {
                log.sequence = batch.sequence;
                batch.events.iter().for_each(|event| log.recall(event));
            }
            if (page.len() as u64) < PAGE {
                return Ok(log);
            }
        }
    }

    fn recall(&mut self, event: &Json) {
        match event["type"].as_str() {
            Some("STEP_STARTED") => {
                let steps = [AGENT, TOOLS].into_iter();
                self.step = steps.into_iter().find(|step| event["stepName"] == *step);
            }
            Some("STEP_FINISHED") => self.step = None,
            Some("TEXT_MESSAGE_START") => {
                self.text = event["messageId"].as_str().map(|message_id| Text {
                    message_id: message_id.to_owned(),
                    said: String::new(),
                    stored: Some(0),
                });
            }
            Some("TEXT_MESSAGE_END") => self.text = None,
            _ => {}
        }
    }

    /// Stores the next batch; becomes known by [`told`](Self::told).
    pub(super) async fn append(
        &mut self,
        events: &dyn TurnEvents,
        batch: Vec<Event>,
    ) -> Result<()> {
        events.append(self.next(batch)).await?;
        self.stored();
        Ok(())
    }

    /// The next batch, for who stores it with something else.
    pub(super) fn next(&self, batch: Vec<Event>) -> EventBatch {
        let to_json = |event: Event| serde_json::to_value(event).unwrap_or_default();
        EventBatch {
            conversation_id: self.turn.conversation_id,
            turn_id: self.turn.id,
            sequence: self.sequence + 1,
            events: batch.into_iter().map(to_json).collect(),
        }
    }

    /// The [`next`](Self::next) batch is stored.
    pub(super) fn stored(&mut self) {
        self.sequence += 1;
    }

    /// What was appended is committed: those who watch may read it.
    pub(super) fn told(&self) {
        self.followers.told(self.turn.id, self.sequence);
    }

    /// Behind all that was appended.
    pub(super) fn end(&self) -> EventPosition {
        EventPosition::behind(self.sequence)
    }

    /// Waits for the `step` of an agent, and stores meanwhile what it says. What it says last is
    /// stored with its outcome.
    pub(super) async fn listen<T>(
        &mut self,
        events: &dyn TurnEvents,
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
                    self.hear(&delta);
                    if self.unsaid() < FLUSH_AT {
                        continue;
                    }
                }
                () = sleep_until(flush_at.unwrap_or_else(Instant::now)), if flush_at.is_some() => {}
            }
            flush_at = None;
            self.flush(events).await?;
        };
        while let Ok(delta) = deltas.try_recv() {
            self.hear(&delta);
        }
        Ok(outcome)
    }

    fn hear(&mut self, delta: &str) {
        let text = self.text.get_or_insert_with(|| Text {
            message_id: MessageId::new().to_string(),
            said: String::new(),
            stored: None,
        });
        text.said.push_str(delta);
    }

    /// How many bytes of what was said are not stored.
    fn unsaid(&self) -> usize {
        let unsaid = |text: &Text| text.said.len() - text.stored.unwrap_or_default();
        self.text.as_ref().map_or(0, unsaid)
    }

    async fn flush(&mut self, events: &dyn TurnEvents) -> Result<()> {
        let Some(text) = &mut self.text else {
            return Ok(());
        };
        let mut batch = Vec::new();
        text.say(&text.said.clone(), &mut batch);
        if !batch.is_empty() {
            self.append(events, batch).await?;
            self.told();
        }
        Ok(())
    }

    /// The turn begins with `state`, or goes on after a person's answer.
    pub(super) fn started(&mut self, before: &AgentState, state: &AgentState) -> Vec<Event> {
        let mut batch = vec![self.run_started()];
        batch.extend(delta(before, state));
        batch.push(self.begin_step(state));
        batch
    }

    /// A step has led from `before` to `state`, and the next begins.
    pub(super) fn stepped(&mut self, before: &AgentState, state: &AgentState) -> Vec<Event> {
        let mut batch = self.step_outcome(before, state);
        batch.push(self.begin_step(state));
        batch
    }

    /// The turn is completed with `answer`.
    pub(super) fn completed(
        &mut self,
        before: &AgentState,
        state: &AgentState,
        answer: &Message,
    ) -> Vec<Event> {
        let mut batch = self.step_outcome(before, state);
        batch.push(self.run_finished(Some(json!(answer)), Outcome::Success));
        batch
    }

    /// The turn waits for a person's answer, and the state stays.
    pub(super) fn asks(&mut self, state: &AgentState, interrupt: Option<&Interrupt>) -> Vec<Event> {
        let mut batch = self.step_outcome(state, state);
        let questions = interrupt.into_iter().map(|interrupt| Question {
            id: interrupt.id.to_string(),
            reason: "input_required",
            message: interrupt.question.clone(),
            tool_call_id: interrupt.tool_call_id.clone(),
        });
        let interrupts = questions.collect();
        batch.push(self.run_finished(None, Outcome::Interrupt { interrupts }));
        batch
    }

    /// The turn has ended without an answer.
    pub(super) fn ended(
        &mut self,
        before: &AgentState,
        state: &AgentState,
        message: String,
        code: &'static str,
    ) -> Vec<Event> {
        let mut batch = Vec::new();
        if let Some(text) = self.text.take()
            && text.stored.is_some()
        {
            let message_id = text.message_id;
            batch.push(Event::TextMessageEnd { message_id });
        }
        batch.extend(delta(before, state));
        batch.push(Event::RunError { message, code });
        batch
    }

    fn run_started(&self) -> Event {
        Event::RunStarted {
            thread_id: self.turn.conversation_id.to_string(),
            run_id: self.turn.id.to_string(),
        }
    }

    fn run_finished(&self, result: Option<Json>, outcome: Outcome) -> Event {
        Event::RunFinished {
            thread_id: self.turn.conversation_id.to_string(),
            run_id: self.turn.id.to_string(),
            result,
            outcome,
        }
    }

    /// The step that follows from `state`.
    fn begin_step(&mut self, state: &AgentState) -> Event {
        let step_name = if state.open_tool_calls().is_empty() {
            AGENT
        } else {
            TOOLS
        };
        self.step = Some(step_name);
        Event::StepStarted { step_name }
    }

    /// What the step has said, decided and changed.
    fn step_outcome(&mut self, before: &AgentState, state: &AgentState) -> Vec<Event> {
        let mut batch = Vec::new();
        let added = state.messages.get(before.messages.len()..);
        for message in added.unwrap_or_default() {
            match &message.tool_call_id {
                None => {
                    let parent = self.say_all(&message.content, &mut batch);
                    for call in &message.tool_calls {
                        batch.extend(tool_call(call, parent.clone()));
                    }
                }
                Some(id) => batch.push(Event::ToolCallResult {
                    message_id: format!("{id}_result"),
                    tool_call_id: id.clone(),
                    content: message.content.clone(),
                    role: "tool",
                }),
            }
        }
        batch.extend(delta(before, state));
        if let Some(step_name) = self.step.take() {
            batch.push(Event::StepFinished { step_name });
        }
        batch
    }

    /// What is left to tell of a message that says `content`, and its id.
    fn say_all(&mut self, content: &str, batch: &mut Vec<Event>) -> Option<String> {
        let mut text = self.text.take();
        // What an agent has said while it worked is not always what it says in the end.
        if let Some(void) = text.take_if(|text| !content.starts_with(&text.said))
            && void.stored.is_some()
        {
            batch.extend(discarded(void.message_id));
        }
        if content.is_empty() {
            return None;
        }
        let mut text = text.unwrap_or_else(|| Text {
            message_id: MessageId::new().to_string(),
            said: String::new(),
            stored: None,
        });
        text.say(content, batch);
        let message_id = text.message_id;
        batch.push(Event::TextMessageEnd {
            message_id: message_id.clone(),
        });
        Some(message_id)
    }
}

impl Text {
    /// What is not stored yet of `whole`.
    fn say(&mut self, whole: &str, batch: &mut Vec<Event>) {
        let message_id = || self.message_id.clone();
        if self.stored.is_none() && !whole.is_empty() {
            batch.push(Event::TextMessageStart {
                message_id: message_id(),
                role: "assistant",
            });
        }
        let delta = &whole[self.stored.unwrap_or_default()..];
        if !delta.is_empty() {
            batch.push(Event::TextMessageContent {
                message_id: message_id(),
                delta: delta.to_owned(),
            });
            self.stored = Some(whole.len());
        }
    }
}

/// The end of a text message that is void.
fn discarded(message_id: String) -> [Event; 2] {
    let value = json!({ "messageId": message_id });
    let name = "agentkit.discarded";
    [
        Event::TextMessageEnd { message_id },
        Event::Custom { name, value },
    ]
}

fn delta(before: &AgentState, state: &AgentState) -> Option<Event> {
    let delta = state_delta(before, state);
    (!delta.is_empty()).then_some(Event::StateDelta { delta })
}

fn tool_call(call: &ToolCall, parent_message_id: Option<String>) -> [Event; 3] {
    let tool_call_id = || call.id.clone();
    [
        Event::ToolCallStart {
            tool_call_id: tool_call_id(),
            tool_call_name: call.name.clone(),
            parent_message_id,
        },
        Event::ToolCallArgs {
            tool_call_id: tool_call_id(),
            delta: call.arguments.to_string(),
        },
        Event::ToolCallEnd {
            tool_call_id: tool_call_id(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use yai_agentkit_core::{Conversation, OwnerId, TurnStatus, memory::MemoryStorage};

    use super::*;

    #[tokio::test]
    async fn who_takes_a_turn_over_and_loses_it_before_it_says_so_tells_nothing() {
        let storage = MemoryStorage::default();
        let conversation = Conversation::titled("test");
        let conversation = storage.conversations().add(conversation).await.unwrap();
        let turn = Turn {
            status: TurnStatus::Running,
            ..Turn::new(conversation.id, MessageId::new())
        };
        let turn = storage.turns().add(turn).await.unwrap();
        let take = async |turn: &Turn| {
            let leases = storage.leases();
            let taken = leases.take(turn, OwnerId::new(), Duration::ZERO).await;
            taken.unwrap().expect("its lease has ended")
        };
        let slow = take(&turn).await;
        let fast = take(&slow).await;

        let resume = async |turn| EventLog::resume(Followers::default(), &storage, turn).await;
        resume(&fast).await.unwrap();
        let refused = resume(&slow).await.err();
        assert!(
            matches!(&refused, Some(Error::Conflict(ConflictKind::Turn(_)))),
            "{refused:?}"
        );
        let events = storage.turn_events();
        let told = events.read(conversation.id, turn.id, 0, PAGE).await;
        assert_eq!(told.unwrap().len(), 1);
    }
}
