//! An agent that does what the message asks for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;
use yai_agentkit_core::Role;

use crate::agent::{
    Agent, AgentError, AgentState, ChatMessage, Context, Step, ToolCall, ToolOutcome, ToolTraits,
    Tools,
};

/// Asks for two tools, then for one more, then answers with what the user said and the results.
/// With `client` it asks for the tools of the client. Users can
/// make it misbehave: `refuse`, `unavailable`, `panic`, `tool panic`, `forever`, `nul`.
#[derive(Clone)]
pub struct ScriptedAgent {
    /// What it has done, over all clones.
    pub done: Arc<Mutex<Vec<String>>>,
    /// How many calls it still answers; further ones hang.
    pub permits: Arc<Semaphore>,
}

impl Default for ScriptedAgent {
    fn default() -> Self {
        Self::hanging_after(Semaphore::MAX_PERMITS)
    }
}

impl ScriptedAgent {
    /// What it does in a turn.
    pub const SCRIPT: [&str; 6] = ["step 0", "tool a", "tool b", "step 1", "tool c", "step 2"];

    /// An agent that hangs after so many calls.
    pub fn hanging_after(calls: usize) -> Self {
        Self {
            done: Arc::default(),
            permits: Arc::new(Semaphore::new(calls)),
        }
    }

    /// What it has done, over all clones.
    pub fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }

    async fn record(&self, what: String) {
        let permit = self.permits.acquire().await.expect("never closed");
        permit.forget();
        self.done.lock().unwrap().push(what);
    }
}

/// The results of the tools.
fn results(of_turn: &[Arc<ChatMessage>]) -> String {
    let results = of_turn.iter().filter(|message| message.role == Role::Tool);
    let results: Vec<_> = results.map(|result| result.content.as_str()).collect();
    results.join(" ")
}

fn tools(calls: &[(&str, &str)]) -> Step {
    Step::calls(calls.iter().map(|(id, name)| call(id, name)))
}

fn call(id: &str, name: &str) -> ToolCall {
    ToolCall::new(id, name, json!({}))
}

/// What the [`ScriptedAgent`] keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    /// By the id of a call, that it ran.
    pub facts: BTreeMap<String, String>,
}

#[async_trait]
impl Agent for ScriptedAgent {
    type State = Noted;

    async fn step(&self, _: &Context, state: &mut AgentState<Noted>) -> Result<Step, AgentError> {
        let (question, of_turn) = state.turn().split_first().expect("a question");
        let step = of_turn
            .iter()
            .filter(|message| message.role == Role::Assistant)
            .count();
        self.record(format!("step {step}")).await;
        match (question.content.as_str(), step) {
            ("refuse", _) => Err(AgentError::Refused {
                reason: "no such model".to_owned(),
                source: Some("secret-key-in-cause".into()),
            }),
            ("unavailable", _) => Err(AgentError::Unavailable {
                reason: "too many requests".to_owned(),
                source: None,
            }),
            ("panic", _) => panic!("a bug in the agent"),
            ("nul", _) => Ok(Step::Answer("a\0b".to_owned())),
            ("once", 0) => Ok(tools(&[("a", "once"), ("b", "note")])),
            ("tool asks", 0) => Ok(tools(&[("a", "once"), ("asks", "once")])),
            ("client", 0) if !state.client.tools.is_empty() => {
                let own = call("own", "note");
                let tools = state.client.tools.iter();
                let calls = tools.map(|tool| call(&format!("client-{}", tool.name), &tool.name));
                Ok(Step::ToolCalls {
                    content: "Look:".to_owned(),
                    calls: calls.chain([own]).collect(),
                })
            }
            ("client", 1) => {
                let context = state.client.context.iter();
                let context: String = context.map(|known| known.value.as_str()).collect();
                let forwarded = &state.client.forwarded;
                let results = results(of_turn);
                Ok(Step::Answer(format!("{results} {context} {forwarded}")))
            }
            ("state", _) => Ok(Step::Answer(state.client.state.to_string())),
            ("ask", 0) => Ok(Step::Ask("Which one?".to_owned())),
            ("pay", 0) => Ok(tools(&[("pay", "pay"), ("b", "note")])),
            ("once" | "tool asks" | "ask" | "pay", 1) => Ok(Step::Answer(results(of_turn))),
            ("forever", _) => Ok(notes(&["again"])),
            (_, 0) => Ok(notes(&["a", "b"])),
            (_, 1) => Ok(notes(&["c"])),
            (said, _) => Ok(Step::Answer(format!("{said}: {}", results(of_turn)))),
        }
    }

    fn tools(&self) -> &dyn Tools<Noted> {
        self
    }

    fn newest_messages(&self) -> usize {
        9
    }
}

#[async_trait]
impl Tools<Noted> for ScriptedAgent {
    fn traits(&self, call: &ToolCall) -> ToolTraits {
        ToolTraits {
            is_repeatable: call.name == "note",
            needs_approval: call.name == "pay",
            reads_all_messages: false,
        }
    }

    async fn run(
        &self,
        _: &Context,
        call: &ToolCall,
        state: &mut AgentState<Noted>,
        answer: Option<&str>,
    ) -> ToolOutcome {
        self.record(format!("tool {}", call.id)).await;
        if call.id == "asks" && answer.is_none() {
            return ToolOutcome::Ask("Really?".to_owned());
        }
        let is_bug = |said: &str| said == "tool panic" && call.id == "b";
        if state
            .messages
            .iter()
            .any(|message| is_bug(&message.content))
        {
            state.own.facts.clear();
            panic!("a bug in a tool");
        }
        state.own.facts.insert(call.id.clone(), "noted".to_owned());
        let arguments = call
            .arguments
            .as_object()
            .filter(|fields| !fields.is_empty());
        let answer = answer.map(|answer| format!(" ({answer})"));
        let answer = answer.or(arguments.map(|_| call.arguments.to_string()));
        ToolOutcome::Result(format!("result-{}{}", call.id, answer.unwrap_or_default()))
    }
}

fn notes(ids: &[&str]) -> Step {
    let calls: Vec<_> = ids.iter().map(|id| (*id, "note")).collect();
    tools(&calls)
}
