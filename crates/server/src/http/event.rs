use std::{fmt, future, iter, str::FromStr, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequestParts, State},
    http::{HeaderMap, HeaderName, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::time::timeout;
use utoipa_axum::{router::OpenApiRouter, routes};
use yai_agentkit_core::{Result, Turn, error::BoxError};

use super::{
    App,
    agui::Event,
    extract::TurnPath,
    problem::{Problem, ProblemBody},
};
use yai_agentkit_engine::{Published, error_chain};

/// How often a stream without events shows that it is alive: more often than proxies give up.
const HEARTBEAT: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: &str = "last-event-id";

pub(super) const EVENT_STREAM: &str = "text/event-stream";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(events))
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
        let index = u64::MAX;
        Self { sequence, index }
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

/// The header `last-event-id`.
pub(super) struct LastEventId(pub(super) Option<EventId>);

impl<S: Send + Sync> FromRequestParts<S> for LastEventId {
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
    State(app): State<App>,
    path: TurnPath,
    LastEventId(after): LastEventId,
) -> Result<Response, Problem> {
    let turn = app.turns.turn(path.chat_id, path.turn_id).await?;
    watch(&app, &turn, after).await
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
    // Of the events with which the last one was stored there may be more.
    let read = after.map_or(0, |after| after.sequence.saturating_sub(1));
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
