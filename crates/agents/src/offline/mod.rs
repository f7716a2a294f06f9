//! The agent that needs no model: it follows patterns, with real tools and a real memory.

mod arithmetic;
mod chinese;
mod english;
mod grammar;
mod reply;
mod request;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use yai_agentkit_core::{Clock, Role};
use yai_agentkit_engine::agent::{
    Agent, AgentError, AgentState, Context, Step, ToolCall, ToolOutcome, ToolSpec, ToolTraits,
    Toolbox, Tools,
};

use self::request::{Intent, Language, Request};
use crate::tools::{Memory, builtin};

/// How many characters it says at once.
const DELTA: usize = 12;

/// Answers what it recognises in the last message of the user, in English and Chinese: facts to
/// remember and to recall, arithmetic, the time, a search in the chat. It decides from the state
/// alone, so a turn that is resumed goes on as it would have.
pub struct OfflineAgent {
    toolbox: Toolbox<Memory>,
    step_delay: Duration,
}

impl OfflineAgent {
    /// An agent with the default tools, as fast as it can.
    pub fn new() -> Self {
        Self {
            toolbox: builtin(Clock::default()),
            step_delay: Duration::ZERO,
        }
    }

    /// Replaces the tools, for a clock of one's own.
    #[must_use]
    pub fn with_toolbox(self, toolbox: Toolbox<Memory>) -> Self {
        Self { toolbox, ..self }
    }

    /// Waits so long before every step and every tool, and a tenth of it after every few characters
    /// of the answer, so that a turn under way can be watched.
    #[must_use]
    pub fn with_step_delay(self, step_delay: Duration) -> Self {
        Self { step_delay, ..self }
    }
}

impl Default for OfflineAgent {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Agent for OfflineAgent {
    type State = Memory;

    async fn step(
        &self,
        context: &Context,
        state: &mut AgentState<Memory>,
    ) -> Result<Step, AgentError> {
        pause(self.step_delay).await;
        let step = decide(state);
        if let Step::Answer(answer) = &step {
            let characters: Vec<char> = answer.chars().collect();
            for delta in characters.chunks(DELTA) {
                context.say(&delta.iter().collect::<String>()).await;
                pause(self.step_delay / 10).await;
            }
        }
        Ok(step)
    }

    fn tools(&self) -> &dyn Tools<Memory> {
        self
    }

    /// It answers the last.
    fn newest_messages(&self) -> usize {
        9
    }
}

/// The tools, as slow as the steps.
#[async_trait]
impl Tools<Memory> for OfflineAgent {
    fn specs(&self) -> Vec<ToolSpec> {
        self.toolbox.specs()
    }

    fn traits(&self, call: &ToolCall) -> ToolTraits {
        self.toolbox.traits(call)
    }

    async fn run(
        &self,
        context: &Context,
        call: &ToolCall,
        state: &mut AgentState<Memory>,
        answer: Option<&str>,
    ) -> ToolOutcome {
        pause(self.step_delay).await;
        self.toolbox.run(context, call, state, answer).await
    }
}

/// A timer of no time at all waits for the next tick of its wheel, a millisecond.
async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

fn decide(state: &AgentState<Memory>) -> Step {
    let is_user = |role: &Role| *role == Role::User;
    let Some(asked_at) = state
        .messages
        .iter()
        .rposition(|message| is_user(&message.role))
    else {
        return Step::Answer(reply::help(Language::English).to_owned());
    };
    let asked = &state.messages[asked_at].content;
    let requests = request::requests(asked);
    if requests.is_empty() {
        return Step::Answer(reply::help(Language::of(asked)).to_owned());
    }

    let mut open_calls = Vec::new();
    let mut replies = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        // Messages are only ever appended, so their number makes ids that no other turn has.
        let number = state.messages.before() + asked_at + 1;
        let id = format!("call_{number}_{}", index + 1);
        let answers = |call: &Option<String>| call.as_ref() == Some(&id);
        let mut done = state.messages[asked_at..].iter();
        match done.find(|message| answers(&message.tool_call_id)) {
            Some(result) => replies.push(reply::reply(request, &result.content)),
            None => open_calls.push(tool_call(id, request)),
        }
    }
    if open_calls.is_empty() {
        Step::Answer(replies.join("\n"))
    } else {
        // What is remembered is there to be recalled in the next step: the calls of one run at once.
        let remembers = |call: &ToolCall| call.name == "remember";
        if let Some(first) = open_calls.iter().position(remembers) {
            let later = open_calls[first..]
                .iter()
                .position(|call| call.name == "recall");
            open_calls.truncate(later.map_or(open_calls.len(), |later| first + later));
        }
        Step::calls(open_calls)
    }
}

fn tool_call(id: String, request: &Request) -> ToolCall {
    let (name, arguments) = match &request.intent {
        Intent::Remember { topic, value } => {
            ("remember", json!({"name": topic.name, "value": value}))
        }
        Intent::Recall(topic) => ("recall", json!({"name": topic.name})),
        Intent::RecallAll => ("recall", json!({})),
        Intent::Calculate { expression } => ("calculate", json!({"expression": expression})),
        Intent::TellTime => ("current_time", json!({})),
        Intent::Search { words } => ("search_history", json!({"words": words, "role": "user"})),
    };
    ToolCall::new(id, name, arguments)
}
