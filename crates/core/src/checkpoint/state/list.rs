//! Lists in parts, so that one that grows at its end is written by what is added.
//!
//! The newest items, up to eight, stand in the channel of the list's own name. When a ninth comes,
//! the eight become a part of the first level, `list#1.1`; of each level there are up to eight
//! parts, oldest first. When a ninth comes, the eight become one part of the next level. So every
//! level but the highest in use always has one part to eight: which of them hold the newest items is
//! known by name, before anything is read. An item is written once a level, and a list has some five
//! parts a level.

use rmp::{decode::read_array_len, encode::write_array_len};
use serde_json::Value as Json;

use super::encode::split_value;
use crate::{Value, checkpoint::EncodeError, validate::MAX_DEPTH};

/// How many items the newest part may have, and how many parts a level.
pub(super) const RADIX: usize = 8;

/// The highest level: its parts, of 4,096 items, are not joined any further, since what is joined
/// is read and written whole. There may be more of them than of a level.
pub(super) const HIGHEST: usize = 4;

/// Between the name of a list and that of a part: its level, a point, its number.
const PART: char = '#';

/// The channel of a part.
pub(super) fn channel(list: &str, level: usize, number: usize) -> String {
    format!("{list}{PART}{level}.{number}")
}

/// The list, the level and the number of the part that `channel` names.
pub(super) fn part_of(channel: &str) -> Option<(&str, usize, usize)> {
    let (list, part) = channel.rsplit_once(PART)?;
    let (level, number) = part.split_once('.')?;
    let (level, number) = (level.parse().ok()?, number.parse().ok()?);
    let is_part = (1..=HIGHEST).contains(&level) && number > 0;
    // As it is written: no sign, no leading zero.
    (is_part && self::channel(list, level, number) == channel).then_some((list, level, number))
}

/// The channels of the parts of `list` for which `has` holds, oldest first.
pub(super) fn parts(list: &str, has: impl Fn(&str) -> bool) -> Vec<String> {
    let of_level = |level| {
        let channels = (1..).map(move |number| channel(list, level, number));
        channels.take_while(|channel| has(channel))
    };
    (1..=HIGHEST).rev().flat_map(of_level).collect()
}

/// How many items the part `channel` has.
pub(super) fn size(channel: &str) -> usize {
    part_of(channel).map_or(0, |(_, level, _)| {
        RADIX.pow(u32::try_from(level).unwrap_or(0))
    })
}

/// Joins the lists that [`CheckpointerExt::save`](crate::checkpoint::CheckpointerExt::save) and
/// [`ThreadState`](crate::ThreadState) keep in parts, among the values of a checkpoint as JSON.
pub fn join_lists(
    mut values: std::collections::BTreeMap<String, Json>,
) -> std::collections::BTreeMap<String, Json> {
    let lists = values.iter().filter(|(_, value)| value.is_array());
    let lists: Vec<String> = lists.map(|(name, _)| name.clone()).collect();
    for list in lists {
        let mut joined = Vec::new();
        for channel in parts(&list, |channel| values.contains_key(channel)) {
            if let Some(Json::Array(items)) = values.remove(&channel) {
                joined.extend(items);
            }
        }
        if let Some(Json::Array(newest)) = values.get_mut(&list)
            && !joined.is_empty()
        {
            joined.append(newest);
            *newest = joined;
        }
    }
    values
}

/// Encoded items, one behind another.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Items {
    count: u32,
    bytes: Vec<u8>,
}

impl Items {
    pub(super) fn add(&mut self, item: &[u8]) {
        self.count += 1;
        self.bytes.extend_from_slice(item);
    }

    /// As an array.
    fn into_value(self) -> Value {
        let mut array = Vec::with_capacity(self.bytes.len() + 5);
        write_array_len(&mut array, self.count).expect("memory takes all");
        array.extend_from_slice(&self.bytes);
        Value::from_parts("msgpack", array)
    }
}

