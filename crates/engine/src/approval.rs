//! What a person answers to a tool call that is not to run before somebody has approved of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use yai_agentkit_core::Error;

/// The answer to a proposed call.
///
/// As text it is `approve` (or `yes`), `reject`, or `reject: ` and the reason; as JSON
/// `{"approved": true}`, also with other `arguments`, or `{"approved": false, "reason": "…"}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Approval {
    /// It may run.
    Approved {
        /// With these arguments in place of those that were proposed.
        arguments: Option<Map<String, Json>>,
    },
    /// It must not run.
    Rejected {
        /// For the agent to read.
        reason: String,
    },
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    approved: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arguments: Option<Map<String, Json>>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
}

impl TryFrom<Written> for Approval {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written {
                approved: true,
                arguments,
                reason,
            } if reason.is_empty() => Ok(Self::Approved { arguments }),
            Written {
                approved: false,
                arguments: None,
                reason,
            } => Ok(Self::Rejected { reason }),
            _ => Err("who approves gives no reason, and who rejects no arguments"),
        }
    }
}

impl From<Approval> for Written {
    fn from(approval: Approval) -> Self {
        match approval {
            Approval::Approved { arguments } => Self {
                approved: true,
                arguments,
                ..Self::default()
            },
            Approval::Rejected { reason } => Self {
                reason,
                ..Self::default()
            },
        }
    }
}

impl std::str::FromStr for Approval {
    type Err = Error;

    /// Nothing is approved of that is not clearly so: what can't be understood is refused, and the
    /// call goes on waiting.
    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let refused = |reason: String| Error::invalid("answer", reason);
        if text.starts_with('{') {
            let written = serde_json::from_str(text);
            return written.map_err(|error| refused(format!("is no approval: {error}")));
        }
        let (word, reason) = text.split_once(':').unwrap_or((text, ""));
        match (word.trim_end().to_lowercase().as_str(), reason.trim()) {
            ("approve" | "approved" | "yes", "") => Ok(Self::Approved { arguments: None }),
            ("reject" | "rejected" | "no", reason) => Ok(Self::Rejected {
                reason: reason.to_owned(),
            }),
            _ => Err(refused(
                "must be `approve`, `reject: REASON`, or JSON as in {\"approved\": true}"
                    .to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_clearly_an_approval_is_one() {
        let approved = |arguments: Option<Json>| Approval::Approved {
            arguments: arguments.map(|json| json.as_object().unwrap().clone()),
        };
        let rejected = |reason: &str| Approval::Rejected {
            reason: reason.to_owned(),
        };
        for (text, expected) in [
            ("approve", approved(None)),
            (" Yes ", approved(None)),
            (r#"{"approved": true}"#, approved(None)),
            (
                r#"{"approved": true, "arguments": {"a": 1}}"#,
                approved(Some(json!({"a": 1}))),
            ),
            ("no", rejected("")),
            ("Reject: too dear", rejected("too dear")),
            (
                r#"{"approved": false, "reason": "too dear"}"#,
                rejected("too dear"),
            ),
        ] {
            assert_eq!(text.parse::<Approval>().unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "perhaps",
            "yes: but",
            "approve it tomorrow",
            "{}",
            r#"{"approved": "true"}"#,
            r#"{"approved": true, "arguments": [1]}"#,
            r#"{"approved": true, "reason": "why not"}"#,
            r#"{"approved": false, "arguments": {}}"#,
            r#"{"approved": true, "args": {}}"#,
        ] {
            assert!(text.parse::<Approval>().is_err(), "{text}");
        }
    }
}
