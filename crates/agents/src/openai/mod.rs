//! The agent behind any OpenAI-compatible chat completions endpoint.

mod completion;
mod context;
mod request;
mod text;
mod transport;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use reqwest::{Url, header::HeaderValue};
use yai_agentkit_core::{Clock, Error, Result};
use yai_agentkit_engine::agent::{Agent, AgentError, AgentState, Context, Step, Toolbox, Tools};

use self::{
    completion::Completion,
    transport::{Endpoint, Event},
};
use crate::tools::{Memory, builtin};

/// How to reach a model. `Debug` does not show the key.
#[derive(Clone)]
pub struct OpenAiConfig {
    /// The secret; may be empty for an endpoint that asks for none.
    pub api_key: String,
    /// The endpoint up to its version, such as `https://api.openai.com/v1`.
    pub base_url: String,
    /// Which model.
    pub model: String,
    /// How long one step may take, retries included.
    pub timeout: Duration,
    /// What the model is told first, in place of AgentKit's own words.
    pub system_prompt: Option<String>,
    /// How many tokens of a chat the model is told, about: the newest messages, and all of the turn
    /// under way.
    pub context_tokens: usize,
}

impl OpenAiConfig {
    /// For OpenAI's own endpoint.
    pub fn new(api_key: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            api_key: api_key.into(),
            base_url: "https://api.openai.com/v1".to_owned(),
            model: model.into(),
            timeout: Duration::from_secs(60),
            system_prompt: None,
            context_tokens: 64_000,
        }
    }
}

impl fmt::Debug for OpenAiConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OpenAiConfig")
            .field("base_url", &self.base_url)
            .field("model", &self.model)
            .field("timeout", &self.timeout)
            .field("system_prompt", &self.system_prompt)
            .field("context_tokens", &self.context_tokens)
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
        let base_url = Url::parse(&config.base_url).ok();
        let is_plain = |url: Url| {
            matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none()
        };
        if !base_url.is_some_and(is_plain) {
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
}

impl OpenAiAgent {
    async fn complete(
        &self,
        context: &Context,
        state: &AgentState<Memory>,
    ) -> Result<Completion, AgentError> {
        let request = request::request(&self.config, &self.toolbox, state);
        let mut answer = self.endpoint.ask(&request).await?;
        let mut completion = Completion::default();
        while let Some(event) = answer.next().await? {
            match event {
                Event::Data(chunk) => {
                    let said = completion.add(&chunk, &self.config.api_key)?;
                    context.say(&said).await;
                }
                Event::Done => {
                    completion.end();
                    break;
                }
            }
        }
        Ok(completion)
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
        let completion = tokio::time::timeout(self.config.timeout, self.complete(context, state));
        let completion = completion
            .await
            .map_err(|elapsed| AgentError::Unavailable {
                reason: format!("it did not answer within {:?}", self.config.timeout),
                source: Some(elapsed.into()),
            })??;
        completion::step(completion, state)
    }

    fn tools(&self) -> &dyn Tools<Memory> {
        &self.toolbox
    }
}
