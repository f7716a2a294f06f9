mod apart;
mod encode;
mod list;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use self::apart::Apart;
use self::list::{HIGHEST, List, RADIX, Unread, channel, part_of, parts, size};
pub use self::{apart::join_items, list::join_lists};
use crate::{
    ChannelValue, Checkpoint, CheckpointId, CheckpointSelector, CheckpointTuple, Checkpointer,
    Error, Namespace, NewCheckpoint, PutOptions, Result, ThreadId,
    checkpoint::{CheckpointMetadata, CheckpointSource, EncodeError, ValueKey, Values, Version},
};

/// The simple face of a [`Checkpointer`]: plain serde state, by the key of its thread.
///
/// The fields of the state are the channels of the checkpoints, so LangGraph and the tools for
/// people read them. Saving writes only the fields that have changed, and of a long list only the
/// parts that have: it is kept in the channels `list`, `list#1.1`, `list#1.2`, …, so that a list
/// that grows at its end is written by what is added, not again and again whole.
#[async_trait]
pub trait CheckpointerExt: Checkpointer {
    /// The latest state of `key`, `None` when it has none.
    async fn latest<S: DeserializeOwned>(&self, key: &ThreadId) -> Result<Option<S>>;

    /// Saves `state` as the latest of `key`. Reads the latest checkpoint first; where a state is
    /// saved again and again, [`ThreadState`] spares that.
    async fn save<S: Serialize + Sync>(&self, key: &ThreadId, state: &S) -> Result<CheckpointId>;

    /// The keys that have state, the last saved first.
    async fn keys(&self, limit: u64) -> Result<Vec<ThreadId>>;

    /// Deletes the state of `key`, its history included.
    async fn delete(&self, key: &ThreadId) -> Result<()>;
}

#[async_trait]
impl<C: Checkpointer + ?Sized> CheckpointerExt for C {
    async fn latest<S: DeserializeOwned>(&self, key: &ThreadId) -> Result<Option<S>> {
        ThreadState::load(self, key.clone()).await?.state()
    }

    async fn save<S: Serialize + Sync>(&self, key: &ThreadId, state: &S) -> Result<CheckpointId> {
        let mut thread = ThreadState::load(self, key.clone()).await?;
        let step = thread.next_step();
        thread
            .save(
                self,
                state,
                CheckpointMetadata::new(CheckpointSource::Update, step),
            )
            .await
    }

    async fn keys(&self, limit: u64) -> Result<Vec<ThreadId>> {
        let page = self.threads(limit, None).await?;
        Ok(page.items.into_iter().map(|thread| thread.id).collect())
    }

    async fn delete(&self, key: &ThreadId) -> Result<()> {
        self.delete_thread(key).await
    }
}

/// The state of one thread for the one who works on it: remembers the last checkpoint, so that
/// saving the next takes one write and no read.
///
/// Of long lists it may have been read [in part](Values::newest): then [`state`](Self::state) has
/// their newest items, and [`append`](Self::append) adds to them.
#[derive(Clone, Debug)]
pub struct ThreadState {
    thread_id: ThreadId,
    head: Option<Head>,
    /// A later one than the head, if there is.
    newest: Option<CheckpointId>,
}

#[derive(Clone, Debug)]
struct Head {
    id: CheckpointId,
    step: i64,
    /// Those that were read or saved.
    values: BTreeMap<String, Arc<ChannelValue>>,
    versions: BTreeMap<String, Version>,
    /// The items of lists that stand apart.
    apart: Apart,
}

/// How a state is saved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// In place of the one before.
    Whole,
    /// On top of the one before.
    Added,
}

/// What becomes of the channels.
#[derive(Default)]
struct Changes {
    /// The values that are new.
    new: BTreeMap<String, ChannelValue>,
    /// Fields without a value from now on.
    empty: Vec<String>,
    /// Parts of lists that are in others now.
    joined: Vec<String>,
    /// Items of lists that stand apart from now on.
    apart: Apart,
}

/// Why it can't be told what becomes of them.
enum Missing {
    /// These must be read first.
    Values(Vec<String>),
    Invalid(EncodeError),
}

