use std::{ops::Deref, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value as Json, json};
use yai_agentkit_core::{Message, MessageId, Role, conversation::Part};

use super::ToolTraits;
use crate::ClientInput;

/// The tool call by which an agent that asks a person waits for the answer.
const ASK: &str = "ask";

/// All that an agent knows in a thread. Its fields are the channels of the thread's checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentState<S: Default = Json> {
    /// What was said and done, oldest first, tool calls and their results included. Of a long chat
    /// the newest part, of 73 messages at least, in which the turn under way is whole.
    pub messages: Messages,
    /// The system messages, oldest first: they are to be heeded however long ago they were said.
    pub instructions: Vec<String>,
    /// What the agent keeps besides, its [`State`](super::Agent::State): the channel `state`.
    #[serde(rename = "state")]
    pub own: S,
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
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    instructions: &'a [String],
    #[serde(rename = "state", skip_serializing_if = "Json::is_null")]
    own: &'a Json,
    answering: Option<MessageId>,
}

impl AgentState {
    /// What an agent knows to whom these messages were said.
    pub fn of(messages: &[Message]) -> Self {
        let mut state = Self::default();
        messages.iter().for_each(|message| state.hear(message));
        state
    }

    /// Adds what was said.
    pub(crate) fn hear(&mut self, message: &Message) {
        if message.role == Role::System {
            self.instructions.push(message.content.clone());
        }
        self.messages.push(ChatMessage::from(message));
    }

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
            own: &self.own,
            answering: self.answering,
        }
    }

    /// The same with its own part as another type.
    pub(crate) fn with_own<T: Default>(self, own: T) -> AgentState<T> {
        AgentState {
            messages: self.messages,
            instructions: self.instructions,
            own,
            answering: self.answering,
            client: self.client,
        }
    }

    /// Whether the user's message that the turn under way answers is among the messages.
    pub(crate) fn has_whole_turn(&self) -> bool {
        let is_user = |message: &Arc<ChatMessage>| message.role == Role::User;
        self.messages.before == 0 || self.messages.iter().any(is_user)
    }
}

impl<S: Default> AgentState<S> {
    /// The messages of the turn under way, from the user's on.
    pub fn turn(&self) -> &[Arc<ChatMessage>] {
        let is_user = |message: &Arc<ChatMessage>| message.role == Role::User;
        &self.messages[self.messages.iter().rposition(is_user).unwrap_or(0)..]
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
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// Pictures and files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

impl From<&Message> for ChatMessage {
    fn from(message: &Message) -> Self {
        let mut said = Self::new(message.role.clone(), message.content.as_str());
        for part in &message.parts {
            match part {
                Part::ToolCall {
                    id,
                    name,
                    arguments,
                } => said.tool_calls.push(ToolCall {
                    id: id.clone(),
                    name: name.clone(),
                    arguments: arguments.clone(),
                    traits: None,
                    reasoning: Vec::new(),
                }),
                Part::ToolResult { call_id, .. } => said.tool_call_id = Some(call_id.clone()),
                Part::Image { .. } | Part::File { .. } => said.parts.push(part.clone()),
                _ => {}
            }
        }
        said
    }
}

impl ChatMessage {
    /// A message without tools.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            tool_calls: Vec::new(),
            tool_call_id: None,
            parts: Vec::new(),
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
    /// What the tool is like, where only who decided on the call knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traits: Option<ToolTraits>,
    /// What the model has thought before it, in the words or the sealed bytes of its endpoint, which
    /// wants to have them back beside the call. Nobody else reads them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasoning: Vec<Json>,
}

impl ToolCall {
    /// A call of the tool `name`.
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: Json) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            arguments,
            traits: None,
            reasoning: Vec::new(),
        }
    }

    /// A call that asks a person: its result is the answer.
    pub fn question(id: impl Into<String>, question: impl Into<String>) -> Self {
        Self::new(id, ASK, json!({ "question": question.into() }))
    }

    /// Whether it asks a person.
    pub fn is_question(&self) -> bool {
        self.name == ASK
    }
}
