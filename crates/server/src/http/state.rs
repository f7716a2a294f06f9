//! What the agent knows and knew.

use std::{str::FromStr, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::spawn_blocking};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use yai_agentkit_core::{
    CheckpointId, CheckpointQuery, CheckpointSelector, Error, Namespace,
    checkpoint::{Thread, ThreadCursor, Values},
};

use super::{
    App,
    caller::Caller,
    extract::{CheckpointPath, Id, Query},
    page::{List, MAX_LIMIT, limit},
    problem::Problem,
};
use crate::inspect::{self, CheckpointSummary, CheckpointView, Whole};

const JSON_PATCH: &str = "application/json-patch+json";

/// The most checkpoints of one page.
const MAX_HISTORY: u64 = 100;

/// How many answers with values are made at one time: while it is made, one takes several times the
/// memory that it has in the end.
const AT_ONCE: usize = 2;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(state))
        .routes(routes!(checkpoint))
        .routes(routes!(diff))
        .layer(middleware::from_fn_with_state(
            Arc::new(Semaphore::new(AT_ONCE)),
            in_turn,
        ))
        .routes(routes!(history))
        .routes(routes!(threads))
}

async fn in_turn(State(turns): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let _turn = turns.acquire().await;
    next.run(request).await
}

/// The checkpoint as an answer, made apart from the threads that answer everybody.
async fn shown(whole: Whole) -> Result<Response, Problem> {
    let shown = spawn_blocking(|| Json(CheckpointView::from(whole)).into_response());
    shown.await.map_err(Problem::internal)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HistoryPage {
    /// How many at most.
    #[serde(default = "default_history")]
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: u64,
    /// The `next_cursor` of the page before, or the id of any checkpoint: only what is older.
    #[param(value_type = Option<String>)]
    before: Option<CheckpointId>,
}

fn default_history() -> u64 {
    20
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DiffRange {
    /// The checkpoint to start from.
    #[param(value_type = String)]
    from: CheckpointId,
    /// The checkpoint to arrive at.
    #[param(value_type = String)]
    to: CheckpointId,
}

/// Get what the agent knows now: its latest checkpoint
#[utoipa::path(
    get, path = "/chats/{chat_id}/state", tag = "chats", operation_id = "get_state",
    params(("chat_id" = Uuid, Path, description = "The id of the conversation")),
    responses((status = 200, description = "The latest checkpoint", body = CheckpointView)),
)]
async fn state(app: App, Id(chat_id): Id) -> Result<Response, Problem> {
    let conversation = app.turns.conversations().get(chat_id).await?;
    let latest = CheckpointSelector::latest(conversation.thread_id());
    let whole = Whole::read(&*app.storage.checkpointer(), &latest).await?;
    let whole = whole.ok_or_else(|| Error::not_found("a checkpoint of conversation", chat_id))?;
    shown(whole).await
}

/// List the agent's checkpoints, newest first
///
/// Without their values: `GET /chats/{chat_id}/history/{checkpoint_id}` has those of one.
#[utoipa::path(
    get, path = "/chats/{chat_id}/history", tag = "chats", operation_id = "list_history",
    params(("chat_id" = Uuid, Path, description = "The id of the conversation"), HistoryPage),
    responses((status = 200, description = "One page", body = List<CheckpointSummary>)),
)]
async fn history(
    app: App,
    Id(chat_id): Id,
    Query(page): Query<HistoryPage>,
) -> Result<Json<List<CheckpointSummary>>, Problem> {
    let limit = limit(page.limit, MAX_HISTORY)?;
    let conversation = app.turns.conversations().get(chat_id).await?;
    let query = CheckpointQuery {
        namespace: Some(Namespace::root()),
        before: page.before,
        // One more tells whether this is the last page.
        limit: Some(limit + 1),
        values: Values::Nothing,
        ..CheckpointQuery::of(conversation.thread_id())
    };
    let mut tuples = app.storage.checkpointer().list(&query).await?;
    let is_last = tuples.len() as u64 <= limit;
    if !is_last {
        tuples.pop();
    }
    let items: Vec<_> = tuples.into_iter().map(CheckpointSummary::from).collect();
    let oldest = items.last().map(|view| view.checkpoint_id.clone());
    Ok(Json(List {
        next_cursor: oldest.filter(|_| !is_last),
        items,
    }))
}

