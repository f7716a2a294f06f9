use axum::response::{Response, sse::Event as ServerSentEvent};
use futures::{Stream, StreamExt, stream};
use serde_json::Value;
use yai_agentkit_core::{Result, Turn};
use yai_agentkit_engine::{Published, TurnEngine, TurnEvent, error_chain};

use super::{
    event::{Event, Outcome},
    transcript::Transcript,
};
use crate::http::event::respond;

/// A run as the client names it.
pub(super) struct Run {
    pub(super) thread_id: String,
    pub(super) run_id: String,
    /// The messages before it.
    pub(super) messages: Vec<Value>,
}

impl Run {
    /// The answer that streams `batches` of `turn` to the client.
    pub(super) fn follow(
        self,
        turn: Turn,
        batches: impl Stream<Item = Result<Published>> + Send + 'static,
    ) -> Response {
        let mut streamed = Streamed {
            transcript: Transcript::new(self.messages),
            thread_id: self.thread_id,
            run_id: self.run_id,
            has_sent_messages: false,
        };
        let mut is_over = false;
        let batches = batches.map(Some).chain(stream::iter([None]));
        let events = batches.flat_map(move |batch| {
            let events = match batch {
                Some(Ok(batch)) => {
                    is_over = batch.events.last().is_some_and(TurnEvent::ends_run);
                    let events = batch.events.into_iter();
                    events.flat_map(|event| streamed.add(&turn, event)).collect()
                }
                Some(Err(error)) => {
                    tracing::error!(turn = %turn.id, error = error_chain(&error), "events not read");
                    is_over = true;
                    vec![Event::broken("the events could not be read: connect again")]
                }
                None if is_over => Vec::new(),
                None => vec![Event::broken("the turn goes on elsewhere: connect again")],
            };
            stream::iter(events)
        });
        answer(events)
    }

    /// The answer where nothing goes on: how it has ended, or why it has failed.
    pub(super) fn settled(self, state: Value, end: Result<Outcome, String>) -> Response {
        let last = match end {
            Ok(outcome) => Event::RunFinished {
                thread_id: self.thread_id.clone(),
                run_id: self.run_id.clone(),
                result: None,
                outcome,
            },
            Err(message) => Event::RunError {
                message,
                code: "agent-failed",
            },
        };
        let events = [
            Event::RunStarted {
                thread_id: self.thread_id,
                run_id: self.run_id,
            },
            Event::StateSnapshot { snapshot: state },
            Event::MessagesSnapshot {
                messages: self.messages,
            },
            last,
        ];
        answer(stream::iter(events))
    }
}

/// A run as far as it was sent.
struct Streamed {
    thread_id: String,
    run_id: String,
    transcript: Transcript,
    has_sent_messages: bool,
}

impl Streamed {
    /// The events of AG-UI for one of `turn`.
    fn add(&mut self, turn: &Turn, event: TurnEvent) -> Vec<Event> {
        // A client that knows no `agentkit.discarded` has to lose what was said in vain.
        let void = match &event {
            TurnEvent::TextEnded {
                message_id,
                is_void: true,
            } => Some(message_id.to_string()),
            _ => None,
        };
        let is_start = matches!(event, TurnEvent::Started { .. });
        // Of its own tools the client knows the results, by ids of its own.
        if let TurnEvent::ToolReturned { call_id, .. } = &event
            && self.transcript.has_result(call_id)
        {
            return Vec::new();
        }
        let mut events = Event::of(turn, event);
        for event in &mut events {
            event.rename(&self.thread_id, &self.run_id);
            self.transcript.add(event);
        }
        if let Some(void) = &void {
            self.transcript.remove(void);
        }
        if void.is_some() || (is_start && !self.has_sent_messages) {
            self.has_sent_messages = true;
            let messages = self.transcript.messages();
            events.push(Event::MessagesSnapshot { messages });
        }
        events
    }
}

/// What was published of `turn` behind `after`, and will be; `None` where that is not kept any more.
pub(super) async fn published(
    turns: &TurnEngine,
    turn: &Turn,
    after: u64,
) -> Result<Option<impl Stream<Item = Result<Published>> + Send + use<>>> {
    let mut batches = turns.watch(turn.conversation_id, turn.id, after).boxed();
    let first = match turn.status.is_final() {
        true => match batches.next().await {
            Some(first) => Some(first?),
            None => return Ok(None),
        },
        false => None,
    };
    Ok(Some(stream::iter(first.map(Ok)).chain(batches)))
}

fn answer(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    respond(events.map(|event| ServerSentEvent::default().json_data(event)))
}
