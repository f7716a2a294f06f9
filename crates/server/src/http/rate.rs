//! How much an owner may ask for, and a tenant.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
};

use axum::http::Method;
use governor::{DefaultKeyedRateLimiter, RateLimiter, clock::Clock};
use yai_agentkit_core::Storage;

use super::{Caller, caller::Refusal, problem::Problem};

/// After so many requests those are forgotten who have all of theirs again.
const FORGET_EVERY: u32 = 10_000;

/// What may be asked for; without a number as much as one likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// How many requests may come in a minute, to each server.
    pub requests_per_minute: Option<NonZeroU32>,
    /// How many turns may run at once, on all servers.
    pub turns_at_once: Option<NonZeroU32>,
}

/// Keeps callers within their quotas.
pub(super) struct Quotas {
    /// Of an owner, or a caller without one.
    owner: Counted,
    /// Of all of a tenant.
    tenant: Counted,
}

struct Counted {
    quota: Quota,
    requests: Option<Rate>,
}

impl Quotas {
    pub(super) fn new(owner: Quota, tenant: Quota) -> Self {
        let counted = |quota: Quota| Counted {
            requests: quota.requests_per_minute.map(Rate::per_minute),
            quota,
        };
        Self {
            owner: counted(owner),
            tenant: counted(tenant),
        }
    }

    /// One more request, if there is one left.
    pub(super) fn admit(&self, caller: &Caller) -> Result<(), Problem> {
        if let Some(rate) = &self.owner.requests {
            let detail =
                "the owner has sent as many requests as AGENTKIT_REQUESTS_PER_MINUTE allows";
            rate.admit(caller.quota(), detail)?;
        }
        if let Some(rate) = &self.tenant.requests {
            let detail = "all of the tenant have sent as many requests as \
                          AGENTKIT_TENANT_REQUESTS_PER_MINUTE allows";
            rate.admit(caller.tenant().unwrap_or_default().to_owned(), detail)?;
        }
        Ok(())
    }

    /// A request that may begin a turn, if one more may run. Those that come at the same moment see
    /// the same turns.
    pub(super) async fn admit_turn(
        &self,
        caller: &Caller,
        storage: &dyn Storage,
    ) -> Result<(), Refusal> {
        let owner = caller.owner();
        let of_owner = self.owner.quota.turns_at_once.filter(|_| owner.is_some());
        let turns = storage.turn_store();
        if let Some(most) = of_owner
            && turns.running(owner.as_deref()).await? >= most.get().into()
        {
            let detail = "as many turns of the owner run as AGENTKIT_TURNS_AT_ONCE allows";
            return Err(Problem::too_many_turns(detail).into());
        }
        if let Some(most) = self.tenant.quota.turns_at_once
            && turns.running(None).await? >= most.get().into()
        {
            let detail = "as many turns of the tenant run as AGENTKIT_TENANT_TURNS_AT_ONCE allows";
            return Err(Problem::too_many_turns(detail).into());
        }
        Ok(())
    }
}

/// Whether the request may begin a turn.
pub(super) fn begins_turn(method: &Method, route: &str) -> bool {
    *method == Method::POST
        && matches!(
            route,
            "/chats/{chat_id}/messages" | "/chats/{chat_id}/regenerate" | "/agui" | "/agui/{agent}"
        )
}

/// A bucket for each: it has the requests of a minute, and fills evenly.
struct Rate {
    limiter: DefaultKeyedRateLimiter<String>,
    admitted: AtomicU32,
}

impl Rate {
    fn per_minute(requests: NonZeroU32) -> Self {
        Self {
            limiter: RateLimiter::keyed(governor::Quota::per_minute(requests)),
            admitted: AtomicU32::new(0),
        }
    }

    fn admit(&self, who: String, detail: &'static str) -> Result<(), Problem> {
        let admitted = self.admitted.fetch_add(1, Ordering::Relaxed);
        if admitted.is_multiple_of(FORGET_EVERY) {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&who).map_err(|until| {
            let wait = until.wait_time_from(self.limiter.clock().now());
            let seconds = wait.as_secs_f64().ceil().max(1.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a minute at most"
            )]
            Problem::too_many_requests(seconds as u32, detail)
        })
    }
}
