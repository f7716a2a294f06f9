//! How many requests an owner may send.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock};

use super::{Caller, problem::Problem};

/// After so many requests those are forgotten who have all of theirs again.
const FORGET_EVERY: u32 = 10_000;

/// A bucket for each owner, or caller without one: it has the requests of a minute, and fills evenly.
pub(super) struct Rate {
    limiter: DefaultKeyedRateLimiter<String>,
    admitted: AtomicU32,
}

impl Rate {
    pub(super) fn per_minute(requests: NonZeroU32) -> Self {
        Self {
            limiter: RateLimiter::keyed(Quota::per_minute(requests)),
            admitted: AtomicU32::new(0),
        }
    }

    /// One more request, if there is one left.
    pub(super) fn admit(&self, caller: &Caller) -> Result<(), Problem> {
        let admitted = self.admitted.fetch_add(1, Ordering::Relaxed);
        if admitted.is_multiple_of(FORGET_EVERY) {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&caller.quota()).map_err(|until| {
            let wait = until.wait_time_from(self.limiter.clock().now());
            let seconds = wait.as_secs_f64().ceil().max(1.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a minute at most"
            )]
            Problem::too_many_requests(seconds as u32)
        })
    }
}
