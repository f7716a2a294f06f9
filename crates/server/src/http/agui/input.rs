use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;
use yai_agentkit_core::{ConversationId, turn::Interrupt};
use yai_agentkit_engine::{ClientContext, ClientInput, ClientTool};

use crate::http::{caller::Caller, problem::Problem};

/// Of the threads whose ids are no UUIDs.
const THREADS: Uuid = Uuid::from_u128(0x6b1f_93a2_5d0e_4c57_9c41_d7a0_3e8f_2b16);

/// The longest id of a client, in characters.
const MAX_ID: usize = 255;

/// What a client of the AG-UI protocol sends to run the agent, as far as it counts here.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = RunAgentInput)]
#[serde(rename_all = "camelCase")]
pub(super) struct Input {
    /// A UUID is the id of the conversation; any other text names one of its own.
    pub(super) thread_id: String,
    /// The client's id of the run: a repetition gets the events of the first.
    pub(super) run_id: String,
    /// Of AG-UI, as clients from 1.0 on name it.
    #[serde(default)]
    pub(super) protocol_version: Option<String>,
    /// What was said so far, as the client knows it, and last what it says now.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub(super) messages: Vec<Value>,
    /// The agent's state, as the client has changed it: the agent takes that over, or not.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(super) state: Value,
    /// What the client can do for the agent: calls of these end the run, and the next one brings
    /// their results, as messages of the role `tool`.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub(super) tools: Vec<ClientTool>,
    /// What the agent is to know of where it is asked.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub(super) context: Vec<ClientContext>,
    /// Anything else for the agent.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(super) forwarded_props: Value,
    /// The answer to what the run before has asked a person.
    #[serde(default)]
    pub(super) resume: Vec<Resume>,
}

/// The answer to one question.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ResumeEntry)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resume {
    pub(super) interrupt_id: String,
    #[schema(inline)]
    pub(super) status: ResumeStatus,
    /// Text, or any JSON.
    #[serde(default)]
    pub(super) payload: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ResumeStatus {
    /// Answered.
    Resolved,
    /// Not answered, and the turn is not wanted any more.
    Cancelled,
}

impl Input {
    pub(super) fn check(&self) -> Result<(), Problem> {
        check_id("threadId", &self.thread_id)?;
        check_id("runId", &self.run_id)
    }

    /// What the agent is given beside the messages.
    pub(super) fn client(&self) -> ClientInput {
        let is_nothing = |json: &Value| json.as_object().is_some_and(|object| object.is_empty());
        let given = |json: &Value| match is_nothing(json) {
            true => Value::Null,
            false => json.clone(),
        };
        ClientInput {
            tools: self.tools.clone(),
            context: self.context.clone(),
            forwarded: given(&self.forwarded_props),
            state: given(&self.state),
        }
    }

    /// Whether there is what any tool has come to.
    pub(super) fn has_results(&self) -> bool {
        let mut messages = self.messages.iter();
        messages.any(|message| message["toolCallId"].is_string())
    }

    /// What its tools have come to, by call: those that `asked` waits for.
    pub(super) fn results(&self, asked: &Interrupt) -> Vec<(String, String)> {
        let results = self.messages.iter().filter_map(|message| {
            let call = message["toolCallId"].as_str()?;
            let is_asked = asked.client_calls.iter().any(|own| own == call);
            let result = match (&message["content"], &message["error"]) {
                (Value::String(text), Value::Null) => text.clone(),
                (Value::String(text), error) => format!("{text} (error: {error})"),
                (json, _) => json.to_string(),
            };
            is_asked.then(|| (call.to_owned(), result))
        });
        results.collect()
    }
}

pub(super) fn check_id(field: &str, id: &str) -> Result<(), Problem> {
    let length = id.chars().count();
    if (1..=MAX_ID).contains(&length) && !id.contains('\0') {
        return Ok(());
    }
    let reason = format!("must have 1 to {MAX_ID} characters, none of them NUL");
    Err(Problem::invalid(field, reason))
}

/// The conversation of a client's thread that is not called by its id: always the same for an owner.
pub(super) fn named(caller: &Caller, thread_id: &str) -> ConversationId {
    let scope = caller.scope_of_threads(THREADS);
    ConversationId(Uuid::new_v5(&scope, thread_id.as_bytes()))
}

impl Resume {
    /// The answer as text.
    pub(super) fn answer(&self) -> String {
        match &self.payload {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            json => json.to_string(),
        }
    }
}
