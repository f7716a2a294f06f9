//! What goes over the wire.

use std::{collections::HashSet, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use yai_agentkit_core::{ConversationId, TurnId};
use yai_agentkit_engine::agent::{
    AgentState, ChatMessage, Context, ToolCall, ToolSpec, ToolTraits,
};

use crate::asking::Failure;

/// A request.
#[derive(Serialize)]
pub(super) struct Asked<'a> {
    kind: &'static str,
    conversation_id: ConversationId,
    owner: Option<&'a str>,
    metadata: Option<&'a Json>,
    turn_id: TurnId,
    attempt: u32,
    messages: &'a [Arc<ChatMessage>],
    instructions: &'a [String],
    state: &'a Json,
    /// What runs in this process.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tools: Vec<Told<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) call: Option<&'a ToolCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<&'a str>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(kind: &'static str, context: &'a Context, state: &'a AgentState) -> Self {
        Self {
            kind,
            conversation_id: context.conversation().id,
            owner: context.conversation().owner.as_deref(),
            metadata: context.conversation().metadata.as_ref(),
            turn_id: context.turn_id(),
            attempt: context.attempt(),
            messages: &state.messages,
            instructions: &state.instructions,
            state: &state.own,
            tools: Vec::new(),
            call: None,
            answer: None,
        }
    }
}

/// A tool.
#[derive(Serialize)]
pub(super) struct Told<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Json,
}

impl<'a> Told<'a> {
    pub(super) fn of(spec: &'a ToolSpec) -> Self {
        Self {
            name: &spec.name,
            description: &spec.description,
            parameters: &spec.parameters,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delta {
    pub(super) delta: String,
}

/// What comes of a request: one of `answer`, `tool_calls`, `result` and `ask`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answer {
    pub(super) answer: Option<String>,
    pub(super) content: Option<String>,
    pub(super) tool_calls: Option<Vec<Call>>,
    pub(super) result: Option<String>,
    pub(super) ask: Option<String>,
    /// In place of the state before.
    state: Option<Json>,
    /// What changes in it.
    patch: Option<json_patch::Patch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Call {
    id: Option<String>,
    name: String,
    #[serde(default)]
    arguments: Json,
    #[serde(default)]
    traits: ToolTraits,
}

impl Answer {
    pub(super) fn change(&mut self, state: &mut Json) -> Result<(), Failure> {
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

/// The calls, each with an id that no other in the chat has.
pub(super) fn unique(calls: Vec<Call>, state: &AgentState) -> Vec<ToolCall> {
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
