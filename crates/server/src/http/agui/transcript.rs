use serde_json::{Value, json};
use yai_agentkit_core::Turn;
use yai_agentkit_engine::TurnEvent;

use super::event::Event;

/// The messages of a run as a client has them that has followed it.
#[derive(Default)]
pub(super) struct Transcript(Vec<Value>);

impl Transcript {
    pub(super) fn messages(&self) -> &[Value] {
        &self.0
    }

    /// Adds what an event of `turn` tells.
    pub(super) fn follow(&mut self, turn: &Turn, event: TurnEvent) {
        let void = match &event {
            TurnEvent::TextEnded {
                message_id,
                is_void: true,
            } => Some(message_id.to_string()),
            _ => None,
        };
        for event in Event::of(turn, event) {
            self.add(&event);
        }
        if let Some(void) = void {
            self.0.retain(|message| message["id"] != *void);
        }
    }

    /// Adds what `event` tells, as clients do.
    fn add(&mut self, event: &Event) {
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

    fn find(&mut self, id: &str) -> Option<&mut Value> {
        self.0.iter_mut().rev().find(|message| message["id"] == *id)
    }
}

fn append(text: &mut Value, delta: &str) {
    if let Value::String(text) = text {
        text.push_str(delta);
    }
}
