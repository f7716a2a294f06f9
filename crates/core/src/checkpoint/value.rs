use std::{borrow::Cow, fmt};

use rmpv::ValueRef as Msgpack;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Number, Value as Json, json};

use crate::validate::MAX_DEPTH;

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
    /// # Ok::<(), yai_agentkit_core::checkpoint::EncodeError>(())
    /// ```
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, EncodeError> {
        let bytes = rmp_serde::to_vec_named(value).map_err(EncodeError::new)?;
        Ok(Self::from_parts("msgpack", bytes))
    }

    /// The value back from MessagePack.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, EncodeError> {
        match self.type_tag() {
            "msgpack" => {
                let mut bytes = rmp_serde::Deserializer::from_read_ref(&self.bytes);
                // It counts more than arrays and maps.
                bytes.set_max_depth(2 * MAX_DEPTH);
                T::deserialize(&mut bytes).map_err(EncodeError::new)
            }
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
    /// extensions show as their fields; what can't be shown (encrypted, pickled, broken, nested too
    /// deep) shows as `{"$type": tag, "$bytes": length}`. Lossy: not for storing.
    pub fn to_json(&self) -> Json {
        let opaque = || json!({"$type": self.type_tag, "$bytes": self.bytes.len()});
        match self.type_tag() {
            "null" | "empty" => Json::Null,
            "json" => serde_json::from_slice(&self.bytes).unwrap_or_else(|_| opaque()),
            "msgpack" => unpack(&self.bytes, MAX_DEPTH).unwrap_or_else(opaque),
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

/// How deep a key may be: each level around it escapes its text once more.
const MAX_KEY_DEPTH: usize = 4;

/// One MessagePack value that takes all of `bytes`, `depth` levels of arrays, maps and extensions at
/// most. It borrows from `bytes`: no length in them makes it allocate what is not there.
fn parse(mut bytes: &[u8], depth: usize) -> Option<Msgpack<'_>> {
    let value = rmpv::decode::read_value_ref_with_max_depth(&mut bytes, depth + 1).ok()?;
    bytes.is_empty().then_some(value)
}

fn unpack(bytes: &[u8], depth: usize) -> Option<Json> {
    to_json(&parse(bytes, depth)?, depth)
}

/// `None` where more than `depth` levels are in each other, those within extensions counted.
fn to_json(value: &Msgpack<'_>, depth: usize) -> Option<Json> {
    Some(match value {
        Msgpack::Nil => Json::Null,
        Msgpack::Boolean(value) => (*value).into(),
        Msgpack::Integer(value) => match (value.as_i64(), value.as_u64()) {
            (Some(value), _) => value.into(),
            (None, Some(value)) => value.into(),
            (None, None) => Json::Null,
        },
        Msgpack::F32(value) => float_to_json((*value).into()),
        Msgpack::F64(value) => float_to_json(*value),
        Msgpack::String(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        Msgpack::Binary(bytes) => bytes_to_json(bytes),
        Msgpack::Array(items) => {
            let below = depth.checked_sub(1)?;
            let items = items.iter().map(|item| to_json(item, below));
            Json::Array(items.collect::<Option<_>>()?)
        }
        Msgpack::Map(entries) => {
            let below = depth.checked_sub(1)?;
            let entry = |(key, value): &(_, _)| Some((key_to_text(key), to_json(value, below)?));
            let fields = entries.iter().map(entry).collect::<Option<Map<_, _>>>()?;
            Json::Object(fields)
        }
        Msgpack::Ext(code, bytes) => extension_to_json(*code, bytes, depth.checked_sub(1)?)?,
    })
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

fn key_to_text(key: &Msgpack<'_>) -> String {
    match to_json(key, MAX_KEY_DEPTH) {
        Some(Json::String(text)) => text,
        Some(other) => other.to_string(),
        None => "…".to_owned(),
    }
}

/// LangGraph's extension types (`serde/jsonplus.py`): 0 to 5 hold `(module, class, argument, …)`,
/// 6 a NumPy array as `(dtype, shape, order, buffer)`, 7 a delta snapshot.
fn extension_to_json(code: i8, bytes: &[u8], depth: usize) -> Option<Json> {
    let below = depth.checked_sub(1)?;
    Some(match (code, parse(bytes, depth)) {
        (0..=5, Some(Msgpack::Array(parts))) if parts.len() >= 3 => {
            let argument = to_json(&parts[2], below)?;
            let text = |part: &Msgpack<'_>| match part {
                Msgpack::String(text) => text.as_str().map(str::to_owned),
                _ => None,
            };
            match (
                text(&parts[0]).as_deref(),
                text(&parts[1]).as_deref(),
                argument,
            ) {
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
            json!({"dtype": to_json(&parts[0], below)?, "shape": to_json(&parts[1], below)?})
        }
        (7, Some(value)) => to_json(&value, depth)?,
        _ => json!({"$extension": code, "$bytes": bytes.len()}),
    })
}

#[cfg(test)]
mod tests {
    use std::iter;

    use proptest::prelude::*;
    use rmpv::Value as Msgpack;

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

    /// What ended the process that looked at it, by its stack, when it was not bounded.
    #[test]
    fn extensions_in_each_other_show_to_a_depth_only() {
        for code in 0..8 {
            let mut value = Msgpack::Nil;
            for _ in 0..4096 {
                let parts = iter::repeat_n(Msgpack::Nil, 2).chain([value, Msgpack::Nil]);
                value = extension(code, &Msgpack::Array(parts.collect()));
            }
            let shown = packed(&value).to_json();
            assert!(
                !crate::validate::is_deeper(&shown, MAX_DEPTH),
                "of code {code}"
            );
            assert!(shown.to_string().len() < 5000, "of code {code}");
        }
    }

    #[test]
    fn arrays_and_maps_in_each_other_show_and_decode_to_a_depth_only() {
        for (level, end) in [([0x91].as_slice(), 0), (&[0x81, 0], 0), (&[0x81], 0x90)] {
            let mut bytes = level.repeat(100_000);
            bytes.push(0);
            bytes.extend(iter::repeat_n(end, 100_000));
            let value = Value::from_parts("msgpack", bytes);
            assert_eq!(value.to_json()["$type"], "msgpack");
            assert!(value.decode::<Json>().is_err());
        }
        let json = Value::from_parts("json", vec![b'['; 100_000]);
        assert_eq!(json.to_json()["$type"], "json");
        assert!(json.decode::<Json>().is_err());
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        for marker in [0xc6, 0xc9, 0xdb, 0xdd, 0xdf] {
            let value = Value::from_parts("msgpack", vec![marker, 0xff, 0xff, 0xff, 0xff, 0]);
            assert_eq!(value.to_json(), json!({"$type": "msgpack", "$bytes": 6}));
            assert!(value.decode::<Json>().is_err());
        }
    }

    #[test]
    fn keys_in_each_other_do_not_double_their_text_at_each_level() {
        let mut key = Msgpack::from("\"");
        for _ in 0..60 {
            key = Msgpack::Map(vec![(key, Msgpack::Nil)]);
        }
        assert!(packed(&key).to_json().to_string().len() < 1000);
    }

    proptest! {
        #[test]
        fn any_bytes_show_and_decode_without_harm(
            tag in prop::sample::select(vec!["msgpack", "json", "bytes", "null", "pickle"]),
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), 0x80..=0x9f_u8, 0xc0..=0xdf_u8], 0..512,
            ),
        ) {
            let value = Value::from_parts(tag, bytes);
            prop_assert!(!crate::validate::is_deeper(&value.to_json(), 127));
            let _ = value.decode::<Json>();
        }
    }
}
