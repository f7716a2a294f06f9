use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::retention::redacted;
use crate::{
    ChannelValue, Checkpoint, CheckpointId, CheckpointKey, CheckpointSelector, CheckpointTuple,
    Clock, ConflictKind, Error, Fence, Namespace, NewCheckpoint, NewWrites, PutOptions, Result,
    ThreadId, Value,
    checkpoint::{CheckpointMetadata, Parent, PendingWrite, TASKS, Thread, Values},
    redaction::Redaction,
    retention::{CheckpointSummary, Place, Retention},
};

/// The tables of checkpoints, as a database has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoints {
    pub(super) clock: Clock,
    pub(super) threads: BTreeMap<ThreadId, Thread>,
    /// Of every thread that was raised.
    epochs: BTreeMap<ThreadId, u64>,
    pub(super) checkpoints: BTreeMap<CheckpointKey, Row>,
    /// By thread, namespace, channel and version.
    pub(super) blobs: BTreeMap<(ThreadId, Namespace, String, String), Value>,
    /// By checkpoint, then by task and index.
    pub(super) writes: BTreeMap<CheckpointKey, BTreeMap<(String, i32), PendingWrite>>,
}

/// A checkpoint whose `channel_values` are only the inline ones.
#[derive(Clone, Debug)]
pub(super) struct Row {
    checkpoint: Checkpoint,
    pub(super) metadata: CheckpointMetadata,
    parent: Option<CheckpointId>,
}

impl Row {
    fn without_values(&self, key: &CheckpointKey) -> CheckpointTuple {
        CheckpointTuple {
            key: key.clone(),
            checkpoint: Checkpoint {
                channel_values: BTreeMap::new(),
                ..self.checkpoint.clone()
            },
            metadata: self.metadata.clone(),
            parent: self.parent.clone(),
            pending_writes: Vec::new(),
            pending_sends: Vec::new(),
        }
    }
}

impl Checkpoints {
    /// The thread, new where there is none.
    pub(super) fn thread(&mut self, id: &ThreadId, parent: Option<&ThreadId>) -> &mut Thread {
        let new = || Thread::new(id.clone(), parent.cloned(), self.clock.now());
        self.threads.entry(id.clone()).or_insert_with(new)
    }

    pub(super) fn epoch(&self, id: &ThreadId) -> Option<u64> {
        let epoch = || self.epochs.get(id).copied().unwrap_or_default();
        self.threads.contains_key(id).then(epoch)
    }

    pub(super) fn check(&self, id: &ThreadId, fence: Option<Fence>) -> Result<()> {
        let Some(fence) = fence else {
            return Ok(());
        };
        fence.stored_epoch()?;
        let stored = self.epoch(id);
        if !fence.admits(stored) {
            return Err(Error::Fenced {
                thread: id.to_string(),
                epoch: stored.unwrap_or_default(),
            });
        }
        Ok(())
    }

    pub(super) fn raise(&mut self, id: &ThreadId, fence: Option<Fence>) {
        if let Some(fence) = fence {
            self.epochs.insert(id.clone(), fence.epoch());
        }
    }

    /// Raises the thread, new where there is none, to the next epoch, which it returns.
    pub(super) fn raise_by_one(&mut self, id: &ThreadId) -> u64 {
        self.thread(id, None);
        let epoch = self.epochs.entry(id.clone()).or_default();
        *epoch += 1;
        *epoch
    }

    /// Puts a checkpoint, if the thread admits it.
    pub(super) fn put_asking(
        &mut self,
        checkpoint: NewCheckpoint,
        options: PutOptions,
    ) -> Result<CheckpointKey> {
        checkpoint.validate()?;
        let key = checkpoint.key();
        self.check(&key.thread_id, options.fence)?;
        if options.parent == Parent::Latest {
            let latest = self.checkpoints.keys().rev().find(|other| {
                (&other.thread_id, &other.namespace) == (&key.thread_id, &key.namespace)
                    && other.checkpoint_id != key.checkpoint_id
            });
            let latest = latest.map(|key| key.checkpoint_id.clone());
            if latest != checkpoint.parent {
                return Err(Error::Conflict(ConflictKind::LatestCheckpoint(latest)));
            }
        }
        self.raise(&key.thread_id, options.fence);
        Ok(self.put(checkpoint))
    }

    /// Puts writes, if the thread admits them.
    pub(super) fn put_writes_asking(
        &mut self,
        new: &NewWrites,
        fence: Option<Fence>,
    ) -> Result<()> {
        new.validate()?;
        if new.writes.is_empty() {
            return Ok(());
        }
        self.check(&new.key.thread_id, fence)?;
        self.raise(&new.key.thread_id, fence);
        self.put_writes(new);
        Ok(())
    }