impl Values {
    /// The values of `fields`, and of each of `lists` the newest items, `count` or more: one to 8, 9 to
    /// 72, 73 to 584 or 585 to 4,680, or all where there are fewer; all too where more are wanted. For
    /// [`ThreadState::new`].
    pub fn newest(lists: &[&str], fields: &[&str], count: usize) -> Self {
        let powers = (0..).map(|level| RADIX.pow(level));
        let at_least = powers.scan(0, |sum, power| {
            *sum += power;
            Some(*sum)
        });
        let Some(depth) = at_least.take(HIGHEST).position(|least| least >= count) else {
            return Self::All;
        };
        let names = lists.iter().chain(fields).map(|name| (*name).to_owned());
        let mut channels: BTreeSet<String> = names.collect();
        for list in lists {
            for level in 1..=depth {
                channels.extend((1..=RADIX).map(|number| channel(list, level, number)));
            }
        }
        Self::Of(channels)
    }
}

impl ThreadState {
    /// Reads the latest checkpoint of `thread_id`.
    pub async fn load<C: Checkpointer + ?Sized>(
        checkpointer: &C,
        thread_id: ThreadId,
    ) -> Result<Self> {
        Self::load_at(checkpointer, CheckpointSelector::latest(thread_id)).await
    }

    /// Reads what `selector` names of a checkpoint. Saving goes on behind it, in the root graph.
    pub async fn load_at<C: Checkpointer + ?Sized>(
        checkpointer: &C,
        selector: CheckpointSelector,
    ) -> Result<Self> {
        let tuple = checkpointer.get(&selector).await?;
        Self::read_from(checkpointer, selector.thread_id, tuple).await
    }

    /// The state in `latest`, of which `checkpointer` reads what was stored apart.
    pub async fn read_from<C: Checkpointer + ?Sized>(
        checkpointer: &C,
        thread_id: ThreadId,
        latest: Option<CheckpointTuple>,
    ) -> Result<Self> {
        let namespace = latest.as_ref().map(|tuple| tuple.key.namespace.clone());
        let mut state = Self::new(thread_id, latest);
        if let (Some(head), Some(namespace)) = (&mut state.head, namespace) {
            let keys = apart::keys(head.values.values().map(Arc::as_ref));
            let place = (&state.thread_id, &namespace);
            head.apart = apart::read(checkpointer, place, keys).await?;
        }
        Ok(state)
    }

    /// The state in `latest`, which is the latest checkpoint of `thread_id`; `None` where there is
    /// none. Of one that was appended to, [`read_from`](Self::read_from) makes it.
    pub fn new(thread_id: ThreadId, latest: Option<CheckpointTuple>) -> Self {
        let head = latest.map(Head::from);
        Self {
            thread_id,
            head,
            newest: None,
        }
    }

    /// The same, where `newest` is the latest checkpoint of the thread: what is saved next is later
    /// than that, so that the thread goes on from here.
    #[must_use]
    pub fn branching(mut self, newest: Option<CheckpointId>) -> Self {
        self.newest = newest;
        self
    }

    /// The state in the latest checkpoint, `None` when there is none. Of a list that was read in part
    /// the newest items.
    pub fn state<S: DeserializeOwned>(&self) -> Result<Option<S>> {
        let decoded = self.head.as_ref().map(|head| {
            let is_unread = |channel: &str| head.versions.contains_key(channel);
            encode::decode_state(&head.values, &head.apart, is_unread)
        });
        decoded.transpose().map_err(|error| {
            Error::unreadable(format!("the state of thread {}", self.thread_id), error)
        })
    }

    /// How many items of `list` stand before those that [`state`](Self::state) has.
    pub fn before(&self, list: &str) -> usize {
        let Some(head) = &self.head else {
            return 0;
        };
        let parts = parts(list, |channel| head.versions.contains_key(channel));
        let unread = parts
            .iter()
            .rposition(|part| !head.values.contains_key(part));
        let before = &parts[..unread.map_or(0, |unread| unread + 1)];
        before.iter().map(|part| size(part)).sum()
    }

