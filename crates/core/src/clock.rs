use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

/// The present, to the microsecond: what both databases keep of a time.
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// `now`, or the first time behind `before` where the clock has not got there yet.
pub(crate) fn later(now: DateTime<Utc>, before: DateTime<Utc>) -> DateTime<Utc> {
    now.max(before.trunc_subsecs(6) + TimeDelta::microseconds(1))
}
