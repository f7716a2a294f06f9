use std::{any::Any, borrow::Cow, sync::Arc};

use axum::{
    Extension, Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tower_http::request_id::RequestId;
use utoipa::ToSchema;
use yai_agentkit_core::{
    ConflictKind, Error,
    error::{BoxError, Outcome},
};

use yai_agentkit_engine::{TurnError, agent::AgentError, error_chain};

/// What went wrong with a request. Becomes an RFC 9457 problem in [`render`].
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    name: &'static str,
    detail: Cow<'static, str>,
    field: Option<String>,
    retry_after: Option<u32>,
    /// Only for the log.
    cause: Option<Arc<BoxError>>,
}

/// An RFC 9457 problem.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "urn:agentkit:problem:invalid-input",
    "title": "Bad Request",
    "status": 400,
    "detail": "title: has 300 characters, at most 255 are allowed",
    "field": "title",
    "request_id": "7a6f0a0e-3c07-4f5b-9d4e-7c9f3f8f2c11",
}))]
pub(super) struct ProblemBody {
    /// Names the kind of problem, for programs: `urn:agentkit:problem:` and one of `invalid-input`,
    /// `unauthorized`, `forbidden`, `not-found`, `method-not-allowed`, `timeout`, `conflict`, `turn-running`,
    /// `not-asked`, `turn-ended`, `turn-cancelled`, `too-large`, `unsupported-media-type`,
    /// `key-reused`, `history-differs`, `queue-full`, `changed-meanwhile`, `internal`, `unreadable`,
    /// `agent-failed`,
    /// `agent-unavailable`, `storage-unavailable`,
    /// `shutting-down`, `turn-unfinished`, `events-gone`, `host-not-allowed`, `origin-not-allowed`,
    /// `too-many-connections`, `too-many-answers`, `too-many-bodies`.
    r#type: String,
    /// The meaning of the status.
    title: &'static str,
    /// The status of the response.
    status: u16,
    /// What happened, for people.
    detail: Cow<'static, str>,
    /// The part of the input at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// Finds the request in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl Problem {
    pub(super) const CONTENT_TYPE: &str = "application/problem+json";

    pub(super) fn new(
        status: StatusCode,
        name: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            name,
            detail: detail.into(),
            field: None,
            retry_after: None,
            cause: None,
        }
    }

    /// Bad input in `field`.
    pub(super) fn invalid(field: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        let field = field.into();
        let detail = format!("{field}: {reason}");
        Self {
            field: Some(field),
            ..Self::new(StatusCode::BAD_REQUEST, "invalid-input", detail)
        }
    }

    /// A failure about which only the log may say more.
    pub(super) fn internal(cause: impl Into<BoxError>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The server failed; its log says more.",
        )
        .because(cause)
    }

    /// Nothing was stored: the same request may come again in `seconds`.
    fn unavailable(name: &'static str, detail: impl Into<Cow<'static, str>>, seconds: u32) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::stored(name, detail)
        }
    }

    /// The message was stored: the same request would store it again.
    fn stored(name: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, name, detail)
    }

    /// The storage does not answer.
    pub(super) fn storage_unavailable(cause: impl Into<BoxError>) -> Self {
        let detail = "The storage is unavailable, try again.";
        Self::unavailable("storage-unavailable", detail, 1).because(cause)
    }

    /// The storage takes no writes.
    pub(super) fn not_ready(why: &str, cause: impl Into<BoxError>) -> Self {
        let detail = format!("The storage is not ready: {why}.");
        Self::unavailable("storage-unavailable", detail, 1).because(cause)
    }

    /// The storage went away before it answered.
    fn outcome_unknown(cause: impl Into<BoxError>) -> Self {
        let detail = "The storage became unavailable: look whether the request took effect before \
                      it is repeated.";
        Self::stored("storage-unavailable", detail).because(cause)
    }

    /// Where the request has a key, it may come again although its message is stored.
    pub(super) fn repeatable(mut self, has_key: bool) -> Self {
        if has_key && self.status == StatusCode::SERVICE_UNAVAILABLE {
            self.retry_after.get_or_insert(1);
        }
        self
    }

    /// One more turn than the settings allow; nothing was done.
    pub(super) fn too_many_turns(detail: &'static str) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-turns", detail)
        }
    }

    /// One more request than the settings allow; nothing was done.
    pub(super) fn too_many_requests(seconds: u32, detail: &'static str) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", detail)
        }
    }

    /// What the client has seen is not what is stored.
    pub(super) fn changed_meanwhile() -> Self {
        let detail = "it has changed since it had the `etag` in `if-match`";
        Self::new(StatusCode::PRECONDITION_FAILED, "changed-meanwhile", detail)
    }

    /// Clients have yet to read as many bytes of large answers as there may be.
    pub(super) fn no_room() -> Self {
        let detail = "Too many large answers have not been read yet, try again.";
        Self::unavailable("too-many-answers", detail, 1)
    }

    /// Clients have sent as many bytes of large bodies as there may be, and not their ends.
    pub(super) fn no_room_for_body() -> Self {
        let detail = "Too many large requests are being sent, try again.";
        Self::unavailable("too-many-bodies", detail, 1)
    }

    /// No new work is taken.
    pub(super) fn shutting_down() -> Self {
        Self::unavailable("shutting-down", TurnError::ShuttingDown.to_string(), 5)
    }

    fn because(mut self, cause: impl Into<BoxError>) -> Self {
        self.cause = Some(Arc::new(cause.into()));
        self
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, "not-found", detail),
            Error::Conflict(ConflictKind::Turn(_)) => Self::new(
                StatusCode::CONFLICT,
                "turn-running",
                "the conversation is busy with another turn",
            ),
            Error::Conflict(_) | Error::Fenced { .. } => {
                Self::new(StatusCode::CONFLICT, "conflict", detail)
            }
            Error::InvalidInput { field, reason } => Self::invalid(field, reason),
            Error::Unavailable {
                outcome: Outcome::NotDone,
                ..
            } => Self::storage_unavailable(error),
            Error::Unavailable { .. } => Self::outcome_unknown(error),
            Error::Unreadable { .. } => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Self::new(status, "unreadable", detail).because(error)
            }
            other => Self::internal(other),
        }
    }
}

