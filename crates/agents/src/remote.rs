//! An agent that is a program of its own, in any language, behind one URL.
//!
//! Each step and each tool call is one `POST` of JSON; the program keeps nothing between them. See
//! `docs/remote-agents.md` for the protocol, and for what a crash at each boundary leads to.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, Response, StatusCode, Url, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::Sha256;
use yai_agentkit_core::{Clock, ConversationId, Error, Result, TurnId};
use yai_agentkit_engine::agent::{
    Agent, AgentError, AgentState, ChatMessage, Context, Step, ToolCall, ToolOutcome, ToolTraits,
    Tools,
};

/// The header with the time and the signature of a request: `t=SECONDS,v1=HEX`, the HMAC-SHA-256 of
/// `SECONDS.BODY` by the secret.
pub const SIGNATURE: &str = "agentkit-signature";
const KEY: &str = "idempotency-key";

const MAX_RETRIES: u32 = 3;
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// Bytes of an answer.
const MAX_ANSWER: usize = 8 << 20;
const MAX_REASON: usize = 300;

/// Where a remote agent is. `Debug` does not show the secret.
#[derive(Clone)]
pub struct RemoteConfig {
    /// What is posted to.
    pub url: String,
    /// Signs requests; without one they are not signed.
    pub secret: Option<String>,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl fmt::Debug for RemoteConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("RemoteConfig");
        shown
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Asks a program behind a URL for each step, and has it run its tools.
pub struct RemoteAgent {
    client: Client,
    url: Url,
    config: RemoteConfig,
}

impl RemoteAgent {
    /// It does not connect yet.
    pub fn new(config: RemoteConfig) -> Result<Self> {
        let url = Url::parse(&config.url).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| {
            Error::configuration("url", "must be a URL such as http://localhost:9000/agent")
        })?;
        Ok(Self {
            client: crate::http_client()?,
            url,
            config,
        })
    }

    /// Asks until the program begins to answer, or was asked often enough. One that `is_repeatable`
    /// is asked again whatever happened, another only where the program can't have heard of it.
    async fn ask(
        &self,
        key: &str,
        asked: &Asked<'_>,
        is_repeatable: bool,
    ) -> Result<Response, Failure> {
        let body =
            serde_json::to_vec(asked).map_err(|error| Failure::refused(error.to_string()))?;
        let mut retries = 0;
        loop {
            let mut request = self
                .client
                .post(self.url.clone())
                .timeout(self.config.timeout);
            request = request
                .header(CONTENT_TYPE, "application/json")
                .header(KEY, key);
            if let Some(secret) = &self.config.secret {
                request = request.header(
                    SIGNATURE,
                    signature(secret, Clock::default().now().timestamp(), &body),
                );
            }
            let failure = match request.body(body.clone()).send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => Failure::status(response).await,
                Err(error) => Failure::of(error),
            };
            let is_safe = is_repeatable || !failure.was_heard;
            if !failure.can_help || !is_safe || retries == MAX_RETRIES {
                return Err(failure);
            }
            tracing::warn!(reason = failure.reason, "a remote agent is asked again");
            tokio::time::sleep(FIRST_DELAY * 2u32.pow(retries)).await;
            retries += 1;
        }
    }

    /// The last line of an answer, after what is said in those before it.
    async fn answer<A: for<'a> Deserialize<'a>>(
        &self,
        mut response: Response,
        context: &Context,
    ) -> Result<A, Failure> {
        let (mut buffer, mut received) = (Vec::new(), 0);
        loop {
            let chunk = response.chunk().await.map_err(Failure::of)?;
            let is_end = chunk.is_none();
            let chunk = chunk.unwrap_or_default();
            received += chunk.len();
            if received > MAX_ANSWER {
                return Err(Failure::refused(format!(
                    "its answer has more than {MAX_ANSWER} bytes"
                )));
            }
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(Delta { delta }) => context.say(&delta).await,
                    // The last one, or part of JSON in several lines.
                    Err(_) => {
                        buffer.splice(..0, line);
                        break;
                    }
                }
            }
            if is_end {
                return match serde_json::from_slice(&buffer) {
                    Ok(answer) => Ok(answer),
                    Err(error) if error.is_eof() => Err(Failure {
                        reason: "its answer broke off".to_owned(),
                        can_help: true,
                        was_heard: true,
                    }),
                    Err(error) => Err(Failure::refused(format!("its answer is no step: {error}"))),
                };
            }
        }
    }
}

/// A request.
#[derive(Serialize)]
struct Asked<'a> {
    kind: &'static str,
    conversation_id: ConversationId,
    metadata: Option<&'a Json>,
    turn_id: TurnId,
    attempt: u32,
    messages: &'a [Arc<ChatMessage>],
    instructions: &'a [String],
    state: &'a Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'a ToolCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a str>,
}

