//! Which checkpoints of a thread must stay when others go. Every back end asks here.

use std::collections::{BTreeMap, BTreeSet};

use crate::{CheckpointId, Namespace, checkpoint::CheckpointMetadata};

/// What the decision needs to know of a checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointSummary {
    /// The graph within the thread.
    pub namespace: Namespace,
    /// The checkpoint.
    pub id: CheckpointId,
    /// The checkpoint that it follows.
    pub parent: Option<CheckpointId>,
    /// The version of its format.
    pub v: i64,
    /// What is known about it.
    pub metadata: CheckpointMetadata,
    /// Its channels, each with whether it has a value of its own, inline or stored.
    pub channels: BTreeMap<String, bool>,
    /// Whether there are sends among its pending writes.
    pub has_sends: bool,
}

/// The checkpoints of one thread, by namespace and id.
#[derive(Debug)]
pub struct Retention(BTreeMap<Place, CheckpointSummary>);

/// A checkpoint's place within its thread.
pub type Place = (Namespace, CheckpointId);

impl Retention {
    /// Over all checkpoints of one thread.
    pub fn new(checkpoints: impl IntoIterator<Item = CheckpointSummary>) -> Self {
        Self(
            checkpoints
                .into_iter()
                .map(|checkpoint| {
                    (
                        (checkpoint.namespace.clone(), checkpoint.id.clone()),
                        checkpoint,
                    )
                })
                .collect(),
        )
    }

    /// What goes under [`PruneStrategy::KeepLatest`](crate::checkpoint::PruneStrategy::KeepLatest).
    pub fn all_but_latest(&self) -> BTreeSet<Place> {
        // Places are ordered, so the last of a namespace is its latest.
        let latest: BTreeMap<&Namespace, &CheckpointSummary> = self
            .0
            .values()
            .map(|checkpoint| (&checkpoint.namespace, checkpoint))
            .collect();
        let (roots, others): (Vec<_>, Vec<_>) = latest
            .into_values()
            .partition(|checkpoint| checkpoint.namespace == Namespace::root());
        let mut kept = self.closure(roots);
        let live = others
            .into_iter()
            .filter(|checkpoint| !self.is_finished_call(checkpoint, &kept))
            .collect();
        kept.extend(self.closure(live));
        self.except(&kept)
    }

    /// What goes when the checkpoints of `run_ids` go.
    pub fn of_runs(&self, run_ids: &[String]) -> BTreeSet<Place> {
        let stays = |checkpoint: &&CheckpointSummary| {
            checkpoint
                .metadata
                .run_id()
                .is_none_or(|run| !run_ids.iter().any(|id| id == run))
        };
        self.except(&self.closure(self.0.values().filter(stays).collect()))
    }

    fn except(&self, kept: &BTreeSet<Place>) -> BTreeSet<Place> {
        let gone = |place: &&Place| !kept.contains(*place);
        self.0.keys().filter(gone).cloned().collect()
    }

    /// A subgraph called as a task has the task's id behind a `:` in its namespace, unlike a
    /// subgraph with a state of its own. Its call is finished when the root checkpoint from which
    /// it started is stored and not kept; a call may be stored before that checkpoint.
    fn is_finished_call(&self, checkpoint: &CheckpointSummary, kept: &BTreeSet<Place>) -> bool {
        if !checkpoint.namespace.as_str().contains(':') {
            return false;
        }
        let Some(root) = checkpoint.metadata.root_parent() else {
            return false;
        };
        let place = (Namespace::root(), root.into());
        self.0.contains_key(&place) && !kept.contains(&place)
    }

    /// `checkpoints` and all that they need to read back unchanged, and what those need. A parent
    /// that is there for its sends alone needs nothing.
    fn closure(&self, checkpoints: Vec<&CheckpointSummary>) -> BTreeSet<Place> {
        let place =
            |checkpoint: &CheckpointSummary| (checkpoint.namespace.clone(), checkpoint.id.clone());
        let mut kept = BTreeSet::new();
        let mut senders = BTreeSet::new();
        let mut open = checkpoints;
        while let Some(checkpoint) = open.pop() {
            if kept.insert(place(checkpoint)) {
                open.extend(self.replayed_from(checkpoint));
                let parent = self.parent(checkpoint);
                let sender = parent.filter(|parent| checkpoint.v < 4 && parent.has_sends);
                senders.extend(sender.map(place));
            }
        }
        kept.append(&mut senders);
        kept
    }

    /// The ancestors from which the delta channels of `checkpoint` are replayed.
    fn replayed_from<'a>(
        &'a self,
        checkpoint: &'a CheckpointSummary,
    ) -> Vec<&'a CheckpointSummary> {
        let mut needed = Vec::new();
        let mut unseeded = checkpoint.replayed_channels();
        let mut seen = BTreeSet::new();
        let mut ancestor = self.parent(checkpoint);
        // Nothing keeps a caller from storing parents that go round in a circle.
        while let Some(current) = ancestor
            && !unseeded.is_empty()
            && seen.insert(&current.id)
        {
            needed.push(current);
            unseeded.retain(|channel| current.channels.get(*channel) != Some(&true));
            ancestor = self.parent(current);
        }
        needed
    }

    fn parent(&self, checkpoint: &CheckpointSummary) -> Option<&CheckpointSummary> {
        let parent = checkpoint.parent.clone()?;
        self.0.get(&(checkpoint.namespace.clone(), parent))
    }
}

impl CheckpointSummary {
    /// The channels without a value of their own that are replayed from an ancestor's. LangGraph
    /// for Python counts the updates of each; LangGraph.js only marks the thread, so that there any
    /// channel without a value may be one.
    fn replayed_channels(&self) -> BTreeSet<&str> {
        let counted: BTreeSet<&str> = self.metadata.delta_channels().collect();
        let any = self.metadata.0.contains_key("delta_writes_versioned");
        self.channels
            .iter()
            .filter(|(channel, has_value)| {
                !**has_value && (any || counted.contains(channel.as_str()))
            })
            .map(|(channel, _)| channel.as_str())
            .collect()
    }
}
