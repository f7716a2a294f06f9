//! The history of delta channels: one statement walks the line of ancestors, for each channel up
//! to its nearest stored value, by the primary keys.

use std::collections::BTreeMap;

use sea_orm::{DbErr, Value as SqlValue};
use serde_json::{Map, Value as Json};
use yai_agentkit_core::{
    ChannelValue, CheckpointSelector, DeltaChannelHistory, PendingWrite, Result, Value,
};

use super::{
    Sql,
    read::sort_writes,
    row::{Columns, read_json, stored_channel_value, stored_value},
};
use crate::{
    connection::{Connection, retrying},
    error::storage_error,
};

/// `chain` is the line of ancestors from the parent on; `open` are the channels that no nearer
/// ancestor has a value of, as a JSON array. A checkpoint that is its own parent ends the line; a
/// longer circle, which only a broken writer makes, ends with the query timeout. $3 is the
/// checkpoint's id, or null for the latest. OFFSET 0 as in `read.rs`: else every step may read the
/// whole thread.
pub(super) const HISTORY: Sql = Sql {
    postgres: "WITH RECURSIVE chain AS (
    SELECT 0 AS depth, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint, $4::jsonb AS open
    FROM checkpoints c
    WHERE c.thread_id = $1 AND c.checkpoint_ns = $2 AND c.checkpoint_id = (
        SELECT parent_checkpoint_id FROM checkpoints
        WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id = COALESCE($3, (
            SELECT checkpoint_id FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = $2
            ORDER BY checkpoint_id DESC LIMIT 1
        ))
    )
    UNION ALL
    SELECT chain.depth + 1, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint, rest.open
    FROM chain
    CROSS JOIN LATERAL (
        SELECT jsonb_agg(o.channel) AS open
        FROM jsonb_array_elements_text(chain.open) o(channel)
        WHERE NOT COALESCE(chain.checkpoint -> 'channel_values' ? o.channel, false)
            AND NOT EXISTS (
                SELECT FROM checkpoint_blobs b
                WHERE b.thread_id = $1 AND b.checkpoint_ns = $2 AND b.channel = o.channel
                    AND b.version = chain.checkpoint -> 'channel_versions' ->> o.channel
                    AND b.type <> 'empty'
                OFFSET 0
            )
    ) rest
    CROSS JOIN LATERAL (
        SELECT * FROM checkpoints
        WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id = chain.parent_checkpoint_id
        OFFSET 0
    ) c
    WHERE rest.open IS NOT NULL AND c.checkpoint_id <> chain.checkpoint_id
)
SELECT 0, chain.depth, w.channel, w.type, w.blob, w.task_id, w.task_path, w.idx
FROM chain CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes
    WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id = chain.checkpoint_id
    OFFSET 0
) w
WHERE chain.open ? w.channel
UNION ALL
SELECT 1, chain.depth, o.channel, b.type, b.blob, NULL, NULL, NULL
FROM chain CROSS JOIN LATERAL jsonb_array_elements_text(chain.open) o(channel)
CROSS JOIN LATERAL (
    SELECT type, blob FROM checkpoint_blobs
    WHERE thread_id = $1 AND checkpoint_ns = $2 AND channel = o.channel
        AND version = chain.checkpoint -> 'channel_versions' ->> o.channel
    OFFSET 0
) b
UNION ALL
SELECT 2, chain.depth, o.channel, (chain.checkpoint -> 'channel_values')::text, NULL,
    NULL, NULL, NULL
FROM chain CROSS JOIN LATERAL jsonb_array_elements_text(chain.open) o(channel)
WHERE chain.checkpoint -> 'channel_values' ? o.channel",
    sqlite: "WITH RECURSIVE chain AS (
    SELECT 0 AS depth, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint, $4 AS open
    FROM checkpoints c
    WHERE c.thread_id = $1 AND c.checkpoint_ns = $2 AND c.checkpoint_id = (
        SELECT parent_checkpoint_id FROM checkpoints
        WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id = COALESCE($3, (
            SELECT checkpoint_id FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = $2
            ORDER BY checkpoint_id DESC LIMIT 1
        ))
    )
    UNION ALL
    SELECT chain.depth + 1, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint, (
        SELECT json_group_array(o.value) FROM json_each(chain.open) o
        WHERE NOT EXISTS (
            SELECT 1 FROM json_each(chain.checkpoint, '$.channel_values') v WHERE v.key = o.value
        ) AND NOT EXISTS (
            SELECT 1 FROM json_each(chain.checkpoint, '$.channel_versions') v
            CROSS JOIN checkpoint_blobs b
            WHERE v.key = o.value AND b.thread_id = $1 AND b.checkpoint_ns = $2
                AND b.channel = o.value AND b.version = CAST(coalesce(
                    CASE v.type WHEN 'real' THEN chain.checkpoint -> v.fullkey END, v.value
                ) AS TEXT)
                AND b.type <> 'empty'
        )
    )
    FROM chain
    JOIN checkpoints c ON c.thread_id = $1 AND c.checkpoint_ns = $2
        AND c.checkpoint_id = chain.parent_checkpoint_id
    WHERE chain.open <> '[]' AND c.checkpoint_id <> chain.checkpoint_id
)
SELECT 0, chain.depth, o.value, w.type, w.blob, w.task_id, w.task_path, w.idx
FROM chain CROSS JOIN json_each(chain.open) o
CROSS JOIN checkpoint_writes w ON w.thread_id = $1 AND w.checkpoint_ns = $2
    AND w.checkpoint_id = chain.checkpoint_id AND w.channel = o.value
