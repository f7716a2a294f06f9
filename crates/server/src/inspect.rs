//! Checkpoints as people read them.

use std::collections::BTreeMap;

use json_patch::Patch;
use serde::Serialize;
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;
use yai_agentkit_core::{
    CheckpointId, CheckpointSelector, CheckpointTuple, Checkpointer, Error, Result,
    checkpoint::{DeltaChannelHistory, join_items, join_lists},
};

/// A checkpoint with what its delta channels hold, which stands in other checkpoints.
#[derive(Debug)]
pub struct Whole {
    tuple: CheckpointTuple,
    delta_channels: BTreeMap<String, DeltaChannelHistory>,
}

impl Whole {
    /// Reads the checkpoint that `selector` names, `None` when there is none.
    pub async fn read(
        checkpointer: &dyn Checkpointer,
        selector: &CheckpointSelector,
    ) -> Result<Option<Self>> {
        let Some(tuple) = checkpointer.get(selector).await? else {
            return Ok(None);
        };
        let tuple = join_items(checkpointer, tuple).await?;
        let is_elsewhere = |channel: &&str| !tuple.checkpoint.channel_values.contains_key(*channel);
        let channels = tuple.metadata.delta_channels().filter(is_elsewhere);
        let channels: Vec<String> = channels.map(str::to_owned).collect();
        let delta_channels = if channels.is_empty() {
            BTreeMap::new()
        } else {
            let place = tuple.key.clone().into();
            checkpointer
                .delta_channel_history(&place, &channels)
                .await?
        };
        Ok(Some(Self {
            tuple,
            delta_channels,
        }))
    }
}

/// A checkpoint of a list: what is known about it, without its values.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = CheckpointSummary)]
pub struct CheckpointSummary {
    /// The thread.
    pub thread_id: String,
    /// The graph within the thread; empty for the root graph.
    pub checkpoint_ns: String,
    /// Sorts by time.
    pub checkpoint_id: String,
    /// The checkpoint that it follows.
    pub parent_checkpoint_id: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// The number of the step in the thread; −1 for the first input.
    pub step: Option<i64>,
    /// Where it comes from: `input`, `loop`, `update` or `fork`.
    pub source: Option<String>,
    /// What is known about it.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Json>,
}

/// A checkpoint with its values decoded. Lossy: for reading, not for storing.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Checkpoint)]
pub struct CheckpointView {
    /// What is known about it.
    #[serde(flatten)]
    pub summary: CheckpointSummary,
    /// What the agent knows, by channel. Delta channels of LangGraph are joined as messages and files are,
    /// whatever the graph's reducers do.
    #[schema(value_type = Object)]
    pub values: BTreeMap<String, Json>,
    /// What tasks have written that no checkpoint contains yet.
    pub pending_writes: Vec<PendingWriteView>,
}

/// A pending write with its value decoded.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = PendingWrite)]
pub struct PendingWriteView {
    /// The task.
    pub task_id: String,
    /// The channel written to.
    pub channel: String,
    /// What was written.
    pub value: Json,
}

impl From<CheckpointTuple> for CheckpointSummary {
    fn from(tuple: CheckpointTuple) -> Self {
        let source = tuple.metadata.0.get("source").and_then(Json::as_str);
        Self {
            thread_id: tuple.key.thread_id.to_string(),
            checkpoint_ns: tuple.key.namespace.to_string(),
            checkpoint_id: tuple.key.checkpoint_id.to_string(),
            parent_checkpoint_id: tuple.parent.map(|parent| parent.to_string()),
            created_at: tuple.checkpoint.ts,
            step: tuple.metadata.step(),
            source: source.map(str::to_owned),
            metadata: tuple.metadata.0,
        }
    }
}

impl From<Whole> for CheckpointView {
    fn from(whole: Whole) -> Self {
        let Whole {
            mut tuple,
            delta_channels,
        } = whole;
        let values = std::mem::take(&mut tuple.checkpoint.channel_values);
        let values = values.into_iter();
        let values = values.map(|(channel, value)| (channel, value.to_json()));
        let replayed = delta_channels.into_iter();
        let replayed = replayed.map(|(channel, history)| (channel, history.to_json()));
        let pending_writes = std::mem::take(&mut tuple.pending_writes);
        Self {
            values: join_lists(values.chain(replayed).collect()),
            pending_writes: pending_writes
                .into_iter()
                .map(|write| PendingWriteView {
                    task_id: write.task_id,
                    channel: write.channel,
                    value: write.value.to_json(),
                })
                .collect(),
            summary: tuple.into(),
        }
    }
}

/// Two checkpoints of the thread and the graph of `place`, else it is [`Error::NotFound`].
pub async fn pair(
    checkpointer: &dyn Checkpointer,
    place: &CheckpointSelector,
    [from, to]: [CheckpointId; 2],
) -> Result<[Whole; 2]> {
    let read = async |id: CheckpointId| {
        let selector = CheckpointSelector {
            checkpoint_id: Some(id.clone()),
            ..place.clone()
        };
        let whole = Whole::read(checkpointer, &selector).await?;
        whole.ok_or_else(|| Error::not_found("checkpoint", id))
    };
    Ok([read(from).await?, read(to).await?])
}

/// The RFC 6902 patch that makes [`CheckpointView::values`] of `to` out of those of `from`.
pub fn diff(from: Whole, to: Whole) -> Patch {
    let values = |whole| Json::Object(CheckpointView::from(whole).values.into_iter().collect());
    json_patch::diff(&values(from), &values(to))
}