/// How many items an encoded array has, and their bytes; `None` where it is none.
pub(super) fn open_array(mut array: &[u8]) -> Option<(u32, &[u8])> {
    let count = read_array_len(&mut array).ok()?;
    Some((count, array))
}

/// The items of an encoded array.
pub(super) fn items(array: &[u8]) -> Result<Option<Vec<&[u8]>>, EncodeError> {
    let Some((count, mut bytes)) = open_array(array) else {
        return Ok(None);
    };
    let items = (0..count).map(|_| split_value(&mut bytes, MAX_DEPTH));
    items.collect::<Result<_, _>>().map(Some)
}

/// One part of a level.
enum Part<'a> {
    /// As it is stored: the array, where it was read.
    Stored(Option<&'a [u8]>),
    New(Items),
}

/// A list to which items are added.
pub(super) struct List<'a> {
    name: &'a str,
    /// From the first on.
    levels: [Vec<Part<'a>>; HIGHEST],
    newest: Vec<&'a [u8]>,
}

/// These parts must be read first.
pub(super) struct Unread(pub(super) Vec<String>);

impl<'a> List<'a> {
    pub(super) fn empty(name: &'a str) -> Self {
        Self {
            name,
            levels: Default::default(),
            newest: Vec::new(),
        }
    }

    /// The list that is stored in the parts `channels`, whose arrays, where they were read, `array`
    /// returns. Its newest items are not in it yet.
    pub(super) fn stored(
        name: &'a str,
        channels: &[String],
        array: impl Fn(&str) -> Option<&'a [u8]>,
    ) -> Self {
        let mut list = Self::empty(name);
        for channel in channels {
            if let Some((_, level, _)) = part_of(channel) {
                list.levels[level - 1].push(Part::Stored(array(channel)));
            }
        }
        list
    }

    pub(super) fn push(&mut self, item: &'a [u8]) -> Result<(), Unread> {
        if self.newest.len() >= RADIX {
            let mut part = Items::default();
            for item in self.newest.drain(..) {
                part.add(item);
            }
            self.carry(1, part)?;
        }
        self.newest.push(item);
        Ok(())
    }

    fn carry(&mut self, level: usize, part: Items) -> Result<(), Unread> {
        if level < HIGHEST && self.levels[level - 1].len() >= RADIX {
            let joined = self.join(level)?;
            self.carry(level + 1, joined)?;
        }
        self.levels[level - 1].push(Part::New(part));
        Ok(())
    }

    fn join(&mut self, level: usize) -> Result<Items, Unread> {
        let mut joined = Items::default();
        let mut unread = Vec::new();
        for (part, number) in self.levels[level - 1].drain(..).zip(1..) {
            let (count, bytes) = match &part {
                Part::New(items) => (items.count, items.bytes.as_slice()),
                Part::Stored(array) => match array.and_then(open_array) {
                    Some(opened) => opened,
                    None => {
                        unread.push(channel(self.name, level, number));
                        continue;
                    }
                },
            };
            joined.count += count;
            joined.bytes.extend_from_slice(bytes);
        }
        if unread.is_empty() {
            Ok(joined)
        } else {
            Err(Unread(unread))
        }
    }

    /// The channels of all parts, the newest last, each with its value where that may be a new one.
    pub(super) fn into_channels(self) -> Vec<(String, Option<Value>)> {
        let mut channels = Vec::new();
        for (parts, level) in self.levels.into_iter().zip(1..) {
            for (part, number) in parts.into_iter().zip(1..) {
                let value = match part {
                    Part::Stored(_) => None,
                    Part::New(items) => Some(items.into_value()),
                };
                channels.push((channel(self.name, level, number), value));
            }
        }
        let mut newest = Items::default();
        for item in self.newest {
            newest.add(item);
        }
        channels.push((self.name.to_owned(), Some(newest.into_value())));
        channels
    }
}
