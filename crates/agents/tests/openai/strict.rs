//! What the real endpoint refuses, so that a request that passes here passes there: fields that it
//! does not know, calls and results that are not beside each other, pictures that it can't read.

use std::collections::HashSet;

use async_openai::types::{chat::CreateChatCompletionRequest, responses::CreateResponse};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

/// Why a request is refused that is sent to this path.
pub(super) fn refusal(path: &str, request: &Json) -> Option<String> {
    let is_chat = path.ends_with("/chat/completions");
    let found = match is_chat {
        true => known::<CreateChatCompletionRequest>(request).and_then(|()| chat(request)),
        false => known::<CreateResponse>(request).and_then(|()| responses(request)),
    };
    found.and_then(|()| tools(request, is_chat)).err()
}

/// Whether all of the request is known to the types of a library.
fn known<T: DeserializeOwned + Serialize>(request: &Json) -> Result<(), String> {
    let parsed: T = serde_json::from_value(request.clone()).map_err(|error| error.to_string())?;
    unchanged(request, &serde_json::to_value(parsed).unwrap(), "")
}

fn unchanged(sent: &Json, known: &Json, at: &str) -> Result<(), String> {
    match (sent, known) {
        (Json::Object(sent), Json::Object(known)) => sent.iter().try_for_each(|(name, value)| {
            let at = format!("{at}.{name}");
            let known = known.get(name);
            unchanged(
                value,
                known.ok_or(format!("Unknown parameter: '{at}'."))?,
                &at,
            )
        }),
        (Json::Array(sent), Json::Array(known)) if sent.len() == known.len() => {
            let mut pairs = sent.iter().zip(known).enumerate();
            pairs.try_for_each(|(index, (sent, known))| {
                unchanged(sent, known, &format!("{at}[{index}]"))
            })
        }
        _ if sent.as_f64() == known.as_f64() && sent.is_number() => Ok(()),
        _ if sent == known => Ok(()),
        _ => Err(format!("Invalid value: '{at}'.")),
    }
}

fn chat(request: &Json) -> Result<(), String> {
    let mut awaited: HashSet<&str> = HashSet::new();
    for message in list(&request["messages"]) {
        if message["role"] == "tool" {
            let id = text(&message["tool_call_id"]);
            if !awaited.remove(id) {
                return Err(
                    "messages with role 'tool' must be a response to a preceding message \
                            with 'tool_calls'"
                        .to_owned(),
                );
            }
            continue;
        }
        if !awaited.is_empty() {
            break;
        }
        let calls = message["tool_calls"].as_array();
        if calls.is_some_and(Vec::is_empty) {
            return Err("[] is too short - 'messages.tool_calls'".to_owned());
        }
        for call in calls.into_iter().flatten() {
            if text(&call["id"]).is_empty() || !awaited.insert(text(&call["id"])) {
                return Err("Invalid 'tool_calls.id'".to_owned());
            }
        }
        if message["role"] == "assistant" && calls.is_none() && message["content"].is_null() {
            return Err("Invalid value for 'content': expected a string, got null.".to_owned());
        }
        for part in message["content"].as_array().into_iter().flatten() {
            if part["type"] == "image_url" {
                picture(&part["image_url"]["url"])?;
            }
            if part["type"] == "file" {
                file(&part["file"])?;
            }
        }
    }
    if !awaited.is_empty() {
        return Err(
            "An assistant message with 'tool_calls' must be followed by tool messages \
                    responding to each 'tool_call_id'"
                .to_owned(),
        );
    }
    Ok(())
}

fn responses(request: &Json) -> Result<(), String> {
    let reasons = !request["reasoning"].is_null();
    if !reasons && list(&request["include"]).contains(&"reasoning.encrypted_content".into()) {
        return Err("Encrypted content is not supported with this model.".to_owned());
    }
    let (mut awaited, mut known) = (HashSet::new(), HashSet::new());
    let mut thoughts = None;
    for item in list(&request["input"]) {
        let id = text(&item["call_id"]);
        match text(&item["type"]) {
            "function_call" => {
                if id.is_empty() || !known.insert(id) {
                    return Err("Invalid 'input.call_id'".to_owned());
                }
                awaited.insert(id);
            }
            "function_call_output" if !awaited.remove(id) => {
                return Err(format!(
                    "No tool call found for function call output with call_id {id}."
                ));
            }
            "reasoning" if request["store"] == false && item["encrypted_content"].is_null() => {
                return Err(format!("Item with id '{}' not found.", text(&item["id"])));
            }
            "reasoning" => {
                thoughts = Some(text(&item["id"]));
                continue;
            }
            _ => {}
        }
        let is_of_model = item["type"] == "function_call" || item["role"] == "assistant";
        if let Some(id) = thoughts.take().filter(|_| !is_of_model) {
            return Err(format!(
                "Item '{id}' of type 'reasoning' was provided without its required following item."
            ));
        }
        for part in item["content"].as_array().into_iter().flatten() {
            if part["type"] == "input_image" && part["file_id"].is_null() {
                picture(&part["image_url"])?;
            }
            if part["type"] == "input_file" && part["file_url"].is_null() {
                file(part)?;
            }
        }
    }
    match awaited.into_iter().next() {
        Some(id) => Err(format!("No tool output found for function call {id}.")),
        None => Ok(()),
    }
}

