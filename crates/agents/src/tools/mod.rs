//! The tools that every built-in agent has.

mod calculator;
#[cfg(test)]
mod tests;

use chrono::SecondsFormat;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value as Json, json};
use yai_agentkit_core::{Clock, Role};
use yai_agentkit_engine::agent::{AgentState, ToolCall};

/// How the result of a tool that failed begins.
pub const FAILED: &str = "Error: ";

const MAX_RESULT: usize = 4_000;
const MAX_NAME: usize = 100;
const MAX_VALUE: usize = 1_000;
const MAX_FACTS: usize = 1_000;
const MAX_FOUND: usize = 5;
const MAX_QUOTE: usize = 300;

/// The tools, in the order in which a model is told of them.
pub struct Toolbox {
    tools: Vec<Tool>,
}

/// Something that an agent can do, besides talking.
pub struct Tool {
    /// How a [`ToolCall`] names it.
    pub name: &'static str,
    /// What it does, for a model to read.
    pub description: &'static str,
    /// The JSON schema of its arguments.
    pub parameters: Json,
    run: Run,
}

/// The tool that reads more messages than the model sees.
const SEARCH_HISTORY: &str = "search_history";

type Inline = dyn Fn(&Json, &mut AgentState) -> Result<String, String> + Send + Sync;

enum Run {
    /// At once, on the thread of its caller.
    Inline(Box<Inline>),
    /// It takes a processor for a while.
    Calculate,
}

impl Default for Toolbox {
    fn default() -> Self {
        Self::with_clock(Clock::default())
    }
}

impl Toolbox {
    /// The tools, with `clock` for the time.
    pub fn with_clock(clock: Clock) -> Self {
        let tools = vec![
            Tool::new(
                "calculate",
                "Computes an arithmetic expression exactly, such as (17 + 0.5) * 2^10.",
                json!({"expression": {
                    "type": "string",
                    "description": "Numbers, parentheses and + - * / % ^ !"
                }}),
                &["expression"],
                Run::Calculate,
            ),
            Tool::new(
                "current_time",
                "Tells the present date and time, in UTC, as RFC 3339.",
                json!({}),
                &[],
                inline("current_time", move |CurrentTime {}, _| {
                    Ok(clock.now().to_rfc3339_opts(SecondsFormat::Secs, true))
                }),
            ),
            Tool::new(
                "remember",
                "Remembers a fact for all later turns of this chat, in place of any of that name.",
                json!({
                    "name": {"type": "string", "description": "Such as: favourite colour"},
                    "value": {"type": "string", "description": "Such as: green"}
                }),
                &["name", "value"],
                inline("remember", remember),
            ),
            Tool::new(
                "recall",
                "Tells a remembered fact, or all of them when no name is given.",
                json!({"name": {"type": "string"}}),
                &[],
                inline("recall", recall),
            ),
            Tool::new(
                SEARCH_HISTORY,
                "Finds the earlier messages of this chat that hold all the words, newest first, at most 5.",
                json!({
                    "words": {"type": "string"},
                    "role": {
                        "type": "string",
                        "enum": ["user", "assistant"],
                        "description": "Only what this one said"
                    }
                }),
                &["words"],
                inline(SEARCH_HISTORY, search_history),
            ),
        ];
        Self { tools }
    }

    /// The tools.
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// Runs the tool that `call` names. The result is for an agent to read and bounded in length;
    /// that of a failure begins with [`FAILED`].
    pub async fn run(&self, call: &ToolCall, state: &mut AgentState) -> String {
        let tool = self.tools.iter().find(|tool| tool.name == call.name);
        let result = match tool.map(|tool| &tool.run) {
            Some(Run::Inline(run)) => run(&call.arguments, state),
            Some(Run::Calculate) => match arguments(&call.name, &call.arguments) {
                Ok(Calculate { expression }) => calculator::evaluate(&expression).await,
                Err(reason) => Err(reason),
            },
            None => Err(format!("there is no tool `{}`", call.name)),
        };
        let text = result.unwrap_or_else(|reason| format!("{FAILED}{reason}"));
        shortened(&text, MAX_RESULT)
    }
}

