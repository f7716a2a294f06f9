//! The state as a chat completion request, and a completion as a step.

use std::collections::HashSet;

use async_openai::types::chat::{
    ChatCompletionMessageToolCall, ChatCompletionMessageToolCalls,
    ChatCompletionRequestAssistantMessage, ChatCompletionRequestMessage,
    ChatCompletionRequestSystemMessage, ChatCompletionRequestToolMessage,
    ChatCompletionRequestUserMessage, ChatCompletionTool, ChatCompletionTools,
    CreateChatCompletionRequest, FunctionCall, FunctionObject,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use yai_agentkit_core::Role;

use super::OpenAiConfig;
use crate::agent::{
    AgentError, AgentState, ChatMessage, Step, ToolCall,
    tools::{self, Toolbox},
};

const SYSTEM_PROMPT: &str = "You are a helpful assistant with a durable memory. Call `remember` when \
the user tells you something worth keeping, `search_history` to look up what was said before, \
`calculate` for arithmetic and `current_time` for the date and time. Answer in the user's language.";

const CUT_OFF: &str = "[The answer was cut off at the model's limit.]";

/// What to ask the model.
pub(super) fn request(
    config: &OpenAiConfig,
    toolbox: &Toolbox,
    state: &AgentState,
) -> CreateChatCompletionRequest {
    let mut prompt = config
        .system_prompt
        .clone()
        .unwrap_or_else(|| SYSTEM_PROMPT.to_owned());
    if !state.facts.is_empty() {
        prompt.push_str("\n\nWhat you remember, by name:\n");
        prompt.push_str(&tools::facts(state));
    }
    let system = ChatCompletionRequestSystemMessage::from(prompt).into();
    // An endpoint refuses tool calls that have no result, such as those of a turn given up.
    let results = state
        .messages
        .iter()
        .filter_map(|message| message.tool_call_id.as_deref());
    let answered: HashSet<_> = results.collect();
    let said = state
        .messages
        .iter()
        .filter_map(|message| wire_message(message, &answered));
    CreateChatCompletionRequest {
        model: config.model.clone(),
        messages: std::iter::once(system).chain(said).collect(),
        tools: Some(toolbox.tools().iter().map(wire_tool).collect()),
        ..CreateChatCompletionRequest::default()
    }
}

fn wire_message(
    message: &ChatMessage,
    answered: &HashSet<&str>,
) -> Option<ChatCompletionRequestMessage> {
    let content = message.content.as_str();
    let message = match message.role {
        Role::System => ChatCompletionRequestSystemMessage::from(content).into(),
        Role::User | Role::Other(_) => ChatCompletionRequestUserMessage::from(content).into(),
        Role::Tool => ChatCompletionRequestToolMessage {
            content: content.into(),
            tool_call_id: message.tool_call_id.clone()?,
        }
        .into(),
        Role::Assistant => {
            let calls = message.tool_calls.iter();
            let calls = calls.filter(|call| answered.contains(call.id.as_str()));
            let calls: Vec<_> = calls.map(wire_call).collect();
            if calls.is_empty() && content.is_empty() {
                return None;
            }
            ChatCompletionRequestAssistantMessage {
                content: (!content.is_empty()).then(|| content.into()),
                tool_calls: (!calls.is_empty()).then_some(calls),
                ..ChatCompletionRequestAssistantMessage::default()
            }
            .into()
        }
    };
    Some(message)
}

fn wire_call(call: &ToolCall) -> ChatCompletionMessageToolCalls {
    let arguments = match &call.arguments {
        Json::String(not_json) => not_json.clone(),
        arguments => arguments.to_string(),
    };
    ChatCompletionMessageToolCalls::Function(ChatCompletionMessageToolCall {
        id: call.id.clone(),
        function: FunctionCall {
            name: call.name.clone(),
            arguments,
        },
    })
}

fn wire_tool(tool: &tools::Tool) -> ChatCompletionTools {
    ChatCompletionTools::Function(ChatCompletionTool {
        function: FunctionObject {
            name: tool.name.to_owned(),
            description: Some(tool.description.to_owned()),
            parameters: Some(tool.parameters.clone()),
            strict: None,
        },
    })
}

/// What is needed of a completion. The library's own type knows every field and so refuses the
/// answers of endpoints that are only almost compatible.
#[derive(Deserialize)]
pub(super) struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Reply,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Reply {
    content: Option<String>,
    refusal: Option<String>,
    tool_calls: Option<Vec<Call>>,
}

#[derive(Deserialize)]
struct Call {
    id: Option<String>,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    /// By the standard, JSON in a string.
    #[serde(default)]
    arguments: Json,
}

/// What the model wants. A model that declines in words has answered.
pub(super) fn step(completion: Completion, state: &AgentState) -> Result<Step, AgentError> {
    let choice = completion.choices.into_iter().next();
    let Choice {
        message,
        finish_reason,
    } = choice.ok_or_else(|| refused("its answer has no choices".to_owned()))?;
    let content = message.content.unwrap_or_default();
    let calls = message.tool_calls.unwrap_or_default();
    if !calls.is_empty() {
        let calls = tool_calls(calls, state);
        return Ok(Step::ToolCalls { content, calls });
    }
    let text = if content.is_empty() {
        message.refusal.unwrap_or_default()
    } else {
        content
    };
    let finish_reason = finish_reason.unwrap_or_default();
    match (text.trim(), finish_reason.as_str()) {
        ("", reason) => Err(refused(format!(
            "its answer is empty (finish reason `{reason}`)"
        ))),
        (text, "length") => Ok(Step::Answer(format!("{text}\n\n{CUT_OFF}"))),
        _ => Ok(Step::Answer(text)),
    }
}

fn tool_calls(calls: Vec<Call>, state: &AgentState) -> Vec<ToolCall> {
    let earlier = state
        .messages
        .iter()
        .flat_map(|message| &message.tool_calls);
    let mut ids: HashSet<String> = earlier.map(|call| call.id.clone()).collect();
    let mut unique_id = |id: Option<String>, index: usize| {
        let id = id.filter(|id| !id.is_empty() && !ids.contains(id));
        let id = id.unwrap_or_else(|| format!("call_{}_{}", state.messages.len(), index + 1));
        ids.insert(id.clone());
        id
    };
    let calls = calls.into_iter().enumerate();
    calls
        .map(|(index, Call { id, function })| ToolCall {
            // Some endpoints number the calls of each answer anew, or not at all.
            id: unique_id(id, index),
            name: function.name,
            arguments: parsed(function.arguments),
        })
        .collect()
}

/// What is not JSON stays a string, about which the tool complains to the model.
fn parsed(arguments: Json) -> Json {
    match arguments {
        Json::Null => json!({}),
        Json::String(text) if text.trim().is_empty() => json!({}),
        Json::String(text) => serde_json::from_str(&text).unwrap_or(Json::String(text)),
        arguments => arguments,
    }
}

fn refused(reason: String) -> AgentError {
    AgentError::Refused {
        reason,
        source: None,
    }
}