/// Get a checkpoint of the history with its values
#[utoipa::path(
    get, path = "/chats/{chat_id}/history/{checkpoint_id}", tag = "chats",
    operation_id = "get_checkpoint",
    params(
        ("chat_id" = Uuid, Path, description = "The id of the conversation"),
        ("checkpoint_id" = String, Path, description = "The id of the checkpoint"),
    ),
    responses((status = 200, description = "The checkpoint", body = CheckpointView)),
)]
async fn checkpoint(app: App, path: CheckpointPath) -> Result<Response, Problem> {
    let conversation = app.turns.conversations().get(path.chat_id).await?;
    let selector = CheckpointSelector {
        checkpoint_id: Some(path.checkpoint_id.clone()),
        ..CheckpointSelector::latest(conversation.thread_id())
    };
    let whole = Whole::read(&*app.storage.checkpointer(), &selector).await?;
    let whole = whole.ok_or_else(|| Error::not_found("checkpoint", path.checkpoint_id))?;
    shown(whole).await
}

/// Get what changed between two checkpoints: an RFC 6902 JSON Patch of their `values`
///
/// Either may be the older one.
#[utoipa::path(
    get, path = "/chats/{chat_id}/diff", tag = "chats", operation_id = "diff_states",
    params(("chat_id" = Uuid, Path, description = "The id of the conversation"), DiffRange),
    responses((status = 200, description = "The patch", body = Vec<Object>, content_type = JSON_PATCH)),
)]
async fn diff(
    app: App,
    Id(chat_id): Id,
    Query(range): Query<DiffRange>,
) -> Result<Response, Problem> {
    let conversation = app.turns.conversations().get(chat_id).await?;
    let checkpointer = app.storage.checkpointer();
    let place = CheckpointSelector::latest(conversation.thread_id());
    let [from, to] = inspect::pair(&*checkpointer, &place, [range.from, range.to]).await?;
    let patch = spawn_blocking(|| {
        let patch = inspect::diff(from, to);
        ([(header::CONTENT_TYPE, JSON_PATCH)], Json(patch)).into_response()
    });
    patch.await.map_err(Problem::internal)
}

/// A thread: what an agent does, step by step.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Thread)]
pub(crate) struct ThreadBody {
    thread_id: String,
    /// The thread that it was copied from.
    parent_id: Option<String>,
    /// When it was last written to.
    updated_at: DateTime<Utc>,
}

impl From<Thread> for ThreadBody {
    fn from(thread: Thread) -> Self {
        Self {
            thread_id: thread.id.to_string(),
            parent_id: thread.parent.map(|parent| parent.to_string()),
            updated_at: thread.updated_at,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ThreadPage {
    /// How many at most.
    #[serde(default = "default_threads")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: u64,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

fn default_threads() -> u64 {
    100
}

/// List the threads, the last written first: of conversations, and of programs of LangGraph
///
/// They belong to no owner, so that a key for the conversations of one is refused.
#[utoipa::path(
    get, path = "/threads", tag = "threads", operation_id = "list_threads",
    params(ThreadPage),
    responses((status = 200, description = "One page", body = List<ThreadBody>)),
)]
async fn threads(
    app: App,
    caller: Caller,
    Query(page): Query<ThreadPage>,
) -> Result<Json<List<ThreadBody>>, Problem> {
    if caller.owner().is_some() {
        let detail = "threads belong to no owner; this needs a key for all";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    let wanted = limit(page.limit, MAX_LIMIT)?;
    let after = page.cursor.as_deref().map(ThreadCursor::from_str);
    let after = after.transpose()?;
    let checkpointer = app.storage.checkpointer();
    let page = checkpointer.threads(wanted, after.as_ref()).await?;
    Ok(Json(List::of(page)))
}
