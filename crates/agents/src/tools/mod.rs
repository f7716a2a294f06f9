//! The tools that every built-in agent has.

mod calculator;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::SecondsFormat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use yai_agentkit_core::{Clock, Role};
use yai_agentkit_engine::agent::{AgentState, Tool, Toolbox};

/// How the result of a tool that failed begins.
pub const FAILED: &str = "Error: ";

const MAX_RESULT: usize = 4_000;
const MAX_NAME: usize = 100;
const MAX_VALUE: usize = 1_000;
const MAX_FACTS: usize = 1_000;
const MAX_FOUND: usize = 5;
const MAX_QUOTE: usize = 300;

/// What the agents that ship remember.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What they were asked to remember, by name.
    pub facts: BTreeMap<String, String>,
    /// What a model is told in place of the first messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// What a model has made of the first messages of a chat, which stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// What it says.
    pub text: String,
    /// Of how many messages.
    pub covers: usize,
}

/// The tools, in the order in which a model is told of them, with `clock` for the time. They change
/// nothing but the state, and so may run again.
pub fn builtin(clock: Clock) -> Toolbox<Memory> {
    Toolbox::new([
        Tool::outside(
            "calculate",
            "Computes an arithmetic expression exactly, such as (17 + 0.5) * 2^10.",
            |_, Calculate { expression }| async move { calculator::evaluate(&expression).await },
        )
        .repeatable(),
        Tool::new(
            "current_time",
            "Tells the present date and time, in UTC, as RFC 3339.",
            move |CurrentTime {}, _| Ok(clock.now().to_rfc3339_opts(SecondsFormat::Secs, true)),
        )
        .repeatable(),
        Tool::new(
            "remember",
            "Remembers a fact for all later turns of this chat, in place of any of that name.",
            remember,
        )
        .repeatable(),
        Tool::new(
            "recall",
            "Tells a remembered fact, or all of them when no name is given.",
            recall,
        )
        .repeatable(),
        Tool::new(
            "search_history",
            "Finds the earlier messages of this chat that hold all the words, newest first, at most 5.",
            search_history,
        )
        .repeatable()
        .reads_all_messages(),
    ])
}

/// All that is remembered, a line each, bounded in length.
pub fn facts(memory: &Memory) -> String {
    let lines = memory
        .facts
        .iter()
        .map(|(name, value)| format!("{name}: {value}"));
    shortened(&lines.collect::<Vec<_>>().join("\n"), MAX_RESULT)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Calculate {
    /// Numbers, parentheses and + - * / % ^ !
    expression: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CurrentTime {}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Remember {
    /// Such as: favourite colour
    name: String,
    /// Such as: green
    value: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Recall {
    name: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchHistory {
    words: String,
    /// Only what this one said
    role: Option<Speaker>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Speaker {
    User,
    Assistant,
}

fn remember(fact: Remember, state: &mut AgentState<Memory>) -> Result<String, String> {
    let (name, value) = (fact_name(&fact.name), fact.value.trim());
    if name.is_empty() || value.is_empty() {
        return Err("a fact needs a name and a value".to_owned());
    }
    if name.chars().count() > MAX_NAME || value.chars().count() > MAX_VALUE {
        return Err(format!(
            "a fact's name has at most {MAX_NAME} characters, its value {MAX_VALUE}"
        ));
    }
    if state.own.facts.len() >= MAX_FACTS && !state.own.facts.contains_key(&name) {
        return Err(format!("{MAX_FACTS} facts are remembered already"));
    }
    let result = format!("Remembered: {name} = {value}");
    state.own.facts.insert(name, value.to_owned());
    Ok(result)
}

fn recall(asked: Recall, state: &mut AgentState<Memory>) -> Result<String, String> {
    match asked.name {
        Some(name) => state
            .own
            .facts
            .get(&fact_name(&name))
            .cloned()
            .ok_or_else(|| format!("nothing is remembered by the name `{name}`")),
        None if state.own.facts.is_empty() => Err("nothing is remembered yet".to_owned()),
        None => Ok(facts(&state.own)),
    }
}

fn search_history(query: SearchHistory, state: &mut AgentState<Memory>) -> Result<String, String> {
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
            Some(Speaker::User) => is_user(&message.role),
            Some(Speaker::Assistant) => message.role == Role::Assistant,
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

/// The first characters of a text.
pub(crate) fn shortened(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