    fn put(&mut self, new: NewCheckpoint) -> CheckpointKey {
        let key = new.key();
        let mut checkpoint = new.checkpoint;
        let values = std::mem::take(&mut checkpoint.channel_values);
        for (channel, value) in values {
            let (inline, stored) = match value {
                ChannelValue::Inline(json) => (Some(json), None),
                ChannelValue::Stored(value) => (None, Some(value)),
                ChannelValue::DeltaSnapshot(value) => (Some(true.into()), Some(value)),
            };
            if let (Some(value), Some(version)) = (stored, new.new_versions.get(&channel)) {
                self.blobs
                    .entry(blob_key(&key, &channel, &version.to_string()))
                    .or_insert(value);
            }
            if let Some(json) = inline {
                checkpoint
                    .channel_values
                    .insert(channel, ChannelValue::Inline(json));
            }
        }
        let now = self.clock.now();
        self.thread(&key.thread_id, None).updated_at = now;
        let row = Row {
            checkpoint,
            metadata: new.metadata,
            parent: new.parent,
        };
        let stored = self
            .checkpoints
            .entry(key.clone())
            .or_insert_with(|| row.clone());
        stored.checkpoint = row.checkpoint;
        stored.metadata = row.metadata;
        key
    }

    fn put_writes(&mut self, new: &NewWrites) {
        self.thread(&new.key.thread_id, None);
        let stored = self.writes.entry(new.key.clone()).or_default();
        for (index, write) in new.rows() {
            let row = PendingWrite {
                task_id: new.task_id.clone(),
                task_path: new.task_path.clone(),
                index,
                channel: write.channel.clone(),
                value: write.value.clone(),
            };
            let old = stored
                .entry((new.task_id.clone(), index))
                .or_insert_with(|| row.clone());
            if new.replaces() {
                old.channel = row.channel;
                old.value = row.value;
            }
        }
    }

    pub(super) fn tuple(&self, key: &CheckpointKey, row: &Row, values: &Values) -> CheckpointTuple {
        let is_wanted = |channel: &String| match values {
            Values::All => true,
            Values::Of(channels) => channels.contains(channel),
            Values::Nothing => false,
        };
        if *values == Values::Nothing {
            return row.without_values(key);
        }
        let mut checkpoint = row.checkpoint.clone();
        let versions = checkpoint.channel_versions.iter();
        for (channel, version) in versions.filter(|(channel, _)| is_wanted(channel)) {
            let Some(value) = self
                .blobs
                .get(&blob_key(key, channel, &version.to_string()))
            else {
                continue;
            };
            // What LangGraph stores for a channel that has a version and no value.
            if value.type_tag() == "empty" {
                continue;
            }
            let value = match checkpoint.channel_values.get(channel) {
                Some(ChannelValue::Inline(Json::Bool(true))) => {
                    ChannelValue::DeltaSnapshot(value.clone())
                }
                _ => ChannelValue::Stored(value.clone()),
            };
            checkpoint.channel_values.insert(channel.clone(), value);
        }
        let sends = row
            .parent
            .as_ref()
            .filter(|_| checkpoint.v < 4)
            .map(|parent| {
                let parent = sibling(key, parent);
                let writes = self.ordered_writes(&parent).into_iter();
                writes
                    .filter(|write| write.channel == TASKS)
                    .map(|write| write.value)
                    .collect()
            });
        CheckpointTuple {
            key: key.clone(),
            checkpoint,
            metadata: row.metadata.clone(),
            parent: row.parent.clone(),
            pending_writes: self.ordered_writes(key),
            pending_sends: sends.unwrap_or_default(),
        }
    }

    fn ordered_writes(&self, key: &CheckpointKey) -> Vec<PendingWrite> {
        let stored = self.writes.get(key).into_iter().flat_map(BTreeMap::values);
        let mut writes: Vec<_> = stored.cloned().collect();
        writes.sort_by(|a, b| {
            (&a.task_path, &a.task_id, a.index).cmp(&(&b.task_path, &b.task_id, b.index))
        });
        writes
    }

    pub(super) fn get(&self, selector: &CheckpointSelector) -> Option<CheckpointTuple> {
        let (key, row) = self
            .checkpoints
            .iter()
            .rev()
            .filter(|(key, _)| {
                key.thread_id == selector.thread_id && key.namespace == selector.namespace
            })
            .find(|(key, _)| {
                let wanted = selector.checkpoint_id.as_ref();
                wanted.is_none_or(|id| key.checkpoint_id == *id)
            })?;
        Some(self.tuple(key, row, &selector.values))
    }

    /// When a thread was last written to.
    pub(super) fn updated_at(&self, id: &ThreadId) -> Option<DateTime<Utc>> {
        self.threads.get(id).map(|thread| thread.updated_at)
    }

    /// How many checkpoints a thread has, and how many bytes their values and writes.
    pub(super) fn size(&self, id: &ThreadId) -> (u64, u64) {
        let checkpoints = self.checkpoints.keys();
        let checkpoints = checkpoints.filter(|key| key.thread_id == *id).count();
        let blobs = self.blobs.iter().filter(|((thread, ..), _)| thread == id);
        let blobs = blobs.map(|(_, value)| value.bytes().len());
        let writes = self.writes.iter().filter(|(key, _)| key.thread_id == *id);
        let writes = writes.flat_map(|(_, writes)| writes.values());
        let writes = writes.map(|write| write.value.bytes().len());
        (
            checkpoints as u64,
            blobs.chain(writes).sum::<usize>() as u64,
        )
    }

