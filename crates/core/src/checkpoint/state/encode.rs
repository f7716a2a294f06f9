//! A state as the values of channels, and back.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use rmp::{
    decode::read_map_len,
    encode::{write_array_len, write_map_len, write_str},
};
use rmpv::{ValueRef as Msgpack, decode::read_value_ref_with_max_depth};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Number, Value as Json};

use super::{
    apart::{Apart, joined},
    list::{open_array, part_of, parts},
};
use crate::{ChannelValue, Value, checkpoint::EncodeError, validate::MAX_DEPTH};

/// The channel of a state that is not a struct or a map, LangGraph's name for it.
const ROOT: &str = "__root__";

/// A state as MessagePack.
pub(super) fn pack<S: Serialize>(state: &S) -> Result<Vec<u8>, EncodeError> {
    rmp_serde::to_vec_named(state).map_err(EncodeError::new)
}

/// The fields of a packed state, each with its encoded value.
pub(super) fn fields(packed: &[u8]) -> Result<Vec<(&str, &[u8])>, EncodeError> {
    // What could not be read back is not written. A text counts as a level.
    let whole = split_value(&mut &*packed, MAX_DEPTH + 1)?;
    let root = || vec![(ROOT, whole)];
    let mut rest = packed;
    let Ok(count) = read_map_len(&mut rest) else {
        return Ok(root());
    };
    let mut fields = Vec::new();
    for _ in 0..count {
        let key = read_value_ref_with_max_depth(&mut rest, MAX_DEPTH).map_err(EncodeError::new)?;
        let Msgpack::String(key) = key else {
            return Ok(root());
        };
        let name = key.into_str().unwrap_or_default();
        if part_of(name).is_some() {
            let reason = format!("a field must not be called {name}");
            return Err(EncodeError::new(reason));
        }
        fields.push((name, split_value(&mut rest, MAX_DEPTH)?));
    }
    Ok(fields)
}

/// Takes one encoded value off `bytes`, of so many levels at most.
pub(super) fn split_value<'a>(bytes: &mut &'a [u8], depth: usize) -> Result<&'a [u8], EncodeError> {
    let whole = *bytes;
    read_value_ref_with_max_depth(bytes, depth).map_err(EncodeError::new)?;
    Ok(&whole[..whole.len() - bytes.len()])
}

/// As LangGraph stores a value: primitives within the checkpoint, all else apart. A text with a
/// NUL character, which JSON in PostgreSQL can't hold, is stored apart too.
pub(super) fn channel_value(encoded: &[u8]) -> Result<ChannelValue, EncodeError> {
    let value = read_value_ref_with_max_depth(&mut &*encoded, MAX_DEPTH);
    let inline = match value.map_err(EncodeError::new)? {
        Msgpack::Nil => Some(Json::Null),
        Msgpack::Boolean(value) => Some(value.into()),
        Msgpack::Integer(value) => value
            .as_i64()
            .map(Json::from)
            .or(value.as_u64().map(Json::from)),
        Msgpack::F32(value) => Number::from_f64(value.into()).map(Json::Number),
        Msgpack::F64(value) => Number::from_f64(value).map(Json::Number),
        Msgpack::String(text) => text
            .as_str()
            .filter(|text| !text.contains('\0'))
            .map(Json::from),
        _ => None,
    };
    let stored = || ChannelValue::Stored(Value::from_parts("msgpack", encoded.to_vec()));
    Ok(inline.map_or_else(stored, ChannelValue::Inline))
}

/// A value as MessagePack.
pub(super) fn encoded(value: &ChannelValue) -> Result<Cow<'_, [u8]>, EncodeError> {
    match value {
        ChannelValue::Inline(json) => Ok(Value::encode(json)?.into_parts().1.into()),
        ChannelValue::Stored(value) | ChannelValue::DeltaSnapshot(value) => {
            if value.type_tag() == "msgpack" {
                return Ok(value.bytes().into());
            }
            let value: rmpv::Value = value.decode()?;
            Ok(Value::encode(&value)?.into_parts().1.into())
        }
    }
}

/// The state with the values of these channels. Of a list only what stands behind the last part for
/// which `is_unread` holds.
pub(super) fn decode_state<S: DeserializeOwned>(
    values: &BTreeMap<String, Arc<ChannelValue>>,
    apart: &Apart,
    is_unread: impl Fn(&str) -> bool,
) -> Result<S, EncodeError> {
    if let (Some(root), 1) = (values.get(ROOT), values.len()) {
        let root = Value::from_parts("msgpack", encoded(root)?.into_owned());
        return root.decode();
    }
    let is_field = |channel: &str| {
        let list = part_of(channel).map(|(list, ..)| list);
        !list.is_some_and(|list| values.contains_key(list))
    };
    let fields: Vec<_> = values.keys().filter(|channel| is_field(channel)).collect();
    let mut state = Vec::new();
    let count = u32::try_from(fields.len()).map_err(EncodeError::new)?;
    write_map_len(&mut state, count).map_err(EncodeError::new)?;
    for field in fields {
        write_str(&mut state, field).map_err(EncodeError::new)?;
        let newest = joined(encoded(&values[field])?, apart)?;
        let Some((mut count, newest_items)) = open_array(&newest) else {
            state.extend_from_slice(&newest);
            continue;
        };
        let channels = parts(field, |channel| {
            values.contains_key(channel) || is_unread(channel)
        });
        let unread = channels
            .iter()
            .rposition(|channel| !values.contains_key(channel));
        let read = channels[unread.map_or(0, |unread| unread + 1)..].iter();
        let arrays = read
            .map(|channel| joined(encoded(&values[channel])?, apart))
            .collect::<Result<Vec<_>, _>>()?;
        let opened: Vec<_> = arrays
            .iter()
            .filter_map(|array| open_array(array))
            .collect();
        count += opened.iter().map(|(count, _)| count).sum::<u32>();
        write_array_len(&mut state, count).map_err(EncodeError::new)?;
        for (_, items) in opened {
            state.extend_from_slice(items);
        }
        state.extend_from_slice(newest_items);
    }
    Value::from_parts("msgpack", state).decode()
}
