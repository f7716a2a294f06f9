use serde_json::json;
use yai_agentkit_engine::agent::ToolCall;

use crate::random::Random;

/// A tool that may run again.
pub(crate) const SAFE: &str = "safe";
/// One that may not.
pub(crate) const UNSAFE: &str = "unsafe";
/// One that may not, and asks a person before it does anything.
pub(crate) const ASKS: &str = "asks";

/// One that may not, and not before somebody has approved of it.
pub(crate) const APPROVED: &str = "approved";
/// What the tools of the MCP server begin with.
pub(crate) const MCP: &str = "mcp";

/// The agent that is a program of its own.
pub(crate) const REMOTE: &str = "remote";

/// The argument that a person adds who approves.
pub(crate) const EDITED: &str = "edited";

/// What the agent is to do about a message; the message says it, as in `c3-m2: safe, unsafe+safe`.
pub(crate) struct Plan {
    /// Names the message in all that comes of it.
    pub(crate) token: String,
    steps: Vec<Vec<String>>,
}

impl Plan {
    pub(crate) fn draw(random: &mut Random, token: String, is_remote: bool) -> Self {
        let tools = [
            SAFE, SAFE, SAFE, SAFE, SAFE, UNSAFE, UNSAFE, UNSAFE, ASKS, APPROVED,
        ];
        let has_mcp = [SAFE, UNSAFE, APPROVED];
        let mut step = || -> Vec<_> {
            let calls = 0..random.between(1..4);
            let call = |_| {
                let tool = *random.pick(&tools);
                match is_remote && has_mcp.contains(&tool) && random.between(0..2) == 0 {
                    true => format!("{MCP}__{tool}"),
                    false => tool.to_owned(),
                }
            };
            calls.map(call).collect()
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
                let arguments = json!({ "id": id });
                ToolCall::new(id, name.as_str(), arguments)
            };
            step.iter().enumerate().map(call).collect()
        };
        self.steps.iter().enumerate().map(step).collect()
    }
}

/// Whether a tool of this name is one of these: the agent's own or the MCP server's.
pub(crate) fn is(name: &str, tool: &str) -> bool {
    let own = name
        .strip_prefix(MCP)
        .and_then(|rest| rest.strip_prefix("__"));
    own.unwrap_or(name) == tool
}

/// What a call that ran to its end comes to.
pub(crate) fn done(call: &ToolCall) -> String {
    let edited = match call.arguments.get(EDITED) {
        Some(_) => " as edited",
        None => "",
    };
    format!("{} done{edited}", call.id)
}

/// What the agent says while it works.
pub(crate) fn says(token: &str, step: usize) -> String {
    format!("{token} takes step {step} now")
}

pub(crate) fn answer(token: &str, results: &[String]) -> String {
    format!("{token} is answered: {}", results.join(", "))
}
