use std::{fmt, sync::Arc};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

/// Says what time it is: passed to an engine and to a storage, which stamp by it what they store.
///
/// It decides nothing that another process must agree on. Order, leases and what is old go by the
/// storage's own clock, deadlines in a process by a monotonic one, so that a clock may be wrong, and
/// may jump.
///
/// ```
/// use yai_agentkit_core::{Clock, memory::MemoryStorage};
///
/// let midnight = "2026-01-01T00:00:00Z".parse().unwrap();
/// let stopped = Clock::new(move || midnight);
/// assert_eq!(stopped.now(), midnight);
/// let storage = MemoryStorage::default().with_clock(stopped);
/// ```
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl Clock {
    /// A clock that shows what `read` returns.
    pub fn new(read: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The present, to the microsecond: what both databases keep of a time.
    pub fn now(&self) -> DateTime<Utc> {
        self.0().trunc_subsecs(6)
    }
}

impl Default for Clock {
    /// The clock of the system.
    fn default() -> Self {
        Self::new(Utc::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// The time of the system, for values that an application makes before anything has a [`Clock`].
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// `now`, or the first time behind `before` where the clock has not got there yet.
pub(crate) fn later(now: DateTime<Utc>, before: DateTime<Utc>) -> DateTime<Utc> {
    now.max(before.trunc_subsecs(6) + TimeDelta::microseconds(1))
}
