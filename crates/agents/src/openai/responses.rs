//! OpenAI's responses interface. The endpoint keeps nothing: it is told the whole transcript each
//! time, with what the model has thought in the turn under way, sealed.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json, value::RawValue};
use yai_agentkit_core::conversation::{Part, Source};
use yai_agentkit_engine::agent::AgentError;

use super::{
    OpenAiConfig,
    completion::{Completion, refused},
    request::{Offered, Prompt, Said, answers, arguments, set, unseen, url},
    transport,
};

/// Where it is, behind the endpoint's URL.
pub(super) const PATH: &str = "responses";

pub(super) fn body(config: &OpenAiConfig, prompt: &Prompt<'_>) -> Json {
    let is_user = |said: &Said<'_>| matches!(said, Said::User(..));
    let turn = prompt.said.iter().rposition(is_user).unwrap_or_default();
    let said = prompt.said.iter().enumerate();
    let input = said.flat_map(|(at, said)| items(said, at > turn));
    let mut body = json!({
        "model": config.model,
        "input": input.collect::<Vec<_>>(),
        "stream": true,
        "store": false,
    });
    set(&mut body, "temperature", config.temperature);
    if let Some(effort) = &config.reasoning_effort {
        body["reasoning"] = json!({"effort": effort});
        body["include"] = json!(["reasoning.encrypted_content"]);
    }
    if let Some(schema) = prompt.schema {
        let mut format = answers(schema);
        format["type"] = "json_schema".into();
        body["text"] = json!({ "format": format });
    }
    if !prompt.tools.is_empty() {
        body["tools"] = prompt.tools.iter().map(tool).collect();
    }
    body
}

/// Thoughts of earlier turns are of no use to the model.
fn items(said: &Said<'_>, with_thoughts: bool) -> Vec<Json> {
    match said {
        Said::System(text) => vec![json!({"role": "system", "content": text})],
        Said::User(text, []) => vec![json!({"role": "user", "content": text})],
        Said::User(text, parts) => {
            let words = (!text.is_empty()).then(|| words(text)).into_iter();
            let parts = words.chain(parts.iter().filter_map(part));
            vec![json!({"role": "user", "content": parts.collect::<Vec<_>>()})]
        }
        Said::Assistant(text, calls) => {
            let words = (!text.is_empty()).then(|| json!({"role": "assistant", "content": text}));
            let mut items: Vec<_> = words.into_iter().collect();
            for call in calls {
                let thoughts = call.reasoning.iter().filter(|_| with_thoughts);
                items.extend(thoughts.cloned());
                items.push(json!({
                    "type": "function_call",
                    "call_id": call.id,
                    "name": call.name,
                    "arguments": arguments(call),
                }));
            }
            items
        }
        Said::Result { call, text } => {
            vec![json!({"type": "function_call_output", "call_id": call, "output": text})]
        }
    }
}

fn words(text: &str) -> Json {
    json!({"type": "input_text", "text": text})
}

fn part(part: &Part) -> Option<Json> {
    Some(match part {
        Part::Image { source } => match source {
            Source::Provider { file, .. } => {
                json!({"type": "input_image", "detail": "auto", "file_id": file})
            }
            _ => match url(source) {
                Some(url) => json!({"type": "input_image", "detail": "auto", "image_url": url}),
                None => words(&unseen("a picture", source)),
            },
        },
        Part::File { name, source } => {
            let name = name.as_deref().unwrap_or("file");
            match source {
                Source::Data { .. } => {
                    json!({"type": "input_file", "filename": name, "file_data": url(source)})
                }
                Source::Provider { file, .. } => json!({"type": "input_file", "file_id": file}),
                Source::Url { url, .. } => json!({"type": "input_file", "file_url": url}),
                _ => words(&unseen(name, source)),
            }
        }
        _ => return None,
    })
}

/// Not by the strict rules of schemas, which the interface has by default and not all tools heed.
fn tool(tool: &Offered) -> Json {
    let parameters = tool.parameters.clone();
    json!({
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}})),
        "strict": false,
    })
}