fn tools(request: &Json, is_chat: bool) -> Result<(), String> {
    let Some(tools) = request["tools"].as_array() else {
        return Ok(());
    };
    if tools.is_empty() && is_chat {
        return Err("[] is too short - 'tools'".to_owned());
    }
    for tool in tools {
        let function = if is_chat { &tool["function"] } else { tool };
        let name = text(&function["name"]);
        let is_fit = |sign: char| sign.is_ascii_alphanumeric() || "_-".contains(sign);
        if tool["type"] != "function"
            || !(1..=64).contains(&name.len())
            || !name.chars().all(is_fit)
        {
            return Err(format!("Invalid tool: {tool}"));
        }
        if !is_chat && function["strict"] != false {
            return Err(format!(
                "Invalid schema for function '{name}': it is not strict"
            ));
        }
    }
    Ok(())
}

fn picture(url: &Json) -> Result<(), String> {
    let url = text(url);
    let kinds = ["png", "jpeg", "gif", "webp"];
    let data = kinds
        .iter()
        .find_map(|kind| url.strip_prefix(&format!("data:image/{kind};base64,")));
    match data {
        Some(data) => base64(data),
        None if url.starts_with("https://") || url.starts_with("http://") => Ok(()),
        None => Err(format!("Invalid image: {url}")),
    }
}

fn file(file: &Json) -> Result<(), String> {
    if !file["file_id"].is_null() {
        return Ok(());
    }
    let data = text(&file["file_data"]).strip_prefix("data:");
    let data = data.and_then(|data| data.split_once(";base64,"));
    match data {
        Some((_, data)) if !text(&file["filename"]).is_empty() => base64(data),
        _ => Err("Missing required parameter: 'file_id'.".to_owned()),
    }
}

fn base64(text: &str) -> Result<(), String> {
    let is_sign = |sign: char| sign.is_ascii_alphanumeric() || "+/=".contains(sign);
    let is_whole = !text.is_empty() && text.len().is_multiple_of(4) && text.chars().all(is_sign);
    is_whole.then_some(()).ok_or("Invalid base64.".to_owned())
}

fn list(json: &Json) -> &[Json] {
    json.as_array().map_or(&[], Vec::as_slice)
}

fn text(json: &Json) -> &str {
    json.as_str().unwrap_or_default()
}

mod tests {
    use serde_json::json;

    use super::*;

    fn of_chat(messages: &Json) -> Option<String> {
        refusal(
            "/v1/chat/completions",
            &json!({"model": "m", "messages": messages}),
        )
    }

    fn of_responses(input: &Json) -> Option<String> {
        let request = json!({"model": "m", "input": input, "store": false});
        refusal("/v1/responses", &request)
    }

    #[test]
    fn the_double_of_chat_completions_refuses_what_the_real_one_refuses() {
        let call = |id: &str| {
            json!({"role": "assistant", "tool_calls": [
                {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}]})
        };
        let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "1"});
        let asked = json!({"role": "user", "content": "Hello"});
        assert_eq!(
            of_chat(&json!([asked, call("a"), result("a"), asked])),
            None
        );
        let shown = |url: &str| {
            let part = json!({"type": "image_url", "image_url": {"url": url}});
            json!([{"role": "user", "content": [part]}])
        };
        assert_eq!(of_chat(&shown("data:image/png;base64,AAAA")), None);
        for (refused, words) in [
            (json!([asked, call("a")]), "must be followed by"),
            (
                json!([asked, call("a"), asked, result("a")]),
                "must be followed by",
            ),
            (json!([asked, result("a")]), "must be a response to"),
            (
                json!([asked, call("a"), result("b")]),
                "must be a response to",
            ),
            (
                json!([{"role": "user", "content": "x", "mood": 1}]),
                "messages[0].mood",
            ),
            (json!([{"role": "assistant"}]), "got null"),
            (shown("data:image/tiff;base64,AAAA"), "Invalid image"),
            (shown("data:image/png;base64,A A"), "Invalid base64"),
            (shown("file:///etc/passwd"), "Invalid image"),
        ] {
            let reason = of_chat(&refused).unwrap_or_else(|| panic!("{refused} passes"));
            assert!(reason.contains(words), "{reason}");
        }
        let request = json!({"model": "m", "messages": [asked], "tools": []});
        assert!(refusal("/v1/chat/completions", &request).is_some());
    }

    #[test]
    fn the_double_of_responses_refuses_what_the_real_one_refuses() {
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
        let result =
            |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "1"});
        let asked = json!({"role": "user", "content": "Hello"});
        let thought = json!({"type": "reasoning", "id": "rs_1", "summary": [],
            "encrypted_content": "sealed"});
        let whole = json!([
            asked,
            thought,
            call("a"),
            call("b"),
            result("b"),
            result("a")
        ]);
        assert_eq!(of_responses(&whole), None);
        let open = json!({"type": "reasoning", "id": "rs_1", "summary": []});
        for (refused, words) in [
            (json!([asked, call("a")]), "No tool output found"),
            (json!([asked, result("a"), call("a")]), "No tool call found"),
            (json!([asked, thought, asked]), "required following item"),
            (
                json!([asked, open, call("a"), result("a")]),
                "'rs_1' not found",
            ),
            (
                json!([{"role": "user", "content": "x", "mood": 1}]),
                "input[0].mood",
            ),
            (
                json!([{"role": "user", "content": [{"type": "input_image", "detail": "auto",
                    "image_url": "AAAA"}]}]),
                "Invalid image",
            ),
        ] {
            let reason = of_responses(&refused).unwrap_or_else(|| panic!("{refused} passes"));
            assert!(reason.contains(words), "{reason}");
        }
    }
}
