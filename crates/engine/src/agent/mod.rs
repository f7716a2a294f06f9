//! What an agent is: one step at a time, state in, step out.

mod any;
mod context;
mod state;
mod tool;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;
use yai_agentkit_core::error::BoxError;

pub use self::{
    any::{AGENT, Agents, AnyAgent},
    context::Context,
    state::{AgentState, ChatMessage, Messages, ToolCall},
    tool::{NoTools, Tool, ToolOutcome, ToolSpec, ToolTraits, Toolbox, Tools},
};

/// An agent: decides on one step at a time, and has tools.
///
/// It keeps nothing between calls: all that it knows is in the state, which the turn engine stores
/// after every step. So a turn goes on in another process where it stopped in this one.
///
/// ```
/// use std::sync::Arc;
///
/// use yai_agentkit_core::{Conversation, Message, Role, Stores, memory::MemoryStorage};
/// use yai_agentkit_engine::{
///     TurnEngine, TurnError,
///     agent::{Agent, AgentError, AgentState, Context, Step},
/// };
///
/// struct Echo;
///
/// #[async_trait::async_trait]
/// impl Agent for Echo {
///     type State = ();
///
///     async fn step(
///         &self,
///         _: &Context,
///         state: &mut AgentState<()>,
///     ) -> Result<Step, AgentError> {
///         let question = &state.turn()[0];
///         Ok(Step::Answer(format!("You said: {}", question.content)))
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let storage = Arc::new(MemoryStorage::default());
/// let chat = storage.conversations().add(Conversation::titled("Echo")).await?;
/// let engine = TurnEngine::new(storage, Arc::new(Echo));
/// let outcome = engine.send(Message::new(chat.id, Role::User, "hello")).await?;
/// assert_eq!(outcome.answer().unwrap().content, "You said: hello");
/// # Ok::<(), TurnError>(()) }).unwrap();
/// ```
#[async_trait]
pub trait Agent: Send + Sync + 'static {
    /// What it keeps of its own in a conversation, besides what was said: in JSON an object, or
    /// nothing, as `()` is.
    type State: Serialize + DeserializeOwned + Default + Send + Sync + 'static;

    /// Decides what to do next in `state`, whose last message is the user's or a tool's result. May
    /// [say](Context::say) the content of the step to those who watch while it is being made: the
    /// step itself counts, and what was said otherwise is taken back. Of the state, changes of
    /// [`own`](AgentState::own) are stored with the step.
    async fn step(
        &self,
        context: &Context,
        state: &mut AgentState<Self::State>,
    ) -> Result<Step, AgentError>;

    /// What it can do besides talking.
    fn tools(&self) -> &dyn Tools<Self::State> {
        &NoTools
    }

    /// How many of a chat's newest messages the agent is to see at least, where there are so many.
    /// It may see more, though not eight times as many: a turn reads no others, however long the
    /// chat is.
    fn newest_messages(&self) -> usize {
        73
    }

    /// The version of [`State`](Self::State), which is stored with it: to be raised where what was
    /// stored before can't be read as it is. A state of a later version is left to servers that know it.
    fn state_version(&self) -> u32 {
        1
    }

    /// Makes of a state that was `stored` in an earlier `version` one of the version after that. Called
    /// until it is today's, before anything else is done in the conversation; nothing is, where it fails.
    fn migrate(&self, version: u32, stored: Json) -> Result<Json, BoxError> {
        let _ = stored;
        Err(format!("the agent has no migration of version {version}").into())
    }
}

/// What an agent does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Store this step, run its tools, then ask again. `content` is what the agent says while it works.
    ToolCalls {
        /// May be empty.
        content: String,
        /// May be empty: then the content is a step of its own.
        calls: Vec<ToolCall>,
    },
    /// This is the answer; the turn is done.
    Answer(String),
    /// Ask a person, and go on with the answer, which comes as the result of a tool call.
    Ask(String),
}

impl Step {
    /// To run these tools, without a word.
    pub fn calls(calls: impl IntoIterator<Item = ToolCall>) -> Self {
        Self::ToolCalls {
            content: String::new(),
            calls: calls.into_iter().collect(),
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
