//! A completion, chunk by chunk, as a step.

use std::{collections::HashSet, mem};

use serde::Deserialize;
use serde_json::{Value as Json, json, value::RawValue};
use yai_agentkit_engine::agent::{AgentError, AgentState, Step, ToolCall};

use super::{
    text::{Pieces, Speech},
    transport,
};

const CUT_OFF: &str = "[The answer was cut off at the model's limit.]";

/// Bytes of words, thoughts and arguments that an answer may have.
const MAX_ANSWER: usize = 2 << 20;
/// Tools that a model may call at once.
const MAX_CALLS: usize = 256;

/// What is needed of a chunk. The types of a library know every field, and so refuse the answers
/// of endpoints that are only almost compatible.
#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    /// What an endpoint says when it fails half-way.
    error: Option<Json>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Reply>,
    /// From an endpoint that does not stream: all at once.
    message: Option<Reply>,
    finish_reason: Option<String>,
}

/// What a model thinks (`reasoning`, `reasoning_content`, …) is not among it: that is no answer.
#[derive(Deserialize)]
struct Reply {
    content: Option<Box<RawValue>>,
    refusal: Option<Box<RawValue>>,
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize)]
struct CallDelta {
    index: Option<usize>,
    id: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Default, Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    /// By the standard, JSON in a string, of which this is a part.
    arguments: Option<Box<RawValue>>,
}

#[derive(Default)]
pub(super) struct Completion {
    content: Pieces,
    speech: Speech,
    refusal: Pieces,
    calls: Vec<Call>,
    /// What the model has thought since the last call.
    thoughts: Vec<Json>,
    /// Bytes of all of them.
    thought: usize,
    finish_reason: Option<String>,
    has_choices: bool,
    /// Whether nothing is missing.
    is_whole: bool,
}

#[derive(Default)]
struct Call {
    index: Option<usize>,
    id: Option<String>,
    name: String,
    /// JSON in a string, in parts.
    text: Pieces,
    /// From an endpoint that does not put it into a string.
    json: Option<Json>,
    reasoning: Vec<Json>,
}

