//! The parts of a message as the protocol has them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yai_agentkit_core::conversation::{Part, Source};

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ClientPart {
    Text {
        text: String,
    },
    Image {
        source: ClientSource,
    },
    Audio {
        source: ClientSource,
    },
    Video {
        source: ClientSource,
    },
    Document {
        source: ClientSource,
    },
    /// Of clients before 1.0.
    #[serde(rename_all = "camelCase")]
    Binary {
        mime_type: String,
        data: Option<String>,
        url: Option<String>,
        id: Option<String>,
        filename: Option<String>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
enum ClientSource {
    Data {
        value: String,
        mime_type: String,
    },
    Url {
        value: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mime_type: Option<String>,
    },
    File {
        value: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mime_type: Option<String>,
    },
}

/// What a client says in parts; none where it is nothing but text. The error is the reason.
pub(super) fn read(parts: &[Value]) -> Result<(String, Vec<Part>), String> {
    let read = |part| {
        let part =
            ClientPart::deserialize(part).map_err(|error: serde_json::Error| error.to_string())?;
        stored(part).ok_or_else(|| "a binary part has one of data, url and id".to_owned())
    };
    let parts: Vec<Part> = parts.iter().map(read).collect::<Result<_, String>>()?;
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text { text } => Some(text.as_str()),
        _ => None,
    });
    Ok((texts.collect(), beyond_text(parts)))
}

/// The parts as far as they are shown; none where they are nothing but text.
fn beyond_text(mut parts: Vec<Part>) -> Vec<Part> {
    parts.retain(|part| shown(part).is_some());
    if parts.iter().all(|part| matches!(part, Part::Text { .. })) {
        parts.clear();
    }
    parts
}

/// The content of a message.
pub(super) fn content(text: String, parts: Vec<Part>) -> Value {
    match beyond_text(parts) {
        parts if parts.is_empty() => text.into(),
        parts => json!(parts.iter().filter_map(shown).collect::<Vec<_>>()),
    }
}

fn stored(part: ClientPart) -> Option<Part> {
    Some(match part {
        ClientPart::Text { text } => Part::Text { text },
        ClientPart::Image { source } => Part::Image {
            source: source.into(),
        },
        ClientPart::Audio { source }
        | ClientPart::Video { source }
        | ClientPart::Document { source } => Part::File {
            name: None,
            source: source.into(),
        },
        ClientPart::Binary {
            mime_type,
            data,
            url,
            id,
            filename,
        } => {
            let is_image = mime_type.starts_with("image/");
            let source = match (data, url, id) {
                (Some(data), None, None) => Source::Data {
                    data,
                    media_type: mime_type,
                },
                (None, Some(url), None) => Source::Url {
                    url,
                    media_type: Some(mime_type),
                },
                (None, None, Some(file)) => Source::Provider {
                    file,
                    provider: None,
                    media_type: Some(mime_type),
                },
                _ => return None,
            };
            match is_image {
                true => Part::Image { source },
                false => Part::File {
                    name: filename,
                    source,
                },
            }
        }
    })
}

/// `None` of what the protocol has elsewhere.
fn shown(part: &Part) -> Option<ClientPart> {
    let source = match part {
        Part::Text { text } => return Some(ClientPart::Text { text: text.clone() }),
        Part::Image { source } | Part::File { source, .. } => ClientSource::of(source)?,
        _ => return None,
    };
    let media_type = source.media_type().unwrap_or_default();
    Some(match part {
        Part::Image { .. } => ClientPart::Image { source },
        _ if media_type.starts_with("audio/") => ClientPart::Audio { source },
        _ if media_type.starts_with("video/") => ClientPart::Video { source },
        _ => ClientPart::Document { source },
    })
}

impl ClientSource {
    fn of(source: &Source) -> Option<Self> {
        Some(match source.clone() {
            Source::Data { data, media_type } => Self::Data {
                value: data,
                mime_type: media_type,
            },
            Source::Url { url, media_type } => Self::Url {
                value: url,
                mime_type: media_type,
            },
            Source::Provider {
                file,
                provider,
                media_type,
            } => Self::File {
                value: file,
                provider,
                mime_type: media_type,
            },
            _ => return None,
        })
    }

    fn media_type(&self) -> Option<&str> {
        match self {
            Self::Data { mime_type, .. } => Some(mime_type),
            Self::Url { mime_type, .. } | Self::File { mime_type, .. } => mime_type.as_deref(),
        }
    }
}

impl From<ClientSource> for Source {
    fn from(source: ClientSource) -> Self {
        match source {
            ClientSource::Data { value, mime_type } => Self::Data {
                data: value,
                media_type: mime_type,
            },
            ClientSource::Url { value, mime_type } => Self::Url {
                url: value,
                media_type: mime_type,
            },
            ClientSource::File {
                value,
                provider,
                mime_type,
            } => Self::Provider {
                file: value,
                provider,
                media_type: mime_type,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_in_parts_is_shown_as_it_was_said() {
        let url = json!({"type": "url", "value": "https://example.com/1"});
        let data = json!({"type": "data", "value": "AAAA", "mimeType": "audio/wav"});
        let file =
            json!({"type": "file", "value": "f", "provider": "openai", "mimeType": "video/mp4"});
        let parts = [
            json!({"type": "text", "text": "Look: "}),
            json!({"type": "image", "source": url}),
            json!({"type": "audio", "source": data}),
            json!({"type": "video", "source": file}),
            json!({"type": "document", "source": url}),
            json!({"type": "text", "text": "nice"}),
        ];
        let (text, read) = read(&parts).unwrap();
        assert_eq!(text, "Look: nice");
        assert_eq!(content(text, read), json!(parts));
    }

    #[test]
    fn what_is_nothing_but_text_has_no_parts() {
        let texts = [
            json!({"type": "text", "text": "a"}),
            json!({"type": "text", "text": "b"}),
        ];
        assert_eq!(read(&texts), Ok(("ab".to_owned(), Vec::new())));
        assert_eq!(
            content("ab".to_owned(), vec![Part::text("a"), Part::text("b")]),
            "ab"
        );
    }

    #[test]
    fn parts_of_older_clients_are_read_and_unknown_ones_refused() {
        let binary = json!({"type": "binary", "mimeType": "image/png", "data": "AAAA"});
        let (_, parts) = read(&[binary]).unwrap();
        assert!(matches!(
            &*parts,
            [Part::Image {
                source: Source::Data { .. }
            }]
        ));
        for unknown in [
            json!({"type": "binary", "mimeType": "image/png"}),
            json!({"type": "binary", "mimeType": "image/png", "data": "AAAA", "id": "1"}),
            json!({"type": "smell"}),
            json!("text"),
        ] {
            assert!(read(std::slice::from_ref(&unknown)).is_err(), "{unknown}");
        }
    }
}
