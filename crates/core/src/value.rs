use std::{borrow::Cow, fmt};

use rmpv::Value as Msgpack;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Number, Value as Json, json};

/// A stored value, opaque to the library: a type tag and bytes, as LangGraph's serializer made
/// them (`msgpack`, `json`, `null`, `bytes`, `bytearray`, `msgpack+aes`, …).
///
/// Nothing here turns bytes into code. [`encode`](Self::encode) and [`decode`](Self::decode) serve
/// Rust agents, [`to_json`](Self::to_json) people.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Value {
    type_tag: Cow<'static, str>,
    bytes: Vec<u8>,
}

/// A value that can't be encoded to, or decoded from, MessagePack.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EncodeError(String);

impl Value {
    /// A value with the tag and the bytes that another serializer made.
    pub fn from_parts(type_tag: impl Into<Cow<'static, str>>, bytes: Vec<u8>) -> Self {
        Self {
            type_tag: type_tag.into(),
            bytes,
        }
    }

    /// `value` as MessagePack with named fields, which LangGraph reads as plain dicts and lists.
    ///
    /// ```
    /// use yai_agentkit_core::Value;
    /// let value = Value::encode(&vec!["a", "b"])?;
    /// assert_eq!(value.type_tag(), "msgpack");
    /// assert_eq!(value.decode::<Vec<String>>()?, ["a", "b"]);
    /// # Ok::<(), yai_agentkit_core::EncodeError>(())
    /// ```
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, EncodeError> {
        let bytes = rmp_serde::to_vec_named(value).map_err(EncodeError::new)?;
        Ok(Self::from_parts("msgpack", bytes))
    }