impl Completion {
    /// Adds the next chunk, and returns what is said by it.
    pub(super) fn add(&mut self, chunk: &str, secret: &str) -> Result<String, AgentError> {
        let chunk: Chunk = serde_json::from_str(chunk).map_err(not_a_completion)?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(transport::failure_in_stream(&error, secret));
        }
        let choices = chunk.choices.ok_or_else(|| refused(NOT_A_COMPLETION))?;
        let Some(choice) = choices.into_iter().next() else {
            return Ok(String::new());
        };
        self.has_choices = true;
        self.is_whole |= choice.finish_reason.is_some() || choice.message.is_some();
        self.finish_reason = choice.finish_reason.or(self.finish_reason.take());
        let is_message = choice.message.is_some();
        let Some(reply) = choice.message.or(choice.delta) else {
            return Ok(String::new());
        };
        for call in reply.tool_calls.unwrap_or_default() {
            let part_of = if is_message { None } else { self.begun(&call) };
            self.add_call(call, part_of).map_err(not_a_completion)?;
        }
        if let Some(refusal) = reply.refusal {
            self.decline(&refusal).map_err(not_a_completion)?;
        }
        let said = match &reply.content {
            Some(content) => self.say(content).map_err(not_a_completion)?,
            None => self.speech.hear(""),
        };
        self.bounded()?;
        Ok(said)
    }

    /// Something has come of it.
    pub(super) fn begin(&mut self) {
        self.has_choices = true;
    }

    /// Adds to the words, and returns what of them is for the user.
    pub(super) fn say(&mut self, text: &RawValue) -> serde_json::Result<String> {
        let said = self.content.add(text)?;
        Ok(self.speech.hear(said))
    }

    /// Adds to the words of a model that will not do it.
    pub(super) fn decline(&mut self, text: &RawValue) -> serde_json::Result<()> {
        self.refusal.add(text).map(drop)
    }

    /// Adds what goes back to the endpoint with the next call.
    pub(super) fn think(&mut self, thought: Json) {
        self.thought += thought.to_string().len();
        self.thoughts.push(thought);
    }

    /// Adds a whole call, to which the thoughts since the last one belong.
    pub(super) fn call(
        &mut self,
        id: Option<String>,
        name: String,
        arguments: Option<&RawValue>,
    ) -> serde_json::Result<()> {
        let mut call = Call {
            id,
            name,
            reasoning: mem::take(&mut self.thoughts),
            ..Call::default()
        };
        call.add_arguments(arguments)?;
        self.calls.push(call);
        Ok(())
    }

    /// Whether there are neither words nor calls.
    pub(super) fn is_empty(&self) -> bool {
        let words = [&self.content, &self.refusal];
        self.calls.is_empty() && words.iter().all(|words| words.as_str().is_empty())
    }

    /// All has come, for this reason.
    pub(super) fn finish(&mut self, reason: Option<String>) {
        self.is_whole = true;
        self.finish_reason = reason;
    }

    /// Refuses an answer without end.
    pub(super) fn bounded(&self) -> Result<(), AgentError> {
        if self.bytes() > MAX_ANSWER || self.calls.len() > MAX_CALLS {
            return Err(refused(&format!(
                "its answer has no end: more than {MAX_ANSWER} bytes, or {MAX_CALLS} tool calls"
            )));
        }
        Ok(())
    }

    /// The endpoint says that this was all. Some give no finish reason before.
    pub(super) fn end(&mut self) {
        self.is_whole |= self.has_choices;
    }

    fn bytes(&self) -> usize {
        let calls = self.calls.iter();
        let calls: usize = calls
            .map(|call| call.text.as_str().len() + call.name.len())
            .sum();
        calls + self.thought + self.content.as_str().len() + self.refusal.as_str().len()
    }

    /// The call of which `delta` is a further part.
    fn begun(&self, delta: &CallDelta) -> Option<usize> {
        self.calls.iter().rposition(|call| call.continues(delta))
    }

    fn add_call(&mut self, delta: CallDelta, part_of: Option<usize>) -> serde_json::Result<()> {
        let at = part_of.unwrap_or_else(|| {
            self.calls.push(Call {
                index: delta.index,
                ..Call::default()
            });
            self.calls.len() - 1
        });
        let function = delta.function.unwrap_or_default();
        let call = &mut self.calls[at];
        call.id = call.id.take().or(delta.id.filter(|id| !id.is_empty()));
        call.add_name(function.name.unwrap_or_default());
        call.add_arguments(function.arguments.as_deref())
    }
}

impl Call {
    /// Whether a part with these belongs to this call. By the standard only the first part has the
    /// id and the name, and all have the index. There are endpoints that give all calls the index
    /// 0, or none, or repeat id and name in each part.
    fn continues(&self, delta: &CallDelta) -> bool {
        let function = delta.function.as_ref();
        let is_text = |text: &&str| !text.is_empty();
        let id = delta.id.as_deref().filter(is_text);
        let name = function.and_then(|function| function.name.as_deref());
        let name = name.filter(is_text);
        if delta.index != self.index {
            return false;
        }
        if id.is_some_and(|id| self.id.as_deref().is_some_and(|own| own != id)) {
            return false;
        }
        // A name with arguments, where these are whole already, begins another call.
        let arguments = function.and_then(|function| function.arguments.as_deref());
        let is_more = arguments.is_some_and(|more| !matches!(more.get(), "null" | "\"\""));
        if name.is_some() && (is_more || delta.index.is_none()) && self.is_whole() {
            return false;
        }
        delta.index.is_some() || id.is_some() || name.is_none_or(|name| self.name == name)
    }

