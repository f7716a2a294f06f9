//! What each use of a [`Coalescer`](super::Coalescer) does, in one place.
//!
//! | | checkpoints and writes | rows that are added | rows that are read by id |
//! | --- | --- | --- | --- |
//! | one after the other | those of a thread | none | none |
//! | go together | any threads; on Citus one | rows of an entity | ids of an entity |
//! | most at once | 256 calls, 4 MiB | 64, a power of two | 64 |
//! | groups under way | 4; on SQLite 1, on Citus 16 | 4 | 4 |
//! | the next sets out | when as many wait, or after 5 ms | after 5 ms | after 5 ms |
//! | each is run alone | after any error of the statement | after any error of the statement | where a row can't be read |
//!
//! On SQLite turns that begin or change go together as well: 64, one group at a time, and never again.

use std::time::Duration;

use sea_orm::DbErr;

use crate::{
    connection::Connection,
    error::{is_transient, is_unreadable, is_without_connection},
};

#[derive(Clone)]
pub(crate) struct Policy {
    /// The largest group: what is behind it in the queue waits for all of it.
    pub(super) most_calls: usize,
    pub(super) most_bytes: usize,
    /// Whether a group takes a power of two of calls, so that there are few statements to be
    /// prepared. Who is left goes with the next: a statement for each rest would be a commit for each.
    pub(super) powers_of_two: bool,
    /// Whether a group is of one key.
    pub(super) one_key: bool,
    /// How many groups are under way at once, where the first take their time.
    pub(super) most_groups: u32,
    pub(super) sets_out: SetsOut,
    /// How long a call waits for its group, and then for its answer.
    pub(super) patience: Duration,
    /// Whether each call of a group that failed so is run alone, since none has been done.
    pub(super) alone_after: fn(&DbErr) -> bool,
}

/// When a group sets out although others are under way. Fewer and larger groups cost less, but one
/// that waits, for the network or for a thread that somebody holds, must not keep the others.
#[derive(Clone, Copy)]
pub(super) enum SetsOut {
    AtOnce,
    /// Where those under way have been so for [`HEADWAY`].
    AfterHeadway,
    /// Also beside a single one when as many calls wait as that has: two groups of one size take
    /// turns at the database and at those who wait for them.
    AsLarge,
}

pub(super) const HEADWAY: Duration = Duration::from_millis(5);

impl Policy {
    /// Of checkpoints and pending writes.
    pub(crate) fn of_writes(connection: &Connection, patience: Duration) -> Self {
        // On Citus, groups of several threads would meet on all of its servers.
        let is_distributed = connection.is_distributed();
        let (most_groups, sets_out) = match connection {
            _ if is_distributed => (16, SetsOut::AtOnce),
            Connection::Postgres(_) => (4, SetsOut::AsLarge),
            // It has one writer.
            Connection::Sqlite(_) => (1, SetsOut::AsLarge),
        };
        Self {
            most_calls: 256,
            most_bytes: 4 << 20,
            powers_of_two: false,
            one_key: is_distributed,
            most_groups,
            sets_out,
            patience,
            alone_after: |error| !is_without_connection(error),
        }
    }

    /// Of rows that are added, each as if alone.
    pub(crate) fn of_adds(patience: Duration) -> Self {
        Self {
            powers_of_two: true,
            alone_after: |error| !is_transient(error),
            ..Self::of_reads(patience)
        }
    }

    /// Of turns that begin or change, on SQLite: what its commit has come to may be unknown.
    pub(crate) fn of_turns(patience: Duration) -> Self {
        Self {
            most_groups: 1,
            sets_out: SetsOut::AtOnce,
            alone_after: |_| false,
            ..Self::of_reads(patience)
        }
    }

    /// Of rows that are read by their id.
    pub(crate) fn of_reads(patience: Duration) -> Self {
        Self {
            most_calls: 64,
            most_bytes: usize::MAX,
            powers_of_two: false,
            one_key: false,
            most_groups: 4,
            sets_out: SetsOut::AfterHeadway,
            patience,
            alone_after: is_unreadable,
        }
    }
}
