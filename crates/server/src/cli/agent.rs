use std::sync::Arc;

use async_trait::async_trait;
use yai_agentkit_core::Result;

use crate::{
    agent::{Agent, AgentError, AgentState, Step, ToolCall},
    settings::Settings,
};

/// The agent that the settings name.
pub(super) fn build_agent(settings: &Settings) -> Result<Arc<dyn Agent>> {
    let _ = &settings.agent;
    Ok(Arc::new(Echo))
}

/// Says what it was told.
struct Echo;

#[async_trait]
impl Agent for Echo {
    async fn step(&self, state: &AgentState) -> Result<Step, AgentError> {
        let said = state.messages.last();
        Ok(Step::Answer(
            said.map(|message| message.content.clone())
                .unwrap_or_default(),
        ))
    }

    async fn run_tool(&self, call: &ToolCall, _: &mut AgentState) -> String {
        format!("there is no tool {}", call.name)
    }
}
