use std::{cmp::Ordering, collections::HashSet, future, iter};

use axum::{
    body::Bytes,
    http::header,
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json, value::RawValue};
use yai_agentkit_core::{ConversationId, MessageId, Result, Turn};
use yai_agentkit_engine::{Published, TurnEngine, TurnEvent, read_events};

use super::{
    event::{Event, Outcome},
    history::Snapshot,
    input::Input,
    transcript::Transcript,
};
use crate::http::{
    App,
    event::{EVENT_STREAM, respond, write},
    large::{LARGE, Room},
    problem::Problem,
};

/// How many batches of events are read at once.
const BATCHES: u64 = 32;

/// A run as the client names it.
pub(super) struct Run {
    pub(super) thread_id: String,
    pub(super) run_id: String,
    /// Whether the client names no version of the protocol, as those before 1.0 do.
    pub(super) is_before_1_0: bool,
}

impl From<Input> for Run {
    fn from(input: Input) -> Self {
        Self {
            thread_id: input.thread_id,
            run_id: input.run_id,
            is_before_1_0: input.protocol_version.is_none(),
        }
    }
}

impl Run {
    /// The answer that streams `batches` of `turn`, those behind `after`, to the client, and the
    /// messages before them.
    pub(super) fn follow(
        self,
        app: App,
        room: &Room,
        (turn, after): (Turn, u64),
        before: Snapshot,
        batches: impl Stream<Item = Result<Published>> + Send + 'static,
    ) -> Result<Response, Problem> {
        let mut messages = Bytes::from(before.messages);
        if messages.len() >= LARGE {
            messages = room.take(messages).ok_or_else(Problem::no_room)?;
        }
        let streamed = Streamed {
            run: self,
            app,
            turn,
            after,
            results: before.results,
            before: Some((messages, before.older)),
            has_sent_messages: false,
            is_over: false,
        };
        let parts = stream::unfold(Some((streamed, batches.boxed())), |state| async {
            let (mut streamed, mut batches) = state?;
            let part = match batches.next().await {
                Some(Ok(batch)) => streamed.part(batch).await,
                Some(Err(error)) => Err(error.into()),
                None => return Some((streamed.last(), None)),
            };
            Some(match part {
                Ok(part) => (part, Some((streamed, batches))),
                Err(error) => (streamed.broken(&error), None),
            })
        });
        let parts = parts.filter(|part| future::ready(!part.is_empty()));
        Ok(respond(parts.map(Result::<_>::Ok)))
    }

    /// The answer where nothing goes on: how it has ended, or why it has failed.
    pub(super) fn settled(
        self,
        conversation: ConversationId,
        state: Value,
        before: &Snapshot,
        end: Result<Outcome, String>,
    ) -> Response {
        let name = || (self.thread_id.clone(), self.run_id.clone());
        let (thread_id, run_id) = name();
        let mut last = match end {
            Ok(outcome) => Event::RunFinished {
                thread_id,
                run_id,
                result: None,
                outcome: Some(outcome),
            },
            Err(message) => Event::RunError {
                message,
                code: "agent-failed",
            },
        };
        last.tell(&self);
        let (thread_id, run_id) = name();
        let first = [
            Event::RunStarted { thread_id, run_id },
            Event::StateSnapshot { snapshot: state },
        ];
        let messages = snapshot(before.messages.as_bytes(), &[], conversation, before.older);
        let mut text = Vec::new();
        for event in first.into_iter().chain(messages).chain([last]) {
            write(&mut text, &event);
        }
        ([(header::CONTENT_TYPE, EVENT_STREAM)], text).into_response()
    }
}

/// A run as far as it was sent.
struct Streamed {
    run: Run,
    app: App,
    turn: Turn,
    after: u64,
    /// The calls whose results the client has told: it knows them, by ids of its own.
    results: HashSet<String>,
    /// The messages before it, and where older ones were left out. Many are kept until they are sent.
    before: Option<(Bytes, Option<MessageId>)>,
    has_sent_messages: bool,
    is_over: bool,
}

