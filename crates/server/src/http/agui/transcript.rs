use serde_json::{Value, json};

use super::event::Event;

/// The messages as a client has them that has followed a run.
pub(super) struct Transcript(Vec<Value>);

impl Transcript {
    /// Begins with the messages before the run.
    pub(super) fn new(before: Vec<Value>) -> Self {
        Self(before)
    }

    pub(super) fn messages(&self) -> Vec<Value> {
        self.0.clone()
    }

    /// Whether there is what the call has come to.
    pub(super) fn has_result(&self, call: &str) -> bool {
        let is_result = |message: &Value| message["toolCallId"] == *call;
        self.0.iter().any(is_result)
    }

    /// Adds what `event` tells, as clients do.
    pub(super) fn add(&mut self, event: &Event) {
        match event {
            Event::TextMessageStart { message_id, role } => {
                let id = message_id.to_string();
                self.0.push(json!({"id": id, "role": role, "content": ""}));
            }
            Event::TextMessageContent { message_id, delta } => {
                if let Some(message) = self.find(&message_id.to_string()) {
                    append(&mut message["content"], delta);
                }
            }
            Event::ToolCallStart {
                tool_call_id,
                tool_call_name,
                parent_message_id,
            } => {
                let call = json!({
                    "id": tool_call_id,
                    "type": "function",
                    "function": {"name": tool_call_name, "arguments": ""},
                });
                let id = parent_message_id.map_or(tool_call_id.clone(), |id| id.to_string());
                if self.find(&id).is_none() {
                    self.0.push(json!({"id": id, "role": "assistant"}));
                }
                if let Some(message) = self.find(&id) {
                    match message["toolCalls"].as_array_mut() {
                        Some(calls) => calls.push(call),
                        None => message["toolCalls"] = json!([call]),
                    }
                }
            }
            Event::ToolCallArgs {
                tool_call_id,
                delta,
            } => {
                let calls = self.0.iter_mut().rev();
                let mut calls =
                    calls.flat_map(|message| match message["toolCalls"].as_array_mut() {
                        Some(calls) => calls.iter_mut(),
                        None => [].iter_mut(),
                    });
                if let Some(call) = calls.find(|call| call["id"] == **tool_call_id) {
                    append(&mut call["function"]["arguments"], delta);
                }
            }
            Event::ToolCallResult {
                message_id,
                tool_call_id,
                content,
                role,
            } => self.0.push(json!({
                "id": message_id, "role": role, "toolCallId": tool_call_id, "content": content,
            })),
            _ => {}
        }
    }

    /// Takes back a message.
    pub(super) fn remove(&mut self, id: &str) {
        self.0.retain(|message| message["id"] != *id);
    }

    fn find(&mut self, id: &str) -> Option<&mut Value> {
        self.0.iter_mut().rev().find(|message| message["id"] == *id)
    }
}

fn append(text: &mut Value, delta: &str) {
    if let Value::String(text) = text {
        text.push_str(delta);
    }
}
