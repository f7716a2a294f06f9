use chrono::{DateTime, SubsecRound, Utc};

/// The present, to the microsecond: what both databases keep of a time.
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