    /// The thread.
    pub fn id(&self) -> &ThreadId {
        &self.thread_id
    }

    /// Where this item of a list is, if it was long and is stored by itself: as long as its thread is
    /// there, [`Checkpointer::values`] reads it.
    pub fn stands_apart<S: Serialize>(&self, item: &S) -> Option<ValueKey> {
        let stored = &self.head.as_ref()?.apart;
        if stored.is_empty() {
            return None;
        }
        apart::known(&encode::pack(item).ok()?, stored).cloned()
    }

    /// The latest checkpoint.
    pub fn head(&self) -> Option<&CheckpointId> {
        self.head.as_ref().map(|head| &head.id)
    }

    /// The step that follows the latest checkpoint; −1 where there is none.
    pub fn next_step(&self) -> i64 {
        self.head.as_ref().map_or(-1, |head| head.step + 1)
    }

    /// Saves `state` behind the latest checkpoint, all of which must have been read. After an error
    /// the head is as before, and saving again is safe.
    pub async fn save<C: Checkpointer + ?Sized, S: Serialize>(
        &mut self,
        checkpointer: &C,
        state: &S,
        metadata: CheckpointMetadata,
    ) -> Result<CheckpointId> {
        let (new, next) = self.next(state, metadata)?;
        let key = checkpointer.put(new, PutOptions::default()).await?;
        *self = next;
        Ok(key.checkpoint_id)
    }

    /// The checkpoint that [`save`](Self::save) stores, and what this is once it is stored: for who
    /// stores it with something else.
    pub fn next<S: Serialize>(
        &self,
        state: &S,
        metadata: CheckpointMetadata,
    ) -> Result<(NewCheckpoint, Self)> {
        let packed = encode::pack(state).map_err(invalid)?;
        let nothing = BTreeSet::new();
        match self.changes(&packed, How::Whole, &BTreeMap::new(), &nothing) {
            Ok(changes) => Ok(self.changed(changes, &nothing, metadata)),
            Err(Missing::Invalid(error)) => Err(invalid(error)),
            Err(Missing::Values(_)) => {
                let reason = "was read in part, and can only be added to";
                Err(Error::invalid("state", reason))
            }
        }
    }

    /// Saves the latest state with what is `added`: the items of its lists stand behind those that
    /// the lists have, its other fields take the place of those of the same names, and what is not
    /// in it stays. Costs what is added, however long the lists are, and otherwise does as
    /// [`save`](Self::save).
    ///
    /// About once in 4,096 items it reads as many.
    pub async fn append<C: Checkpointer + ?Sized, S: Serialize>(
        &mut self,
        checkpointer: &C,
        added: &S,
        metadata: CheckpointMetadata,
    ) -> Result<CheckpointId> {
        let (new, next) = self.next_with(checkpointer, added, metadata).await?;
        let key = checkpointer.put(new, PutOptions::default()).await?;
        *self = next;
        Ok(key.checkpoint_id)
    }

    /// The checkpoint that [`append`](Self::append) stores, and what this is once it is stored. What
    /// must be read for it, `checkpointer` reads.
    pub async fn next_with<C: Checkpointer + ?Sized, S: Serialize>(
        &self,
        checkpointer: &C,
        added: &S,
        metadata: CheckpointMetadata,
    ) -> Result<(NewCheckpoint, Self)> {
        let packed = encode::pack(added).map_err(invalid)?;
        let (mut read, mut asked) = (BTreeMap::new(), BTreeSet::new());
        loop {
            match self.changes(&packed, How::Added, &read, &asked) {
                Ok(changes) => return Ok(self.changed(changes, &asked, metadata)),
                Err(Missing::Invalid(error)) => return Err(invalid(error)),
                Err(Missing::Values(channels)) => {
                    asked.extend(channels.iter().cloned());
                    read.extend(self.read(checkpointer, channels).await?);
                }
            }
        }
    }

