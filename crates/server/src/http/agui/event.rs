use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use utoipa::ToSchema;
use uuid::Uuid;
use yai_agentkit_core::{Turn, turn::Interrupt};
use yai_agentkit_engine::{StepKind, TurnEvent};

use super::run::Run;
use crate::http::chat::MessageBody;

/// What happens in a turn, as an event of the AG-UI protocol: `threadId` is the chat, `runId` the
/// turn.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE")]
pub(in crate::http) enum Event {
    /// The turn begins, or goes on after a person's answer.
    #[serde(rename_all = "camelCase")]
    RunStarted { thread_id: String, run_id: String },
    /// The turn has its answer, which is the `result`, waits for a person or for the results of the
    /// client's tools, or was cancelled.
    #[serde(rename_all = "camelCase")]
    RunFinished {
        thread_id: String,
        run_id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Value>,
        /// Not of a run that was cancelled, where the client names no `protocolVersion`: those before 1.0
        /// know no such outcome.
        #[serde(skip_serializing_if = "Option::is_none")]
        outcome: Option<Outcome>,
    },
    /// The turn has failed; `code` is the name of a problem.
    RunError { message: String, code: &'static str },
    /// A step begins: `agent` decides, `tools` run.
    #[serde(rename_all = "camelCase")]
    StepStarted { step_name: &'static str },
    /// The step is recorded, or will never be.
    #[serde(rename_all = "camelCase")]
    StepFinished { step_name: &'static str },
    /// The agent begins to say something.
    #[serde(rename_all = "camelCase")]
    TextMessageStart {
        message_id: Uuid,
        role: &'static str,
    },
    /// What it says next; never empty.
    #[serde(rename_all = "camelCase")]
    TextMessageContent { message_id: Uuid, delta: String },
    /// It has said it all.
    #[serde(rename_all = "camelCase")]
    TextMessageEnd { message_id: Uuid },
    /// The agent wants to run a tool.
    #[serde(rename_all = "camelCase")]
    ToolCallStart {
        tool_call_id: String,
        tool_call_name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        parent_message_id: Option<Uuid>,
    },
    /// With these arguments: JSON, complete.
    #[serde(rename_all = "camelCase")]
    ToolCallArgs { tool_call_id: String, delta: String },
    /// The arguments are complete.
    #[serde(rename_all = "camelCase")]
    ToolCallEnd { tool_call_id: String },
    /// What the tool has come to.
    #[serde(rename_all = "camelCase")]
    ToolCallResult {
        message_id: String,
        tool_call_id: String,
        content: String,
        role: &'static str,
    },
    /// The agent's own state as the run begins.
    StateSnapshot {
        #[schema(value_type = Object)]
        snapshot: Value,
    },
    /// An RFC 6902 patch of that state.
    StateDelta {
        #[schema(value_type = Vec<Object>)]
        delta: Vec<Value>,
    },
    /// What was said before, where a run of `POST /agui` begins: the newest messages, 512 KiB or one.
    MessagesSnapshot {
        #[schema(value_type = Vec<Object>)]
        messages: Box<RawValue>,
    },
    /// `agentkit.resumed`: the turn goes on after it was cut short. `agentkit.discarded`: what was
    /// said in the text message `messageId` is void. `agentkit.older`: there are messages before
    /// those of the snapshot, `GET /conversations/{conversationId}/messages?order=desc&cursor={cursor}`
    /// has them.
    Custom { name: &'static str, value: Value },
}

/// How a run finishes.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(in crate::http) enum Outcome {
    /// With an answer, or with calls of the client's tools.
    #[serde(rename_all = "camelCase")]
    Success {
        /// The calls that the client is to run, where it names a `protocolVersion`.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pending_tool_call_ids: Vec<String>,
    },
    /// With questions to a person.
    Interrupt {
        /// One.
        interrupts: Vec<Question>,
    },
    /// Without an answer, as somebody wished.
    Cancelled,
}

/// A question to a person.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct Question {
    /// What the answer must name.
    id: String,
    /// `input_required`; `tool_call` of a call that wants approval: its name and arguments are in
    /// `metadata`, what an answer may be in `responseSchema`.
    reason: &'static str,
    /// The question.
    message: String,
    /// The tool call that asks.
    tool_call_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    response_schema: Option<Value>,
}

impl Event {
    /// What a client is told of an event of `turn`: always the same of the same event, so that
    /// places in the stream do not move. Nothing of an event that this version does not know.
    pub(in crate::http) fn of(turn: &Turn, event: TurnEvent) -> Vec<Self> {
        match event {
            TurnEvent::Started { state } => {
                let snapshot = state.map(|state| Self::StateSnapshot {
                    snapshot: if state.is_null() { json!({}) } else { state },
                });
                let started = Self::RunStarted {
                    thread_id: turn.conversation_id.to_string(),
                    run_id: turn.id.to_string(),
                };
                [started].into_iter().chain(snapshot).collect()
            }
            TurnEvent::Resumed { attempt } => vec![Self::Custom {
                name: "agentkit.resumed",
                value: json!({ "attempt": attempt }),
            }],
            TurnEvent::StepStarted { step } => vec![Self::StepStarted {
                step_name: step_name(step),
            }],
            TurnEvent::StepFinished { step } => vec![Self::StepFinished {
                step_name: step_name(step),
            }],
            TurnEvent::TextStarted { message_id } => vec![Self::TextMessageStart {
                message_id: message_id.0,
                role: "assistant",
            }],
            TurnEvent::TextSaid { message_id, delta } => {
                let message_id = message_id.0;
                vec![Self::TextMessageContent { message_id, delta }]
            }
            TurnEvent::TextEnded {
                message_id,
                is_void,
            } => {
                let void = is_void.then(|| Self::Custom {
                    name: "agentkit.discarded",
                    value: json!({ "messageId": message_id }),
                });
                let message_id = message_id.0;
                let ended = Self::TextMessageEnd { message_id };
                [ended].into_iter().chain(void).collect()
            }
            TurnEvent::ToolCalled { call, message_id } => {
                let tool_call_id = || call.id.clone();
                vec![
                    Self::ToolCallStart {
                        tool_call_id: tool_call_id(),
                        tool_call_name: call.name.clone(),
                        parent_message_id: message_id.map(|id| id.0),
                    },
                    Self::ToolCallArgs {
                        tool_call_id: tool_call_id(),
                        delta: call.arguments.to_string(),
                    },
                    Self::ToolCallEnd {
                        tool_call_id: tool_call_id(),
                    },
                ]
            }
            TurnEvent::ToolReturned { call_id, result } => vec![Self::ToolCallResult {
                message_id: format!("{call_id}_result"),
                tool_call_id: call_id,
                content: result,
                role: "tool",
            }],
            TurnEvent::StateChanged { patch } => vec![Self::StateDelta {
                delta: patch.0.into_iter().map(|change| json!(change)).collect(),
            }],
            TurnEvent::Answered { answer } => {
                vec![Self::finished(
                    turn,
                    Some(json!(MessageBody::from(answer))),
                    Outcome::success(),
                )]
            }
            TurnEvent::Waiting { interrupt } => {
                // A client that is to run its tools does so when the run has ended.
                let outcome = match interrupt.client_calls.is_empty() {
                    true => Outcome::Interrupt {
                        interrupts: vec![interrupt.into()],
                    },
                    false => Outcome::Success {
                        pending_tool_call_ids: interrupt.client_calls,
                    },
                };
                vec![Self::finished(turn, None, outcome)]
            }
            TurnEvent::Cancelled => vec![Self::finished(turn, None, Outcome::Cancelled)],
            TurnEvent::Failed {
                reason,
                is_unavailable,
            } => vec![Self::RunError {
                message: reason,
                code: if is_unavailable {
                    "agent-unavailable"
                } else {
                    "agent-failed"
                },
            }],
            _ => Vec::new(),
        }
    }

    /// Who listens hears no more, although the run may go on.
    pub(super) fn broken(message: &str) -> Self {
        Self::RunError {
            message: message.to_owned(),
            code: "turn-unfinished",
        }
    }

    /// Names the thread and the run as the client does, and nothing that came with AG-UI 1.0 to one before
    /// that: it refuses what it does not know.
    pub(super) fn tell(&mut self, run: &Run) {
        if let Self::RunFinished { outcome, .. } = self
            && run.is_before_1_0
        {
            match outcome {
                Some(Outcome::Cancelled) => *outcome = None,
                Some(Outcome::Success { .. }) => *outcome = Some(Outcome::success()),
                Some(Outcome::Interrupt { .. }) | None => {}
            }
        }
        if let Self::RunStarted { thread_id, run_id }
        | Self::RunFinished {
            thread_id, run_id, ..
        } = self
        {
            thread_id.clone_from(&run.thread_id);
            run_id.clone_from(&run.run_id);
        }
    }

    fn finished(turn: &Turn, result: Option<Value>, outcome: Outcome) -> Self {
        Self::RunFinished {
            thread_id: turn.conversation_id.to_string(),
            run_id: turn.id.to_string(),
            result,
            outcome: Some(outcome),
        }
    }
}

impl Outcome {
    /// With nothing left for the client to run.
    pub(super) fn success() -> Self {
        Self::Success {
            pending_tool_call_ids: Vec::new(),
        }
    }
}

impl From<Interrupt> for Question {
    fn from(interrupt: Interrupt) -> Self {
        let asked = Self {
            id: interrupt.id.to_string(),
            reason: "input_required",
            message: interrupt.question,
            tool_call_id: interrupt.tool_call_id,
            metadata: None,
            response_schema: None,
        };
        let Some(call) = interrupt.proposed else {
            return asked;
        };
        Self {
            reason: "tool_call",
            metadata: Some(json!({"toolName": call.name, "arguments": call.arguments})),
            response_schema: Some(json!({
                "type": "object",
                "properties": {
                    "approved": {"type": "boolean"},
                    "arguments": {"type": "object"},
                    "reason": {"type": "string"}
                },
                "required": ["approved"],
                "additionalProperties": false
            })),
            ..asked
        }
    }
}

fn step_name(step: StepKind) -> &'static str {
    match step {
        StepKind::Agent => "agent",
        StepKind::Tools => "tools",
    }
}
