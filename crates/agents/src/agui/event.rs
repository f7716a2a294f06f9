use json_patch::Patch;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use yai_agentkit_engine::agent::{AgentError, AgentState, Step, ToolCall};

use super::AguiState;
use crate::asking::Failure;

/// Between two messages of a run.
const BETWEEN: &str = "\n\n";

/// What is heeded of a run.
#[derive(Deserialize)]
#[serde(
    tag = "type",
    rename_all = "SCREAMING_SNAKE_CASE",
    rename_all_fields = "camelCase"
)]
enum Event {
    TextMessageContent {
        message_id: String,
        delta: String,
    },
    TextMessageChunk {
        message_id: Option<String>,
        delta: Option<String>,
    },
    ToolCallStart {
        tool_call_id: String,
        tool_call_name: String,
        parent_message_id: Option<String>,
    },
    ToolCallArgs {
        tool_call_id: String,
        delta: String,
    },
    ToolCallChunk {
        tool_call_id: Option<String>,
        tool_call_name: Option<String>,
        parent_message_id: Option<String>,
        delta: Option<String>,
    },
    ToolCallResult {
        tool_call_id: String,
    },
    MessagesSnapshot {
        messages: Vec<Json>,
    },
    StateSnapshot {
        snapshot: Json,
    },
    StateDelta {
        delta: Patch,
    },
    RunFinished {
        outcome: Option<Outcome>,
    },
    RunError {
        message: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    interrupts: Vec<Interrupt>,
}

#[derive(Deserialize)]
struct Interrupt {
    id: String,
    message: Option<String>,
}

/// What has come of a run so far.
pub(super) struct Run {
    text: String,
    /// What the agent says that it said last, where it does not say it event by event.
    last_of_all: Option<String>,
    /// The last message that was begun.
    message: Option<String>,
    calls: Vec<Call>,
    state: Json,
    end: Option<Vec<Interrupt>>,
}

struct Call {
    id: String,
    name: String,
    message: Option<String>,
    arguments: String,
    /// Whether the agent has run it itself.
    is_done: bool,
}

impl Run {
    pub(super) fn new(state: Json) -> Self {
        Self {
            text: String::new(),
            last_of_all: None,
            message: None,
            calls: Vec::new(),
            state,
            end: None,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Heeds the next event, and returns what is said by it.
    pub(super) fn hear(&mut self, event: &str) -> Result<String, Failure> {
        let event = serde_json::from_str(event);
        match event.map_err(|error| Failure::refused(format!("its event is none: {error}")))? {
            Event::TextMessageContent { message_id, delta } => {
                return Ok(self.say(Some(message_id), &delta));
            }
            Event::TextMessageChunk { message_id, delta } => {
                return Ok(self.say(message_id, &delta.unwrap_or_default()));
            }
            Event::ToolCallStart {
                tool_call_id,
                tool_call_name,
                parent_message_id,
            } => self.call(tool_call_id, tool_call_name, parent_message_id),
            Event::ToolCallArgs {
                tool_call_id,
                delta,
            } => self.add_arguments(Some(&tool_call_id), &delta),
            Event::ToolCallChunk {
                tool_call_id,
                tool_call_name,
                parent_message_id,
                delta,
            } => {
                if let (Some(id), Some(name)) = (tool_call_id.clone(), tool_call_name)
                    && self.calls.iter().all(|call| call.id != id)
                {
                    self.call(id, name, parent_message_id);
                }
                self.add_arguments(tool_call_id.as_deref(), &delta.unwrap_or_default());
            }
            Event::ToolCallResult { tool_call_id } => {
                let mut calls = self.calls.iter_mut();
                if let Some(call) = calls.find(|call| call.id == tool_call_id) {
                    call.is_done = true;
                }
            }
            Event::MessagesSnapshot { messages } => {
                let is_user = |message: &Json| message["role"] == "user";
                let newest_first = messages
                    .iter()
                    .rev()
                    .take_while(|message| !is_user(message));
                let mut texts = newest_first.filter_map(|message| {
                    let is_said = message["role"] == "assistant";
                    message["content"]
                        .as_str()
                        .filter(|text| is_said && !text.is_empty())
                });
                self.last_of_all = texts.next().map(str::to_owned);
            }
            Event::StateSnapshot { snapshot } => self.state = snapshot,
            Event::StateDelta { delta } => {
                let patched = json_patch::patch(&mut self.state, &delta);
                patched.map_err(|error| {
                    Failure::refused(format!("its state delta does not fit: {error}"))
                })?;
            }
            Event::RunFinished { outcome } => {
                self.end = Some(
                    outcome
                        .map(|outcome| outcome.interrupts)
                        .unwrap_or_default(),
                );
            }
            Event::RunError { message } => return Err(Failure::refused(message)),
            Event::Other => {}
        }
        Ok(String::new())
    }

    fn say(&mut self, message: Option<String>, delta: &str) -> String {
        let is_next = message.is_some() && message != self.message && !self.text.is_empty();
        self.message = message.or(self.message.take());
        let said = match is_next && !delta.is_empty() {
            true => format!("{BETWEEN}{delta}"),
            false => delta.to_owned(),
        };
        self.text.push_str(&said);
        said
    }

    fn call(&mut self, id: String, name: String, message: Option<String>) {
        self.calls.push(Call {
            id,
            name,
            message,
            arguments: String::new(),
            is_done: false,
        });
    }

    fn add_arguments(&mut self, id: Option<&str>, delta: &str) {
        let mut newest_first = self.calls.iter_mut().rev();
        let call = newest_first.find(|call| id.is_none_or(|id| call.id == id));
        if let Some(call) = call {
            call.arguments.push_str(delta);
        }
    }

    /// What the agent wants: an answer, calls of tools that it does not run itself, or to know
    /// something from a person.
    pub(super) fn step(self, state: &mut AgentState<AguiState>) -> Result<Step, AgentError> {
        state.own.state = self.state;
        // Frameworks have what was said in their state too.
        if let Some(own) = state.own.state.as_object_mut() {
            own.remove("messages");
        }
        let asks = self.end.unwrap_or_default();
        if !asks.is_empty() {
            let questions = asks
                .into_iter()
                .map(|asked| ToolCall::question(asked.id, asked.message.unwrap_or_default()));
            return Ok(Step::ToolCalls {
                content: self.text,
                calls: questions.collect(),
            });
        }
        let open: Vec<Call> = self
            .calls
            .into_iter()
            .filter(|call| !call.is_done)
            .collect();
        if let Some(first) = open.first() {
            if let Some(id) = first.message.clone().or(self.message) {
                state.own.ids.insert(state.messages.total(), id);
            }
            let calls = open.into_iter().map(|call| {
                let arguments = serde_json::from_str(&call.arguments);
                let arguments = arguments.unwrap_or_else(|_| match call.arguments.as_str() {
                    "" => json!({}),
                    text => text.into(),
                });
                ToolCall::new(call.id, call.name, arguments)
            });
            return Ok(Step::ToolCalls {
                content: self.text,
                calls: calls.collect(),
            });
        }
        let text = Some(self.text).filter(|text| !text.trim().is_empty());
        let text = text.or(self.last_of_all);
        let text = text.ok_or_else(|| Failure::refused("its run has no text"))?;
        Ok(Step::Answer(text))
    }
}
