use std::{fmt, future, iter, str::FromStr, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::time::timeout;
use utoipa_axum::{router::OpenApiRouter, routes};
use yai_agentkit_core::{
    ConversationId, ListQuery, Result, Turn, TurnId, error::BoxError, turn::TurnFilter,
};

use super::{
    App,
    agui::Event,
    extract::{Id, TurnPath},
    problem::{Problem, ProblemBody},
};
use yai_agentkit_engine::{Published, error_chain};

/// How often a stream without events shows that it is alive: more often than proxies give up.
const HEARTBEAT: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: &str = "last-event-id";

pub(super) const EVENT_STREAM: &str = "text/event-stream";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(events))
        .routes(routes!(chat_events))
}

/// The id of an event of a turn: its place among those of the events that were stored together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EventId {
    sequence: u64,
    index: u64,
}

impl EventId {
    /// Behind all that was stored with `sequence`.
    pub(super) fn behind(sequence: u64) -> Self {
        let index = u32::MAX.into();
        Self { sequence, index }
    }

    /// Up to which batch all is behind it: of the events with which its own was stored there may be
    /// more.
    fn read(self) -> u64 {
        self.sequence.saturating_sub(1)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.sequence, self.index)
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (sequence, index) = text.split_once('-').ok_or(())?;
        let number = |text: &str| text.parse::<u32>().map(u64::from).map_err(drop);
        Ok(Self {
            sequence: number(sequence)?,
            index: number(index)?,
        })
    }
}

/// The id of an event of a chat: its turn, and its id there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ChatEventId {
    turn: TurnId,
    event: EventId,
}

impl fmt::Display for ChatEventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.turn, self.event)
    }
}

impl FromStr for ChatEventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (turn, event) = text.split_once('.').ok_or(())?;
        Ok(Self {
            turn: turn.parse().map_err(drop)?,
            event: event.parse()?,
        })
    }
}

/// The header `last-event-id`.
pub(super) struct LastEventId<Id = EventId>(pub(super) Option<Id>);

impl<S: Send + Sync, Id: FromStr> FromRequestParts<S> for LastEventId<Id> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(LAST_EVENT_ID) else {
            return Ok(Self(None));
        };
        let id = value.to_str().ok().and_then(|text| text.parse().ok());
        let reason = "is not the id of an event";
        let id = id.ok_or_else(|| Problem::invalid(LAST_EVENT_ID, reason))?;
        Ok(Self(Some(id)))
    }
}

/// Watch a turn: its events from the beginning, and those to come
///
/// A stream of server-sent events, each an event of the AG-UI protocol in JSON with an id. The
/// header `Last-Event-ID` picks up behind that event, without gap or repetition, on any server. The
/// stream ends with the event `RUN_FINISHED` or `RUN_ERROR`, and where the server stops. A client
/// that goes away does not stop the turn, and one that reads slowly holds nobody up.
#[utoipa::path(
    get, path = "/chats/{chat_id}/turns/{turn_id}/events", tag = "chats",
    operation_id = "watch_turn",
    params(
        ("chat_id" = Uuid, Path, description = "The id of the conversation"),
        ("turn_id" = Uuid, Path),
        ("last-event-id" = Option<String>, Header, description = "Only what comes behind it"),
    ),
    responses(
        (status = 200, description = "The events", body = Event, content_type = EVENT_STREAM),
        (status = 204, description = "The turn has ended, and nothing comes behind that event"),
        (status = 410, description = "The turn has ended, and its events are not kept any more", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn events(
    app: App,
    path: TurnPath,
    LastEventId(after): LastEventId,
) -> Result<Response, Problem> {
    let turn = app.turns.turn(path.chat_id, path.turn_id).await?;
    watch(&app, &turn, after).await
}

/// Watch a chat: the events of its turns, one turn after the other
///
/// As those of a turn, with the id of the turn before that of the event: from the beginning of the
/// turn that runs or asks, or from now on; with `Last-Event-ID` behind that event, without gap or
/// repetition, on any server. The stream goes on over all turns to come, and ends where the server
/// stops or the conversation is deleted.
#[utoipa::path(
    get, path = "/chats/{chat_id}/events", tag = "chats", operation_id = "watch_chat",
    params(
        ("chat_id" = Uuid, Path, description = "The id of the conversation"),
        ("last-event-id" = Option<String>, Header, description = "Only what comes behind it"),
    ),
    responses((status = 200, description = "The events", body = Event, content_type = EVENT_STREAM)),
)]
async fn chat_events(
    app: App,
    Id(chat_id): Id,
    LastEventId(after): LastEventId<ChatEventId>,
) -> Result<Response, Problem> {
    if app.turns.is_stopping() {
        return Err(Problem::shutting_down());
    }
    let (turn, after, is_now) = match after {
        Some(ChatEventId { turn, event }) => (
            Some(app.turns.turn(chat_id, turn).await?),
            Some(event),
            false,
        ),
        None => now(&app, chat_id).await?,
    };
    let first = turn.as_ref().map(|turn| turn.id);
    // For a client that comes back before anything has happened.
    let start = first.zip(after).filter(|_| is_now);
    let start = start.map(|(turn, event)| {
        let id = ChatEventId { turn, event };
        Ok(format!("id: {id}\n\n").into_bytes())
    });
    let read = after.map_or(0, EventId::read);
    let batches = app.turns.watch_chat(chat_id, turn.map(|turn| (turn, read)));
    let batches = batches.map(move |batch| -> Result<Vec<u8>> {
        // The client comes back, and is told what is wrong.
        let (turn, batch) = batch.inspect_err(|error| {
            tracing::error!(chat = %chat_id, error = error_chain(error), "events not read");
        })?;
        let after = after.filter(|_| Some(turn.id) == first);
        let mut text = Vec::new();
        for (event_id, event) in behind(&turn, batch, after) {
            let id = ChatEventId {
                turn: turn.id,
                event: event_id,
            };
            text.extend_from_slice(format!("id: {id}\n").as_bytes());
            write(&mut text, &event);
        }
        Ok(text)
    });
    Ok(respond(stream::iter(start).chain(batches)))
}

