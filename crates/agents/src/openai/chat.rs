//! Requests of the chat completions interface.

use serde_json::{Value as Json, json};
use yai_agentkit_core::conversation::{Part, Source};
use yai_agentkit_engine::agent::ToolCall;

use super::{
    OpenAiConfig,
    request::{Offered, Prompt, Said, answers, arguments, set, unseen, url},
};

/// Where it is, behind the endpoint's URL.
pub(super) const PATH: &str = "chat/completions";

pub(super) fn body(config: &OpenAiConfig, prompt: &Prompt<'_>) -> Json {
    let messages = prompt.said.iter().map(message);
    let mut body = json!({
        "model": config.model,
        "messages": messages.collect::<Vec<_>>(),
        "stream": true,
    });
    set(&mut body, "temperature", config.temperature);
    let effort = config.reasoning_effort.as_deref();
    set(&mut body, "reasoning_effort", effort);
    let format = |schema| json!({"type": "json_schema", "json_schema": answers(schema)});
    set(&mut body, "response_format", prompt.schema.map(format));
    // An empty list is refused.
    if !prompt.tools.is_empty() {
        body["tools"] = prompt.tools.iter().map(tool).collect();
    }
    body
}

fn message(said: &Said<'_>) -> Json {
    match said {
        Said::System(text) => json!({"role": "system", "content": text}),
        Said::User(text, []) => json!({"role": "user", "content": text}),
        Said::User(text, parts) => {
            let words = (!text.is_empty()).then(|| words(text)).into_iter();
            let parts = words.chain(parts.iter().filter_map(part));
            json!({"role": "user", "content": parts.collect::<Vec<_>>()})
        }
        Said::Assistant(text, calls) => {
            let mut message = json!({"role": "assistant"});
            if !text.is_empty() {
                message["content"] = text.as_ref().into();
            }
            if !calls.is_empty() {
                message["tool_calls"] = calls.iter().map(|wanted| call(wanted)).collect();
            }
            message
        }
        Said::Result { call, text } => {
            json!({"role": "tool", "tool_call_id": call, "content": text})
        }
    }
}

fn words(text: &str) -> Json {
    json!({"type": "text", "text": text})
}

fn part(part: &Part) -> Option<Json> {
    Some(match part {
        Part::Image { source } => match url(source) {
            Some(url) => json!({"type": "image_url", "image_url": {"url": url}}),
            None => words(&unseen("a picture", source)),
        },
        Part::File { name, source } => {
            let name = name.as_deref().unwrap_or("file");
            match source {
                Source::Data { .. } => {
                    json!({"type": "file", "file": {"filename": name, "file_data": url(source)}})
                }
                Source::Provider { file, .. } => {
                    json!({"type": "file", "file": {"file_id": file}})
                }
                _ => words(&unseen(name, source)),
            }
        }
        _ => return None,
    })
}

fn call(call: &ToolCall) -> Json {
    let function = json!({"name": call.name, "arguments": arguments(call)});
    json!({"id": call.id, "type": "function", "function": function})
}

fn tool(tool: &Offered) -> Json {
    let mut function = json!({"name": tool.name, "description": tool.description});
    set(&mut function, "parameters", tool.parameters.clone());
    json!({"type": "function", "function": function})
}