    pub(super) fn delete_thread(&mut self, id: &ThreadId) {
        self.threads.remove(id);
        self.epochs.remove(id);
        self.checkpoints.retain(|key, _| key.thread_id != *id);
        self.blobs.retain(|(thread, ..), _| thread != id);
        self.writes.retain(|key, _| key.thread_id != *id);
    }

    /// Deletes a thread but for its epoch, which is greater than all that somebody may still have.
    pub(super) fn leave_epoch(&mut self, id: &ThreadId) {
        let epoch = self.epoch(id).unwrap_or_default();
        self.delete_thread(id);
        self.thread(id, None);
        self.epochs.insert(id.clone(), epoch + 2);
    }

    pub(super) fn redact(&mut self, id: &ThreadId, redaction: &Redaction) -> Result<()> {
        for ((thread, _, channel, _), value) in &mut self.blobs {
            if thread == id {
                redacted(redaction, channel, value)?;
            }
        }
        let writes = self
            .writes
            .iter_mut()
            .filter(|(key, _)| key.thread_id == *id);
        for write in writes.flat_map(|(_, writes)| writes.values_mut()) {
            redacted(redaction, &write.channel, &mut write.value)?;
        }
        let rows = self.checkpoints.iter_mut();
        let mut latest = None;
        for (key, row) in rows.filter(|(key, _)| key.thread_id == *id) {
            for (channel, value) in &mut row.checkpoint.channel_values {
                if let ChannelValue::Inline(json) = value {
                    redaction.json(channel, json);
                }
            }
            for (key, value) in &mut row.metadata.0 {
                redaction.json(key, value);
            }
            if key.namespace == Namespace::root() {
                latest = Some(row);
            }
        }
        if let Some(epoch) = self.epochs.get_mut(id) {
            *epoch += 1;
            if let Some(told) = latest.and_then(|row| row.metadata.0.get_mut("epoch")) {
                *told = (*epoch).into();
            }
        }
        Ok(())
    }

    pub(super) fn retention(&self, id: &ThreadId) -> Retention {
        let rows = self
            .checkpoints
            .iter()
            .filter(|(key, _)| key.thread_id == *id);
        Retention::new(rows.map(|(key, row)| {
            let tuple = self.tuple(key, row, &Values::All);
            let values = &tuple.checkpoint.channel_values;
            let channels = tuple.checkpoint.channel_versions.keys();
            CheckpointSummary {
                namespace: key.namespace.clone(),
                id: key.checkpoint_id.clone(),
                parent: row.parent.clone(),
                made_at: Checkpoint::time(&row.checkpoint.ts),
                v: row.checkpoint.v,
                metadata: row.metadata.clone(),
                channels: channels
                    .map(|channel| (channel.clone(), values.contains_key(channel)))
                    .collect(),
                has_sends: tuple
                    .pending_writes
                    .iter()
                    .any(|write| write.channel == TASKS),
            }
        }))
    }

    pub(super) fn remove(&mut self, id: &ThreadId, gone: &BTreeSet<Place>) {
        let is_gone = |key: &CheckpointKey| {
            key.thread_id == *id
                && gone.contains(&(key.namespace.clone(), key.checkpoint_id.clone()))
        };
        let used_by = |rows: &BTreeMap<CheckpointKey, Row>, wanted: bool| -> BTreeSet<_> {
            rows.iter()
                .filter(|(key, _)| key.thread_id == *id && is_gone(key) == wanted)
                .flat_map(|(key, row)| {
                    let versions = row.checkpoint.channel_versions.iter();
                    versions.map(|(channel, version)| blob_key(key, channel, &version.to_string()))
                })
                .collect()
        };
        let freed = used_by(&self.checkpoints, true);
        let used = used_by(&self.checkpoints, false);
        self.blobs
            .retain(|key, _| !freed.contains(key) || used.contains(key));
        self.checkpoints.retain(|key, _| !is_gone(key));
        self.writes.retain(|key, _| !is_gone(key));
        for (key, row) in &mut self.checkpoints {
            if row
                .parent
                .as_ref()
                .is_some_and(|parent| is_gone(&sibling(key, parent)))
            {
                row.parent = None;
            }
        }
        if !gone.is_empty() && !self.checkpoints.keys().any(|key| key.thread_id == *id) {
            let raised = self.threads.remove_entry(id).zip(self.epochs.remove(id));
            self.delete_thread(id);
            if let Some(((id, thread), epoch)) = raised {
                self.epochs.insert(id.clone(), epoch);
                self.threads.insert(id, thread);
            }
        }
    }
}

fn blob_key(
    key: &CheckpointKey,
    channel: &str,
    version: &str,
) -> (ThreadId, Namespace, String, String) {
    (
        key.thread_id.clone(),
        key.namespace.clone(),
        channel.to_owned(),
        version.to_owned(),
    )
}

pub(super) fn sibling(key: &CheckpointKey, id: &CheckpointId) -> CheckpointKey {
    CheckpointKey {
        checkpoint_id: id.clone(),
        ..key.clone()
    }
}
