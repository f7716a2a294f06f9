//! The state as a chat completion request.

use std::collections::HashSet;

use async_openai::types::chat::{
    ChatCompletionMessageToolCall, ChatCompletionMessageToolCalls,
    ChatCompletionRequestAssistantMessage, ChatCompletionRequestMessage,
    ChatCompletionRequestSystemMessage, ChatCompletionRequestToolMessage,
    ChatCompletionRequestUserMessage, ChatCompletionTool, ChatCompletionTools,
    CreateChatCompletionRequest, FunctionCall, FunctionObject,
};
use serde_json::Value as Json;
use yai_agentkit_core::Role;
use yai_agentkit_engine::agent::{AgentState, ChatMessage, ToolCall, Toolbox, Tools};

use super::{OpenAiConfig, context};
use crate::tools::{self, Memory};

const SYSTEM_PROMPT: &str = "You are a helpful assistant with a durable memory. Call `remember` when \
the user tells you something worth keeping, `search_history` to look up what was said before, \
`calculate` for arithmetic and `current_time` for the date and time. Answer in the user's language.";

/// What to ask the model.
pub(super) fn request(
    config: &OpenAiConfig,
    toolbox: &Toolbox<Memory>,
    state: &AgentState<Memory>,
) -> CreateChatCompletionRequest {
    let mut prompt = config
        .system_prompt
        .clone()
        .unwrap_or_else(|| SYSTEM_PROMPT.to_owned());
    if !state.own.facts.is_empty() {
        prompt.push_str("\n\nWhat you remember, by name:\n");
        prompt.push_str(&tools::facts(&state.own));
    }
    for known in &state.client.context {
        prompt.push_str(&format!("\n\n{}:\n{}", known.description, known.value));
    }
    let system = ChatCompletionRequestSystemMessage::from(prompt).into();
    let context = context::of(state, config.context_tokens);
    let instructions = context.instructions.iter();
    let instructions =
        instructions.map(|text| ChatCompletionRequestSystemMessage::from(text.as_str()).into());
    // An endpoint refuses tool calls that have no result, such as those of a turn given up.
    let results = context
        .messages
        .iter()
        .filter_map(|message| message.tool_call_id.as_deref());
    let answered: HashSet<_> = results.collect();
    let said = context
        .messages
        .iter()
        .filter_map(|message| wire_message(message, &answered));
    let own_tools = toolbox.specs().into_iter();
    let own_tools = own_tools.filter(|tool| !state.client.has_tool(&tool.name));
    let own_tools = own_tools.map(|tool| wire_tool(&tool.name, &tool.description, tool.parameters));
    let client_tools = state.client.tools.iter();
    let client_tools =
        client_tools.map(|tool| wire_tool(&tool.name, &tool.description, tool.parameters.clone()));
    CreateChatCompletionRequest {
        model: config.model.clone(),
        messages: std::iter::once(system)
            .chain(instructions)
            .chain(said)
            .collect(),
        tools: Some(own_tools.chain(client_tools).collect()),
        stream: Some(true),
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

fn wire_tool(name: &str, description: &str, parameters: Json) -> ChatCompletionTools {
    ChatCompletionTools::Function(ChatCompletionTool {
        function: FunctionObject {
            name: name.to_owned(),
            description: Some(description.to_owned()),
            parameters: Some(parameters).filter(|schema| !schema.is_null()),
            strict: None,
        },
    })
}
