//! What an agent is: one step at a time, state in, step out.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;
use tokio::sync::mpsc;
use yai_agentkit_core::{MessageId, Role, error::BoxError};

use crate::ClientInput;

/// All that an agent knows in a thread. Its fields are the channels of the thread's checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentState {
    /// What was said and done, oldest first, tool calls and their results included. Of a long chat
    /// the newest part, of 73 messages at least, in which the turn under way is whole.
    pub messages: Messages,
    /// The system messages, oldest first: they are to be heeded however long ago they were said.
    pub instructions: Vec<String>,
    /// What the agent was asked to remember, by name.
    pub facts: BTreeMap<String, String>,
    /// The user message that the turn under way answers; kept by the turn engine.
    pub answering: Option<MessageId>,
    /// What the client gives for the turn under way: it is stored with the turn.
    #[serde(skip)]
    pub client: Arc<ClientInput>,
}

/// What a state has beyond an earlier one: of lists what is added, of all else what it is.
#[derive(Serialize)]
pub(crate) struct Added<'a> {
    messages: Messages,
    instructions: &'a [String],
    facts: &'a BTreeMap<String, String>,
    answering: Option<MessageId>,
}

impl AgentState {
    /// Both lists have only grown since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Added<'_> {
        let added = self.messages.get(earlier.messages.len()..);
        let instructions = self.instructions.get(earlier.instructions.len()..);
        Added {
            messages: Messages {
                before: 0,
                messages: added.unwrap_or_default().to_vec(),
            },
            instructions: instructions.unwrap_or_default(),
            facts: &self.facts,
            answering: self.answering,
        }
    }

    /// Whether the user's message that the turn under way answers is among the messages.
    pub(crate) fn has_whole_turn(&self) -> bool {
        let is_user = |message: &Arc<ChatMessage>| message.role == Role::User;
        self.messages.before == 0 || self.messages.iter().any(is_user)
    }

    /// The tool calls that were decided on and have no result yet.
    pub fn open_tool_calls(&self) -> Vec<ToolCall> {
        let newest_first = || self.messages.iter().rev();
        let results = newest_first().take_while(|message| message.role == Role::Tool);
        let results: Vec<_> = results.collect();
        let Some(decision) = newest_first().nth(results.len()) else {
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

/// The messages of a chat, or the newest of them. A clone shares them, and costs little.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    before: usize,
    messages: Vec<Arc<ChatMessage>>,
}

impl Messages {
    /// Adds a message.
    pub fn push(&mut self, message: ChatMessage) {
        self.messages.push(Arc::new(message));
    }

    /// How many messages of the chat stand before these.
    pub fn before(&self) -> usize {
        self.before
    }

    /// How many messages the chat has. None is ever taken away, so it makes an id that is new.
    pub fn total(&self) -> usize {
        self.before + self.len()
    }

    pub(crate) fn stand_behind(&mut self, before: usize) {
        self.before = before;
    }
}

impl Deref for Messages {
    type Target = [Arc<ChatMessage>];

    fn deref(&self) -> &[Arc<ChatMessage>] {
        &self.messages
    }
}

impl From<Vec<ChatMessage>> for Messages {
    fn from(messages: Vec<ChatMessage>) -> Self {
        Self {
            before: 0,
            messages: messages.into_iter().map(Arc::new).collect(),
        }
    }
}

impl Serialize for Messages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Arc::as_ref))
    }
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<ChatMessage>::deserialize(deserializer).map(Self::from)
    }
}

/// One message between a person, an agent and its tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Whether this call is to be run on a state that has all messages of the chat, which are read
    /// for it.
    fn reads_all_messages(&self, _call: &ToolCall) -> bool {
        false
    }

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
