//! Messages as others write them.

use serde_json::{Map, Value as Json, json};

use super::{Message, Part, Role, Source};

/// How others write messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageForm {
    /// As the messages of OpenAI's chat completions.
    OpenAi,
    /// As LangChain's `messages_to_dict` writes them; what its messages dump by themselves is read too.
    LangChain,
}

impl MessageForm {
    /// Who speaks, and what is said. The error is the reason.
    ///
    /// ```
    /// # use yai_agentkit_core::{Role, conversation::{MessageForm, Part}};
    /// let said = serde_json::json!({"role": "user", "content": "Hello"});
    /// let (role, parts) = MessageForm::OpenAi.read(&said)?;
    /// assert_eq!((role, parts), (Role::User, vec![Part::text("Hello")]));
    /// # Ok::<(), String>(())
    /// ```
    pub fn read(self, message: &Json) -> Result<(Role, Vec<Part>), String> {
        let (name, fields) = match self {
            Self::OpenAi => ("role", message),
            Self::LangChain => ("type", message.get("data").unwrap_or(message)),
        };
        let role = message[name].as_str();
        let role = role.ok_or_else(|| format!("{name}: must be there"))?;
        let role = match role {
            "human" | "HumanMessageChunk" => Role::User,
            "ai" | "AIMessageChunk" => Role::Assistant,
            "developer" => Role::System,
            "function" => Role::Tool,
            role => role.to_owned().into(),
        };
        let mut parts = match &fields["content"] {
            Json::Null => Vec::new(),
            Json::String(text) if text.is_empty() => Vec::new(),
            Json::String(text) => vec![Part::text(text)],
            Json::Array(blocks) => blocks.iter().map(read_block).collect::<Result<_, _>>()?,
            _ => return Err("content: must be text or a list".to_owned()),
        };
        // What a model calls stands in its content too.
        parts.retain(|part| !matches!(part, Part::ToolCall { .. }));
        for call in fields["tool_calls"].as_array().into_iter().flatten() {
            parts.push(read_call(call)?);
        }
        if role == Role::Tool {
            let call = fields["tool_call_id"].as_str();
            let call = call.ok_or("tool_call_id: must be there")?;
            parts = vec![Part::ToolResult {
                call_id: call.to_owned(),
                content: super::part::words(&parts),
                is_error: fields["status"] == "error",
            }];
        }
        if parts.is_empty() {
            parts.push(Part::text(""));
        }
        Ok((role, parts))
    }

    /// The message as others read it: several where it has several results of tools. What has no
    /// place there is left out.
    pub fn write(self, message: &Message) -> Vec<Json> {
        let parts = message.to_parts();
        let mut written: Vec<Json> = Vec::new();
        let calls: Vec<Json> = parts.iter().filter_map(|part| self.call(part)).collect();
        let blocks = parts.iter().filter_map(|part| self.block(part));
        let blocks: Vec<Json> = blocks.collect();
        let is_text = parts.iter().all(|part| {
            matches!(
                part,
                Part::Text { .. } | Part::ToolCall { .. } | Part::ToolResult { .. }
            )
        });
        let content = match is_text {
            true => blocks
                .iter()
                .filter_map(|block| block["text"].as_str())
                .collect::<String>()
                .into(),
            false => Json::from(blocks.clone()),
        };
        if !blocks.is_empty() || !calls.is_empty() {
            let mut fields = Map::from_iter([("content".to_owned(), content)]);
            if !calls.is_empty() {
                fields.insert("tool_calls".to_owned(), calls.into());
            }
            written.push(self.message(&message.role, fields));
        }
        for part in parts {
            if let Part::ToolResult {
                call_id,
                content,
                is_error,
            } = part
            {
                let mut fields = Map::new();
                fields.insert("content".to_owned(), content.into());
                fields.insert("tool_call_id".to_owned(), call_id.into());
                if is_error && self == Self::LangChain {
                    fields.insert("status".to_owned(), "error".into());
                }
                written.push(self.message(&Role::Tool, fields));
            }
        }
        written
    }

    fn message(self, role: &Role, mut fields: Map<String, Json>) -> Json {
        match self {
            Self::OpenAi => {
                fields.insert("role".to_owned(), role.as_str().into());
                fields.into()
            }
            Self::LangChain => {
                let role = match role {
                    Role::User => "human",
                    Role::Assistant => "ai",
                    role => role.as_str(),
                };
                json!({"type": role, "data": fields})
            }
        }
    }

    fn call(self, part: &Part) -> Option<Json> {
        let Part::ToolCall {
            id,
            name,
            arguments,
        } = part
        else {
            return None;
        };
        Some(match self {
            Self::OpenAi => json!({
                "id": id,
                "type": "function",
                "function": {"name": name, "arguments": arguments.to_string()},
            }),
            Self::LangChain => {
                json!({"type": "tool_call", "id": id, "name": name, "args": arguments})
            }
        })
    }

