use std::{collections::BTreeMap, fmt::Debug};

use proptest::{collection::vec, option, prelude::*};
use serde_json::{Map, Value as Json, json};
use yai_agentkit_core::{
    ChannelValue, Checkpoint, CheckpointId, CheckpointKey, CheckpointQuery, CheckpointSelector,
    CheckpointTuple, Checkpointer, Fence, Namespace, NewCheckpoint, NewWrites, PutOptions, Result,
    ThreadId, Value,
    checkpoint::{ChannelWrite, CheckpointMetadata, Parent, PruneStrategy, TASKS, Values, Version},
};

use super::{Names, Pair, listed_until};

pub(super) const THREADS: u8 = 4;
pub(super) const SLOTS: u8 = 4;
pub(super) const NAMESPACES: [&str; 3] = ["", "child", "node:task"];
const CHANNELS: [&str; 3] = ["a", "b", "delta"];
const VERSIONS: u8 = 5;
const WRITTEN: [&str; 5] = ["a", "delta", TASKS, "__error__", "__resume__"];
const RUNS: u8 = 3;
const EPOCHS: u64 = 5;

/// A call of a checkpointer.
#[derive(Clone, Debug)]
pub(super) enum CheckpointOperation {
    Put {
        put: Put,
        fence: Option<Fence>,
        /// Only behind the latest checkpoint.
        is_next: bool,
    },
    RaiseEpoch {
        thread: u8,
        epoch: u64,
    },
    PutWrites {
        place: Place,
        fence: Option<Fence>,
        task: u8,
        path: u8,
        /// Channels and texts.
        writes: Vec<(u8, u8)>,
    },
    /// `latest` leaves the id out.
    Get {
        place: Place,
        latest: bool,
    },
    History {
        place: Place,
        latest: bool,
    },
    List {
        thread: u8,
        namespace: Option<u8>,
        before: Option<u8>,
        limit: Option<u64>,
        run: Option<u8>,
    },
    ListRun(u8),
    DeleteThread(u8),
    DeleteForRuns(Vec<u8>),
    CopyThread {
        source: u8,
        target: u8,
    },
    Prune {
        threads: Vec<u8>,
        deletes: bool,
    },
}

/// The place of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    thread: u8,
    namespace: u8,
    slot: u8,
}

/// A checkpoint to put.
#[derive(Clone, Debug)]
pub(super) struct Put {
    place: Place,
    parent: Option<u8>,
    is_old_format: bool,
    channels: BTreeMap<u8, Channel>,
    counts_deltas: bool,
    marks_deltas: bool,
    run: Option<u8>,
    root: Option<u8>,
    text: u8,
}

/// A channel of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    version: u8,
    has_value: bool,
    is_new: bool,
}

pub(super) fn operation() -> impl Strategy<Value = CheckpointOperation> {
    use CheckpointOperation::*;
    let thread = || 0..THREADS;
    let writes = || vec((0..WRITTEN.len() as u8, any::<u8>()), 0..4);
    prop_oneof![
        10 => (put(), fence(), prop::bool::weighted(0.2))
            .prop_map(|(put, fence, is_next)| Put { put, fence, is_next }),
        1 => (thread(), 1..EPOCHS).prop_map(|(thread, epoch)| RaiseEpoch { thread, epoch }),
        8 => (place(), fence(), 0..2_u8, 0..2_u8, writes()).prop_map(
            |(place, fence, task, path, writes)| PutWrites { place, fence, task, path, writes },
        ),
        2 => (place(), any::<bool>()).prop_map(|(place, latest)| Get { place, latest }),
        2 => (place(), any::<bool>()).prop_map(|(place, latest)| History { place, latest }),
        2 => (
            thread(),
            option::of(0..NAMESPACES.len() as u8),
            option::of(0..SLOTS),
            option::of(0..4_u64),
            option::of(0..RUNS),
        )
            .prop_map(|(thread, namespace, before, limit, run)| List {
                thread, namespace, before, limit, run
            }),
        1 => (0..RUNS).prop_map(ListRun),
        1 => thread().prop_map(DeleteThread),
        1 => vec(0..RUNS, 0..3).prop_map(DeleteForRuns),
        2 => (thread(), thread()).prop_map(|(source, target)| CopyThread { source, target }),
        3 => (vec(thread(), 0..3), prop::bool::weighted(0.2))
            .prop_map(|(threads, deletes)| Prune { threads, deletes }),
    ]
}

