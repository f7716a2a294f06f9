//! Agents of any state, and which of them answers in a conversation.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use serde_json::Value as Json;
use yai_agentkit_core::{Conversation, validate};

use crate::error_chain;

use super::{Agent, AgentError, AgentState, Context, Step, ToolCall, ToolOutcome, ToolTraits};

/// In the metadata of a conversation, the name of the agent that answers in it.
pub const AGENT: &str = "agent";

/// How deep the state of an agent may be: around it stands what tells of it.
const MAX_DEPTH: usize = validate::MAX_DEPTH - 20;

/// An [`Agent`] whatever its state: every agent is one.
#[async_trait]
pub trait AnyAgent: Send + Sync {
    /// See [`Agent::state_version`].
    fn state_version(&self) -> u32;

    /// Makes of a state that was `stored` in an earlier `version` one of today's, or says why not.
    fn migrate(&self, version: u32, stored: Json) -> Result<Json, String>;

    /// The own state of the agent that was `stored`, as it is today; its first where nothing was.
    fn own(&self, stored: Json) -> Result<Json, AgentError>;

    /// See [`Agent::step`].
    async fn step(&self, context: &Context, state: &mut AgentState) -> Result<Step, AgentError>;

    /// See [`Agent::newest_messages`].
    fn newest_messages(&self) -> usize;

    /// See [`Tools::traits`](super::Tools::traits).
    fn traits(&self, call: &ToolCall) -> ToolTraits;

    /// See [`Tools::run`](super::Tools::run).
    async fn run_tool(
        &self,
        context: &Context,
        call: &ToolCall,
        state: &mut AgentState,
        answer: Option<&str>,
    ) -> Result<ToolOutcome, AgentError>;
}

#[async_trait]
impl<A: Agent> AnyAgent for A {
    fn state_version(&self) -> u32 {
        Agent::state_version(self)
    }

    fn migrate(&self, version: u32, stored: Json) -> Result<Json, String> {
        let mut own = stored;
        for version in version..Agent::state_version(self) {
            let migrated = Agent::migrate(self, version, own);
            own = migrated.map_err(|error| error_chain(&*error))?;
        }
        let own = typed(self, own).and_then(|own| written(&own));
        own.map_err(|error| error.to_string())
    }

    fn own(&self, stored: Json) -> Result<Json, AgentError> {
        written(&typed(self, stored)?)
    }

    async fn step(&self, context: &Context, state: &mut AgentState) -> Result<Step, AgentError> {
        let own = typed(self, state.own.take())?;
        let mut of_type = state.clone().with_own(own);
        let step = Agent::step(self, context, &mut of_type).await?;
        state.own = written(&of_type.own)?;
        Ok(step)
    }

    fn newest_messages(&self) -> usize {
        Agent::newest_messages(self)
    }

    fn traits(&self, call: &ToolCall) -> ToolTraits {
        self.tools().traits(call)
    }

    async fn run_tool(
        &self,
        context: &Context,
        call: &ToolCall,
        state: &mut AgentState,
        answer: Option<&str>,
    ) -> Result<ToolOutcome, AgentError> {
        let own = typed(self, state.own.take())?;
        let mut of_type = state.clone().with_own(own);
        let outcome = self.tools().run(context, call, &mut of_type, answer).await;
        state.own = written(&of_type.own)?;
        Ok(outcome)
    }
}

fn typed<A: Agent>(_: &A, stored: Json) -> Result<A::State, AgentError> {
    if stored.is_null() {
        return Ok(A::State::default());
    }
    let own = serde_json::from_value(stored);
    own.map_err(|error| AgentError::Refused {
        reason: format!("its state can't be read: {error}"),
        source: Some(error.into()),
    })
}

fn written<S: serde::Serialize>(own: &S) -> Result<Json, AgentError> {
    let refused = |reason: String| AgentError::Refused {
        reason,
        source: None,
    };
    let own = serde_json::to_value(own);
    let own = own.map_err(|error| refused(format!("its state can't be written: {error}")))?;
    if !own.is_object() && !own.is_null() {
        return Err(refused("its state is no object".to_owned()));
    }
    if validate::is_deeper(&own, MAX_DEPTH) {
        return Err(refused(format!(
            "its state is deeper than {MAX_DEPTH} levels"
        )));
    }
    Ok(own)
}

/// The agents of an engine: one for every conversation, and others by name, for those whose metadata
/// say so: `{"agent": "name"}`.
#[derive(Clone)]
pub struct Agents {
    default: Arc<dyn AnyAgent>,
    named: BTreeMap<String, Arc<dyn AnyAgent>>,
}

impl Agents {
    /// With a further agent.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, agent: Arc<dyn AnyAgent>) -> Self {
        self.named.insert(name.into(), agent);
        self
    }

    /// The names of those that have one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    /// The agent of `conversation`, or the name that no agent has.
    pub(crate) fn of(&self, conversation: &Conversation) -> Result<Arc<dyn AnyAgent>, String> {
        let metadata = conversation.metadata.as_ref();
        let agent = match metadata.and_then(|metadata| metadata.get(AGENT)?.as_str()) {
            Some(name) => self.named.get(name).ok_or_else(|| name.to_owned())?,
            None => &self.default,
        };
        Ok(Arc::clone(agent))
    }
}

impl<A: Agent> From<Arc<A>> for Agents {
    fn from(agent: Arc<A>) -> Self {
        Self::from(agent as Arc<dyn AnyAgent>)
    }
}

impl From<Arc<dyn AnyAgent>> for Agents {
    fn from(default: Arc<dyn AnyAgent>) -> Self {
        let named = BTreeMap::new();
        Self { default, named }
    }
}
