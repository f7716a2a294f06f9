//! HTTP to the endpoint: a few retries, and every failure as what the caller can do about it.

use std::time::Duration;

use reqwest::{
    Client, RequestBuilder, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;
use serde_json::Value as Json;
use tokio::time::Instant;
use yai_agentkit_core::Result;
use yai_agentkit_engine::agent::AgentError;

use super::OpenAiConfig;
use crate::sse::{Answer, unreachable_endpoint};

const MAX_RETRIES: u32 = 2;
const FIRST_DELAY: Duration = Duration::from_millis(250);
const MAX_REASON: usize = 300;
/// Bytes of an error page that are read.
const MAX_REFUSAL: usize = 64 << 10;

/// Where the completions are.
pub(super) struct Endpoint {
    client: Client,
    url: String,
    secret: String,
}

impl Endpoint {
    /// With the system's root certificates. It does not connect yet.
    pub(super) fn new(config: &OpenAiConfig) -> Result<Self> {
        let client = crate::http_client()?;
        let base_url = config.base_url.trim_end_matches('/');
        Ok(Self {
            client,
            url: format!("{base_url}/{}", config.api.path()),
            secret: config.api_key.clone(),
        })
    }

    /// Asks until the endpoint begins to answer, fails for good, or was asked often enough; who is
    /// told to wait until after the `deadline` gets the error instead. The reason of the error is free
    /// of the key.
    pub(super) async fn ask(
        &self,
        request: &impl Serialize,
        deadline: Instant,
    ) -> Result<Answer, AgentError> {
        let body = serde_json::to_vec(request).map_err(|error| AgentError::Refused {
            reason: "the request could not be made".to_owned(),
            source: Some(error.into()),
        })?;
        let mut retries = 0;
        loop {
            let outcome = self.post(body.clone()).send().await;
            let delay = match &outcome {
                Ok(response) => crate::retry_after(response),
                Err(_) => None,
            };
            let error = match outcome {
                Ok(response) if response.status().is_success() => {
                    match Answer::begin(response).await {
                        Ok(answer) => return Ok(answer),
                        Err(error) => error,
                    }
                }
                Ok(response) => refusal(response, &self.secret).await,
                Err(error) => unreachable_endpoint(error),
            };
            let delay = delay.unwrap_or(FIRST_DELAY * 2u32.pow(retries));
            let can_help = matches!(error, AgentError::Unavailable { .. });
            let is_late = Instant::now() + delay > deadline;
            if !can_help || retries == MAX_RETRIES || is_late {
                return Err(error);
            }
            tracing::warn!(%error, ?delay, "the model is asked again");
            tokio::time::sleep(delay).await;
            retries += 1;
        }
    }

    fn post(&self, body: Vec<u8>) -> RequestBuilder {
        let json = HeaderValue::from_static("application/json");
        let request = self
            .client
            .post(&self.url)
            .header(CONTENT_TYPE, json)
            .body(body);
        match self.secret.as_str() {
            "" => request,
            secret => request.bearer_auth(secret),
        }
    }
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

async fn refusal(mut response: Response, secret: &str) -> AgentError {
    let status = response.status();
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = response.chunk().await {
        body.extend_from_slice(&bytes);
        if body.len() > MAX_REFUSAL {
            break;
        }
    }
    let body = String::from_utf8_lossy(&body);
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
