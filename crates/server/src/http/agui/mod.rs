//! The AG-UI protocol: its clients run the agent, and are sent a run event by event.

mod event;
mod history;
mod input;
mod part;
mod run;
mod thread;
mod transcript;

use axum::{Extension, Json, response::Response};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use yai_agentkit_core::{Conversation, Error, Turn, TurnStatus, turn::Place};
use yai_agentkit_engine::TurnError;

use self::{
    event::Outcome,
    history::{Asked, History},
    input::Input,
    run::{Run, published},
};
use super::{
    App,
    caller::Caller,
    extract::{Body, Name},
    large::Room,
    problem::{Problem, ProblemBody},
    turn::TurnBody,
};
pub(super) use event::Event;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(run))
        .routes(routes!(run_named))
        .routes(routes!(connect))
        .routes(routes!(cancel))
}

/// Run the agent, as clients of the AG-UI protocol do
///
/// The thread is created on first use. What the client says anew, the last message of a user, is
/// answered; a repetition gets the events of the first, and one of its tools' results those behind
/// them. A message that the client has edited, or one that it says behind an earlier one than the
/// last, begins a branch; one that was answered, as the last, in a new run, is answered anew. `resume`
/// answers what the run before has asked. The
/// response is the events of the run: `RUN_STARTED`, the state, the messages, then what happens. A
/// client that goes away does not stop the run: it connects.
#[utoipa::path(
    post, path = "/agui", tag = "ag-ui", operation_id = "run_agent",
    request_body = Input,
    responses(
        (status = 200, description = "The events", body = Event, content_type = "text/event-stream"),
        (status = 409, description = "The messages are not those that are stored, a turn is running or asks, or does not ask this", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
        (status = 422, description = "The run was another one", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
        (status = 429, description = "Too many messages wait in the thread", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn run(
    app: App,
    Extension(room): Extension<Room>,
    caller: Caller,
    Body(input): Body<Input>,
) -> Result<Response, Problem> {
    run_by(&app, &room, &caller, input, None).await
}

/// Run the agent with this name, as clients of the AG-UI protocol do
///
/// As `POST /agui`; the thread is this agent's from its first use.
#[utoipa::path(
    post, path = "/agui/{agent}", tag = "ag-ui", operation_id = "run_named_agent",
    params(("agent" = String, Path, description = "One of the server's agents")),
    request_body = Input,
    responses(
        (status = 200, description = "The events", body = Event, content_type = "text/event-stream"),
        (status = 409, description = "As `POST /agui`, or the thread is another agent's", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
        (status = 422, description = "The run was another one", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
        (status = 429, description = "Too many messages wait in the thread", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn run_named(
    app: App,
    Extension(room): Extension<Room>,
    caller: Caller,
    Name(agent): Name,
    Body(input): Body<Input>,
) -> Result<Response, Problem> {
    if !app.turns.has_agent(&agent) {
        return Err(Error::not_found("agent", agent).into());
    }
    run_by(&app, &room, &caller, input, Some(&agent)).await
}

async fn run_by(
    app: &App,
    room: &Room,
    caller: &Caller,
    input: Input,
    agent: Option<&str>,
) -> Result<Response, Problem> {
    input.check()?;
    let conversation = app.conversation_of(caller, &input, agent).await?;
    let mut history = app.history(&conversation, &input).await?;
    let asked = history.asked()?;
    if !input.resume.is_empty() {
        let is_more = matches!(asked, Asked::New(..));
        if let Some(shown) = app.resume(&conversation, &input, is_more).await? {
            return shown.reply(app, room, &conversation, input, history).await;
        }
    } else if !history.is_new() {
        let is_more = matches!(asked, Asked::New(..));
        if let Some(shown) = app.take_results(&conversation, &input, is_more).await? {
            return shown.reply(app, room, &conversation, input, history).await;
        }
    }
    let (turn, after) = match asked {
        Asked::New(messages, place) => {
            let turn = app.send(&input, messages.clone(), place).await?;
            history.go_back(place);
            history.stored(messages);
            (turn, 0)
        }
        Asked::Known(message) => {
            let turn = app.turn_of(&conversation, message).await?;
            let turn =
                turn.ok_or_else(|| Problem::invalid("messages", "there is nothing to answer"))?;
            let after = app.answered(&turn, &input).await?;
            (turn, after)
        }
        Asked::Again(message) => {
            let turn = app.answer_again(&conversation, &input, message).await?;
            history.go_back(Place::Behind(Some(message)));
            (turn, 0)
        }
        Asked::Nothing => {
            return Err(Problem::invalid("messages", "there is nothing to answer"));
        }
    };
    Shown::Turn(Box::new(turn), after)
        .reply(app, room, &conversation, input, history)
        .await
}

/// Connect to a thread: what is, and what goes on now
///
/// For a client that knows no more than the thread, or has lost the connection, or the server that
/// ran the turn. The response is the events of the turn that runs or asks; where there is none, of a
/// run that does nothing but show the state and the messages.
#[utoipa::path(
    post, path = "/agui/connect", tag = "ag-ui", operation_id = "connect_agent",
    request_body = Input,
    responses(
        (status = 200, description = "The events", body = Event, content_type = "text/event-stream"),
    ),
)]
async fn connect(
    app: App,
    Extension(room): Extension<Room>,
    caller: Caller,
    Body(input): Body<Input>,
) -> Result<Response, Problem> {
    input.check()?;
    let (id, found) = app.find(&caller, &input.thread_id).await?;
    let Some(conversation) = found else {
        let nothing = History::new(id, Vec::new(), Vec::new())?.snapshot(None);
        let end = Ok(Outcome::success());
        return Ok(Run::from(input).settled(id, json!({}), &nothing, end));
    };
    caller.may_see(&conversation)?;
    // Before the messages, so that those of the turn are among them.
    let turn = app.unfinished(&conversation).await?;
    let history = app.history(&conversation, &input).await?;
    let shown = turn.map_or(Shown::Settled(Outcome::success()), |turn| {
        Shown::Turn(Box::new(turn), 0)
    });
    shown
        .reply(&app, &room, &conversation, input, history)
        .await
}

/// Cancel what runs or asks in a thread
///
/// The run finishes with the outcome `cancelled`.
#[utoipa::path(
    post, path = "/agui/cancel", tag = "ag-ui", operation_id = "cancel_agent",
    request_body = Thread,
    responses(
        (status = 200, description = "The turn, cancelled", body = TurnBody),
        (status = 409, description = "Nothing runs or asks", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn cancel(
    app: App,
    caller: Caller,
    Body(thread): Body<Thread>,
) -> Result<Json<TurnBody>, Problem> {
    let (id, found) = app.find(&caller, &thread.thread_id).await?;
    let conversation = found.ok_or_else(|| Error::not_found("conversation", id))?;
    caller.may_see(&conversation)?;
    let turn = app.unfinished(&conversation).await?;
    let turn = turn.ok_or(TurnError::Ended)?;
    Ok(Json(app.turns.cancel(id, turn.id).await?.into()))
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = AguiThread)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Thread {
    thread_id: String,
}

/// What an answer shows its client.
enum Shown {
    /// The events of a turn behind a sequence.
    Turn(Box<Turn>, u64),
    /// That nothing goes on.
    Settled(Outcome),
}

impl Shown {
    async fn reply(
        self,
        app: &App,
        room: &Room,
        conversation: &Conversation,
        input: Input,
        history: History,
    ) -> Result<Response, Problem> {
        if app.turns.is_stopping() {
            return Err(Problem::shutting_down());
        }
        let run = Run::from(input);
        let end = match self {
            Self::Turn(turn, after) => {
                if let Some(batches) = published(&app.turns, &turn, after).await? {
                    let before = history.snapshot(Some(turn.user_message_id));
                    return run.follow(app.clone(), room, (*turn, after), before, batches);
                }
                // Its events are not kept any more.
                match turn.status {
                    TurnStatus::Failed => Err(turn.error.unwrap_or_default()),
                    TurnStatus::Cancelled => Ok(Outcome::Cancelled),
                    _ => Ok(Outcome::success()),
                }
            }
            Self::Settled(outcome) => Ok(outcome),
        };
        let state = app.state(conversation).await?;
        Ok(run.settled(conversation.id, state, &history.snapshot(None), end))
    }
}