    fn is_whole(&self) -> bool {
        let text = self.text.as_str().trim();
        self.json.is_some()
            || text.ends_with('}') && serde_json::from_str::<&RawValue>(text).is_ok()
    }

    fn add_arguments(&mut self, arguments: Option<&RawValue>) -> serde_json::Result<()> {
        match arguments {
            None => Ok(()),
            Some(text) if text.get().starts_with('"') => self.text.add(text).map(drop),
            Some(json) => {
                self.json =
                    Some(serde_json::from_str(json.get())?).filter(|json: &Json| !json.is_null());
                Ok(())
            }
        }
    }

    /// A part of the name, or all of it once more.
    fn add_name(&mut self, name: String) {
        if name.starts_with(self.name.as_str()) {
            self.name = name;
        } else if self.name != name && self.text.as_str().is_empty() {
            self.name.push_str(&name);
        }
    }

    /// What is not JSON stays a string, about which the tool complains to the model.
    fn arguments(&mut self) -> Json {
        if let Some(json) = self.json.take() {
            return json;
        }
        let text = mem::take(&mut self.text).into_text();
        if text.trim().is_empty() {
            return json!({});
        }
        serde_json::from_str(&text).unwrap_or(Json::String(text))
    }
}

/// What the model wants. A model that declines in words has answered.
pub(super) fn step<S: Default>(
    completion: Completion,
    state: &AgentState<S>,
) -> Result<Step, AgentError> {
    if !completion.has_choices {
        return Err(refused("its answer has no choices"));
    }
    if !completion.is_whole {
        return Err(AgentError::Unavailable {
            reason: "its answer broke off".to_owned(),
            source: None,
        });
    }
    let content = completion.speech.finish();
    if completion.calls.iter().any(|call| call.name.is_empty()) {
        return Err(refused(NOT_A_COMPLETION));
    }
    if !completion.calls.is_empty() {
        let calls = tool_calls(completion.calls, state);
        return Ok(Step::ToolCalls { content, calls });
    }
    let text = if content.is_empty() {
        completion.refusal.into_text()
    } else {
        content
    };
    let finish_reason = completion.finish_reason.unwrap_or_default();
    match (text.trim(), finish_reason.as_str()) {
        ("", reason) => Err(refused(&format!(
            "its answer is empty (finish reason `{reason}`)"
        ))),
        (_, "length") => Ok(Step::Answer(format!("{text}\n\n{CUT_OFF}"))),
        _ => Ok(Step::Answer(text)),
    }
}

fn tool_calls<S: Default>(calls: Vec<Call>, state: &AgentState<S>) -> Vec<ToolCall> {
    let earlier = state
        .messages
        .iter()
        .flat_map(|message| &message.tool_calls);
    let mut ids: HashSet<String> = earlier.map(|call| call.id.clone()).collect();
    let mut unique_id = |id: Option<String>, index: usize| {
        let id = id.filter(|id| !id.is_empty() && !ids.contains(id));
        let id = id.unwrap_or_else(|| format!("call_{}_{}", state.messages.total(), index + 1));
        ids.insert(id.clone());
        id
    };
    let calls = calls.into_iter().enumerate();
    calls
        .map(|(index, mut call)| {
            // Some endpoints number the calls of each answer anew, or not at all.
            let id = unique_id(call.id.take(), index);
            let arguments = call.arguments();
            ToolCall {
                reasoning: call.reasoning,
                ..ToolCall::new(id, call.name, arguments)
            }
        })
        .collect()
}

const NOT_A_COMPLETION: &str = "its answer is not a chat completion";

fn not_a_completion(error: serde_json::Error) -> AgentError {
    AgentError::Refused {
        reason: NOT_A_COMPLETION.to_owned(),
        source: Some(error.into()),
    }
}

pub(super) fn refused(reason: &str) -> AgentError {
    AgentError::Refused {
        reason: reason.to_owned(),
        source: None,
    }
}
