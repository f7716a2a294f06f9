//! What is kept of the past, and for how long. Which checkpoints of a thread must stay when others go,
//! every back end asks here.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::AddAssign,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    CheckpointId, ConversationId, MessageId, Namespace, Result, audit::Act,
    checkpoint::CheckpointMetadata, turn::OwnerId,
};

/// What the decision needs to know of a checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointSummary {
    /// The graph within the thread.
    pub namespace: Namespace,
    /// The checkpoint.
    pub id: CheckpointId,
    /// The checkpoint that it follows.
    pub parent: Option<CheckpointId>,
    /// When it was made, as who made it says; one that says nothing is new.
    pub made_at: Option<DateTime<Utc>>,
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
        self.all_but(1, |_| false)
    }

    /// What goes where the `last` checkpoints of every namespace stay, and those since `since`: each
    /// with all that it needs, as under [`all_but_latest`](Self::all_but_latest).
    pub fn all_but_recent(&self, last: u64, since: DateTime<Utc>) -> BTreeSet<Place> {
        let is_recent = |checkpoint: &CheckpointSummary| {
            checkpoint.made_at.is_none_or(|made_at| made_at >= since)
        };
        self.all_but(last, is_recent)
    }

    fn all_but(&self, last: u64, stays: impl Fn(&CheckpointSummary) -> bool) -> BTreeSet<Place> {
        let mut namespaces: BTreeMap<&Namespace, Vec<&CheckpointSummary>> = BTreeMap::new();
        for checkpoint in self.0.values() {
            let of_namespace = namespaces.entry(&checkpoint.namespace).or_default();
            of_namespace.push(checkpoint);
        }
        let last = usize::try_from(last.max(1)).unwrap_or(usize::MAX);
        // Places are ordered, so the last of a namespace are its latest.
        let wanted = namespaces.into_values().flat_map(|checkpoints| {
            let first = checkpoints.len().saturating_sub(last);
            let numbered = checkpoints.into_iter().enumerate();
            numbered
                .filter(|(place, checkpoint)| *place >= first || stays(checkpoint))
                .map(|(_, checkpoint)| checkpoint)
                .collect::<Vec<_>>()
        });
        let (roots, others): (Vec<_>, Vec<_>) =
            wanted.partition(|checkpoint| checkpoint.namespace == Namespace::root());
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

/// How much of the past is kept; the default is all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct RetentionPolicy {
    /// A conversation goes in which nothing has happened for so long and nothing waits.
    pub conversation_age: Option<Duration>,
    /// Checkpoints of conversations go that are older than this, but for the last ones and what
    /// those need.
    pub checkpoint_age: Option<Duration>,
    /// How many of the last checkpoints of a graph stay, however old they are; one always does.
    pub checkpoints: u64,
    /// Entries of the audit log go that are older than this.
    pub audit_age: Option<Duration>,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            conversation_age: None,
            checkpoint_age: None,
            checkpoints: 1,
            audit_age: None,
        }
    }
}

impl RetentionPolicy {
    /// Whether nothing ever goes.
    pub fn keeps_all(&self) -> bool {
        let ages = [self.conversation_age, self.checkpoint_age, self.audit_age];
        ages.iter().all(Option::is_none)
    }

    /// Whether a conversation goes in which nothing has happened for `idle`, unless something waits.
    pub fn expires(&self, idle: Duration, waits: bool) -> bool {
        !waits && self.conversation_age.is_some_and(|age| idle >= age)
    }
}

/// At which conversations one looks, and whether anything goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// At those behind this one, in the order of their ids; `None` is from the first.
    pub after: Option<ConversationId>,
    /// At how many.
    pub limit: u64,
    /// Whether it is only told what would go.
    pub dry_run: bool,
}

/// What has gone, or would go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Conversations, with all that they had.
    pub conversations: u64,
    /// Checkpoints, those of these conversations too.
    pub checkpoints: u64,
    /// Bytes of the checkpoints, of their values and of their pending writes, as they are stored.
    pub bytes: u64,
}

impl AddAssign for Removed {
    fn add_assign(&mut self, other: Self) {
        self.conversations += other.conversations;
        self.checkpoints += other.checkpoints;
        self.bytes += other.bytes;
    }
}

/// What a [`Sweep`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// What has gone.
    pub removed: Removed,
    /// Behind which conversation there are more.
    pub next: Option<ConversationId>,
}

/// Deletes what is not to be kept.
///
/// What is deleted stays so, whoever is late: a turn of the conversation that goes on writing is
/// refused.
#[async_trait]
pub trait RetentionStore: Send + Sync {
    /// Makes `owner` the only one that sweeps, for as long as `lease`, by the storage's clock.
    /// False where somebody else is. It spares work, and guards nothing: two that sweep at one time
    /// do no harm.
    async fn lead(&self, owner: OwnerId, lease: Duration) -> Result<bool>;

    /// Deletes of some conversations what `policy` does not keep, each in a transaction of its own:
    /// conversations that have expired, and checkpoints by [`Retention::all_but_recent`]. What can't
    /// be read stays. May be repeated.
    async fn sweep(&self, policy: &RetentionPolicy, sweep: Sweep) -> Result<Swept>;

    /// Deletes a conversation with its messages, turns, events, records and keys, and its thread with
    /// all that it has. False where there is none. May be repeated.
    ///
    /// Where a turn runs in it, the thread's epoch stays, raised: its writes are refused also where the
    /// conversation is made anew under the same id.
    ///
    /// With it `told` is recorded, in the same transaction.
    async fn erase(&self, conversation: ConversationId, told: Option<&Act>) -> Result<bool>;

    /// Makes a message say nothing, for good: its row, and in all that is stored of its chat what it
    /// said, by [`Redaction`](crate::redaction::Redaction): states of all checkpoints, pending writes, events,
    /// records and the index of the search. Nothing else changes. False where there is none. May be
    /// repeated.
    ///
    /// [`Error::Conflict`](crate::Error::Conflict) of the turn while one runs;
    /// [`Error::Unreadable`](crate::Error::Unreadable) where it stands in a value that can't be changed.
    /// Then nothing was changed. `told` is recorded as by [`erase`](Self::erase).
    async fn redact(
        &self,
        conversation: ConversationId,
        message: MessageId,
        told: Option<&Act>,
    ) -> Result<bool>;
}
