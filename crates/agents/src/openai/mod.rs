//! The agent behind any OpenAI-compatible endpoint, by chat completions or responses.

mod chat;
mod completion;
mod context;
mod request;
mod responses;
mod text;
mod transport;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use reqwest::{Url, header::HeaderValue};
use serde_json::Value as Json;
use tokio::time::Instant;
use yai_agentkit_core::{Clock, Error, Result};
use yai_agentkit_engine::agent::{Agent, AgentError, AgentState, Context, Step, Toolbox, Tools};

use self::{completion::Completion, request::Prompt, transport::Endpoint};
use crate::{
    http_url,
    sse::Event,
    tools::{self, Memory, Summary, builtin},
};

/// Characters of a summary.
const MAX_SUMMARY: usize = 8_000;

/// How a model is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// As nearly all endpoints are: `chat/completions`.
    #[default]
    ChatCompletions,
    /// OpenAI's own newer way, `responses`, by which a model that reasons has its thoughts of the
    /// turn under way before it.
    Responses,
}

impl Api {
    fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => chat::PATH,
            Self::Responses => responses::PATH,
        }
    }

    fn body(self, config: &OpenAiConfig, prompt: &Prompt<'_>) -> Json {
        match self {
            Self::ChatCompletions => chat::body(config, prompt),
            Self::Responses => responses::body(config, prompt),
        }
    }

    /// Adds the next piece of an answer, and returns what is said by it.
    fn add(
        self,
        completion: &mut Completion,
        piece: &str,
        secret: &str,
    ) -> Result<String, AgentError> {
        match self {
            Self::ChatCompletions => completion.add(piece, secret),
            Self::Responses => responses::add(completion, piece, secret),
        }
    }
}

/// How to reach a model. `Debug` does not show the key.
#[derive(Clone)]
pub struct OpenAiConfig {
    /// The secret; may be empty for an endpoint that asks for none.
    pub api_key: String,
    /// The endpoint up to its version, such as `https://api.openai.com/v1`.
    pub base_url: String,
    /// Which model.
    pub model: String,
    /// How it is asked.
    pub api: Api,
    /// How long one step may take, retries included.
    pub timeout: Duration,
    /// What the model is told first, in place of AgentKit's own words.
    pub system_prompt: Option<String>,
    /// How random the answers are; as the endpoint likes it, unless given.
    pub temperature: Option<f64>,
    /// How much a model that reasons is to think, such as `low`. By the responses API it is told its
    /// thoughts of the turn under way again only where this is given, since others refuse it.
    pub reasoning_effort: Option<String>,
    /// The JSON schema of answers; text, unless given.
    pub response_schema: Option<Json>,
    /// How many tokens of a chat the model is told, about: the newest messages.
    pub context_tokens: usize,
    /// Whether the model makes a summary of those that do not fit. Without it they are left out, but
    /// for those of the turn under way.
    pub compacts: bool,
}

impl OpenAiConfig {
    /// For OpenAI's own endpoint.
    pub fn new(api_key: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            api_key: api_key.into(),
            base_url: "https://api.openai.com/v1".to_owned(),
            model: model.into(),
            api: Api::default(),
            timeout: Duration::from_secs(60),
            system_prompt: None,
            temperature: None,
            reasoning_effort: None,
            response_schema: None,
            context_tokens: 64_000,
            compacts: true,
        }
    }

    /// What is told in place of the first messages.
    fn summary<'a>(&self, state: &'a AgentState<Memory>) -> Option<&'a Summary> {
        state.own.summary.as_ref().filter(|_| self.compacts)
    }
}

impl fmt::Debug for OpenAiConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OpenAiConfig")
            .field("base_url", &self.base_url)
            .field("model", &self.model)
            .field("api", &self.api)
            .field("timeout", &self.timeout)
            .field("system_prompt", &self.system_prompt)
            .field("temperature", &self.temperature)
            .field("context_tokens", &self.context_tokens)
            .field("compacts", &self.compacts)
            .finish_non_exhaustive()
    }
}

/// Lets a model decide, which is told of the remembered facts and may use all tools.
pub struct OpenAiAgent {
    config: OpenAiConfig,
    endpoint: Endpoint,
    toolbox: Toolbox<Memory>,
}