    /// Values of the latest checkpoint that were not read with it.
    async fn read<C: Checkpointer + ?Sized>(
        &self,
        checkpointer: &C,
        channels: Vec<String>,
    ) -> Result<BTreeMap<String, Arc<ChannelValue>>> {
        let selector = CheckpointSelector {
            checkpoint_id: self.head().cloned(),
            values: Values::Of(channels.into_iter().collect()),
            ..CheckpointSelector::latest(self.thread_id.clone())
        };
        let found = checkpointer.get(&selector).await?;
        let found = found.ok_or_else(|| Error::not_found("checkpoint", &self.thread_id))?;
        Ok(shared(found.checkpoint.channel_values))
    }

    /// What becomes of the channels with `packed`. What is `asked` for and not `read` has no value.
    fn changes(
        &self,
        packed: &[u8],
        how: How,
        read: &BTreeMap<String, Arc<ChannelValue>>,
        asked: &BTreeSet<String>,
    ) -> Result<Changes, Missing> {
        let nothing = (BTreeMap::new(), BTreeMap::new());
        let head = self.head.as_ref();
        let (values, versions) = head.map_or((&nothing.0, &nothing.1), |head| {
            (&head.values, &head.versions)
        });
        let value = |channel: &str| {
            let value = values.get(channel).or_else(|| read.get(channel));
            value.map(Arc::as_ref)
        };
        let array = |channel: &str| match value(channel) {
            Some(ChannelValue::Stored(value)) => Some(value.bytes()),
            _ => None,
        };
        let no_items = Apart::new();
        let mut changes = Changes::default();
        let fields = encode::fields(packed)?;
        for &(name, encoded) in &fields {
            let parts = parts(name, |channel| versions.contains_key(channel));
            if how == How::Whole && parts.iter().any(|part| !values.contains_key(part)) {
                return Err(Missing::Values(parts));
            }
            if how == How::Added
                && versions.contains_key(name)
                && value(name).is_none()
                && !asked.contains(name)
            {
                return Err(Missing::Values(vec![name.to_owned()]));
            }
            let Some(items) = list::items(encoded)? else {
                let new = encode::channel_value(encoded)?;
                if value(name) != Some(&new) {
                    changes.new.insert(name.to_owned(), new);
                }
                changes.joined.extend(parts);
                continue;
            };
            let is_appended = how == How::Added;
            let apart = &mut changes.apart;
            let places = items.iter().map(|item| {
                let known = head.map_or(&no_items, |head| &head.apart);
                apart::place(name, item, is_appended, known, apart)
            });
            let items: Vec<_> = places.collect();
            let stored = value(name).map(encode::encoded).transpose()?;
            let stored = stored.as_deref().map(list::items).transpose()?.flatten();
            let mut list = match (how, &stored) {
                (How::Added, Some(_)) => List::stored(name, &parts, array),
                _ => List::empty(name),
            };
            let newest = stored.iter().flatten().filter(|_| how == How::Added);
            for item in newest.copied().chain(items.iter().map(AsRef::as_ref)) {
                list.push(item)?;
            }
            let mut kept = BTreeSet::new();
            for (channel, new) in list.into_channels() {
                if let Some(new) = new.map(ChannelValue::Stored)
                    && value(&channel) != Some(&new)
                {
                    changes.new.insert(channel.clone(), new);
                }
                kept.insert(channel);
            }
            changes
                .joined
                .extend(parts.into_iter().filter(|part| !kept.contains(part)));
        }
        if how == How::Whole {
            let is_gone = |name: &str| !fields.iter().any(|(field, _)| *field == name);
            for channel in versions.keys() {
                match part_of(channel) {
                    Some((list, ..)) if is_gone(list) => changes.joined.push(channel.clone()),
                    None if is_gone(channel) && values.contains_key(channel) => {
                        changes.empty.push(channel.clone());
                    }
                    _ => {}
                }
            }
        }
        Ok(changes)
    }