/// The turn that runs or asks; else the last one, to begin behind it.
async fn now(
    app: &App,
    chat: ConversationId,
) -> Result<(Option<Turn>, Option<EventId>, bool), Problem> {
    app.turns.conversations().get(chat).await?;
    let turns = app.storage.turns();
    // First, since the one that was the last may end meanwhile.
    let newest = ListQuery::filtered(TurnFilter::default().of(chat)).limit(1);
    let newest = turns.list(&newest).await?.items.pop();
    let unfinished = TurnFilter::unfinished().of(chat);
    let unfinished = ListQuery::filtered(unfinished).oldest_first().limit(1);
    Ok(match turns.list(&unfinished).await?.items.pop() {
        Some(turn) => (Some(turn), None, false),
        None => (newest, Some(EventId::behind(u32::MAX.into())), true),
    })
}

/// The events of a turn behind `after`, as a response.
pub(super) async fn watch(
    app: &App,
    turn: &Turn,
    after: Option<EventId>,
) -> Result<Response, Problem> {
    if app.turns.is_stopping() {
        return Err(Problem::shutting_down());
    }
    let read = after.map_or(0, EventId::read);
    let watched = turn.clone();
    let batches = app.turns.watch(turn.conversation_id, turn.id, read);
    let batches = batches.map(move |batch| -> Result<Vec<u8>> {
        let mut text = Vec::new();
        for (id, event) in behind(&watched, batch?, after) {
            text.extend_from_slice(format!("id: {id}\n").as_bytes());
            write(&mut text, &event);
        }
        Ok(text)
    });
    let is_nothing = |text: &Result<Vec<u8>>| matches!(text, Ok(text) if text.is_empty());
    let mut batches = batches
        .filter(move |text| future::ready(!is_nothing(text)))
        .boxed();
    let first = if turn.status.is_final() {
        match (batches.next().await, after) {
            (Some(first), _) => Some(first?),
            // Else a browser would come back for ever.
            (None, Some(_)) => return Ok(StatusCode::NO_CONTENT.into_response()),
            (None, None) => {
                return Err(Problem::new(
                    StatusCode::GONE,
                    "events-gone",
                    "the turn has ended, and its events are not kept any more",
                ));
            }
        }
    } else {
        None
    };
    let turn_id = turn.id;
    // The client comes back, and is told what is wrong.
    let batches = batches.inspect(move |batch| {
        if let Err(error) = batch {
            tracing::error!(turn = %turn_id, error = error_chain(error), "events not read");
        }
    });
    Ok(respond(stream::iter(first.map(Ok)).chain(batches)))
}

/// Appends an event, a type of [`Event`], as a server-sent one.
pub(super) fn write(text: &mut Vec<u8>, event: &impl Serialize) {
    text.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *text, event).expect("an event has names for keys");
    text.extend_from_slice(b"\n\n");
}

/// Server-sent events as a response, with a heartbeat where there are none for long. Those of a batch
/// come as one part, since a client that does not read holds what is half sent.
pub(super) fn respond<E: Into<BoxError> + 'static>(
    batches: impl Stream<Item = Result<Vec<u8>, E>> + Send + 'static,
) -> Response {
    let parts = stream::unfold(batches.boxed(), |mut batches| async {
        let part = match timeout(HEARTBEAT, batches.next()).await {
            Ok(batch) => batch?.map(Bytes::from),
            Err(_) => Ok(Bytes::from_static(b": heartbeat\n\n")),
        };
        Some((part, batches))
    });
    let headers = [
        (header::CONTENT_TYPE, EVENT_STREAM),
        (header::CACHE_CONTROL, "no-cache"),
        // A proxy that collects what it passes on would hold the events back.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(parts)).into_response()
}

/// The events that clients get of a batch, those behind `after`.
fn behind(
    turn: &Turn,
    batch: Published,
    after: Option<EventId>,
) -> impl Iterator<Item = (EventId, Event)> {
    let sequence = batch.sequence;
    let events = batch.events.into_iter();
    let events = events.flat_map(|event| Event::of(turn, event));
    let events = iter::zip(0.., events);
    let events = events.map(move |(index, event)| (EventId { sequence, index }, event));
    events.filter(move |(id, _)| after.is_none_or(|after| *id > after))
}

/// Whether the client asks for events.
pub(super) fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let mut accepted = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    accepted.any(|range| {
        let essence = range.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case(EVENT_STREAM)
    })
}