impl<'a> Asked<'a> {
    fn new(kind: &'static str, context: &'a Context, state: &'a AgentState) -> Self {
        Self {
            kind,
            conversation_id: context.conversation().id,
            metadata: context.conversation().metadata.as_ref(),
            turn_id: context.turn_id(),
            attempt: context.attempt(),
            messages: &state.messages,
            instructions: &state.instructions,
            state: &state.own,
            call: None,
            answer: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delta {
    delta: String,
}

/// What comes of a request: one of `answer`, `tool_calls`, `result` and `ask`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    answer: Option<String>,
    content: Option<String>,
    tool_calls: Option<Vec<Call>>,
    result: Option<String>,
    ask: Option<String>,
    /// In place of the state before.
    state: Option<Json>,
    /// What changes in it.
    patch: Option<json_patch::Patch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    id: Option<String>,
    name: String,
    #[serde(default)]
    arguments: Json,
    #[serde(default)]
    traits: ToolTraits,
}

impl Answer {
    fn change(&mut self, state: &mut Json) -> Result<(), Failure> {
        if let Some(whole) = self.state.take() {
            *state = whole;
        }
        let patched = self
            .patch
            .take()
            .map(|patch| json_patch::patch(state, &patch));
        let patched = patched.transpose();
        patched.map_err(|error| Failure::refused(format!("its patch does not fit: {error}")))?;
        Ok(())
    }
}

struct Failure {
    reason: String,
    /// Whether another attempt may succeed.
    can_help: bool,
    /// Whether the program may have begun to work.
    was_heard: bool,
}

impl Failure {
    fn refused(reason: String) -> Self {
        Self {
            reason,
            can_help: false,
            was_heard: true,
        }
    }

    fn of(error: reqwest::Error) -> Self {
        let (reason, was_heard) = match () {
            () if error.is_connect() => ("can't connect to it", false),
            () if error.is_timeout() => ("it did not answer in time", true),
            () => ("the connection broke", true),
        };
        Self {
            reason: reason.to_owned(),
            can_help: true,
            was_heard,
        }
    }

    async fn status(mut response: Response) -> Self {
        let status = response.status();
        let body = response.chunk().await.ok().flatten().unwrap_or_default();
        let body: String = String::from_utf8_lossy(&body)
            .trim()
            .chars()
            .take(MAX_REASON)
            .collect();
        Self {
            reason: format!("{status}: {body}"),
            can_help: status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
            was_heard: true,
        }
    }
}

impl From<Failure> for AgentError {
    fn from(failure: Failure) -> Self {
        let (reason, source) = (failure.reason, None);
        match failure.can_help {
            true => Self::Unavailable { reason, source },
            false => Self::Refused { reason, source },
        }
    }
}

#[async_trait]
impl Agent for RemoteAgent {
    type State = Json;

    async fn step(&self, context: &Context, state: &mut AgentState) -> Result<Step, AgentError> {
        let asked = Asked::new("step", context, state);
        let response = self.ask(context.step_key(), &asked, true).await?;
        let mut answer: Answer = self.answer(response, context).await?;
        answer.change(&mut state.own)?;
        match (answer.answer, answer.tool_calls, answer.ask) {
            (Some(answer), None, None) => Ok(Step::Answer(answer)),
            (None, Some(calls), None) if !calls.is_empty() => Ok(Step::ToolCalls {
                content: answer.content.unwrap_or_default(),
                calls: unique(calls, state),
            }),
            (None, None, Some(question)) => Ok(Step::Ask(question)),
            _ => Err(Failure::refused(
                "its step has not one of `answer`, `tool_calls` and `ask`".to_owned(),
            )
            .into()),
        }
    }

    fn tools(&self) -> &dyn Tools<Json> {
        self
    }
}

#[async_trait]
impl Tools<Json> for RemoteAgent {
    /// As the program has said when it decided on the call.
    fn traits(&self, call: &ToolCall) -> ToolTraits {
        call.traits.unwrap_or_default()
    }

    async fn run(
        &self,
        context: &Context,
        call: &ToolCall,
        state: &mut AgentState,
        answer: Option<&str>,
    ) -> ToolOutcome {
        let asked = Asked {
            call: Some(call),
            answer,
            ..Asked::new("tool", context, state)
        };
        let key = format!("{}-{}", context.turn_id(), call.id);
        let is_repeatable = self.traits(call).is_repeatable;
        let ran = async {
            let response = self.ask(&key, &asked, is_repeatable).await?;
            let mut answer: Answer = self.answer(response, &Context::detached()).await?;
            let mut own = state.own.clone();
            answer.change(&mut own)?;
            Ok::<_, Failure>((answer, own))
        };
        match ran.await {
            Ok((answer, own)) => {
                state.own = own;
                match (answer.result, answer.ask) {
                    (Some(result), None) => ToolOutcome::Result(result),
                    (None, Some(question)) => ToolOutcome::Ask(question),
                    _ => ToolOutcome::failed("the tool has not one of `result` and `ask`"),
                }
            }
            Err(failure) if failure.was_heard && !is_repeatable => {
                ToolOutcome::failed(format_args!(
                    "{}; whether the tool has taken effect is not known",
                    failure.reason
                ))
            }
            Err(failure) => ToolOutcome::failed(failure.reason),
        }
    }
}

/// The calls, each with an id that no other in the chat has.
fn unique(calls: Vec<Call>, state: &AgentState) -> Vec<ToolCall> {
    let earlier = state
        .messages
        .iter()
        .flat_map(|message| &message.tool_calls);
    let mut ids: HashSet<String> = earlier.map(|call| call.id.clone()).collect();
    let calls = calls.into_iter().enumerate();
    let calls = calls.map(|(index, call)| {
        let id = call.id.filter(|id| !id.is_empty() && !ids.contains(id));
        let id = id.unwrap_or_else(|| format!("call_{}_{}", state.messages.total(), index + 1));
        ids.insert(id.clone());
        let mut unique = ToolCall::new(id, call.name, call.arguments);
        unique.traits = Some(call.traits);
        unique
    });
    calls.collect()
}

/// The value of [`SIGNATURE`].
pub fn signature(secret: &str, seconds: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length is a key");
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    let code = mac.finalize().into_bytes();
    let hex = code.iter().map(|byte| format!("{byte:02x}"));
    format!("t={seconds},v1={}", hex.collect::<String>())
}
