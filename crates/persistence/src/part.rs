//! Long texts of the parts of messages, such as pictures in base64: each is stored once in its
//! conversation, by its hash, and in the part stands where.

use std::collections::BTreeMap;

use sea_orm::DbErr;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    connection::Connection,
    sql::{Query, Sql},
};

/// From so many bytes on a text is long.
const LONG: usize = 16 << 10;

/// How the place of a text begins; its hash and its length follow. A text that begins so by itself is
/// taken for long.
const PLACE: &str = "@sha256:";

/// How many digits a hash has.
const DIGITS: usize = 64;

/// Not while somebody [leaves](leave): that one might not see who names the text from now on.
const KEEP: Sql = Sql {
    postgres: "INSERT INTO agent_parts (conversation_id, hash, text)
SELECT c.id, $2::text, $3::text FROM agent_conversations c WHERE c.id = $1 FOR KEY SHARE
ON CONFLICT DO NOTHING",
    sqlite: "INSERT INTO agent_parts (conversation_id, hash, text) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING",
};

const GET: &str = "SELECT text FROM agent_parts WHERE conversation_id = $1 AND hash = $2";

/// What `agent_messages` names: as an expression beside its columns, so that nobody lets go of it in
/// between.
pub(crate) const NAMED: Sql = Sql {
    postgres: "(SELECT json_object_agg(p.hash, p.text)::text FROM agent_parts p
    WHERE p.conversation_id = agent_messages.conversation_id
        AND strpos(agent_messages.parts::text, p.hash) > 0)",
    sqlite: "(SELECT json_group_object(p.hash, p.text) FROM agent_parts p
    WHERE p.conversation_id = agent_messages.conversation_id
        AND instr(agent_messages.parts, p.hash) > 0)",
};

/// What no message of the conversation names any more.
const LEAVE: Sql = Sql {
    postgres: "DELETE FROM agent_parts WHERE conversation_id = $1 AND hash = $2 AND NOT EXISTS (
    SELECT FROM agent_messages WHERE conversation_id = $1 AND strpos(parts::text, $2) > 0
)",
    sqlite: "DELETE FROM agent_parts WHERE conversation_id = $1 AND hash = $2 AND NOT EXISTS (
    SELECT 1 FROM agent_messages WHERE conversation_id = $1 AND instr(parts, $2) > 0
)",
};

const LEAVE_ALL: Sql = Sql {
    postgres: "DELETE FROM agent_parts p WHERE p.conversation_id = $1 AND NOT EXISTS (
    SELECT FROM agent_messages WHERE conversation_id = $1 AND strpos(parts::text, p.hash) > 0
)",
    sqlite: "DELETE FROM agent_parts AS p WHERE p.conversation_id = $1 AND NOT EXISTS (
    SELECT 1 FROM agent_messages WHERE conversation_id = $1 AND instr(parts, p.hash) > 0
)",
};

/// The parts of a message as its row holds them.
pub(crate) struct Parts<'a> {
    pub(crate) conversation: Uuid,
    pub(crate) json: &'a mut Json,
}

/// A long text, and its hash.
#[derive(Clone)]
pub(crate) struct Long {
    pub(crate) conversation: Uuid,
    pub(crate) hash: String,
    pub(crate) text: String,
}

impl Parts<'_> {
    /// Puts places where long texts are, and returns these.
    pub(crate) fn set_apart(self) -> Vec<Long> {
        let mut apart = Vec::new();
        texts(self.json, &mut |text| {
            if text.len() < LONG && !text.starts_with(PLACE) {
                return;
            }
            let digest = Sha256::digest(text.as_bytes());
            let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            let place = format!("{PLACE}{hash} {}", text.len());
            apart.push(Long {
                conversation: self.conversation,
                hash,
                text: std::mem::replace(text, place),
            });
        });
        apart
    }

    /// The hashes of the texts that stand apart, and how long these are together.
    pub(crate) fn places(self) -> (Vec<String>, u64) {
        let (mut hashes, mut bytes) = (Vec::new(), 0);
        texts(self.json, &mut |text| {
            if let Some((hash, length)) = place(text) {
                hashes.push(hash.to_owned());
                bytes += length;
            }
        });
        (hashes, bytes)
    }

    /// Puts texts back where their places are. `false` where one of them is not known.
    pub(crate) fn put_back(self, text_of: impl Fn(&str) -> Option<String>) -> bool {
        let mut is_whole = true;
        texts(self.json, &mut |text| {
            if let Some((hash, _)) = place(text) {
                match text_of(hash) {
                    Some(found) => *text = found,
                    None => is_whole = false,
                }
            }
        });
        is_whole
    }
}