    fn block(self, part: &Part) -> Option<Json> {
        Some(match (self, part) {
            (_, Part::Text { text }) => json!({"type": "text", "text": text}),
            (Self::LangChain, Part::Reasoning { text }) => {
                json!({"type": "reasoning", "reasoning": text})
            }
            (Self::OpenAi, Part::Image { source }) => {
                let url = match source {
                    Source::Url { url, .. } => url.clone(),
                    Source::Data { data, media_type } => data_url(media_type, data),
                    Source::Provider { .. } => return None,
                };
                json!({"type": "image_url", "image_url": {"url": url}})
            }
            (Self::OpenAi, Part::File { name, source }) => {
                let file = match source {
                    Source::Data { data, media_type } => {
                        json!({"filename": name, "file_data": data_url(media_type, data)})
                    }
                    Source::Provider { file, .. } => json!({"file_id": file}),
                    // It takes files by their bytes.
                    Source::Url { .. } => return None,
                };
                json!({"type": "file", "file": file})
            }
            (Self::LangChain, Part::Image { source }) => standard_block("image", None, source),
            (Self::LangChain, Part::File { name, source }) => {
                standard_block("file", name.as_deref(), source)
            }
            _ => return None,
        })
    }
}

/// LangChain's standard content.
fn standard_block(kind: &str, name: Option<&str>, source: &Source) -> Json {
    let (place, value, media_type) = match source {
        Source::Url { url, media_type } => ("url", url, media_type.as_ref()),
        Source::Data { data, media_type } => ("base64", data, Some(media_type)),
        Source::Provider {
            file, media_type, ..
        } => ("file_id", file, media_type.as_ref()),
    };
    let mut block = json!({"type": kind, place: value});
    if let Some(media_type) = media_type {
        block["mime_type"] = media_type.as_str().into();
    }
    if let Some(name) = name {
        block["extras"] = json!({"filename": name});
    }
    block
}

fn data_url(media_type: &str, data: &str) -> String {
    format!("data:{media_type};base64,{data}")
}

/// The bytes of a `data:` URL, or what is elsewhere.
fn of_url(url: &str) -> Source {
    let data = url
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(";base64,"));
    match data {
        Some((media_type, data)) => Source::Data {
            data: data.to_owned(),
            media_type: media_type.to_owned(),
        },
        None => Source::Url {
            url: url.to_owned(),
            media_type: None,
        },
    }
}

fn read_call(call: &Json) -> Result<Part, String> {
    let (name, arguments) = match call.get("function") {
        Some(function) => {
            let arguments = function["arguments"].as_str().unwrap_or("{}");
            let arguments = match arguments.trim() {
                "" => json!({}),
                // What a model has written that is no JSON is kept as it is.
                arguments => serde_json::from_str(arguments).unwrap_or_else(|_| arguments.into()),
            };
            (&function["name"], arguments)
        }
        None => (
            &call["name"],
            call.get("args").cloned().unwrap_or_else(|| json!({})),
        ),
    };
    match (call["id"].as_str(), name.as_str()) {
        (Some(id), Some(name)) => Ok(Part::ToolCall {
            id: id.to_owned(),
            name: name.to_owned(),
            arguments,
        }),
        _ => Err("tool_calls: each must have an id and a name".to_owned()),
    }
}