    /// The checkpoint with these changes, and what this is with it. What was joined of parts that
    /// were `asked` for is not kept.
    fn changed(
        &self,
        changes: Changes,
        asked: &BTreeSet<String>,
        metadata: CheckpointMetadata,
    ) -> (NewCheckpoint, Self) {
        let parent = self.head();
        let mut checkpoint = Checkpoint::after(parent.max(self.newest.as_ref()));
        let head = self.head.clone();
        let (values, versions, apart) = head
            .map(|head| (head.values, head.versions, head.apart))
            .unwrap_or_default();
        let mut head = Head {
            id: checkpoint.id.clone(),
            step: metadata.step().unwrap_or_else(|| self.next_step()),
            values,
            versions,
            apart,
        };
        let mut new_versions = head.next_versions(&changes);
        for channel in changes.empty.iter().chain(&changes.joined) {
            head.values.remove(channel);
        }
        for channel in &changes.joined {
            head.versions.remove(channel);
        }
        head.versions.extend(new_versions.clone());
        checkpoint.channel_versions.clone_from(&head.versions);
        // All others are stored already.
        let inline = head
            .values
            .iter()
            .filter_map(|(channel, value)| match &**value {
                ChannelValue::Inline(json) => {
                    Some((channel.clone(), ChannelValue::Inline(json.clone())))
                }
                _ => None,
            });
        checkpoint.channel_values.extend(inline);
        checkpoint.channel_values.extend(changes.new.clone());
        let is_kept = |channel: &str| {
            part_of(channel).is_none_or(|(list, level, _)| {
                let asked = asked.iter().filter_map(|channel| part_of(channel));
                asked
                    .filter(|asked| asked.0 == list)
                    .all(|(_, read, _)| level <= read)
            })
        };
        for (channel, value) in changes.new {
            head.values.remove(&channel);
            if is_kept(&channel) {
                head.values.insert(channel, Arc::new(value));
            }
        }
        for (key, item) in changes.apart {
            let version = Version::Text(key.version.clone());
            new_versions.insert(key.channel.clone(), version);
            let values = &mut checkpoint.channel_values;
            values.insert(key.channel.clone(), ChannelValue::Stored(item.clone()));
            head.apart.insert(key, item);
        }
        let new = NewCheckpoint {
            thread_id: self.thread_id.clone(),
            namespace: Namespace::root(),
            parent: parent.cloned(),
            checkpoint,
            metadata,
            new_versions,
        };
        let next = Self {
            thread_id: self.thread_id.clone(),
            head: Some(head),
            newest: None,
        };
        (new, next)
    }
}

impl Head {
    /// The versions of the channels that change.
    fn next_versions(&self, changes: &Changes) -> BTreeMap<String, Version> {
        let ordered =
            |one: &&Version, other: &&Version| one.partial_cmp(other).unwrap_or(Ordering::Equal);
        let newest = self.versions.values().max_by(ordered);
        let changed = changes.new.keys().chain(&changes.empty);
        let next = changed.map(|channel| {
            // Of a part that has been before, the version was forgotten.
            let newest = newest.filter(|_| part_of(channel).is_some());
            let last = self.versions.get(channel).or(newest);
            (channel.clone(), Version::next(last))
        });
        next.collect()
    }
}

impl From<CheckpointTuple> for Head {
    fn from(tuple: CheckpointTuple) -> Self {
        Self {
            id: tuple.checkpoint.id,
            step: tuple.metadata.step().unwrap_or(-1),
            values: shared(tuple.checkpoint.channel_values),
            versions: tuple.checkpoint.channel_versions,
            apart: Apart::new(),
        }
    }
}

fn shared(values: BTreeMap<String, ChannelValue>) -> BTreeMap<String, Arc<ChannelValue>> {
    let shared = |(channel, value)| (channel, Arc::new(value));
    values.into_iter().map(shared).collect()
}

fn invalid(error: EncodeError) -> Error {
    Error::invalid("state", error.to_string())
}

impl From<EncodeError> for Missing {
    fn from(error: EncodeError) -> Self {
        Self::Invalid(error)
    }
}

impl From<Unread> for Missing {
    fn from(Unread(channels): Unread) -> Self {
        Self::Values(channels)
    }
}