/// The hash in a place, and the length of the text.
fn place(text: &str) -> Option<(&str, u64)> {
    let (hash, length) = text.strip_prefix(PLACE)?.split_once(' ')?;
    let length = length.parse().ok()?;
    (hash.len() == DIGITS).then_some((hash, length))
}

/// Shows `change` every text in `json`.
fn texts(json: &mut Json, change: &mut impl FnMut(&mut String)) {
    match json {
        Json::String(text) => change(text),
        Json::Array(items) => items.iter_mut().for_each(|item| texts(item, change)),
        Json::Object(fields) => fields.values_mut().for_each(|item| texts(item, change)),
        _ => {}
    }
}

/// Stores texts that are not there yet, in the transaction that stores who names them.
pub(crate) async fn keep(connection: &Connection, apart: &[Long]) -> Result<(), DbErr> {
    for long in apart {
        let keep = KEEP.query(connection).with(long.conversation);
        let keep = keep.with(&*long.hash).with(&*long.text);
        keep.execute(connection).await?;
    }
    Ok(())
}

/// Reads what rows name, as far as it is there: somebody may have let go of it since these were read.
pub(crate) async fn read(
    connection: &Connection,
    rows: impl Iterator<Item = Parts<'_>>,
) -> Result<BTreeMap<(Uuid, String), String>, DbErr> {
    let mut read = BTreeMap::new();
    for row in rows {
        let conversation = row.conversation;
        for hash in row.places().0 {
            let key = (conversation, hash);
            if read.contains_key(&key) {
                continue;
            }
            let get = Query::new(connection, GET).with(conversation).with(&*key.1);
            if let [row] = &get.rows(connection).await?[..] {
                let text: String = row.try_get_by_index(0)?;
                read.insert(key, text);
            }
        }
    }
    Ok(read)
}

/// Forgets what was named before and is not now, unless another message names it. The conversation is
/// [locked](crate::retention::LOCK).
pub(crate) async fn leave(
    connection: &Connection,
    conversation: Uuid,
    hashes: Vec<String>,
) -> Result<(), DbErr> {
    for hash in hashes {
        let leave = LEAVE.query(connection).with(conversation).with(hash);
        leave.execute(connection).await?;
    }
    Ok(())
}

/// Forgets all that no message names any more. The conversation is locked.
pub(crate) async fn leave_all(connection: &Connection, conversation: Uuid) -> Result<(), DbErr> {
    let leave = LEAVE_ALL.query(connection).with(conversation);
    leave.execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn long_texts_stand_apart_and_those_that_look_like_their_place() {
        let (long, place) = ("x".repeat(LONG), format!("{PLACE}me"));
        let mut json = json!([
            {"type": "text", "text": "short"},
            {"source": {"data": long}, "again": [long]},
            {"text": place},
        ]);
        let conversation = Uuid::new_v4();
        let apart = Parts {
            conversation,
            json: &mut json,
        }
        .set_apart();
        let texts: Vec<_> = apart.iter().map(|long| &*long.text).collect();
        assert_eq!(texts, [&*long, &*long, &*place]);
        assert_eq!(apart[0].hash, apart[1].hash);
        assert_eq!(json[0]["text"], "short");
        assert!(json.to_string().len() < 500, "{json}");
        let (hashes, bytes) = Parts {
            conversation,
            json: &mut json,
        }
        .places();
        assert_eq!(hashes.len(), 3);
        assert_eq!(bytes as usize, 2 * LONG + place.len());
    }
}
