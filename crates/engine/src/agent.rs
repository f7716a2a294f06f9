//! What an agent is: one step at a time, state in, step out.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::sync::mpsc;
use yai_agentkit_core::{BoxError, MessageId, Role};

/// All that an agent knows in a thread. Its fields are the channels of the thread's checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentState {
    /// What was said and done, oldest first, tool calls and their results included.
    pub messages: Vec<ChatMessage>,
    /// What the agent was asked to remember, by name.
    pub facts: BTreeMap<String, String>,
    /// The user message that the turn under way answers; kept by the turn engine.
    pub answering: Option<MessageId>,
}

impl AgentState {
    /// The tool calls that were decided on and have no result yet.
    pub fn open_tool_calls(&self) -> Vec<ToolCall> {
        let is_result = |message: &&ChatMessage| message.role == Role::Tool;
        let results: Vec<_> = self.messages.iter().rev().take_while(is_result).collect();
        let Some(decision) = self.messages.iter().rev().nth(results.len()) else {
            return Vec::new();
        };
        let is_open = |call: &&ToolCall| {
            !results
                .iter()
                .any(|result| result.tool_call_id.as_ref() == Some(&call.id))
        };
        decision
            .tool_calls
            .iter()
            .filter(is_open)
            .cloned()
            .collect()
    }
}

/// One message between a person, an agent and its tools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said; of a tool, its result.
    pub content: String,
    /// The tools that the assistant wants to run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's result, the call that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    /// A message without tools.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            tool_calls: Vec::new(),
            tool_call_id: None,
        }
    }
}

/// A tool that an agent wants to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Names the call within its thread.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// A JSON object, as the tool's schema asks.
    pub arguments: Json,
}

/// What an agent does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Run these tools, then ask again. `content` is what the agent says while it works.
    ToolCalls {
        /// May be empty.
        content: String,
        /// At least one.
        calls: Vec<ToolCall>,
    },
    /// This is the answer; the turn is done.
    Answer(String),
    /// Ask a person, and go on with the answer, which comes as the result of a tool call.
    Ask(String),
}

/// What a tool has come to.
#[derive(Clone, Debug, PartialEq)]
pub enum ToolOutcome {
    /// Its result, for the agent to read.
    Result(String),
    /// It has done nothing yet, and wants the answer of a person first. Then it runs again, with
    /// the answer.
    Ask(String),
}

/// Takes what an agent says while it is saying it. A clone is the same.
#[derive(Clone, Debug)]
pub struct Deltas(Option<mpsc::Sender<String>>);

impl Deltas {
    /// The second part receives what is said into the first; who says more than it takes waits.
    pub fn channel() -> (Self, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel(64);
        (Self(Some(sender)), receiver)
    }

    /// Where nobody watches.
    pub fn ignored() -> Self {
        Self(None)
    }

    /// Says what comes next.
    pub async fn say(&self, text: &str) {
        // PostgreSQL can't store a NUL.
        let text = text.replace('\0', "\u{fffd}");
        if let Some(deltas) = &self.0
            && !text.is_empty()
        {
            // Who does not listen any more need not hear it.
            drop(deltas.send(text).await);
        }
    }
}

/// Why an agent could not step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The model can't be reached, is overloaded or too slow; trying again can help.
    #[error("the model is unavailable: {reason}")]
    Unavailable {
        /// For the caller; holds no secret.
        reason: String,
        /// The cause.
        #[source]
        source: Option<BoxError>,
    },
    /// The model refused the request or answered nonsense; trying again won't help.
    #[error("the model refused: {reason}")]
    Refused {
        /// For the caller; holds no secret.
        reason: String,
        /// The cause.
        #[source]
        source: Option<BoxError>,
    },
}

/// An agent: decides on one step at a time, and runs its tools.
///
/// It keeps nothing between calls: all that it knows is in the state, which the turn engine stores
/// after every step. So a turn goes on in another process where it stopped in this one.
#[async_trait]
pub trait Agent: Send + Sync {
    /// Decides what to do next in `state`, whose last message is the user's or a tool's result. May
    /// say the content of the step to those who watch while it is being made: the step itself
    /// counts, and what was said otherwise is taken back.
    async fn step(&self, state: &AgentState, deltas: &Deltas) -> Result<Step, AgentError>;

    /// Whether running this call twice does no more than running it once. A call that is not
    /// repeatable never runs again by itself once it has begun: where a crash leaves open what
    /// came of it, the turn asks a person.
    fn is_repeatable(&self, call: &ToolCall) -> bool;

    /// Runs one tool; it may change the facts that the agent remembers. A tool that fails says so
    /// in its result, for the agent to read. The calls of one step run at once, each on a state of
    /// its own. `answer` is a person's, where the tool has asked for it.
    async fn run_tool(
        &self,
        call: &ToolCall,
        state: &mut AgentState,
        answer: Option<&str>,
    ) -> ToolOutcome;
}
