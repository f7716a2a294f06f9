//! Long items of lists, each stored once.
//!
//! The items of a list are written again where its parts are joined. So a long one that is appended
//! has a value of its own, and in the list stands where that is. No checkpoint names such a value: it
//! goes with its thread.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use rmp::encode::write_array_len;

use super::list::{items, open_array};
use crate::{
    ChannelValue, CheckpointTuple, Checkpointer, Namespace, Result, ThreadId, Value,
    checkpoint::{EncodeError, ValueKey, Version},
};

/// From so many bytes on an item is long.
const LONG: usize = 2048;

/// How the place of an item begins: a map of the key `@` and a text of fewer than 256 bytes.
const PLACE: &[u8] = &[0x81, 0xa1, b'@', 0xd9];

/// Between the name of a list and the number of an item among those that are stored with it.
const APART: &str = "#@";

/// Items that stand apart, as encoded values.
pub(super) type Apart = BTreeMap<ValueKey, Value>;

/// Whether an item is to stand apart, or is stored so already: then what stands in its place.
pub(super) fn place<'a>(
    list: &str,
    item: &'a [u8],
    is_appended: bool,
    stored: &Apart,
    new: &mut Apart,
) -> Cow<'a, [u8]> {
    let is_taken_for_a_place = key(item).is_some();
    if !is_taken_for_a_place && item.len() < LONG {
        return item.into();
    }
    let known = known(item, stored);
    let key = match known {
        Some(key) => key.clone(),
        None if !is_appended && !is_taken_for_a_place => return item.into(),
        None => ValueKey {
            channel: format!("{list}{APART}{}", new.len()),
            version: Version::next(None).to_string(),
        },
    };
    let text = format!("{} {}", key.channel, key.version);
    let Ok(length) = u8::try_from(text.len()) else {
        return item.into();
    };
    if known.is_none() {
        new.insert(key, Value::from_parts("msgpack", item.to_vec()));
    }
    [PLACE, &[length], text.as_bytes()].concat().into()
}

/// Where the item is stored.
pub(super) fn known<'a>(item: &[u8], stored: &'a Apart) -> Option<&'a ValueKey> {
    let mut stored = stored.iter();
    let found = stored.find(|(_, value)| value.bytes() == item);
    found.map(|(key, _)| key)
}

/// Where the item is in whose place this stands.
fn key(item: &[u8]) -> Option<ValueKey> {
    let (length, text) = item.strip_prefix(PLACE)?.split_first()?;
    let text = std::str::from_utf8(text.get(..usize::from(*length))?).ok()?;
    let (channel, version) = text.split_once(' ')?;
    channel.contains(APART).then(|| ValueKey {
        channel: channel.to_owned(),
        version: version.to_owned(),
    })
}

/// Where the items of these values are that stand apart.
pub(super) fn keys<'a>(values: impl Iterator<Item = &'a ChannelValue>) -> BTreeSet<ValueKey> {
    let mut keys = BTreeSet::new();
    for value in values {
        if let ChannelValue::Stored(value) = value
            && value.type_tag() == "msgpack"
        {
            let places = memchr::memmem::find_iter(value.bytes(), PLACE);
            keys.extend(places.filter_map(|place| key(&value.bytes()[place..])));
        }
    }
    keys
}

/// An encoded array with its items in their places.
pub(super) fn joined<'a>(
    array: Cow<'a, [u8]>,
    apart: &Apart,
) -> Result<Cow<'a, [u8]>, EncodeError> {
    if apart.is_empty() || open_array(&array).is_none() {
        return Ok(array);
    }
    let Some(items) = items(&array)? else {
        return Ok(array);
    };
    let mut whole = Vec::new();
    let count = u32::try_from(items.len()).map_err(EncodeError::new)?;
    write_array_len(&mut whole, count).map_err(EncodeError::new)?;
    for item in items {
        let stored = key(item).and_then(|key| apart.get(&key));
        whole.extend_from_slice(stored.map_or(item, Value::bytes));
    }
    Ok(whole.into())
}

/// A checkpoint as it was read, with the items of its lists that were stored apart: for people to read.
pub async fn join_items<C: Checkpointer + ?Sized>(
    checkpointer: &C,
    mut tuple: CheckpointTuple,
) -> Result<CheckpointTuple> {
    let place = (&tuple.key.thread_id, &tuple.key.namespace);
    let values = &mut tuple.checkpoint.channel_values;
    let apart = read(checkpointer, place, keys(values.values())).await?;
    if !apart.is_empty() {
        for value in values.values_mut() {
            if let ChannelValue::Stored(stored) = value {
                let whole = joined(stored.bytes().into(), &apart);
                let whole = whole.map_err(|error| {
                    crate::Error::unreadable(format!("a list of thread {}", place.0), error)
                })?;
                *stored = Value::from_parts("msgpack", whole.into_owned());
            }
        }
    }
    Ok(tuple)
}

/// Reads the items at these places.
pub(super) async fn read<C: Checkpointer + ?Sized>(
    checkpointer: &C,
    (thread, namespace): (&ThreadId, &Namespace),
    keys: BTreeSet<ValueKey>,
) -> Result<Apart> {
    match keys.is_empty() {
        true => Ok(Apart::new()),
        false => checkpointer.values(thread, namespace, &keys).await,
    }
}