fn fence() -> impl Strategy<Value = Option<Fence>> {
    let fence = (1..EPOCHS, any::<bool>()).prop_map(|(epoch, raises)| {
        if raises {
            Fence::Raise(epoch)
        } else {
            Fence::Hold(epoch)
        }
    });
    option::weighted(0.4, fence)
}

fn put() -> impl Strategy<Value = Put> {
    let channel = (0..VERSIONS, any::<bool>(), any::<bool>());
    let channel = channel.prop_map(|(version, has_value, is_new)| Channel {
        version,
        has_value,
        is_new,
    });
    let channels = proptest::collection::btree_map(0..CHANNELS.len() as u8, channel, 0..4);
    let slot = || option::weighted(0.8, 0..SLOTS);
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.1));
    let run = option::of(0..RUNS);
    (place(), slot(), channels, flags, run, slot(), any::<u8>()).prop_map(
        |(place, parent, channels, flags, run, root, text)| Put {
            place,
            // Ancestors are older, so that a line of them has an end.
            parent: parent.filter(|parent| *parent < place.slot),
            is_old_format: flags.0,
            channels,
            counts_deltas: flags.1,
            marks_deltas: flags.2,
            run,
            root,
            text,
        },
    )
}

fn place() -> impl Strategy<Value = Place> {
    // Most of it happens in one place, where operations meet.
    let thread = prop_oneof![6 => Just(0), 1 => 0..THREADS];
    let namespace = prop_oneof![4 => Just(0), 1 => 0..NAMESPACES.len() as u8];
    (thread, namespace, 0..SLOTS).prop_map(|(thread, namespace, slot)| Place {
        thread,
        namespace,
        slot,
    })
}

