//! An agent that charges once, looks once and pays, where somebody approves, for each message, and the
//! ledger of what it did.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use yai_agentkit_core::Role;
use yai_agentkit_engine::agent::{
    Agent, AgentError, AgentState, ChatMessage, Context, Step, ToolCall, ToolOutcome, ToolTraits,
    Tools,
};

use crate::process::Process;

/// Has an effect once more whenever it runs.
const CHARGE: &str = "charge";
/// May run as often as it is asked to.
const LOOK: &str = "look";
/// Has an effect once more whenever it runs, which somebody has to approve of.
const PAY: &str = "pay";
/// What came of a tool that was cut short, as people believe.
pub(crate) const BELIEVED: &str = "charge";

/// How often each tool had its effect, by tool and message. A clone is the same.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<BTreeMap<(String, String), usize>>>);

impl Ledger {
    fn enter(&self, tool: &str, message: &str) {
        let effect = (tool.to_owned(), message.to_owned());
        *self.0.lock().unwrap().entry(effect).or_default() += 1;
    }

    fn count(&self, tool: &str, message: &str) -> usize {
        let effect = (tool.to_owned(), message.to_owned());
        self.0
            .lock()
            .unwrap()
            .get(&effect)
            .copied()
            .unwrap_or_default()
    }

    /// Whether the effects of the turn that answered `message` are as they may be.
    pub(crate) fn check(&self, message: &str) -> Result<(), String> {
        let (charges, looks) = (self.count(CHARGE, message), self.count(LOOK, message));
        if charges > 1 {
            return Err(format!("`{message}` has charged {charges} times"));
        }
        if looks < 1 {
            return Err(format!("`{message}` was answered without a look"));
        }
        Ok(())
    }

    /// Whether what the agent knows of its payments is what has happened.
    pub(crate) fn check_payments(&self, messages: &[Arc<ChatMessage>]) -> Result<(), String> {
        let mut asked = "";
        for message in messages {
            if message.role == Role::User {
                asked = &message.content;
            }
            let call = message.tool_call_id.as_deref().unwrap_or_default();
            if !call.starts_with(PAY) {
                continue;
            }
            let payments = self.count(PAY, asked);
            let is_right = match message.content.as_str() {
                PAY => payments == 1,
                BELIEVED => payments <= 1,
                refused => payments == 0 && refused.ends_with("not today"),
            };
            if !is_right {
                let result = &message.content;
                return Err(format!("`{asked}` has paid {payments} times: {result}"));
            }
        }
        Ok(())
    }
}

/// What the agent answers to `message`.
pub(crate) fn answer(message: &str) -> String {
    format!("done: {message}")
}

pub(crate) struct SimulatedAgent {
    pub(crate) process: Process,
    pub(crate) ledger: Ledger,
}

#[async_trait]
impl Agent for SimulatedAgent {
    type State = ();

    async fn step(
        &self,
        context: &Context,
        state: &mut AgentState<()>,
    ) -> Result<Step, AgentError> {
        self.process.pause().await;
        let (message, since) = asked(state);
        let has_results = since.iter().any(|message| message.role == Role::Tool);
        let step = if has_results {
            // Long enough that what is said is stored before the step is.
            for word in ["It ", "is "] {
                context.say(word).await;
                tokio::time::sleep(Duration::from_millis(150)).await;
                self.process.pause().await;
            }
            Step::Answer(answer(message))
        } else {
            let number = state.messages.total();
            let call = |name: &str| ToolCall::new(format!("{name}-{number}"), name, json!({}));
            Step::ToolCalls {
                content: String::new(),
                calls: vec![call(CHARGE), call(LOOK), call(PAY)],
            }
        };
        self.process.pause().await;
        Ok(step)
    }

    fn tools(&self) -> &dyn Tools<()> {
        self
    }
}

#[async_trait]
impl Tools<()> for SimulatedAgent {
    fn traits(&self, call: &ToolCall) -> ToolTraits {
        ToolTraits {
            is_repeatable: call.name == LOOK,
            needs_approval: call.name == PAY,
            ..ToolTraits::default()
        }
    }

    async fn run(
        &self,
        _: &Context,
        call: &ToolCall,
        state: &mut AgentState<()>,
        _answer: Option<&str>,
    ) -> ToolOutcome {
        self.process.pause().await;
        self.ledger.enter(&call.name, asked(state).0);
        self.process.pause().await;
        ToolOutcome::Result(call.name.clone())
    }
}

/// The last thing that the user said, and what came of it.
fn asked(state: &AgentState<()>) -> (&str, &[Arc<ChatMessage>]) {
    let (asked, since) = state.turn().split_first().expect("a question");
    (&asked.content, since)
}
