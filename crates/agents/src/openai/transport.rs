//! HTTP to the endpoint: a few retries, and every failure as what the caller can do about it.

use std::time::Duration;

use reqwest::{
    Client, RequestBuilder, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use serde::Serialize;
use serde_json::Value as Json;
use yai_agentkit_core::Result;
use yai_agentkit_engine::agent::AgentError;

use super::OpenAiConfig;

const MAX_RETRIES: u32 = 2;
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// Who is told to wait longer gets the error instead.
const MAX_DELAY: Duration = Duration::from_secs(5);
const MAX_REASON: usize = 300;
/// Bytes of an error page that are read.
const MAX_REFUSAL: usize = 64 << 10;
/// Bytes of an answer as it comes over the wire, where each token has a few hundred.
const MAX_RESPONSE: usize = 64 << 20;
/// Bytes of one event, or of an answer that is not a stream.
const MAX_EVENT: usize = 8 << 20;

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
            url: format!("{base_url}/chat/completions"),
            secret: config.api_key.clone(),
        })
    }

    /// Asks until the endpoint begins to answer, fails for good, or was asked often enough. The
    /// reason of the error is free of the key.
    pub(super) async fn ask(&self, request: &impl Serialize) -> Result<Answer, AgentError> {
        let body = serde_json::to_vec(request).map_err(|error| AgentError::Refused {
            reason: "the request could not be made".to_owned(),
            source: Some(error.into()),
        })?;
        let mut retries = 0;
        loop {
            let outcome = self.post(body.clone()).send().await;
            let delay = match &outcome {
                Ok(response) => retry_after(response),
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
            if !can_help || retries == MAX_RETRIES || delay > MAX_DELAY {
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

/// A piece of an answer.
pub(super) enum Event {
    /// JSON: a chunk of a completion, or all of it.
    Data(String),
    /// That was all.
    Done,
}

/// Server-sent events, of which no more is kept than the one that is coming.
pub(super) struct Answer {
    /// `None` once all of it has come.
    response: Option<Response>,
    received: usize,
    buffer: Vec<u8>,
    /// Where in the buffer the next line begins.
    position: usize,
    /// Up to where that line was searched for its end.
    searched: usize,
    event: String,
    /// Of an endpoint that does not stream.
    whole: Option<String>,
}

impl Answer {
    async fn begin(response: Response) -> Result<Self, AgentError> {
        let content_type = response.headers().get(CONTENT_TYPE);
        let is_stream = |text: &str| text.starts_with("text/event-stream");
        let is_stream = content_type.is_some_and(|value| value.to_str().is_ok_and(is_stream));
        let mut answer = Self {
            response: Some(response),
            received: 0,
            buffer: Vec::new(),
            position: 0,
            searched: 0,
            event: String::new(),
            whole: None,
        };
        if !is_stream {
            while answer.receive().await? {}
            if !answer.buffer.trim_ascii_start().starts_with(b"data:") {
                let whole = std::mem::take(&mut answer.buffer);
                answer.whole = Some(String::from_utf8_lossy(&whole).into_owned());
            }
        }
        Ok(answer)
    }

    /// The next event, `None` where the connection has ended without a last one.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, AgentError> {
        if let Some(whole) = self.whole.take() {
            return Ok(Some(Event::Data(whole)));
        }
        loop {
            while let Some(line) = self.line() {
                if !line.is_empty() {
                    self.add_line(&line)?;
                } else if let Some(event) = self.take_event() {
                    return Ok(Some(event));
                }
            }
            if !self.receive().await? {
                let rest = self.buffer.split_off(self.position);
                self.buffer.clear();
                (self.position, self.searched) = (0, 0);
                self.add_line(&String::from_utf8_lossy(&rest))?;
                return Ok(self.take_event());
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let unsearched = &self.buffer[self.searched..];
        let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let end = self.searched + end;
        let line = &self.buffer[self.position..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = String::from_utf8_lossy(line).into_owned();
        self.position = end + 1;
        self.searched = self.position;
        Some(line)
    }

    fn add_line(&mut self, line: &str) -> Result<(), AgentError> {
        if let Some(data) = line.strip_prefix("data:") {
            self.event.push_str(data.strip_prefix(' ').unwrap_or(data));
            self.event.push('\n');
        }
        if self.event.len() > MAX_EVENT {
            return Err(too_large(MAX_EVENT));
        }
        Ok(())
    }

    fn take_event(&mut self) -> Option<Event> {
        let event = std::mem::take(&mut self.event);
        match event.trim() {
            "" => None,
            "[DONE]" => Some(Event::Done),
            _ => Some(Event::Data(event)),
        }
    }

    /// Waits for more. `false` at the end.
    async fn receive(&mut self) -> Result<bool, AgentError> {
        let Some(response) = &mut self.response else {
            return Ok(false);
        };
        let Some(bytes) = response.chunk().await.map_err(unreachable_endpoint)? else {
            self.response = None;
            return Ok(false);
        };
        self.buffer.drain(..self.position);
        self.searched -= self.position;
        self.position = 0;
        self.received += bytes.len();
        self.buffer.extend_from_slice(&bytes);
        if self.received > MAX_RESPONSE {
            return Err(too_large(MAX_RESPONSE));
        }
        if self.buffer.len() > MAX_EVENT + bytes.len() {
            return Err(too_large(MAX_EVENT));
        }
        Ok(true)
    }
}

fn too_large(most: usize) -> AgentError {
    AgentError::Refused {
        reason: format!("its answer has no end: more than {most} bytes"),
        source: None,
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

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}
