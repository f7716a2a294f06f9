use json_patch::PatchOperation;
use serde::Serialize;
use serde_json::{Value as Json, json};
use utoipa::ToSchema;
use yai_agentkit_core::Value;

use crate::agent::AgentState;

/// What happens in a turn, as an event of the AG-UI protocol: `threadId` is the chat, `runId` the
/// turn.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(
    tag = "type",
    rename_all = "SCREAMING_SNAKE_CASE",
    rename_all_fields = "camelCase"
)]
#[expect(missing_docs, reason = "the protocol says what its fields are")]
pub enum Event {
    /// The turn begins, or goes on after a person's answer.
    RunStarted { thread_id: String, run_id: String },
    /// The turn has its answer, which is the `result`, or waits for a person.
    RunFinished {
        thread_id: String,
        run_id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Json>,
        outcome: Outcome,
    },
    /// The turn has failed or was cancelled; `code` is the name of a problem.
    RunError { message: String, code: &'static str },
    /// A step begins: `agent` decides, `tools` run.
    StepStarted { step_name: &'static str },
    /// A step is recorded.
    StepFinished { step_name: &'static str },
    /// The agent begins to say something.
    TextMessageStart {
        message_id: String,
        role: &'static str,
    },
    /// What it says next; never empty.
    TextMessageContent { message_id: String, delta: String },
    /// It has said it all.
    TextMessageEnd { message_id: String },
    /// The agent wants to run a tool.
    ToolCallStart {
        tool_call_id: String,
        tool_call_name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        parent_message_id: Option<String>,
    },
    /// With these arguments: JSON, complete.
    ToolCallArgs { tool_call_id: String, delta: String },
    /// The arguments are complete.
    ToolCallEnd { tool_call_id: String },
    /// What the tool has come to.
    ToolCallResult {
        message_id: String,
        tool_call_id: String,
        content: String,
        role: &'static str,
    },
    /// An RFC 6902 patch of the state: of the `values` of the checkpoint before.
    StateDelta {
        #[schema(value_type = Vec<Object>)]
        delta: Vec<PatchOperation>,
    },
    /// `agentkit.resumed`: the turn goes on after it was cut short. `agentkit.discarded`: what was
    /// said in the text message `messageId` is void.
    Custom { name: &'static str, value: Json },
}

/// How a run finishes.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Outcome {
    /// With an answer.
    Success,
    /// With questions to a person.
    Interrupt {
        /// One.
        interrupts: Vec<Question>,
    },
}

/// A question to a person.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// What the answer must name.
    pub id: String,
    /// `input`.
    pub reason: &'static str,
    /// The question.
    pub message: String,
    /// The tool call that asks.
    pub tool_call_id: String,
}

/// Whether an event is the last one, as far as is known with it.
pub(super) fn ends_run(event: &Json) -> bool {
    matches!(event["type"].as_str(), Some("RUN_FINISHED" | "RUN_ERROR"))
}

/// The patch that makes the values of a checkpoint with `after` out of those with `before`. Takes
/// as long as what has changed, where messages were only added.
pub(super) fn state_delta(before: &AgentState, after: &AgentState) -> Vec<PatchOperation> {
    let mut operations = Vec::new();
    let mut push = |operation: &str, path: &str, value: Json| {
        operations.push(json!({"op": operation, "path": path, "value": value}));
    };
    match after.messages.strip_prefix(&before.messages[..]) {
        Some(added) => {
            for message in added {
                push("add", "/messages/-", json!(message));
            }
        }
        None => push("replace", "/messages", json!(after.messages)),
    }
    if before.facts != after.facts {
        push("replace", "/facts", json!(after.facts));
    }
    if before.answering != after.answering {
        // As a checkpoint shows it.
        let shown = Value::encode(&after.answering).map(|value| value.to_json());
        push("replace", "/answering", shown.unwrap_or_default());
    }
    // Every one is well-formed by its making.
    let operations = operations.into_iter().map(serde_json::from_value);
    operations.filter_map(Result::ok).collect()
}
