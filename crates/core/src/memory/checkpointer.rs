use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::{
    Access, State,
    checkpoints::{Row, sibling},
};
use crate::{
    CheckpointKey, CheckpointQuery, CheckpointSelector, CheckpointTuple, Checkpointer,
    ConflictKind, Error, Fence, Namespace, NewCheckpoint, NewWrites, PutOptions, Result, ThreadId,
    Value,
    checkpoint::{DeltaChannelHistory, PruneStrategy, Thread, ThreadCursor, ValueKey, Values},
    storage::Page,
};

/// [`Checkpointer`] on [`Checkpoints`](super::checkpoints::Checkpoints).
pub(super) struct MemoryCheckpointer(pub(super) Access);

#[async_trait]
impl Checkpointer for MemoryCheckpointer {
    async fn get(&self, selector: &CheckpointSelector) -> Result<Option<CheckpointTuple>> {
        Ok(self.0.read(|state| state.checkpoints.get(selector)))
    }

    async fn list(&self, query: &CheckpointQuery) -> Result<Vec<CheckpointTuple>> {
        let takes = |key: &CheckpointKey, row: &Row| {
            query
                .thread_id
                .as_ref()
                .is_none_or(|id| key.thread_id == *id)
                && query
                    .namespace
                    .as_ref()
                    .is_none_or(|namespace| key.namespace == *namespace)
                && query
                    .checkpoint_id
                    .as_ref()
                    .is_none_or(|id| key.checkpoint_id == *id)
                && query
                    .before
                    .as_ref()
                    .is_none_or(|before| key.checkpoint_id < *before)
                && row.metadata.contains(&query.metadata)
        };
        Ok(self.0.read(|state| {
            let tables = &state.checkpoints;
            let mut rows: Vec<_> = tables
                .checkpoints
                .iter()
                .filter(|(key, row)| takes(key, row))
                .collect();
            rows.sort_by(|(a, _), (b, _)| {
                b.checkpoint_id
                    .cmp(&a.checkpoint_id)
                    .then_with(|| (&a.thread_id, &a.namespace).cmp(&(&b.thread_id, &b.namespace)))
            });
            let limit = query.limit.map_or(usize::MAX, |limit| {
                usize::try_from(limit).unwrap_or(usize::MAX)
            });
            rows.into_iter()
                .take(limit)
                .map(|(key, row)| tables.tuple(key, row, &query.values))
                .collect()
        }))
    }

    async fn values(
        &self,
        thread_id: &ThreadId,
        namespace: &Namespace,
        keys: &BTreeSet<ValueKey>,
    ) -> Result<BTreeMap<ValueKey, Value>> {
        Ok(self.0.read(|state| {
            let stored = keys.iter().filter_map(|key| {
                let (channel, version) = (key.channel.clone(), key.version.clone());
                let place = (thread_id.clone(), namespace.clone(), channel, version);
                Some((key.clone(), state.checkpoints.blobs.get(&place)?.clone()))
            });
            stored.collect()
        }))
    }

    async fn put(&self, checkpoint: NewCheckpoint, options: PutOptions) -> Result<CheckpointKey> {
        let put = |state: &mut State| state.checkpoints.put_asking(checkpoint, options);
        self.0.write(put).await
    }

    async fn put_writes(&self, writes: NewWrites, fence: Option<Fence>) -> Result<()> {
        let put = |state: &mut State| state.checkpoints.put_writes_asking(&writes, fence);
        self.0.write(put).await
    }

    async fn raise_epoch(&self, thread_id: &ThreadId, epoch: u64) -> Result<()> {
        let raise = Fence::Raise(epoch);
        self.0
            .write(|state| {
                let tables = &mut state.checkpoints;
                if tables.epoch(thread_id).is_none() {
                    raise.stored_epoch()?;
                    let (thread, epoch) = (thread_id.to_string(), 0);
                    return Err(Error::Fenced { thread, epoch });
                }
                tables.check(thread_id, Some(raise))?;
                tables.raise(thread_id, Some(raise));
                Ok(())
            })
            .await
    }

    async fn delete_thread(&self, thread_id: &ThreadId) -> Result<()> {
        self.0
            .write(|state| state.checkpoints.delete_thread(thread_id))
            .await;
        Ok(())
    }

    async fn delete_for_runs(&self, run_ids: &[String]) -> Result<()> {
        self.0
            .write(|state| {
                let tables = &mut state.checkpoints;
                let threads: Vec<ThreadId> = tables.threads.keys().cloned().collect();
                for thread in threads {
                    let gone = tables.retention(&thread).of_runs(run_ids);
                    tables.remove(&thread, &gone);
                }
            })
            .await;
        Ok(())
    }

