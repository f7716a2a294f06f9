//! HTTP to the endpoint: a few retries, and every failure as what the caller can do about it.

use std::time::Duration;

use async_openai::{error::OpenAIError, middleware::HttpRequestFactory};
use reqwest::{
    Client, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::Value as Json;
use yai_agentkit_core::{BoxError, Error, Result};

use yai_agentkit_engine::agent::AgentError;

const MAX_RETRIES: u32 = 2;
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// Who is told to wait longer gets the error instead.
const MAX_DELAY: Duration = Duration::from_secs(5);
const MAX_REASON: usize = 300;

/// A client with the system's root certificates.
pub(super) fn client() -> Result<Client> {
    // It fails when a provider was chosen before, which is then as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .build()
        .map_err(|error| Error::backend("prepare the client of the model", error))
}

/// Sends a request until it succeeds, fails for good, or was retried enough. The reason of the
/// error, an [`AgentError`], is free of `secret`.
pub(super) async fn send(
    client: Client,
    request: HttpRequestFactory,
    secret: String,
) -> Result<Response, BoxError> {
    let mut retries = 0;
    loop {
        let outcome = client.execute(request.build().await?).await;
        let delay = match &outcome {
            Ok(response) => retry_after(response),
            Err(_) => None,
        };
        let error = match outcome {
            Ok(response) if response.status().is_success() => match streamed(response).await {
                Ok(response) => return Ok(response),
                Err(error) => unreachable_endpoint(error),
            },
            Ok(response) => refusal(response, &secret).await,
            Err(error) => unreachable_endpoint(error),
        };
        let delay = delay.unwrap_or(FIRST_DELAY * 2u32.pow(retries));
        let can_help = matches!(error, AgentError::Unavailable { .. });
        if !can_help || retries == MAX_RETRIES || delay > MAX_DELAY {
            return Err(error.into());
        }
        tracing::warn!(%error, ?delay, "the model is asked again");
        tokio::time::sleep(delay).await;
        retries += 1;
    }
}

/// What went wrong in `async-openai` or, below it, in [`send`].
pub(super) fn agent_error(error: OpenAIError) -> AgentError {
    match error {
        OpenAIError::Boxed(error) => match error.downcast::<AgentError>() {
            Ok(error) => *error,
            Err(error) => AgentError::Refused {
                reason: "the request could not be made".to_owned(),
                source: Some(error),
            },
        },
        OpenAIError::Reqwest(error) => unreachable_endpoint(error),
        OpenAIError::StreamError(error) => AgentError::Unavailable {
            reason: "the connection broke".to_owned(),
            source: Some(error.into()),
        },
        OpenAIError::JSONDeserialize(error, _) => AgentError::Refused {
            reason: "its answer is not a chat completion".to_owned(),
            source: Some(error.into()),
        },
        error => AgentError::Refused {
            reason: "the request could not be made".to_owned(),
            source: Some(error.into()),
        },
    }
}

fn unreachable_endpoint(error: reqwest::Error) -> AgentError {
    let reason = if error.is_connect() {
        "can't connect to it"
    } else {
        "the connection broke"
    };
    AgentError::Unavailable {
        reason: reason.to_owned(),
        source: Some(error.into()),
    }
}

/// The answer of an endpoint that does not stream, as the one event of a stream.
async fn streamed(response: Response) -> Result<Response, reqwest::Error> {
    let content_type = response.headers().get(CONTENT_TYPE);
    let is_stream = |text: &str| text.starts_with("text/event-stream");
    if content_type.is_some_and(|value| value.to_str().is_ok_and(is_stream)) {
        return Ok(response);
    }
    // Between the parts of JSON only; within its strings a line break is written otherwise.
    let json = response.text().await?.replace(['\r', '\n'], " ");
    Ok(http::Response::new(format!("data: {json}\n\n")).into())
}

/// What an endpoint says in the middle of its answer.
pub(super) fn failure_in_stream(error: &Json, secret: &str) -> AgentError {
    let (_, message) = explanation(&error.to_string());
    let reason = readable(&message, secret);
    let source = None;
    AgentError::Unavailable { reason, source }
}

/// Short, and free of the key, which some endpoints repeat when they refuse it.
fn readable(message: &str, secret: &str) -> String {
    let message = match secret {
        "" => message.to_owned(),
        secret => message.replace(secret, "[key]"),
    };
    message.trim().chars().take(MAX_REASON).collect()
}

async fn refusal(response: Response, secret: &str) -> AgentError {
    let status = response.status();
    let body = response.text().await.unwrap_or_default();
    let (kind, message) = explanation(&body);
    let reason = match readable(&message, secret).as_str() {
        "" => status.to_string(),
        message => format!("{status}: {message}"),
    };
    let can_help = match status {
        // No retry brings money.
        StatusCode::TOO_MANY_REQUESTS => kind != "insufficient_quota",
        StatusCode::REQUEST_TIMEOUT => true,
        status => status.is_server_error(),
    };
    let source = None;
    if can_help {
        AgentError::Unavailable { reason, source }
    } else {
        AgentError::Refused { reason, source }
    }
}

/// The type and the message of an error: OpenAI's JSON, its many dialects, or plain text.
fn explanation(body: &str) -> (String, String) {
    let json: Json = serde_json::from_str(body).unwrap_or_default();
    let error = json.get("error").unwrap_or(&json);
    let text = |value: Option<&Json>| value.and_then(Json::as_str).map(str::to_owned);
    let message = text(error.get("message")).or_else(|| text(Some(error)));
    (
        text(error.get("type")).unwrap_or_default(),
        message.unwrap_or_else(|| body.to_owned()),
    )
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}
