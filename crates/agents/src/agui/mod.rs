//! An agent behind an endpoint of the AG-UI protocol, as frameworks have it: a step is a run.
//!
//! What happens within a run is not known here: one that is cut short is made again as a whole. See
//! `docs/remote-agents.md`.

mod event;
mod input;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use reqwest::{
    Client,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use yai_agentkit_core::{Result, Role};
use yai_agentkit_engine::agent::{Agent, AgentError, AgentState, Context, Step, Toolbox, Tools};

use self::{event::Run, input::Input};
use crate::{
    asking::{Failure, Patience, Speech},
    remote::RemoteConfig,
    sse::{Answer, Event},
};

/// What is kept for the agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AguiState {
    /// Its own state.
    pub state: Json,
    /// How it calls messages of the turn under way, by their place in the chat.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ids: BTreeMap<usize, String>,
}

/// Has each step made by a run of an agent that speaks AG-UI.
pub struct AguiAgent {
    client: Client,
    config: RemoteConfig,
    toolbox: Toolbox<AguiState>,
}

impl AguiAgent {
    /// The secret is sent as a bearer token. It does not connect yet.
    pub fn new(config: RemoteConfig) -> Result<Self> {
        Ok(Self {
            client: crate::http_client()?,
            config,
            toolbox: Toolbox::new([]),
        })
    }

    /// The same agent, which is told of `tools` that run here.
    #[must_use]
    pub fn with_tools(mut self, tools: Arc<dyn Tools<AguiState>>) -> Self {
        self.toolbox = self.toolbox.with(tools);
        self
    }

    async fn run(
        &self,
        context: &Context,
        input: &Input<'_>,
        speech: &mut Speech,
    ) -> Result<Run, Failure> {
        let body = serde_json::to_vec(input);
        let body = body.map_err(|error| Failure::refused(error.to_string()))?;
        let mut request = self.client.post(self.config.url.clone());
        request = request
            .timeout(self.config.timeout)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "text/event-stream")
            .body(body);
        if let Some(secret) = &self.config.secret {
            request = request.bearer_auth(secret);
        }
        let response = request.send().await.map_err(Failure::of)?;
        if !response.status().is_success() {
            return Err(Failure::status(response).await);
        }
        let mut events = Answer::begin(response).await.map_err(broken)?;
        let mut run = Run::new(input.state.clone());
        speech.begin();
        while let Some(Event::Data(event)) = events.next().await.map_err(broken)? {
            let said = run.hear(&event)?;
            context.say(&speech.hear(&said)).await;
            if run.is_over() {
                return Ok(run);
            }
        }
        Err(Failure::broken("its run broke off"))
    }
}

fn broken(error: AgentError) -> Failure {
    match error {
        AgentError::Unavailable { reason, .. } => Failure::broken(reason),
        error => Failure::refused(error.to_string()),
    }
}

#[async_trait]
impl Agent for AguiAgent {
    type State = AguiState;

    async fn step(
        &self,
        context: &Context,
        state: &mut AgentState<AguiState>,
    ) -> Result<Step, AgentError> {
        let last = state.messages.last();
        if last.is_some_and(|message| message.role == Role::User) {
            state.own.ids.clear();
            if let Some(changed) = state.client.state.get("state") {
                state.own.state.clone_from(changed);
            }
        }
        let specs = self.toolbox.specs();
        let input = Input::new(context, state, &specs);
        let (mut speech, mut patience) = (Speech::default(), Patience::new(self.config.patience));
        let run = loop {
            match self.run(context, &input, &mut speech).await {
                Ok(run) => break run,
                Err(failure) => patience.after(failure, true).await?,
            }
        };
        let mut step = run.step(state)?;
        if let Step::ToolCalls { calls, .. } = &mut step {
            calls
                .iter_mut()
                .for_each(|call| self.toolbox.note_traits(call));
        }
        Ok(step)
    }

    fn tools(&self) -> &dyn Tools<AguiState> {
        &self.toolbox
    }
}