impl Tool {
    fn new(
        name: &'static str,
        description: &'static str,
        properties: Json,
        required: &[&str],
        run: Run,
    ) -> Self {
        Self {
            name,
            description,
            parameters: json!({
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": false
            }),
            run,
        }
    }
}

fn inline<Arguments: DeserializeOwned>(
    name: &'static str,
    run: impl Fn(Arguments, &mut AgentState) -> Result<String, String> + Send + Sync + 'static,
) -> Run {
    Run::Inline(Box::new(move |json, state| {
        run(arguments(name, json)?, state)
    }))
}

fn arguments<Arguments: DeserializeOwned>(name: &str, json: &Json) -> Result<Arguments, String> {
    Arguments::deserialize(json)
        .map_err(|error| format!("the arguments do not fit `{name}`: {error}"))
}

/// Whether this call looks into all messages of the chat.
pub fn read_all_messages(call: &ToolCall) -> bool {
    call.name == SEARCH_HISTORY
}

/// All that is remembered, a line each, bounded in length.
pub fn facts(state: &AgentState) -> String {
    let lines = state
        .facts
        .iter()
        .map(|(name, value)| format!("{name}: {value}"));
    shortened(&lines.collect::<Vec<_>>().join("\n"), MAX_RESULT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Calculate {
    expression: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CurrentTime {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remember {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recall {
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchHistory {
    words: String,
    role: Option<Role>,
}

fn remember(fact: Remember, state: &mut AgentState) -> Result<String, String> {
    let (name, value) = (fact_name(&fact.name), fact.value.trim());
    if name.is_empty() || value.is_empty() {
        return Err("a fact needs a name and a value".to_owned());
    }
    if name.chars().count() > MAX_NAME || value.chars().count() > MAX_VALUE {
        return Err(format!(
            "a fact's name has at most {MAX_NAME} characters, its value {MAX_VALUE}"
        ));
    }
    if state.facts.len() >= MAX_FACTS && !state.facts.contains_key(&name) {
        return Err(format!("{MAX_FACTS} facts are remembered already"));
    }
    let result = format!("Remembered: {name} = {value}");
    state.facts.insert(name, value.to_owned());
    Ok(result)
}

fn recall(asked: Recall, state: &mut AgentState) -> Result<String, String> {
    match asked.name {
        Some(name) => state
            .facts
            .get(&fact_name(&name))
            .cloned()
            .ok_or_else(|| format!("nothing is remembered by the name `{name}`")),
        None if state.facts.is_empty() => Err("nothing is remembered yet".to_owned()),
        None => Ok(facts(state)),
    }
}

fn search_history(query: SearchHistory, state: &mut AgentState) -> Result<String, String> {
    let words = query.words.to_lowercase();
    if words.trim().is_empty() {
        return Err("there is no word to search for".to_owned());
    }
    let is_user = |role: &Role| *role == Role::User;
    // The last thing that the user said is the question itself.
    let asked_at = state
        .messages
        .iter()
        .rposition(|message| is_user(&message.role));
    let earlier = &state.messages[..asked_at.unwrap_or(state.messages.len())];
    let found: Vec<_> = earlier
        .iter()
        .rev()
        .filter(|message| match &query.role {
            Some(role) => message.role == *role,
            None => is_user(&message.role) || message.role == Role::Assistant,
        })
        .filter(|message| {
            let content = message.content.to_lowercase();
            words.split_whitespace().all(|word| content.contains(word))
        })
        .take(MAX_FOUND)
        .map(|message| {
            let one_line = message
                .content
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            format!("{}: {}", message.role, shortened(&one_line, MAX_QUOTE))
        })
        .collect();
    if found.is_empty() {
        return Err(format!("no earlier message holds `{}`", query.words.trim()));
    }
    Ok(found.join("\n"))
}

/// So that a fact is found again however its name is capitalised or spaced.
fn fact_name(name: &str) -> String {
    name.to_lowercase()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn shortened(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
