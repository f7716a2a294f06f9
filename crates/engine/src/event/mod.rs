pub(super) mod stored;

use json_patch::{Patch, PatchOperation};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use yai_agentkit_core::{Message, MessageId, turn::Interrupt};

use crate::agent::ToolCall;

/// What happens in a turn, as it is stored and published.
///
/// Between [`Started`](Self::Started) and the event that [ends the run](Self::ends_run) every step
/// and every text that is begun is ended too, whatever becomes of the turn. An event of a newer
/// version is read as [`Unknown`](Self::Unknown), and what a newer version adds to one is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum TurnEvent {
    /// The turn begins, or goes on after a person's answer.
    Started {
        /// The agent's own state now, to which later changes apply; `None` of a turn that ends with
        /// the next event.
        state: Option<Json>,
    },
    /// Another engine goes on with the turn after it was cut short.
    Resumed {
        /// How often an engine has begun to work on it.
        attempt: u32,
    },
    /// A step begins.
    StepStarted {
        /// Which.
        step: StepKind,
    },
    /// The step is recorded, or will never be.
    StepFinished {
        /// Which.
        step: StepKind,
    },
    /// The agent begins to say something.
    TextStarted {
        /// Names the text in the events of this turn; the stored message has an id of its own.
        message_id: MessageId,
    },
    /// What the agent says next.
    TextSaid {
        /// The text that goes on.
        message_id: MessageId,
        /// Never empty.
        delta: String,
    },
    /// The agent has said it all.
    TextEnded {
        /// The text.
        message_id: MessageId,
        /// Whether it does not count: it was cut off, or taken back.
        is_void: bool,
    },
    /// The agent wants to run a tool.
    ToolCalled {
        /// Which, with what.
        call: ToolCall,
        /// What the agent has said with it, if anything.
        message_id: Option<MessageId>,
    },
    /// A tool has come to a result, or never will.
    ToolReturned {
        /// The call.
        call_id: String,
        /// For the agent to read.
        result: String,
    },
    /// The agent's own state has changed.
    StateChanged {
        /// What has changed since the last such event or [`Started`](Self::Started), RFC 6902.
        patch: Patch,
    },
    /// The turn is completed.
    Answered {
        /// As it is stored.
        answer: Message,
    },
    /// The turn waits for a person.
    Waiting {
        /// The question.
        interrupt: Interrupt,
    },
    /// The turn has failed.
    Failed {
        /// For the caller; holds no secret.
        reason: String,
        /// Whether the agent could not be reached, so that another attempt may succeed.
        is_unavailable: bool,
    },
    /// Somebody wanted no answer any more.
    Cancelled,
    /// Something of a newer version.
    #[serde(other)]
    Unknown,
}

/// A step of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// The agent decides.
    Agent,
    /// Its tools run.
    Tools,
}

/// The events of a turn that became durable together.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Its place among those of the turn: 1 for the first, without gaps.
    pub sequence: u64,
    /// In order.
    pub events: Vec<TurnEvent>,
}

impl TurnEvent {
    /// Whether the turn has ended with it, or waits for a person.
    pub fn ends_run(&self) -> bool {
        matches!(
            self,
            Self::Answered { .. } | Self::Waiting { .. } | Self::Failed { .. } | Self::Cancelled
        )
    }
}

/// What leads from `before` to `after`.
pub(super) fn changes(before: &Json, after: &Json) -> Patch {
    json_patch::diff(before, after)
}

/// Makes of `state` what it is after `patch`, as far as what that names is there: of two tools that
/// worked at the same time, one may have taken away what the other has changed.
pub(super) fn apply(patch: &Patch, state: &mut Json) {
    for operation in &patch.0 {
        let operation: &[PatchOperation] = std::slice::from_ref(operation);
        if let Err(error) = json_patch::patch(state, operation) {
            tracing::warn!(%error, "a change of two tools at once is left out");
        }
    }
}