impl CheckpointOperation {
    pub(super) async fn run(&self, pair: &Pair, names: &Names) -> Result<bool, String> {
        match self {
            Self::Put {
                put,
                fence,
                is_next,
            } => {
                let new = put.build(names);
                pair.same(async |parts| {
                    let parent = if *is_next {
                        Parent::Latest
                    } else {
                        Parent::Any
                    };
                    let mut options = PutOptions::default();
                    (options.fence, options.parent) = (*fence, parent);
                    parts.checkpointer.put(new.clone(), options).await
                })
                .await
            }
            Self::RaiseEpoch { thread, epoch } => {
                let thread = names.thread(*thread);
                pair.same(async |parts| parts.checkpointer.raise_epoch(&thread, *epoch).await)
                    .await
            }
            Self::PutWrites {
                place,
                fence,
                task,
                path,
                writes,
            } => {
                let new = NewWrites {
                    key: place.key(names),
                    task_id: format!("task {task}"),
                    task_path: format!("path {path}"),
                    writes: writes.iter().copied().map(write).collect(),
                };
                pair.same(async |parts| parts.checkpointer.put_writes(new.clone(), *fence).await)
                    .await
            }
            Self::Get { place, latest } => {
                let selector = place.selector(names, *latest);
                pair.same(async |parts| parts.checkpointer.get(&selector).await)
                    .await
            }
            Self::History { place, latest } => {
                let selector = place.selector(names, *latest);
                same_histories(pair, &selector).await
            }
            Self::List {
                thread,
                namespace,
                before,
                limit,
                run,
            } => {
                let query = CheckpointQuery {
                    thread_id: Some(names.thread(*thread)),
                    namespace: namespace.map(|number| NAMESPACES[usize::from(number)].into()),
                    before: before.map(|slot| names.checkpoints[usize::from(slot)][0].clone()),
                    metadata: run.map_or_else(Map::new, |run| run_metadata(names, run)),
                    limit: *limit,
                    checkpoint_id: None,
                    values: match limit {
                        Some(limit) if limit % 2 == 1 => Values::Nothing,
                        Some(limit) if limit % 4 == 2 => {
                            Values::Of([CHANNELS[0].to_owned()].into())
                        }
                        _ => Values::All,
                    },
                };
                pair.same(async |parts| parts.checkpointer.list(&query).await)
                    .await
            }
            Self::ListRun(run) => {
                let query = CheckpointQuery {
                    metadata: run_metadata(names, *run),
                    ..CheckpointQuery::default()
                };
                // Threads may have the same ids, and then come in any order.
                let list = async |checkpointer: &dyn Checkpointer| {
                    let mut tuples = checkpointer.list(&query).await?;
                    let is_ordered = tuples.is_sorted_by_key(newest_first);
                    tuples.sort_by_key(|tuple| tuple.key.clone());
                    Ok((is_ordered, tuples))
                };
                pair.same(async |parts| list(&*parts.checkpointer).await)
                    .await
            }
            Self::DeleteThread(thread) => {
                let thread = names.thread(*thread);
                pair.same(async |parts| parts.checkpointer.delete_thread(&thread).await)
                    .await
            }
            Self::DeleteForRuns(runs) => {
                let runs: Vec<_> = runs.iter().map(|run| run_name(names, *run)).collect();
                pair.same(async |parts| parts.checkpointer.delete_for_runs(&runs).await)
                    .await
            }
            Self::CopyThread { source, target } => {
                let (source, target) = (names.thread(*source), names.thread(*target));
                pair.same(async |parts| parts.checkpointer.copy_thread(&source, &target).await)
                    .await
            }
            Self::Prune { threads, deletes } => {
                let threads: Vec<_> = threads.iter().map(|thread| names.thread(*thread)).collect();
                let strategy = if *deletes {
                    PruneStrategy::Delete
                } else {
                    PruneStrategy::KeepLatest
                };
                pair.same(async |parts| parts.checkpointer.prune(&threads, strategy).await)
                    .await
            }
        }
    }
}

/// Compares the threads, their checkpoints, and the histories of those.
pub(super) async fn compare_all(
    pair: &Pair,
    names: &Names,
    marker: &ThreadId,
) -> Result<(), String> {
    let threads: Vec<_> = (0..THREADS).map(|number| names.thread(number)).collect();
    pair.same(async |parts| {
        let listed = listed_until(&parts.checkpointer, &[marker]).await;
        let own = listed
            .into_iter()
            .filter(|thread| threads.contains(&thread.id));
        Ok(own
            .map(|thread| (thread.id, thread.parent))
            .collect::<BTreeMap<_, _>>())
    })
    .await?;
    for thread in threads {
        let query = CheckpointQuery::of(thread);
        pair.same(async |parts| parts.checkpointer.list(&query).await)
            .await?;
        let tuples = pair.model.checkpointer.list(&query).await;
        for tuple in tuples.expect("the model lists") {
            same_histories(pair, &tuple.key.into()).await?;
        }
    }
    Ok(())
}

pub(super) fn marker(thread: &ThreadId) -> NewCheckpoint {
    NewCheckpoint {
        thread_id: thread.clone(),
        namespace: Namespace::root(),
        parent: None,
        checkpoint: Checkpoint::after(None),
        metadata: CheckpointMetadata::default(),
        new_versions: BTreeMap::new(),
    }
}

async fn same_histories(pair: &Pair, selector: &CheckpointSelector) -> Result<bool, String> {
    let channels = CHANNELS.map(str::to_owned);
    pair.same(async |parts| {
        let checkpointer = &parts.checkpointer;
        checkpointer
            .delta_channel_history(selector, &channels)
            .await
    })
    .await
}

fn newest_first(tuple: &CheckpointTuple) -> impl Ord + use<> {
    std::cmp::Reverse(tuple.checkpoint.id.clone())
}

