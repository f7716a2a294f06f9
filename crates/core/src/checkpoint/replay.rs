//! What a delta channel holds, as people read it.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::{ChannelValue, DeltaChannelHistory};

/// LangGraph's name for a message that removes all before it.
const REMOVE_ALL: &str = "__remove_all__";

impl DeltaChannelHistory {
    /// The channel's value as JSON for people to read, like [`Value::to_json`](super::Value::to_json).
    ///
    /// LangGraph makes the value by the graph's own reducer, a Python function. Here the writes are
    /// joined as the reducers of LangGraph and deepagents join messages and files, and as most others
    /// do. Items go to the end of a list, messages to the place of the message with their id; entries
    /// of a map are set, or removed where they are null. Where that makes no sense, it is
    /// `{"$seed": value, "$writes": values}`.
    pub fn to_json(&self) -> Json {
        let seed = self.seed.as_ref().map_or(Json::Null, ChannelValue::to_json);
        let writes: Vec<Json> = self
            .writes
            .iter()
            .map(|write| write.value.to_json())
            .collect();
        let (value, writes) = since_overwritten(seed, writes);
        match (value, kind(writes.first())) {
            (value, None) => value,
            (Json::Array(items), _) => extended(items, writes),
            (Json::Object(entries), _) => merged(entries, writes),
            (Json::Null, Some(Kind::List)) => extended(Vec::new(), writes),
            (Json::Null, Some(Kind::Map)) => merged(Map::new(), writes),
            (seed, _) => json!({"$seed": seed, "$writes": writes}),
        }
    }
}

/// The last value that replaced all, and what was written since.
fn since_overwritten(seed: Json, mut writes: Vec<Json>) -> (Json, Vec<Json>) {
    let last = writes
        .iter_mut()
        .rposition(|write| overwritten(write).is_some());
    let Some(last) = last else {
        return (seed, writes);
    };
    let since = writes.split_off(last + 1);
    let value = overwritten(&mut writes[last]).map(Json::take);
    (value.unwrap_or_default(), since)
}

/// The value in either form of LangGraph's `Overwrite`.
fn overwritten(write: &mut Json) -> Option<&mut Json> {
    let is_typed = write
        .get("type")
        .is_some_and(|kind| kind == "__overwrite__");
    let fields = write.as_object_mut()?;
    match fields.len() {
        1 => fields.get_mut("__overwrite__"),
        _ if is_typed => fields.get_mut("value"),
        _ => None,
    }
}

/// What a channel without a value begins with.
enum Kind {
    List,
    Map,
    Other,
}

fn kind(first: Option<&Json>) -> Option<Kind> {
    Some(match first? {
        Json::Array(_) => Kind::List,
        write if message_id(write).is_some() => Kind::List,
        Json::Object(_) => Kind::Map,
        _ => Kind::Other,
    })
}

fn merged(mut entries: Map<String, Json>, writes: Vec<Json>) -> Json {
    if !writes.iter().all(Json::is_object) {
        return json!({"$seed": entries, "$writes": writes});
    }
    for write in writes {
        let Json::Object(changes) = write else {
            continue;
        };
        for (key, value) in changes {
            if value.is_null() {
                entries.remove(&key);
            } else {
                entries.insert(key, value);
            }
        }
    }
    entries.into()
}

fn extended(items: Vec<Json>, writes: Vec<Json>) -> Json {
    let mut list = List::default();
    items.into_iter().for_each(|item| list.add(item));
    for write in writes {
        match write {
            Json::Array(items) => items.into_iter().for_each(|item| list.add(item)),
            item => list.add(item),
        }
    }
    list.items.into_iter().flatten().collect()
}

#[derive(Default)]
struct List {
    items: Vec<Option<Json>>,
    /// Where the message with an id is.
    places: HashMap<String, usize>,
}

