use std::collections::BTreeMap;

use yai_agentkit_core::{
    CheckpointId, CheckpointKey, CheckpointQuery, CheckpointSelector, CheckpointTuple, Error,
    PutOptions, Result, Value, checkpoint::PendingWrite, validate,
};

use super::{
    SqlCheckpointer,
    row::{CheckpointRow, read_json},
};

/// The checkpoints with their JSON as text, for bindings that bring their own JSON: nothing is read
/// and written twice, and numbers of any size come back digit by digit.
///
/// The rules are those of [`Checkpointer`](yai_agentkit_core::Checkpointer), which is built on this.
#[derive(Clone)]
pub struct RawCheckpoints(pub(crate) SqlCheckpointer);

/// A checkpoint as its rows hold it.
#[derive(Clone, Debug, PartialEq)]
pub struct RawCheckpoint {
    /// Its place.
    pub key: CheckpointKey,
    /// The checkpoint that it follows.
    pub parent: Option<CheckpointId>,
    /// The state as JSON. Its `channel_values` are the inline ones, and `true` for the snapshot of
    /// a delta channel.
    pub checkpoint: String,
    /// The metadata as JSON.
    pub metadata: String,
    /// The values that are stored apart, by channel.
    pub values: BTreeMap<String, Value>,
    /// As in [`CheckpointTuple::pending_writes`].
    pub pending_writes: Vec<PendingWrite>,
    /// As in [`CheckpointTuple::pending_sends`].
    pub pending_sends: Vec<Value>,
}

/// A checkpoint to store as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRawCheckpoint {
    /// Its place.
    pub key: CheckpointKey,
    /// The checkpoint that it follows.
    pub parent: Option<CheckpointId>,
    /// The state as JSON, its `channel_values` as in [`RawCheckpoint::checkpoint`].
    pub checkpoint: String,
    /// The metadata as a JSON object.
    pub metadata: String,
    /// The new values that are stored apart.
    pub values: Vec<RawValue>,
}

/// The value of one version of a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct RawValue {
    /// The channel.
    pub channel: String,
    /// The version, as [`Version`](yai_agentkit_core::checkpoint::Version) prints it.
    pub version: String,
    /// The value.
    pub value: Value,
}

impl RawCheckpoints {
    /// The checkpoint that `selector` names, `None` when there is none.
    pub async fn get(&self, selector: &CheckpointSelector) -> Result<Option<RawCheckpoint>> {
        self.0.get_raw(selector).await
    }

    /// The checkpoints that `query` takes, by descending id.
    pub async fn list(&self, query: &CheckpointQuery) -> Result<Vec<RawCheckpoint>> {
        self.0.list_raw(query).await
    }

    /// Stores a checkpoint and its new values.
    pub async fn put(&self, checkpoint: NewRawCheckpoint) -> Result<()> {
        self.put_asking(checkpoint, PutOptions::default()).await
    }

    /// Stores a checkpoint and its new values, if the thread admits it.
    pub async fn put_asking(
        &self,
        checkpoint: NewRawCheckpoint,
        options: PutOptions,
    ) -> Result<()> {
        checkpoint.validate()?;
        let checkpoint = self.0.sealed(checkpoint).await?;
        self.0.put_raw(checkpoint, options).await
    }
}

impl RawCheckpoint {
    pub(super) fn parse(self) -> Result<CheckpointTuple> {
        let row: CheckpointRow = read_json("checkpoint", &self.checkpoint)?;
        Ok(CheckpointTuple {
            checkpoint: row.join(self.values),
            metadata: read_json("metadata", &self.metadata)?,
            key: self.key,
            parent: self.parent,
            pending_writes: self.pending_writes,
            pending_sends: self.pending_sends,
        })
    }
}

impl NewRawCheckpoint {
    fn validate(&self) -> Result<()> {
        self.key.validate()?;
        if let Some(parent) = &self.parent {
            validate::text("parent", parent.as_str())?;
        }
        refuse_nul("checkpoint", &self.checkpoint)?;
        refuse_nul("metadata", &self.metadata)?;
        for stored in &self.values {
            validate::text("channel", &stored.channel)?;
            validate::text("version", &stored.version)?;
            validate::text("type", stored.value.type_tag())?;
        }
        Ok(())
    }
}

/// Refuses an escaped NUL character. Only a text that may hold one is worth parsing.
fn refuse_nul(field: &'static str, json: &str) -> Result<()> {
    if !json.contains("\\u0000") {
        return Ok(());
    }
    let parsed = serde_json::from_str(json);
    let parsed = parsed.map_err(|error| Error::invalid(field, error.to_string()))?;
    validate::json(field, &parsed)
}