impl Streamed {
    /// What the client is sent of a batch.
    async fn part(&mut self, batch: Published) -> Result<Vec<u8>, Problem> {
        self.is_over = batch.events.last().is_some_and(TurnEvent::ends_run);
        let mut part = Vec::new();
        for (place, event) in batch.events.into_iter().enumerate() {
            if self.is_known(&event) {
                continue;
            }
            let is_first = matches!(event, TurnEvent::Started { .. }) && !self.has_sent_messages;
            let is_void = matches!(event, TurnEvent::TextEnded { is_void: true, .. });
            for mut event in Event::of(&self.turn, event) {
                event.tell(&self.run);
                write(&mut part, &event);
            }
            if is_first || is_void {
                // A client that knows no `agentkit.discarded` has to lose what was said in vain.
                let told = match is_void {
                    true => self.transcript(batch.sequence, place).await?,
                    false => Transcript::default(),
                };
                for event in self.messages(&told).await? {
                    write(&mut part, &event);
                }
            }
        }
        Ok(part)
    }

    /// The messages before the run and those of `told`.
    async fn messages(
        &mut self,
        told: &Transcript,
    ) -> Result<impl Iterator<Item = Event> + use<>, Problem> {
        self.has_sent_messages = true;
        let conversation = self.turn.conversation_id;
        let (before, older) = match self.before.take() {
            Some(before) => before,
            None => {
                let newest = self.app.newest(conversation, Vec::new()).await?;
                let before = newest.snapshot(Some(self.turn.user_message_id));
                (before.messages.into(), before.older)
            }
        };
        let events = snapshot(&before, told.messages(), conversation, older);
        self.before = Some((before, older)).filter(|(before, _)| before.len() < LARGE);
        Ok(events)
    }

    /// What a client was told that has followed the run up to the event in this place of a batch.
    async fn transcript(&self, sequence: u64, place: usize) -> Result<Transcript> {
        let mut transcript = Transcript::default();
        let mut read = self.after;
        while read < sequence {
            let turns = self.app.storage.turn_store();
            let (conversation, turn) = (self.turn.conversation_id, self.turn.id);
            let batches = turns.events(conversation, turn, read, BATCHES).await?;
            let Some(last) = batches.last() else { break };
            read = last.sequence;
            for batch in read_events(&*self.app.storage, batches).await? {
                let count = match batch.sequence.cmp(&sequence) {
                    Ordering::Less => usize::MAX,
                    Ordering::Equal => place + 1,
                    Ordering::Greater => 0,
                };
                let events = batch.events.into_iter();
                let events = events.take(count).filter(|event| !self.is_known(event));
                for event in events {
                    transcript.follow(&self.turn, event);
                }
            }
        }
        Ok(transcript)
    }

    fn is_known(&self, event: &TurnEvent) -> bool {
        matches!(event, TurnEvent::ToolReturned { call_id, .. } if self.results.contains(call_id))
    }

    /// What the client is sent behind the last batch.
    fn last(&self) -> Vec<u8> {
        let mut part = Vec::new();
        if !self.is_over {
            let event = Event::broken("the turn goes on elsewhere: connect again");
            write(&mut part, &event);
        }
        part
    }

    fn broken(&self, problem: &Problem) -> Vec<u8> {
        tracing::error!(turn = %self.turn.id, ?problem, "events not read");
        let mut part = Vec::new();
        let event = Event::broken("the events could not be read: connect again");
        write(&mut part, &event);
        part
    }
}

/// Messages of which there are more before `older`, as events. `before` has a comma behind each.
fn snapshot(
    before: &[u8],
    told: &[Value],
    conversation: ConversationId,
    older: Option<MessageId>,
) -> impl Iterator<Item = Event> + use<> {
    let mut messages = format!("[{}", String::from_utf8_lossy(before));
    for message in told {
        messages.push_str(&message.to_string());
        messages.push(',');
    }
    if messages.ends_with(',') {
        messages.pop();
    }
    messages.push(']');
    let messages = RawValue::from_string(messages).expect("messages are JSON");
    let older = older.map(|older| Event::Custom {
        name: "agentkit.older",
        value: json!({"conversationId": conversation, "cursor": older}),
    });
    iter::once(Event::MessagesSnapshot { messages }).chain(older)
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
