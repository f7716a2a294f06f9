//! `put` and `put_writes`: the hot path. What is written at once is one statement on PostgreSQL, and
//! one transaction on SQLite and Citus.
//!
//! Each begins with the threads' rows in `threads`, so that the writers of one thread, and who
//! prunes or deletes it, come one after the other. Only a checkpoint changes a row that is there:
//! its time is indexed, so that a change costs two entries of indexes.

pub(super) mod postgres;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::DbErr;
use yai_agentkit_core::{CheckpointKey, Fence, NewWrites, ThreadId, checkpoint::ChannelWrite};

use super::{
    NewRawCheckpoint, RawValue,
    statement::Conflicts::{self, Possible, Unexpected},
};
use crate::{
    coalescer::Call,
    connection::{Connection, retrying, retrying_undone},
    error::is_unique_violation,
    events::EventRow,
};

/// One call of `put` or `put_writes`.
pub(crate) struct Write {
    pub(super) new: New,
    /// What it asks of its thread.
    pub(super) fenced: Option<Fenced>,
}

/// What is to be stored. The latter has writes.
pub(super) enum New {
    Checkpoint(NewRawCheckpoint),
    Writes(NewWrites),
}

/// A write that its thread may refuse.
pub(super) struct Fenced {
    pub(super) fence: Fence,
    /// That of the fence.
    pub(super) epoch: i64,
    /// What is stored with a checkpoint.
    pub(super) events: Option<EventRow>,
}

impl Write {
    pub(super) fn key(&self) -> &CheckpointKey {
        self.new.key()
    }

    fn fence(&self) -> Option<Fence> {
        self.fenced.as_ref().map(|fenced| fenced.fence)
    }

    /// Whether it asks what it changes, so that a second attempt would refuse itself.
    pub(super) fn raises(&self) -> bool {
        matches!(self.fence(), Some(Fence::Raise(_)))
    }

    fn replaces(&self) -> bool {
        matches!(&self.new, New::Writes(new) if new.replaces())
    }

    /// What no other write of the same statement may have.
    fn place(&self) -> (&CheckpointKey, Option<&str>) {
        match &self.new {
            New::Checkpoint(new) => (&new.key, None),
            New::Writes(new) => (&new.key, Some(&new.task_id)),
        }
    }

    fn events(&self) -> Option<&EventRow> {
        self.fenced.as_ref()?.events.as_ref()
    }
}

impl Call for Write {
    /// Whether its fence admitted it.
    type Answer = bool;
    type Key = ThreadId;

    fn key(&self) -> Option<ThreadId> {
        Some(Self::key(self).thread_id.clone())
    }

    fn bytes(&self) -> usize {
        let events = self.events().map_or(0, |events| events.events.len());
        events
            + match &self.new {
                New::Checkpoint(new) => {
                    let values = new.values.iter().map(|stored| stored.value.bytes().len());
                    new.checkpoint.len() + new.metadata.len() + values.sum::<usize>()
                }
                New::Writes(new) => {
                    let values = new.writes.iter().map(|write| write.value.bytes().len());
                    values.sum()
                }
            }
    }

    fn goes_with(&self, other: &Self) -> bool {
        self.fence() == other.fence() && self.place() != other.place()
    }

    /// Stores all that their fences admit, or none, and returns whose do. No two of them may have one
    /// [`place`](Write::place); those of one thread have one fence, and one that raises is alone.
    async fn run(connection: &Connection, writes: &[Self]) -> Result<Vec<bool>, DbErr> {
        if connection.is_transaction() || writes.iter().any(Write::raises) {
            return retrying_undone!(connection, attempt(connection, writes, Possible));
        }
        // On another connection where this one was lost: what is there may be written again.
        if let Some(postgres) = connection.undivided()
            && postgres.expects_new_rows()
        {
            match retrying!(connection, attempt(connection, writes, Unexpected)) {
                Err(error) if is_unique_violation(&error) => postgres.found_old_rows(),
                written => return written,
            }
        }
        match retrying!(connection, attempt(connection, writes, Possible)) {
            // Events that were stored while this waited for their thread: now they show.
            Err(error) if is_unique_violation(&error) => {
                retrying_undone!(connection, attempt(connection, writes, Possible))
            }
            written => written,
        }
    }
}

impl New {
    pub(super) fn key(&self) -> &CheckpointKey {
        match self {
            Self::Checkpoint(new) => &new.key,
            Self::Writes(new) => &new.key,
        }
    }
}

async fn attempt(
    connection: &Connection,
    writes: &[Write],
    conflicts: Conflicts,
) -> Result<Vec<bool>, DbErr> {
    match connection.undivided() {
        Some(_) => postgres::write(connection, writes, conflicts).await,
        None => tables::write(connection, writes).await,
    }
}

/// The rows of some writes, table by table and column by column.
#[derive(Default)]
pub(super) struct Rows<'a> {
    /// Those without a fence. In the order of their bytes, as the next.
    threads: BTreeSet<&'a str>,
    /// Those with one, and their epoch.
    held: BTreeMap<&'a str, i64>,
    /// With the thread.
    events: Vec<(&'a str, &'a EventRow)>,
    checkpoints: Vec<&'a NewRawCheckpoint>,
    blobs: Vec<(&'a CheckpointKey, &'a RawValue)>,
    first_writes: Vec<WriteRow<'a>>,
    last_writes: Vec<WriteRow<'a>>,
}

struct WriteRow<'a> {
    of: &'a NewWrites,
    index: i32,
    write: &'a ChannelWrite,
}

impl<'a> Rows<'a> {
    pub(super) fn of(writes: impl IntoIterator<Item = &'a Write>) -> Self {
        let mut rows = Self::default();
        for write in writes {
            let thread = write.key().thread_id.as_str();
            match &write.fenced {
                None => drop(rows.threads.insert(thread)),
                Some(fenced) => {
                    rows.held.insert(thread, fenced.epoch);
                    let events = fenced.events.iter();
                    rows.events.extend(events.map(|events| (thread, events)));
                }
            }
            match &write.new {
                New::Checkpoint(new) => {
                    rows.checkpoints.push(new);
                    let values = new.values.iter();
                    rows.blobs.extend(values.map(|value| (&new.key, value)));
                }
                New::Writes(new) => {
                    let own = new.rows().into_iter();
                    let own = own.map(|(index, write)| WriteRow {
                        of: new,
                        index,
                        write,
                    });
                    if new.replaces() {
                        rows.last_writes.extend(own);
                    } else {
                        rows.first_writes.extend(own);
                    }
                }
            }
        }
        rows
    }
}