    async fn copy_thread(&self, source: &ThreadId, target: &ThreadId) -> Result<()> {
        target.validate()?;
        self.0
            .write(|state| {
                let tables = &mut state.checkpoints;
                if tables.threads.contains_key(target) {
                    return Err(Error::Conflict(ConflictKind::Thread(target.clone())));
                }
                let moved = |key: &CheckpointKey| CheckpointKey {
                    thread_id: target.clone(),
                    ..key.clone()
                };
                let of_source = |key: &&CheckpointKey| key.thread_id == *source;
                let keys: Vec<_> = tables
                    .checkpoints
                    .keys()
                    .filter(of_source)
                    .cloned()
                    .collect();
                if keys.is_empty() {
                    return Ok(());
                }
                for key in keys {
                    let row = tables.checkpoints[&key].clone();
                    tables.checkpoints.insert(moved(&key), row);
                }
                let keys: Vec<_> = tables.writes.keys().filter(of_source).cloned().collect();
                for key in keys {
                    let writes = tables.writes[&key].clone();
                    tables.writes.insert(moved(&key), writes);
                }
                let blobs: Vec<_> = tables
                    .blobs
                    .iter()
                    .filter(|((thread, ..), _)| thread == source)
                    .map(|((_, namespace, channel, version), value)| {
                        let key = (
                            target.clone(),
                            namespace.clone(),
                            channel.clone(),
                            version.clone(),
                        );
                        (key, value.clone())
                    })
                    .collect();
                tables.blobs.extend(blobs);
                tables.thread(target, Some(source));
                Ok(())
            })
            .await
    }

    async fn prune(&self, thread_ids: &[ThreadId], strategy: PruneStrategy) -> Result<()> {
        self.0
            .write(|state| {
                let tables = &mut state.checkpoints;
                for id in thread_ids {
                    match strategy {
                        PruneStrategy::Delete => tables.delete_thread(id),
                        PruneStrategy::KeepLatest => {
                            let gone = tables.retention(id).all_but_latest();
                            tables.remove(id, &gone);
                        }
                    }
                }
            })
            .await;
        Ok(())
    }

    async fn delta_channel_history(
        &self,
        selector: &CheckpointSelector,
        channels: &[String],
    ) -> Result<BTreeMap<String, DeltaChannelHistory>> {
        Ok(self.0.read(|state| {
            let tables = &state.checkpoints;
            let mut histories: BTreeMap<_, _> = channels
                .iter()
                .map(|channel| (channel.clone(), DeltaChannelHistory::default()))
                .collect();
            let mut ancestor = tables.get(selector);
            let mut seen = BTreeSet::new();
            while let Some(parent) = ancestor.as_ref().and_then(|tuple| {
                let key = sibling(&tuple.key, tuple.parent.as_ref()?);
                // Nothing keeps a caller from storing parents that go round in a circle.
                let row = tables
                    .checkpoints
                    .get(&key)
                    .filter(|_| seen.insert(key.clone()))?;
                Some(tables.tuple(&key, row, &Values::All))
            }) {
                for (channel, history) in &mut histories {
                    if history.seed.is_none() {
                        let writes = parent.pending_writes.iter().rev();
                        let of_channel = writes.filter(|write| write.channel == *channel);
                        history.writes.extend(of_channel.cloned());
                        history.seed = parent.checkpoint.channel_values.get(channel).cloned();
                    }
                }
                ancestor = Some(parent);
            }
            for history in histories.values_mut() {
                history.writes.reverse();
            }
            histories
        }))
    }

    async fn threads(
        &self,
        limit: u64,
        after: Option<&ThreadCursor>,
    ) -> Result<Page<Thread, ThreadCursor>> {
        Ok(self.0.read(|state| {
            let mut threads: Vec<_> = state.checkpoints.threads.values().collect();
            threads.sort_by(|a, b| (b.updated_at, &b.id).cmp(&(a.updated_at, &a.id)));
            let mut rest = threads.into_iter().filter(|thread| {
                after.is_none_or(|cursor| {
                    (thread.updated_at, &thread.id) < (cursor.updated_at, &cursor.id)
                })
            });
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let items: Vec<Thread> = rest.by_ref().take(limit).cloned().collect();
            let next = rest
                .next()
                .and_then(|_| items.last().map(ThreadCursor::from));
            Page { items, next }
        }))
    }
}