impl From<TurnError> for Problem {
    fn from(error: TurnError) -> Self {
        let detail = error.to_string();
        match error {
            TurnError::Storage(error) => error.into(),
            TurnError::Busy(_) => Self::new(StatusCode::CONFLICT, "turn-running", detail),
            TurnError::QueueFull(_) => Self {
                retry_after: Some(5),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "queue-full", detail)
            },
            TurnError::ShuttingDown => Self::shutting_down(),
            TurnError::Stopped => Self::stored("turn-unfinished", detail),
            TurnError::Agent(AgentError::Unavailable { .. }) => {
                Self::stored("agent-unavailable", detail).because(error)
            }
            TurnError::KeyReused => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", detail)
            }
            TurnError::NotAsked => Self::new(StatusCode::CONFLICT, "not-asked", detail),
            TurnError::NoAgent(_) => Self::new(StatusCode::CONFLICT, "no-agent", detail),
            TurnError::NewerState { .. } | TurnError::NotMigrated(_) => Self {
                retry_after: Some(5),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "state-not-known", detail)
            },
            TurnError::Ended => Self::new(StatusCode::CONFLICT, "turn-ended", detail),
            TurnError::Cancelled => Self::new(StatusCode::CONFLICT, "turn-cancelled", detail),
            TurnError::Lost => Self::stored("turn-unfinished", detail),
            TurnError::Failed(_) => Self::new(StatusCode::BAD_GATEWAY, "agent-failed", detail),
            TurnError::Agent(_)
            | TurnError::AgentCrashed
            | TurnError::TooManySteps(_)
            | TurnError::TooManyAttempts(_)
            | TurnError::TooLong(_)
            | TurnError::ForeignState => {
                Self::new(StatusCode::BAD_GATEWAY, "agent-failed", detail).because(error)
            }
            other => Self::internal(other),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Extension(self)).into_response()
    }
}

/// Writes the body of a problem, which names the request, and logs what the server is to blame for.
pub(super) async fn render(request_id: Option<RequestId>, mut response: Response) -> Response {
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        // The files behind `/docs` are not served by a handler of ours.
        None if response.status() == StatusCode::NOT_FOUND => unknown_route().await,
        None => return response,
    };
    if let Some(cause) = &problem.cause {
        let error = error_chain(cause.as_ref().as_ref());
        tracing::error!(status = problem.status.as_u16(), error, "request failed");
    }
    let body = ProblemBody {
        r#type: format!("urn:agentkit:problem:{}", problem.name),
        title: problem.status.canonical_reason().unwrap_or("Error"),
        status: problem.status.as_u16(),
        detail: problem.detail,
        field: problem.field,
        request_id: request_id.and_then(|id| id.header_value().to_str().map(str::to_owned).ok()),
    };
    let content_type = HeaderValue::from_static(Problem::CONTENT_TYPE);
    // Headers that are there stay: a 405 names the methods that are allowed.
    let (mut parts, _) = response.into_parts();
    let (json, json_body) = Json(body).into_response().into_parts();
    parts.headers.extend(json.headers);
    parts.headers.insert(header::CONTENT_TYPE, content_type);
    if let Some(seconds) = problem.retry_after {
        parts.headers.insert(header::RETRY_AFTER, seconds.into());
    }
    Response::from_parts(parts, json_body)
}

/// The answer to a request whose handler panicked.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    Problem::internal(format!("panic: {text}")).into_response()
}

/// The answer where there is nothing.
pub(super) async fn unknown_route() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "not-found",
        "there is nothing at this path",
    )
}

/// The answer where there is something, but not for this method.
pub(super) async fn wrong_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "the header `allow` lists the methods of this path",
    )
}