fn read_block(block: &Json) -> Result<Part, String> {
    let text = |field: &str| block[field].as_str().map(str::to_owned);
    if let Some(text) = block.as_str() {
        return Ok(Part::text(text));
    }
    let kind = block["type"].as_str().unwrap_or_default();
    let media_type = text("mime_type");
    let source = match (text("url"), text("base64"), text("file_id")) {
        (Some(url), ..) => Some(match of_url(&url) {
            Source::Url { url, .. } => Source::Url { url, media_type },
            data => data,
        }),
        (_, Some(data), _) => media_type.map(|media_type| Source::Data { data, media_type }),
        (.., Some(file)) => Some(Source::Provider {
            file,
            provider: None,
            media_type,
        }),
        _ => None,
    };
    let read = match kind {
        "text" | "input_text" | "output_text" => text("text").map(Part::text),
        "refusal" => text("refusal").map(Part::text),
        "reasoning" => text("reasoning").map(|text| Part::Reasoning { text }),
        "thinking" => text("thinking").map(|text| Part::Reasoning { text }),
        "tool_call" | "tool_use" => Some(Part::ToolCall {
            id: text("id").unwrap_or_default(),
            name: text("name").unwrap_or_default(),
            arguments: Json::Null,
        }),
        "image_url" => {
            let url = &block["image_url"];
            let url = url.as_str().or_else(|| url["url"].as_str());
            url.map(|url| Part::Image {
                source: of_url(url),
            })
        }
        "input_audio" => {
            let audio = &block["input_audio"];
            let (data, format) = (audio["data"].as_str(), audio["format"].as_str());
            data.zip(format).map(|(data, format)| Part::File {
                name: None,
                source: Source::Data {
                    data: data.to_owned(),
                    media_type: format!("audio/{format}"),
                },
            })
        }
        "image" => source.map(|source| Part::Image { source }),
        "file" if block["file"].is_object() => {
            let file = &block["file"];
            let source = match (file["file_data"].as_str(), file["file_id"].as_str()) {
                (Some(data), _) => Some(of_url(data)),
                (None, Some(id)) => Some(Source::Provider {
                    file: id.to_owned(),
                    provider: None,
                    media_type: None,
                }),
                (None, None) => None,
            };
            source.map(|source| Part::File {
                name: file["filename"].as_str().map(str::to_owned),
                source,
            })
        }
        "file" | "audio" | "video" => source.map(|source| Part::File {
            name: block["extras"]["filename"].as_str().map(str::to_owned),
            source,
        }),
        _ => None,
    };
    read.ok_or_else(|| format!("content: a block of the type `{kind}` that is not understood"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConversationId;

    fn there_and_back(form: MessageForm, role: Role, parts: Vec<Part>) -> Vec<Json> {
        let message = Message::of_parts(ConversationId::new(), role.clone(), parts.clone());
        let written = form.write(&message);
        let read: Vec<_> = written.iter().map(|one| form.read(one).unwrap()).collect();
        assert!(read.iter().all(|(read, _)| *read == role), "{written:?}");
        let read: Vec<Part> = read.into_iter().flat_map(|(_, parts)| parts).collect();
        assert_eq!(read, parts, "{written:?}");
        written
    }

    fn call() -> Part {
        Part::ToolCall {
            id: "call-1".to_owned(),
            name: "add".to_owned(),
            arguments: json!({"a": 1}),
        }
    }

    fn result(is_error: bool) -> Part {
        Part::ToolResult {
            call_id: "call-1".to_owned(),
            content: "3".to_owned(),
            is_error,
        }
    }

    fn picture() -> Part {
        Part::Image {
            source: Source::Data {
                data: "AAAA".to_owned(),
                media_type: "image/png".to_owned(),
            },
        }
    }

    #[test]
    fn messages_of_openai_come_back_equal() {
        let form = MessageForm::OpenAi;
        let written = there_and_back(form, Role::User, vec![Part::text("Hello")]);
        assert_eq!(written, [json!({"role": "user", "content": "Hello"})]);
        let written = there_and_back(form, Role::User, vec![Part::text("See"), picture()]);
        let url = json!({"url": "data:image/png;base64,AAAA"});
        assert_eq!(
            written[0]["content"][1],
            json!({"type": "image_url", "image_url": url})
        );
        let written = there_and_back(form, Role::Assistant, vec![Part::text("Well"), call()]);
        assert_eq!(
            written[0]["tool_calls"][0]["function"]["arguments"],
            "{\"a\":1}"
        );
        let written = there_and_back(form, Role::Tool, vec![result(false)]);
        let expected = json!({"role": "tool", "tool_call_id": "call-1", "content": "3"});
        assert_eq!(written, [expected]);
    }

    #[test]
    fn messages_of_langchain_come_back_equal() {
        let form = MessageForm::LangChain;
        let written = there_and_back(form, Role::User, vec![Part::text("Hello"), picture()]);
        let picture = json!({"type": "image", "base64": "AAAA", "mime_type": "image/png"});
        assert_eq!(written[0]["data"]["content"][1], picture);
        assert_eq!(written[0]["type"], "human");
        let thought = Part::Reasoning {
            text: "Hm".to_owned(),
        };
        there_and_back(
            form,
            Role::Assistant,
            vec![thought, Part::text("So"), call()],
        );
        let written = there_and_back(form, Role::Tool, vec![result(true)]);
        assert_eq!(written[0]["data"]["status"], "error");
    }

    #[test]
    fn what_langchain_dumps_by_itself_is_read_and_what_is_unknown_refused() {
        let form = MessageForm::LangChain;
        let dumped = json!({
            "type": "ai",
            "content": [{"type": "text", "text": "Well"}, {"type": "tool_use", "id": "call-1", "name": "add", "input": {}}],
            "tool_calls": [{"name": "add", "args": {"a": 1}, "id": "call-1", "type": "tool_call"}],
        });
        let read = form.read(&dumped);
        assert_eq!(
            read,
            Ok((Role::Assistant, vec![Part::text("Well"), call()]))
        );
        for unknown in [
            json!({}),
            json!({"type": "human", "content": 7}),
            json!({"type": "human", "content": [{"type": "smell"}]}),
            json!({"type": "tool", "content": "3"}),
            json!({"type": "ai", "content": "", "tool_calls": [{}]}),
        ] {
            assert!(form.read(&unknown).is_err(), "{unknown}");
        }
    }
}
