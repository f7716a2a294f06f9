//! An agent that is a program of its own, in any language, behind one URL.
//!
//! Each step and each tool call is one `POST` of JSON; the program keeps nothing between them. See
//! `docs/remote-agents.md` for the protocol, and for what a crash at each boundary leads to.

mod protocol;
mod transport;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use reqwest::Url;
use serde_json::Value as Json;
use yai_agentkit_core::Result;
use yai_agentkit_engine::agent::{
    Agent, AgentError, AgentState, Context, Step, ToolCall, ToolOutcome, ToolTraits, Toolbox, Tools,
};

pub use self::transport::{SIGNATURE, signature};
use self::{
    protocol::{Asked, Told, unique},
    transport::Transport,
};
use crate::asking::Failure;

/// Where a remote agent is. `Debug` shows neither the URL, which may hold a password, nor the secret.
#[derive(Clone)]
pub struct RemoteConfig {
    /// What is posted to.
    pub url: Url,
    /// Signs requests; without one they are not signed.
    pub secret: Option<String>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// For how long a program that fails to answer is asked again.
    pub patience: Duration,
}

impl RemoteConfig {
    /// Without a secret.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            secret: None,
            timeout: Duration::from_secs(60),
            patience: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for RemoteConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("RemoteConfig");
        shown
            .field("timeout", &self.timeout)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// Asks a program behind a URL for each step, and has it run its tools.
pub struct RemoteAgent {
    transport: Transport,
    /// The tools that run here.
    toolbox: Toolbox<Json>,
}

impl RemoteAgent {
    /// It does not connect yet.
    pub fn new(config: RemoteConfig) -> Result<Self> {
        Ok(Self {
            transport: Transport::new(config)?,
            toolbox: Toolbox::new([]),
        })
    }

    /// The same agent, which is told of `tools` that run here, in place of its own of that name.
    #[must_use]
    pub fn with_tools(mut self, tools: Arc<dyn Tools<Json>>) -> Self {
        self.toolbox = self.toolbox.with(tools);
        self
    }
}

#[async_trait]
impl Agent for RemoteAgent {
    type State = Json;

    async fn step(&self, context: &Context, state: &mut AgentState) -> Result<Step, AgentError> {
        let specs = self.toolbox.specs();
        let mut asked = Asked::new("step", context, state);
        asked.tools = specs.iter().map(Told::of).collect();
        let answer = self
            .transport
            .ask(context, context.step_key(), &asked, true);
        let mut answer = answer.await?;
        answer.change(&mut state.own)?;
        match (answer.answer, answer.tool_calls, answer.ask) {
            (Some(answer), None, None) => Ok(Step::Answer(answer)),
            (None, Some(calls), None) if !calls.is_empty() => {
                let mut calls = unique(calls, state);
                calls
                    .iter_mut()
                    .for_each(|call| self.toolbox.note_traits(call));
                let content = answer.content.unwrap_or_default();
                Ok(Step::ToolCalls { content, calls })
            }
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
        if self.toolbox.has(&call.name) {
            return self.toolbox.run(context, call, state, answer).await;
        }
        let mut asked = Asked::new("tool", context, state);
        (asked.call, asked.answer) = (Some(call), answer);
        let key = format!("{}-{}", context.turn_id(), call.id);
        let is_repeatable = self.traits(call).is_repeatable;
        let ran = async {
            let answer = self.transport.ask(context, &key, &asked, is_repeatable);
            let mut answer = answer.await?;
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