fn run_name(names: &Names, run: u8) -> String {
    format!("{} run {run}", names.run)
}

fn run_metadata(names: &Names, run: u8) -> Map<String, Json> {
    Map::from_iter([("run_id".to_owned(), run_name(names, run).into())])
}

fn write((channel, text): (u8, u8)) -> ChannelWrite {
    ChannelWrite {
        channel: WRITTEN[usize::from(channel)].to_owned(),
        value: Value::from_parts("bytes", vec![text]),
    }
}

impl Place {
    fn key(self, names: &Names) -> CheckpointKey {
        CheckpointKey {
            thread_id: names.thread(self.thread),
            namespace: NAMESPACES[usize::from(self.namespace)].into(),
            checkpoint_id: self.sibling(names, self.slot),
        }
    }

    fn sibling(self, names: &Names, slot: u8) -> CheckpointId {
        names.checkpoints[usize::from(slot)][usize::from(self.namespace)].clone()
    }

    fn selector(self, names: &Names, latest: bool) -> CheckpointSelector {
        let mut selector = CheckpointSelector::from(self.key(names));
        selector.checkpoint_id = selector.checkpoint_id.filter(|_| !latest);
        selector
    }
}

impl Put {
    fn build(&self, names: &Names) -> NewCheckpoint {
        let key = self.place.key(names);
        let mut metadata = CheckpointMetadata::default().with("step", self.text);
        if let Some(run) = self.run {
            metadata = metadata.with("run_id", run_name(names, run));
        }
        if let Some(root) = self.root {
            let root = &names.checkpoints[usize::from(root)][0];
            metadata = metadata.with("parents", json!({"": root.as_str()}));
        }
        if self.counts_deltas {
            let counters = json!({"delta": [1, self.text]});
            metadata = metadata.with("counters_since_delta_snapshot", counters);
        }
        if self.marks_deltas {
            metadata = metadata.with("delta_writes_versioned", true);
        }
        let mut new = NewCheckpoint {
            thread_id: key.thread_id,
            namespace: key.namespace,
            parent: self.parent.map(|slot| self.place.sibling(names, slot)),
            checkpoint: Checkpoint {
                v: if self.is_old_format { 3 } else { 4 },
                id: key.checkpoint_id,
                ts: format!("at {}", self.text),
                channel_values: BTreeMap::new(),
                channel_versions: BTreeMap::new(),
                versions_seen: BTreeMap::new(),
                extra: Map::from_iter([("updated_channels".to_owned(), json!([self.text]))]),
            },
            metadata,
            new_versions: BTreeMap::new(),
        };
        for (number, channel) in &self.channels {
            let name = CHANNELS[usize::from(*number)].to_owned();
            let version = version(*number, channel.version);
            if channel.has_value {
                let value = value(channel.version, self.text);
                new.checkpoint.channel_values.insert(name.clone(), value);
            }
            if channel.is_new {
                new.new_versions.insert(name.clone(), version.clone());
            }
            new.checkpoint.channel_versions.insert(name, version);
        }
        new
    }
}

/// One kind of version for each channel.
fn version(channel: u8, version: u8) -> Version {
    match channel {
        0 => Version::Integer(version.into()),
        1 => Version::Text(format!("{version:032}.0000000000000000")),
        _ => Version::Float(f64::from(version) / 2.0),
    }
}

/// One kind of value for each version, as a version is of one value.
fn value(version: u8, text: u8) -> ChannelValue {
    let stored = |tag| Value::from_parts(tag, vec![text]);
    match version {
        0 => ChannelValue::Inline(match text % 4 {
            0 => Json::Null,
            1 => true.into(),
            2 => f64::from(text).into(),
            _ => text.to_string().into(),
        }),
        1 => ChannelValue::DeltaSnapshot(stored("msgpack")),
        2 => ChannelValue::Stored(stored("empty")),
        _ => ChannelValue::Stored(stored("bytes")),
    }
}