    /// The value back from MessagePack.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, EncodeError> {
        match self.type_tag() {
            "msgpack" => rmp_serde::from_slice(&self.bytes).map_err(EncodeError::new),
            "json" => serde_json::from_slice(&self.bytes).map_err(EncodeError::new),
            other => Err(EncodeError(format!(
                "a value of type `{other}` can't be decoded here"
            ))),
        }
    }

    /// Which serializer made the bytes.
    pub fn type_tag(&self) -> &str {
        &self.type_tag
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The tag and the bytes.
    pub fn into_parts(self) -> (String, Vec<u8>) {
        (self.type_tag.into_owned(), self.bytes)
    }

    /// The value as JSON for people to read. Python objects that LangGraph packed as MessagePack
    /// extensions show as their fields; what can't be shown (encrypted, pickled, broken) shows as
    /// `{"$type": tag, "$bytes": length}`. Lossy: not for storing.
    pub fn to_json(&self) -> Json {
        let opaque = || json!({"$type": self.type_tag, "$bytes": self.bytes.len()});
        match self.type_tag() {
            "null" | "empty" => Json::Null,
            "json" => serde_json::from_slice(&self.bytes).unwrap_or_else(|_| opaque()),
            "msgpack" => unpack(&self.bytes).map_or_else(opaque, to_json),
            "bytes" | "bytearray" => bytes_to_json(&self.bytes),
            _ => opaque(),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({}, {})", self.type_tag, self.to_json())
    }
}

impl EncodeError {
    pub(crate) fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// One MessagePack value that takes all of `bytes`.
fn unpack(mut bytes: &[u8]) -> Option<Msgpack> {
    let value = rmpv::decode::read_value(&mut bytes).ok()?;
    bytes.is_empty().then_some(value)
}

fn to_json(value: Msgpack) -> Json {
    match value {
        Msgpack::Nil => Json::Null,
        Msgpack::Boolean(value) => value.into(),
        Msgpack::Integer(value) => match (value.as_i64(), value.as_u64()) {
            (Some(value), _) => value.into(),
            (None, Some(value)) => value.into(),
            (None, None) => Json::Null,
        },
        Msgpack::F32(value) => float_to_json(value.into()),
        Msgpack::F64(value) => float_to_json(value),
        Msgpack::String(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        Msgpack::Binary(bytes) => bytes_to_json(&bytes),
        Msgpack::Array(items) => items.into_iter().map(to_json).collect(),
        Msgpack::Map(entries) => entries
            .into_iter()
            .map(|(key, value)| (key_to_text(key), to_json(value)))
            .collect::<Map<_, _>>()
            .into(),
        Msgpack::Ext(code, bytes) => extension_to_json(code, &bytes),
    }
}

fn float_to_json(value: f64) -> Json {
    Number::from_f64(value).map_or_else(|| value.to_string().into(), Json::Number)
}

fn bytes_to_json(bytes: &[u8]) -> Json {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({"$bytes": bytes.len()}),
    }
}

fn key_to_text(key: Msgpack) -> String {
    match to_json(key) {
        Json::String(text) => text,
        other => other.to_string(),
    }
}

/// LangGraph's extension types (`serde/jsonplus.py`): 0 to 5 hold `(module, class, argument, …)`,
/// 6 a NumPy array as `(dtype, shape, order, buffer)`, 7 a delta snapshot.
fn extension_to_json(code: i8, bytes: &[u8]) -> Json {
    let opaque = || json!({"$extension": code, "$bytes": bytes.len()});
    match (code, unpack(bytes)) {
        (0..=5, Some(Msgpack::Array(mut parts))) if parts.len() >= 3 => {
            let argument = to_json(parts.swap_remove(2));
            match (parts[0].as_str(), parts[1].as_str(), argument) {
                (Some("uuid"), Some("UUID"), Json::String(hex)) => uuid::Uuid::parse_str(&hex)
                    .map_or_else(|_| hex.clone().into(), |uuid| uuid.to_string().into()),
                (Some("langgraph.types"), Some("Send"), Json::Array(mut arguments))
                    if arguments.len() >= 2 =>
                {
                    json!({"node": arguments[0].take(), "arg": arguments[1].take()})
                }
                (_, _, argument) => argument,
            }
        }
        (6, Some(Msgpack::Array(parts))) if parts.len() == 4 => {
            json!({"dtype": to_json(parts[0].clone()), "shape": to_json(parts[1].clone())})
        }
        (7, Some(value)) => to_json(value),
        _ => opaque(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(code: i8, payload: &Msgpack) -> Msgpack {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, payload).unwrap();
        Msgpack::Ext(code, bytes)
    }

    fn packed(value: &Msgpack) -> Value {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value).unwrap();
        Value::from_parts("msgpack", bytes)
    }

    #[test]
    fn a_pydantic_message_shows_as_its_fields() {
        let message = extension(
            5,
            &Msgpack::Array(vec![
                "langchain_core.messages.human".into(),
                "HumanMessage".into(),
                Msgpack::Map(vec![("content".into(), "hi".into())]),
                "model_validate_json".into(),
            ]),
        );
        let value = packed(&Msgpack::Array(vec![message]));
        assert_eq!(value.to_json(), json!([{"content": "hi"}]));
    }

    #[test]
    fn a_uuid_a_send_and_a_snapshot_show_as_people_write_them() {
        let uuid = extension(
            0,
            &Msgpack::Array(vec![
                "uuid".into(),
                "UUID".into(),
                "00000000000000000000000000000007".into(),
            ]),
        );
        assert_eq!(
            packed(&uuid).to_json(),
            json!("00000000-0000-0000-0000-000000000007")
        );
        let send = extension(
            1,
            &Msgpack::Array(vec![
                "langgraph.types".into(),
                "Send".into(),
                Msgpack::Array(vec!["node".into(), 1.into()]),
            ]),
        );
        assert_eq!(packed(&send).to_json(), json!({"node": "node", "arg": 1}));
        let snapshot = extension(7, &Msgpack::Array(vec![1.into()]));
        assert_eq!(packed(&snapshot).to_json(), json!([1]));
    }

    #[test]
    fn what_cannot_be_shown_says_so() {
        let encrypted = Value::from_parts("msgpack+aes", vec![1, 2, 3]);
        assert_eq!(
            encrypted.to_json(),
            json!({"$type": "msgpack+aes", "$bytes": 3})
        );
        let broken = Value::from_parts("msgpack", vec![0x93, 1]);
        assert_eq!(broken.to_json(), json!({"$type": "msgpack", "$bytes": 2}));
        assert!(encrypted.decode::<Json>().is_err());
    }
}
