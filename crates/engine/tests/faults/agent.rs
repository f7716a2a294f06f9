//! An agent whose tools have effects outside, and the person who answers it.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use yai_agentkit_core::{Role, turn::Interrupt};
use yai_agentkit_engine::{
    agent::{
        Agent, AgentError, AgentState, Context, Step, ToolCall, ToolOutcome, ToolTraits, Tools,
    },
    test_kit::Noted,
};

use crate::process::Process;

/// What has an effect once more whenever it runs.
const CHARGE: &str = "charge";
/// The same, after a person has approved of it.
const PAY: &str = "pay";
/// What comes of it.
const CHARGED: &str = "charged";

/// What a person says to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Script {
    /// Two tools at once, one of them safe to repeat; one more; the answer.
    Tools,
    /// A question to the person; two tools, of which one wants to be allowed first; the answer.
    Questions,
    /// Two tools at once, of which a person has to approve of one; one more; the answer.
    Approval,
    /// The answer.
    Hello,
}

impl Script {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Questions => "questions",
            Self::Approval => "approval",
            Self::Hello => "hello",
        }
    }
}

/// The effects of tools, in a file that outlives every process.
#[derive(Clone)]
pub(crate) struct Ledger(PathBuf);

impl Ledger {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn enter(&self, effect: &str) {
        let file = OpenOptions::new().append(true).create(true).open(&self.0);
        let line = format!("{effect}\n");
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }

    fn count(&self, effect: &str) -> usize {
        let entered = std::fs::read_to_string(&self.0).unwrap_or_default();
        entered.lines().filter(|line| *line == effect).count()
    }

    /// How often the unsafe tool had its effect.
    pub(crate) fn charges(&self) -> usize {
        self.count(CHARGE)
    }

    /// How often the safe ones had.
    pub(crate) fn looks(&self) -> usize {
        self.count("look")
    }
}

/// How a person answers the question whether a tool that was cut short took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Person {
    /// By looking at the ledger.
    Looks,
    /// That it did.
    Believes,
}

impl Person {
    pub(crate) fn reply(self, asked: &Interrupt, ledger: &Ledger) -> &'static str {
        match asked.question.as_str() {
            "Which one?" => "the red one",
            "Really?" => "yes",
            question if question.starts_with("May the tool `pay` run") => "approve",
            question if question.contains("was cut short") => {
                if self == Self::Looks && ledger.charges() == 0 {
                    "retry"
                } else {
                    CHARGED
                }
            }
            question => panic!("an unexpected question: {question}"),
        }
    }
}

/// Follows the scripts. Each decision, and each effect of a tool, is a boundary of its process.
pub(crate) struct BoundedAgent {
    pub(crate) process: Process,
    pub(crate) ledger: Ledger,
}

#[async_trait]
impl Agent for BoundedAgent {
    type State = Noted;

    async fn step(
        &self,
        context: &Context,
        state: &mut AgentState<Noted>,
    ) -> Result<Step, AgentError> {
        // So much that it is stored before the decision is.
        let thoughts = "I think. ".repeat(500);
        let decided = async {
            let (said, step, results) = situation(state);
            match (said, step) {
                ("tools", 0) => {
                    context.say(&thoughts).await;
                    tokio::task::yield_now().await;
                    tools(&thoughts, &["charge", "look"])
                }
                ("questions", 0) => Step::Ask("Which one?".to_owned()),
                ("approval", 0) => tools("", &["pay", "look"]),
                ("tools" | "approval", 1) => tools("", &["look"]),
                ("questions", 1) => tools("", &["charge", "look"]),
                ("tools" | "questions" | "approval", 2) => Step::Answer(format!("done: {results}")),
                ("hello", 0) => Step::Answer("hello".to_owned()),
                unexpected => panic!("{unexpected:?}"),
            }
        };
        Ok(self.process.pass("agent", "step", decided).await)
    }

    fn tools(&self) -> &dyn Tools<Noted> {
        self
    }
}

#[async_trait]
impl Tools<Noted> for BoundedAgent {
    fn traits(&self, call: &ToolCall) -> ToolTraits {
        ToolTraits {
            is_repeatable: call.name == "look",
            needs_approval: call.name == PAY,
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
        if call.name == CHARGE && situation(state).0 == "questions" && answer.is_none() {
            return ToolOutcome::Ask("Really?".to_owned());
        }
        let effect = async {
            self.ledger
                .enter(if call.name == PAY { CHARGE } else { &call.name });
        };
        let name = if call.name != "look" {
            CHARGE
        } else {
            state.own.facts.insert(call.id.clone(), "seen".to_owned());
            "look"
        };
        self.process.pass("tool", name, effect).await;
        ToolOutcome::Result(match name {
            CHARGE => CHARGED.to_owned(),
            _ => format!("seen {}", call.id),
        })
    }
}

/// What the person has said, how many decisions there were since, and what has come of them.
fn situation(state: &AgentState<Noted>) -> (&str, usize, String) {
    let (asked, since) = state.turn().split_first().expect("a question");
    let of = |role| since.iter().filter(move |message| message.role == role);
    let results = of(Role::Tool).map(|result| result.content.as_str());
    let results = results.collect::<Vec<_>>().join(", ");
    let steps = of(Role::Assistant).count();
    (&asked.content, steps, results)
}

fn tools(content: &str, names: &[&str]) -> Step {
    let call = |name: &&str| ToolCall::new(format!("{name}-{}", names.len()), *name, json!({}));
    Step::ToolCalls {
        content: content.to_owned(),
        calls: names.iter().map(call).collect(),
    }
}
