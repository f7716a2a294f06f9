//! Which of the calls that wait go next.

use std::{
    collections::{HashSet, VecDeque},
    time::Instant,
};

use super::{
    Call, Done,
    policy::{HEADWAY, Policy, SetsOut},
};
use crate::error::from_sqlx;

pub(super) struct Queue<C: Call> {
    pub(super) waiting: VecDeque<Waiting<C>>,
    /// The keys of calls that run.
    pub(super) running: HashSet<C::Key>,
    pub(super) under_way: Vec<UnderWay>,
    /// How many who have just run a group are about to look for the next.
    pub(super) looking: usize,
}

/// A group.
pub(super) struct UnderWay {
    since: Instant,
    calls: usize,
}

pub(super) struct Waiting<C: Call> {
    pub(super) call: C,
    pub(super) since: Instant,
    pub(super) done: Done<C>,
}

/// What is to be done now.
pub(super) enum Next<C: Call> {
    Group(Vec<Waiting<C>>),
    /// To wait for the group before.
    Later,
    Nothing,
}

impl<C: Call> Default for Queue<C> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            running: HashSet::new(),
            under_way: Vec::new(),
            looking: 0,
        }
    }
}

impl<C: Call> Queue<C> {
    /// Of a group that had begun then.
    pub(super) fn ended(&mut self, begun: Instant) {
        if let Some(group) = self.under_way.iter().position(|group| group.since == begun) {
            self.under_way.swap_remove(group);
        }
    }

    /// Whether those under way need not be waited for.
    pub(super) fn may_set_out(&self, policy: &Policy) -> bool {
        match (policy.sets_out, &self.under_way[..]) {
            (SetsOut::AtOnce, _) => true,
            (SetsOut::AsLarge, [only]) if self.waiting.len() >= only.calls => true,
            (_, all) => all.iter().all(|group| group.since.elapsed() >= HEADWAY),
        }
    }

    /// The next calls that go together: they are under way then, and their keys marked. Fails those
    /// that have waited too long.
    pub(super) fn take(&mut self, policy: &Policy, now: Instant) -> Next<C> {
        if !self.waiting.is_empty() && !self.may_set_out(policy) {
            return Next::Later;
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        let mut keys = HashSet::new();
        let mut left = Vec::new();
        let mut keys_left = HashSet::new();
        while group.len() < policy.most_calls
            && let Some(next) = self.waiting.pop_front()
        {
            if next.done.is_closed() {
                continue;
            }
            if next.since.elapsed() > policy.patience {
                let _ = next.done.send(Err(from_sqlx(sqlx::Error::PoolTimedOut)));
                continue;
            }
            let key = next.call.key();
            let in_order = key
                .as_ref()
                .is_none_or(|key| !self.running.contains(key) && !keys_left.contains(key));
            let fits = group.is_empty() || bytes + next.call.bytes() <= policy.most_bytes;
            let goes_along = match &key {
                Some(key) if keys.contains(key) => {
                    let mut of_key = group.iter().map(|other: &Waiting<C>| &other.call);
                    of_key.all(|other| {
                        other.key().as_ref() != Some(key) || other.goes_with(&next.call)
                    })
                }
                _ => group.is_empty() || !policy.one_key,
            };
            if in_order && fits && goes_along {
                bytes += next.call.bytes();
                keys.extend(key);
                group.push(next);
            } else {
                keys_left.extend(key);
                left.push(next);
            }
        }
        if policy.powers_of_two && !group.is_empty() {
            left.splice(0..0, group.split_off(1 << group.len().ilog2()));
        }
        for waiting in left.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
        if group.is_empty() {
            return Next::Nothing;
        }
        self.running.extend(keys);
        self.under_way.push(UnderWay {
            since: now,
            calls: group.len(),
        });
        Next::Group(group)
    }
}
