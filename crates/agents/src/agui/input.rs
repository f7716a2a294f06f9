use serde::Serialize;
use serde_json::{Value as Json, json};
use yai_agentkit_core::{Role, TurnId};
use yai_agentkit_engine::agent::{AgentState, ChatMessage, Context, ToolSpec};

use super::AguiState;

/// What a run is asked with. Its thread is the turn: what the agent remembers of a thread is of this
/// turn alone, and nothing is told twice.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Input<'a> {
    thread_id: TurnId,
    run_id: &'a str,
    pub(super) state: Json,
    messages: Vec<Json>,
    tools: Vec<Json>,
    context: Vec<Json>,
    forwarded_props: Json,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resume: Vec<Json>,
}

impl<'a> Input<'a> {
    pub(super) fn new(
        context: &'a Context,
        state: &'a AgentState<AguiState>,
        specs: &[ToolSpec],
    ) -> Self {
        let own_tools = specs.iter().map(|tool| {
            json!({"name": tool.name, "description": tool.description, "parameters": tool.parameters})
        });
        let client = &state.client;
        let known = client.context.iter();
        Self {
            thread_id: context.turn_id(),
            run_id: context.step_key(),
            state: object(&state.own.state),
            messages: messages(state),
            tools: own_tools
                .chain(client.tools.iter().map(|tool| json!(tool)))
                .collect(),
            context: known.map(|known| json!(known)).collect(),
            forwarded_props: object(&client.forwarded),
            resume: answers(state),
        }
    }
}

/// An object where nothing is given: not all take nothing for nothing.
fn object(given: &Json) -> Json {
    match given {
        Json::Null => json!({}),
        given => given.clone(),
    }
}

/// The answers to what the run before has asked.
fn answers(state: &AgentState<AguiState>) -> Vec<Json> {
    let results = state.messages.iter().rev();
    let results = results.take_while(|message| message.role == Role::Tool);
    let answers = results
        .filter(|result| is_answer(state, result))
        .map(|result| {
            let payload = serde_json::from_str::<Json>(&result.content).ok();
            let payload = payload.filter(Json::is_object);
            let payload = payload.unwrap_or_else(|| result.content.as_str().into());
            json!({"interruptId": result.tool_call_id, "status": "resolved", "payload": payload})
        });
    let mut answers: Vec<Json> = answers.collect();
    answers.reverse();
    answers
}

/// All that was said and done, but for questions and answers, which are between runs.
fn messages(state: &AgentState<AguiState>) -> Vec<Json> {
    let told = state.messages.iter().enumerate();
    let told = told.filter_map(|(at, message)| {
        let is_question = message.tool_calls.iter().any(|call| call.is_question());
        if is_question || is_answer(state, message) {
            return None;
        }
        let place = state.messages.before() + at;
        let id = state.own.ids.get(&place).cloned();
        let mut told = json!({
            "id": id.unwrap_or_else(|| place.to_string()),
            "role": match &message.role {
                Role::Other(_) => "user".to_owned(),
                role => role.to_string(),
            },
            "content": message.content,
        });
        if let Some(call) = &message.tool_call_id {
            told["toolCallId"] = json!(call);
        }
        if !message.tool_calls.is_empty() {
            let calls = message.tool_calls.iter().map(|call| {
                let function = json!({"name": call.name, "arguments": call.arguments.to_string()});
                json!({"id": call.id, "type": "function", "function": function})
            });
            told["toolCalls"] = calls.collect();
        }
        Some(told)
    });
    let instructions = state.instructions.iter().enumerate();
    let instructions = instructions.map(
        |(at, text)| json!({"id": format!("instruction-{at}"), "role": "system", "content": text}),
    );
    let is_system = |message: &Json| message["role"] == "system";
    let told = told.filter(|message| !is_system(message));
    instructions.chain(told).collect()
}

fn is_answer(state: &AgentState<AguiState>, message: &ChatMessage) -> bool {
    let Some(id) = &message.tool_call_id else {
        return false;
    };
    let mut calls = state
        .messages
        .iter()
        .flat_map(|message| &message.tool_calls);
    calls.any(|call| call.is_question() && call.id == *id)
}