/// What is needed of an event, of the response that its end tells, and of one that comes whole.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: Option<String>,
    object: Option<String>,
    delta: Option<Box<RawValue>>,
    item: Option<Item>,
    response: Option<Box<Event>>,
    output: Option<Vec<Item>>,
    incomplete_details: Option<Incomplete>,
    error: Option<Json>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct Incomplete {
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "type")]
    kind: String,
    /// Of a message.
    content: Option<Vec<Content>>,
    /// Of a call, as are the next two.
    call_id: Option<String>,
    name: Option<String>,
    arguments: Option<Box<RawValue>>,
    /// Of thoughts, as are the next two.
    id: Option<String>,
    summary: Option<Vec<Summary>>,
    encrypted_content: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    text: Option<Box<RawValue>>,
    refusal: Option<Box<RawValue>>,
}

#[derive(Deserialize, Serialize)]
struct Summary {
    #[serde(rename = "type")]
    kind: String,
    text: String,
}

/// Adds the next event to what has come, and returns what is said by it.
pub(super) fn add(
    completion: &mut Completion,
    event: &str,
    secret: &str,
) -> Result<String, AgentError> {
    let event: Event = serde_json::from_str(event).map_err(not_a_response)?;
    completion.begin();
    let mut said = String::new();
    match event.kind.as_deref() {
        Some("response.output_text.delta") => {
            if let Some(delta) = &event.delta {
                said = completion.say(delta).map_err(not_a_response)?;
            }
        }
        Some("response.refusal.delta") => {
            if let Some(delta) = &event.delta {
                completion.decline(delta).map_err(not_a_response)?;
            }
        }
        Some("response.output_item.done") => {
            let item = event.item.filter(|item| item.kind != "message");
            item.map_or(Ok(String::new()), |item| add_item(completion, item))?;
        }
        Some("response.completed" | "response.incomplete" | "response.failed") => {
            let response = event.response.ok_or_else(|| refused(NOT_A_RESPONSE))?;
            said = end(completion, *response, secret)?;
        }
        Some("error") => {
            let error = event.error.or(event.message.map(Json::String));
            return Err(transport::failure_in_stream(
                &error.unwrap_or_default(),
                secret,
            ));
        }
        Some(kind) if kind.starts_with("response.") => {}
        None if event.object.as_deref() == Some("response") => {
            said = end(completion, event, secret)?;
        }
        _ => match event.error {
            Some(error) => return Err(transport::failure_in_stream(&error, secret)),
            None => return Err(refused(NOT_A_RESPONSE)),
        },
    }
    completion.bounded()?;
    Ok(said)
}

/// All of it has come. What was not streamed is said here.
fn end(completion: &mut Completion, response: Event, secret: &str) -> Result<String, AgentError> {
    if let Some(error) = response.error.filter(|error| !error.is_null()) {
        return Err(transport::failure_in_stream(&error, secret));
    }
    let mut said = String::new();
    if completion.is_empty() {
        for item in response.output.unwrap_or_default() {
            said.push_str(&add_item(completion, item)?);
        }
    }
    let reason = response
        .incomplete_details
        .and_then(|details| details.reason);
    completion.finish(match reason.as_deref() {
        Some("max_output_tokens") => Some("length".to_owned()),
        _ => reason,
    });
    Ok(said)
}

fn add_item(completion: &mut Completion, item: Item) -> Result<String, AgentError> {
    let mut said = String::new();
    match item.kind.as_str() {
        "message" => {
            for content in item.content.unwrap_or_default() {
                if let Some(text) = &content.text {
                    said.push_str(&completion.say(text).map_err(not_a_response)?);
                }
                if let Some(refusal) = &content.refusal {
                    completion.decline(refusal).map_err(not_a_response)?;
                }
            }
        }
        "function_call" => completion
            .call(
                item.call_id,
                item.name.unwrap_or_default(),
                item.arguments.as_deref(),
            )
            .map_err(not_a_response)?,
        // Those that are not sealed only an endpoint could find again that keeps them.
        "reasoning" if item.encrypted_content.is_some() => completion.think(json!({
            "type": "reasoning",
            "id": item.id,
            "summary": item.summary.unwrap_or_default(),
            "encrypted_content": item.encrypted_content,
        })),
        _ => {}
    }
    Ok(said)
}

const NOT_A_RESPONSE: &str = "its answer is not a response";

fn not_a_response(error: serde_json::Error) -> AgentError {
    AgentError::Refused {
        reason: NOT_A_RESPONSE.to_owned(),
        source: Some(error.into()),
    }
}
