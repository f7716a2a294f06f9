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
use yai_agentkit_engine::agent::{AgentError, AgentState, ChatMessage, Step, ToolCall};

use super::{OpenAiConfig, transport};
use crate::tools::{self, Toolbox};

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

/// What is needed of a chunk of a completion. The library's own type knows every field and so
/// refuses the answers of endpoints that are only almost compatible.
#[derive(Deserialize)]
pub(super) struct Chunk {
    choices: Option<Vec<Choice>>,
    /// What an endpoint says when it fails half-way.
    error: Option<Json>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Reply>,
    /// From an endpoint that does not stream: all at once.
    message: Option<Reply>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Reply {
    content: Option<String>,
    refusal: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize)]
struct CallDelta {
    index: Option<usize>,
    id: Option<String>,
    #[serde(default)]
    function: FunctionDelta,
}

#[derive(Default, Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    /// By the standard, JSON in a string, of which this is a part.
    #[serde(default)]
    arguments: Json,
}

/// A completion, chunk by chunk.
#[derive(Default)]
pub(super) struct Completion {
    content: String,
    refusal: String,
    calls: Vec<Call>,
    finish_reason: Option<String>,
    has_choices: bool,
    /// Whether nothing is missing.
    is_whole: bool,
}

#[derive(Default)]
struct Call {
    index: Option<usize>,
    id: Option<String>,
    name: String,
    arguments: Json,
}

impl Completion {
    /// Adds the next chunk, and returns what it adds to the text.
    pub(super) fn add(&mut self, chunk: Chunk, secret: &str) -> Result<String, AgentError> {
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(transport::failure_in_stream(&error, secret));
        }
        let choices = chunk.choices.ok_or_else(not_a_completion)?;
        let Some(choice) = choices.into_iter().next() else {
            return Ok(String::new());
        };
        self.has_choices = true;
        self.is_whole |= choice.finish_reason.is_some() || choice.message.is_some();
        self.finish_reason = choice.finish_reason.or(self.finish_reason.take());
        let Some(reply) = choice.message.or(choice.delta) else {
            return Ok(String::new());
        };
        for call in reply.tool_calls.unwrap_or_default() {
            self.add_call(call);
        }
        self.refusal.push_str(&reply.refusal.unwrap_or_default());
        let text = reply.content.unwrap_or_default();
        self.content.push_str(&text);
        Ok(text)
    }

    /// Parts of a call have its index; only the first has its id.
    fn add_call(&mut self, delta: CallDelta) {
        let id = delta.id.filter(|id| !id.is_empty());
        let known = match delta.index {
            Some(_) => self.calls.iter().position(|call| call.index == delta.index),
            None if id.is_none() && delta.function.name.is_none() => {
                self.calls.len().checked_sub(1)
            }
            None => None,
        };
        let at = known.unwrap_or_else(|| {
            self.calls.push(Call {
                index: delta.index,
                ..Call::default()
            });
            self.calls.len() - 1
        });
        let call = &mut self.calls[at];
        call.id = call.id.take().or(id);
        call.name.push_str(&delta.function.name.unwrap_or_default());
        match (&mut call.arguments, delta.function.arguments) {
            (_, Json::Null) => {}
            (Json::String(arguments), Json::String(more)) => arguments.push_str(&more),
            (arguments, more) => *arguments = more,
        }
    }
}

/// What the model wants. A model that declines in words has answered.
pub(super) fn step(completion: Completion, state: &AgentState) -> Result<Step, AgentError> {
    if !completion.has_choices {
        return Err(refused("its answer has no choices".to_owned()));
    }
    if !completion.is_whole {
        return Err(AgentError::Unavailable {
            reason: "its answer broke off".to_owned(),
            source: None,
        });
    }
    let content = completion.content;
    if completion.calls.iter().any(|call| call.name.is_empty()) {
        return Err(not_a_completion());
    }
    if !completion.calls.is_empty() {
        let calls = tool_calls(completion.calls, state);
        return Ok(Step::ToolCalls { content, calls });
    }
    let text = if content.is_empty() {
        completion.refusal
    } else {
        content
    };
    let finish_reason = completion.finish_reason.unwrap_or_default();
    match (text.trim(), finish_reason.as_str()) {
        ("", reason) => Err(refused(format!(
            "its answer is empty (finish reason `{reason}`)"
        ))),
        (_, "length") => Ok(Step::Answer(format!("{text}\n\n{CUT_OFF}"))),
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
        .map(|(index, call)| ToolCall {
            // Some endpoints number the calls of each answer anew, or not at all.
            id: unique_id(call.id, index),
            name: call.name,
            arguments: parsed(call.arguments),
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

fn not_a_completion() -> AgentError {
    refused("its answer is not a chat completion".to_owned())
}

fn refused(reason: String) -> AgentError {
    AgentError::Refused {
        reason,
        source: None,
    }
}
