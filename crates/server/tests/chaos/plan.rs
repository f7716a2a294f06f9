use serde_json::json;
use yai_agentkit_engine::agent::ToolCall;

use crate::random::Random;

/// A tool that may run again.
pub(crate) const SAFE: &str = "safe";
/// One that may not.
pub(crate) const UNSAFE: &str = "unsafe";
/// One that may not, and asks a person before it does anything.
pub(crate) const ASKS: &str = "asks";

/// What the agent is to do about a message; the message says it, as in `c3-m2: safe, unsafe+safe`.
pub(crate) struct Plan {
    /// Names the message in all that comes of it.
    pub(crate) token: String,
    steps: Vec<Vec<String>>,
}

impl Plan {
    pub(crate) fn draw(random: &mut Random, token: String) -> Self {
        let tools = [SAFE, SAFE, SAFE, SAFE, SAFE, UNSAFE, UNSAFE, UNSAFE, ASKS];
        let mut step = || -> Vec<_> {
            let calls = 0..random.between(1..4);
            calls.map(|_| (*random.pick(&tools)).to_owned()).collect()
        };
        let steps = [step(), step(), step()];
        let count = usize::try_from(random.between(0..4)).expect("small");
        Self {
            token,
            steps: steps.into_iter().take(count).collect(),
        }
    }

    pub(crate) fn parse(message: &str) -> Self {
        let (token, steps) = message.split_once(':').expect("a plan");
        let steps = steps
            .split(',')
            .map(str::trim)
            .filter(|step| !step.is_empty());
        Self {
            token: token.to_owned(),
            steps: steps
                .map(|step| step.split('+').map(str::to_owned).collect())
                .collect(),
        }
    }

    pub(crate) fn message(&self) -> String {
        let steps: Vec<_> = self.steps.iter().map(|step| step.join("+")).collect();
        format!("{}: {}", self.token, steps.join(", "))
    }

    /// The calls of each step.
    pub(crate) fn steps(&self) -> Vec<Vec<ToolCall>> {
        let step = |(number, step): (usize, &Vec<String>)| {
            let call = |(index, name): (usize, &String)| {
                let id = format!("{}-{number}-{index}", self.token);
                ToolCall::new(id, name.as_str(), json!({}))
            };
            step.iter().enumerate().map(call).collect()
        };
        self.steps.iter().enumerate().map(step).collect()
    }
}

/// What a call that ran to its end comes to.
pub(crate) fn done(call: &ToolCall) -> String {
    format!("{} done", call.id)
}

/// What the agent says while it works.
pub(crate) fn says(token: &str, step: usize) -> String {
    format!("{token} takes step {step} now")
}

pub(crate) fn answer(token: &str, results: &[String]) -> String {
    format!("{token} is answered: {}", results.join(", "))
}