impl OpenAiAgent {
    /// An agent with the default tools. It does not connect yet.
    pub fn new(config: OpenAiConfig) -> Result<Self> {
        let is_plain = |url: Url| url.username().is_empty() && url.password().is_none();
        if !http_url(&config.base_url).is_some_and(is_plain) {
            let reason = "must be a URL such as https://api.openai.com/v1, without a password";
            return Err(Error::configuration("OPENAI_BASE_URL", reason));
        }
        if HeaderValue::from_str(&config.api_key).is_err() {
            let reason = "holds a character that no key has, such as a line break";
            return Err(Error::configuration("OPENAI_API_KEY", reason));
        }
        if config.model.trim().is_empty() {
            return Err(Error::configuration("OPENAI_MODEL", "must name a model"));
        }
        Ok(Self {
            endpoint: Endpoint::new(&config)?,
            config,
            toolbox: builtin(Clock::default()),
        })
    }

    /// Replaces the tools, for a clock of one's own.
    #[must_use]
    pub fn with_toolbox(self, toolbox: Toolbox<Memory>) -> Self {
        Self { toolbox, ..self }
    }

    /// The same agent with the tools of `others` too.
    #[must_use]
    pub fn with_tools(mut self, others: Arc<dyn Tools<Memory>>) -> Self {
        self.toolbox = self.toolbox.with(others);
        self
    }
}

impl OpenAiAgent {
    /// The answer to a request; what is said meanwhile is heard in the context.
    async fn complete(
        &self,
        context: &Context,
        prompt: &Prompt<'_>,
    ) -> Result<Completion, AgentError> {
        let deadline = Instant::now() + self.config.timeout;
        let api = self.config.api;
        let request = api.body(&self.config, prompt);
        let answer = async {
            let mut answer = self.endpoint.ask(&request, deadline).await?;
            let mut completion = Completion::default();
            while let Some(event) = answer.next().await? {
                match event {
                    Event::Data(chunk) => {
                        let said = api.add(&mut completion, &chunk, &self.config.api_key)?;
                        context.say(&said).await;
                    }
                    Event::Done => {
                        completion.end();
                        break;
                    }
                }
            }
            Ok(completion)
        };
        let answer = tokio::time::timeout_at(deadline, answer).await;
        answer.map_err(|elapsed| AgentError::Unavailable {
            reason: format!("it did not answer within {:?}", self.config.timeout),
            source: Some(elapsed.into()),
        })?
    }

    /// Makes a summary of what does not fit. It is a part of the state, stored with the step: the
    /// messages stay as they are, and who loses it on the way makes it again. Without one the turn
    /// goes on with what fits.
    async fn compact(&self, context: &Context, state: &mut AgentState<Memory>) {
        let before = self.config.summary(state);
        let Some(range) = context::overflow(state, before, self.config.context_tokens) else {
            return;
        };
        let prompt = request::summary(&self.config, before, &state.messages[range.clone()]);
        let covers = state.messages.before() + range.end;
        let conversation = context.conversation().id;
        // What is said of it is not for the user.
        let made = self.complete(&Context::detached(), &prompt).await;
        match made.and_then(|completion| completion::step(completion, state)) {
            Ok(Step::Answer(text)) => {
                tracing::info!(%conversation, covers, bytes = text.len(), "summarised a chat");
                let text = tools::shortened(&text, MAX_SUMMARY);
                state.own.summary = Some(Summary { text, covers });
            }
            Ok(_) => tracing::warn!(%conversation, "the model did not summarise a chat"),
            Err(error) => tracing::warn!(%conversation, %error, "a chat can't be summarised"),
        }
    }
}

#[async_trait]
impl Agent for OpenAiAgent {
    type State = Memory;

    async fn step(
        &self,
        context: &Context,
        state: &mut AgentState<Memory>,
    ) -> Result<Step, AgentError> {
        if self.config.compacts {
            self.compact(context, state).await;
        }
        let prompt = request::request(&self.config, &self.toolbox, state);
        let completion = self.complete(context, &prompt).await?;
        let mut step = completion::step(completion, state)?;
        if let Step::ToolCalls { calls, .. } = &mut step {
            calls
                .iter_mut()
                .for_each(|call| self.toolbox.note_traits(call));
        }
        Ok(step)
    }

    fn tools(&self) -> &dyn Tools<Memory> {
        &self.toolbox
    }

    /// More for a model that takes more than most, as if a message had a thousand tokens.
    fn newest_messages(&self) -> usize {
        (self.config.context_tokens / 1000).max(73)
    }
}
