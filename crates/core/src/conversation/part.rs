use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// What a model has thought before it spoke.
    Reasoning {
        /// The words.
        text: String,
    },
    /// A picture.
    Image {
        /// Where it is.
        source: Source,
    },
    /// Anything else: a document, sound, a film.
    File {
        /// What it is called.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Where it is.
        source: Source,
    },
    /// A tool that the agent wants to run.
    ToolCall {
        /// Names the call within its conversation.
        id: String,
        /// Which tool.
        name: String,
        /// With what.
        arguments: Json,
    },
    /// What a tool has come to.
    ToolResult {
        /// The call.
        call_id: String,
        /// For the agent to read.
        content: String,
        /// Whether the tool has failed.
        #[serde(default, skip_serializing_if = "is_false")]
        is_error: bool,
    },
}

/// Where the bytes of a part are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Source {
    /// Elsewhere.
    Url {
        /// There.
        url: String,
        /// What they are, such as `image/png`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_type: Option<String>,
    },
    /// Here.
    Data {
        /// In base64.
        data: String,
        /// What they are, such as `image/png`.
        media_type: String,
    },
    /// Where a model provider keeps them.
    Provider {
        /// The provider's name of them.
        file: String,
        /// Who it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider: Option<String>,
        /// What they are, such as `image/png`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_type: Option<String>,
    },
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Part {
    /// Words.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }
}

/// The words of a message of these parts: of texts, and of what tools have come to.
pub(super) fn words(parts: &[Part]) -> String {
    let words = parts.iter().filter_map(|part| match part {
        Part::Text { text } | Part::ToolResult { content: text, .. } => Some(text.as_str()),
        _ => None,
    });
    words.collect()
}