UNION ALL
SELECT 1, chain.depth, o.value, b.type, b.blob, NULL, NULL, NULL
FROM chain CROSS JOIN json_each(chain.open) o
CROSS JOIN json_each(chain.checkpoint, '$.channel_versions') v ON v.key = o.value
CROSS JOIN checkpoint_blobs b ON b.thread_id = $1 AND b.checkpoint_ns = $2
    AND b.channel = o.value AND b.version = CAST(coalesce(
        CASE v.type WHEN 'real' THEN chain.checkpoint -> v.fullkey END, v.value
    ) AS TEXT)
UNION ALL
SELECT 2, chain.depth, o.value, chain.checkpoint -> '$.channel_values', NULL,
    NULL, NULL, NULL
FROM chain CROSS JOIN json_each(chain.open) o
CROSS JOIN json_each(chain.checkpoint, '$.channel_values') v ON v.key = o.value",
};

pub(super) async fn history(
    connection: &Connection,
    selector: &CheckpointSelector,
    channels: &[String],
) -> Result<BTreeMap<String, DeltaChannelHistory>> {
    let mut histories: BTreeMap<_, _> = channels
        .iter()
        .map(|channel| (channel.clone(), Channel::default()))
        .collect();
    if histories.is_empty() {
        return Ok(BTreeMap::new());
    }
    let open: Json = histories.keys().map(String::as_str).collect();
    let checkpoint_id = selector
        .checkpoint_id
        .as_ref()
        .map(|id| id.as_str().to_owned());
    let values = vec![
        selector.thread_id.as_str().into(),
        selector.namespace.as_str().into(),
        SqlValue::String(checkpoint_id),
        open.to_string().into(),
    ];
    let rows = retrying!(connection, HISTORY.rows(connection, values.clone()));
    let rows = rows.map_err(|error| storage_error("delta channel history", error))?;
    for row in &rows {
        let mut columns = Columns::new(row);
        let part = Part::read(&mut columns);
        let part = part.map_err(|error| storage_error("delta channel history", error))?;
        if let Some(channel) = histories.get_mut(&part.channel) {
            channel.add(part)?;
        }
    }
    Ok(histories
        .into_iter()
        .map(|(name, channel)| (name, channel.finish()))
        .collect())
}

struct Part {
    kind: i32,
    depth: i32,
    channel: String,
    /// A type tag, or the JSON of all inline values.
    text: Option<String>,
    bytes: Option<Vec<u8>>,
    task_id: Option<String>,
    task_path: Option<String>,
    index: Option<i32>,
}

impl Part {
    fn read(columns: &mut Columns<'_>) -> Result<Self, DbErr> {
        Ok(Self {
            kind: columns.take()?,
            depth: columns.take()?,
            channel: columns.take()?,
            text: columns.take()?,
            bytes: columns.take()?,
            task_id: columns.take()?,
            task_path: columns.take()?,
            index: columns.take()?,
        })
    }
}

#[derive(Default)]
struct Channel {
    /// By distance from the checkpoint.
    writes: BTreeMap<i32, Vec<PendingWrite>>,
    stored: Option<Value>,
    inline: Option<Json>,
}

impl Channel {
    fn add(&mut self, part: Part) -> Result<()> {
        match part.kind {
            0 => self
                .writes
                .entry(part.depth)
                .or_default()
                .push(PendingWrite {
                    task_id: part.task_id.unwrap_or_default(),
                    task_path: part.task_path.unwrap_or_default(),
                    index: part.index.unwrap_or_default(),
                    channel: part.channel,
                    value: Value::from_parts(
                        part.text.unwrap_or_default(),
                        part.bytes.unwrap_or_default(),
                    ),
                }),
            1 => self.stored = stored_value(part.text, part.bytes),
            _ => {
                let mut inline: Map<String, Json> =
                    read_json("checkpoint", part.text.as_deref().unwrap_or("{}"))?;
                self.inline = inline.remove(&part.channel);
            }
        }
        Ok(())
    }

    fn finish(self) -> DeltaChannelHistory {
        let inline = self.inline.map(ChannelValue::Inline);
        let seed = match self.stored {
            Some(value) => Some(stored_channel_value(inline.as_ref(), value)),
            None => inline,
        };
        let writes = self.writes.into_values().rev().flat_map(|mut writes| {
            sort_writes(&mut writes);
            writes
        });
        DeltaChannelHistory {
            seed,
            writes: writes.collect(),
        }
    }
}