impl List {
    fn add(&mut self, item: Json) {
        let Some(id) = message_id(&item).map(str::to_owned) else {
            self.items.push(Some(item));
            return;
        };
        let removes = item["type"] == "remove";
        if removes && id == REMOVE_ALL {
            *self = Self::default();
        } else if removes {
            if let Some(place) = self.places.remove(&id) {
                self.items[place] = None;
            }
        } else {
            let place = *self.places.entry(id).or_insert(self.items.len());
            match self.items.get_mut(place) {
                Some(message) => *message = Some(item),
                None => self.items.push(Some(item)),
            }
        }
    }
}

/// The id of a message of LangChain's; `None` of anything else.
fn message_id(item: &Json) -> Option<&str> {
    let text = |field| item.get(field).and_then(Json::as_str);
    item.get("content")?;
    text("type").and(text("id"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Value, checkpoint::PendingWrite};

    fn joined(seed: Option<Json>, writes: &[Json]) -> Json {
        let write = |value| PendingWrite {
            task_id: String::new(),
            task_path: String::new(),
            index: 0,
            channel: String::new(),
            value: Value::encode(value).unwrap(),
        };
        let stored = |seed| ChannelValue::DeltaSnapshot(Value::encode(&seed).unwrap());
        let history = DeltaChannelHistory {
            seed: seed.map(stored),
            writes: writes.iter().map(write).collect(),
        };
        history.to_json()
    }

    fn message(kind: &str, id: &str, content: &str) -> Json {
        json!({"type": kind, "id": id, "content": content})
    }

    #[test]
    fn messages_join_by_their_ids() {
        let (one, two) = (message("human", "1", "one"), message("ai", "2", "two"));
        let changed = message("ai", "2", "changed");
        let gone = message("remove", "1", "");
        assert_eq!(
            joined(None, &[json!([one]), two.clone()]),
            json!([one, two])
        );
        assert_eq!(
            joined(None, &[two.clone(), json!([one])]),
            json!([two, one])
        );
        let seed = Some(json!([one, two]));
        assert_eq!(
            joined(seed.clone(), &[json!([changed])]),
            json!([one, changed])
        );
        assert_eq!(joined(seed.clone(), &[json!([gone])]), json!([two]));
        let again = [json!([gone]), json!([gone, one])];
        assert_eq!(joined(seed.clone(), &again), json!([two, one]));
        let all = message("remove", REMOVE_ALL, "");
        assert_eq!(joined(seed, &[json!([all, changed])]), json!([changed]));
    }

    #[test]
    fn items_and_entries_join() {
        assert_eq!(joined(None, &[json!([1]), json!([1, 2])]), json!([1, 1, 2]));
        let record = json!({"id": "1"});
        assert_eq!(
            joined(Some(json!([record])), &[json!([record])]),
            json!([record, record])
        );
        let files = [json!({"a": "new"}), json!({"b": null, "c": 3})];
        assert_eq!(
            joined(Some(json!({"a": 1, "b": 2})), &files),
            json!({"a": "new", "c": 3})
        );
        assert_eq!(joined(None, &files), json!({"a": "new", "c": 3}));
        assert_eq!(joined(None, &[]), Json::Null);
    }

    #[test]
    fn what_was_overwritten_does_not_show() {
        let seed = Some(json!([0]));
        for overwrite in [
            json!({"__overwrite__": [2]}),
            json!({"type": "__overwrite__", "value": [2]}),
        ] {
            let writes = [json!([1]), overwrite, json!([3])];
            assert_eq!(joined(seed.clone(), &writes), json!([2, 3]));
            assert_eq!(joined(seed.clone(), &writes[..2]), json!([2]));
        }
        let nothing = [json!({"__overwrite__": null}), json!([1])];
        assert_eq!(joined(seed, &nothing), json!([1]));
    }

    #[test]
    fn what_only_its_reducer_can_join_shows_as_it_was_written() {
        let sum = joined(Some(json!(1)), &[json!(2), json!(3)]);
        assert_eq!(sum, json!({"$seed": 1, "$writes": [2, 3]}));
        let odd = joined(Some(json!({"a": 1})), &[json!([2])]);
        assert_eq!(odd, json!({"$seed": {"a": 1}, "$writes": [[2]]}));
    }
}
