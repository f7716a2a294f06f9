use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use yai_agentkit_core::{Error, Result, Turn};

/// What a client gives an agent for one turn, beside the message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientInput {
    /// What the client can do itself. The agent may call these as its own tools, which they come
    /// before where they have the same names.
    pub tools: Vec<ClientTool>,
    /// What the agent is to know of where it is asked.
    pub context: Vec<ClientContext>,
    /// Anything else, for agents that know what to do with it.
    pub forwarded: Json,
    /// The agent's state as the client has changed it, for agents that take that over.
    #[serde(skip_serializing_if = "Json::is_null")]
    pub state: Json,
}

/// A tool that the client runs: a call of it goes out, and the turn waits for what comes of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientTool {
    /// How a call names it.
    pub name: String,
    /// What it does, for a model to read.
    #[serde(default)]
    pub description: String,
    /// The JSON schema of its arguments.
    #[serde(default)]
    pub parameters: Json,
}

/// Something that the client says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientContext {
    /// What it is.
    pub description: String,
    /// Text, or JSON as text.
    pub value: String,
}

impl ClientInput {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a call of `tool` is for the client to run.
    pub fn has_tool(&self, tool: &str) -> bool {
        self.tools.iter().any(|own| own.name == tool)
    }

    /// As it is stored with a turn.
    pub(crate) fn stored(&self) -> Option<Json> {
        let json = || serde_json::to_value(self).expect("its keys are names");
        (!self.is_empty()).then(json)
    }

    /// The same, where the agent has this state: a client that gives it back has changed nothing.
    pub(crate) fn stored_beside(&self, own: &Json) -> Option<Json> {
        if self.state != *own {
            return self.stored();
        }
        let unchanged = Self {
            state: Json::Null,
            ..self.clone()
        };
        unchanged.stored()
    }

    pub(crate) fn of(turn: &Turn) -> Result<Self> {
        let Some(stored) = &turn.input else {
            return Ok(Self::default());
        };
        let read = Self::deserialize(stored);
        read.map_err(|error| Error::unreadable(format!("the input of turn {}", turn.id), error))
    }
}
