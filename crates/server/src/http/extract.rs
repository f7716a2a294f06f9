//! Extractors that refuse what they don't know, with the field at fault.

use std::{convert::Infallible, str::FromStr};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;
use yai_agentkit_core::{CheckpointId, ConversationId, MessageId, TurnId};

use super::{App, large, problem::Problem};

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

/// The parameters behind the `?`.
pub(super) struct Query<T>(pub(super) T);

/// Where there are tenants, that of the caller's.
impl FromRequestParts<Self> for App {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Self) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().unwrap_or(app).clone())
    }
}

/// The conversation that the path names.
pub(super) struct Id(pub(super) ConversationId);

/// The turn that the path names.
pub(super) struct TurnPath {
    pub(super) chat_id: ConversationId,
    pub(super) turn_id: TurnId,
}

/// The message that the path names.
pub(super) struct MessagePath {
    pub(super) chat_id: ConversationId,
    pub(super) message_id: MessageId,
}

/// The first name in the path.
pub(super) struct Name(pub(super) String);

/// The checkpoint that the path names.
pub(super) struct CheckpointPath {
    pub(super) chat_id: ConversationId,
    pub(super) checkpoint_id: CheckpointId,
}

/// The header `idempotency-key`.
pub(super) struct Key(pub(super) Option<String>);

/// The header `if-match`: which versions of the resource the client means.
pub(super) struct Seen(Option<Vec<String>>);

impl Seen {
    /// Whether the client means the version with `etag`.
    pub(super) fn admits(&self, etag: &str) -> bool {
        let listed = self.0.as_ref();
        listed.is_none_or(|listed| listed.iter().any(|seen| seen == etag || seen == "*"))
    }
}

const KEY: &str = "idempotency-key";
const MAX_KEY: usize = 255;

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes =
            Bytes::from_request(request, state)
                .await
                .map_err(|rejection| match rejection.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "too-large",
                        "the body is larger than this server allows",
                    ),
                    _ if large::found_no_room(&rejection) => Problem::no_room_for_body(),
                    _ => Problem::new(
                        StatusCode::REQUEST_TIMEOUT,
                        "timeout",
                        "the body did not arrive whole in time",
                    ),
                })?;
        if !bytes.is_empty() && !is_json {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "the header `content-type` must be application/json",
            ));
        }
        // Serde would read an array as a struct, field by field.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(Problem::invalid("body", "must be a JSON object"));
        }
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let value =
            serde_path_to_error::deserialize(&mut json).map_err(|error| invalid(&error, "body"))?;
        json.end()
            .map_err(|error| Problem::invalid("body", error))?;
        Ok(Self(value))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let text = parts.uri.query().unwrap_or_default();
        let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(text.as_bytes()));
        let value =
            serde_path_to_error::deserialize(pairs).map_err(|error| invalid(&error, "query"))?;
        Ok(Self(value))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        path_id(parts, state, 0).await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for TurnPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self {
            chat_id: path_id(parts, state, 0).await?,
            turn_id: path_id(parts, state, 1).await?,
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for MessagePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self {
            chat_id: path_id(parts, state, 0).await?,
            message_id: path_id(parts, state, 1).await?,
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (_, name) = path_parameter(parts, state, 0).await?;
        Ok(Self(name))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for CheckpointPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let chat_id = path_id(parts, state, 0).await?;
        let (name, text) = path_parameter(parts, state, 1).await?;
        if text.contains('\0') {
            return Err(Problem::invalid(name, "must not have a NUL character"));
        }
        Ok(Self {
            chat_id,
            checkpoint_id: text.into(),
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(KEY) else {
            return Ok(Self(None));
        };
        let key = value.to_str().unwrap_or_default();
        if key.is_empty() || key.len() > MAX_KEY {
            let reason = format!("must have 1 to {MAX_KEY} visible ASCII characters");
            return Err(Problem::invalid(KEY, reason));
        }
        Ok(Self(Some(key.to_owned())))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Seen {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let lines = parts.headers.get_all(header::IF_MATCH);
        let mut listed = Vec::new();
        for line in &lines {
            // No `etag` of ours has a comma.
            let line = line.to_str().unwrap_or_default().split(',');
            listed.extend(line.map(|etag| etag.trim().to_owned()));
        }
        Ok(Self((!listed.is_empty()).then_some(listed)))
    }
}

/// The id at a place of the path.
async fn path_id<T: FromStr, S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    place: usize,
) -> Result<T, Problem> {
    let (name, text) = path_parameter(parts, state, place).await?;
    text.parse()
        .map_err(|_| Problem::invalid(name, "must be a UUID"))
}

/// The name and the text at a place of the path.
async fn path_parameter<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    place: usize,
) -> Result<(String, String), Problem> {
    let parameters = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|error| Problem::invalid("path", error))?;
    let (name, text) = parameters
        .iter()
        .nth(place)
        .ok_or_else(|| Problem::internal("a route without an id"))?;
    Ok((name.to_owned(), text.to_owned()))
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// The problem of the field at which reading stopped; `whole` where that is no field.
fn invalid<E: std::error::Error>(error: &serde_path_to_error::Error<E>, whole: &str) -> Problem {
    let path = error.path().to_string();
    // A `?` is where the text itself is broken, a `.` the input as a whole.
    let field = match path.trim_end_matches(['?', '.']) {
        "" => whole,
        field => field,
    };
    Problem::invalid(field, error.inner())
}
