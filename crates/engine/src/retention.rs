//! Deleting what is not kept any more, beside the turns: a little at a time, on one server.

use std::time::{Duration, Instant};

use yai_agentkit_core::{
    Result,
    audit::{Action, Actor},
    retention::{Removed, RetentionPolicy, Sweep},
};

use super::TurnEngine;
use crate::error_chain;

/// How often one begins with the first conversation.
const ROUND: Duration = Duration::from_secs(3600);

/// How long nobody else sweeps, once one has begun to look at some conversations.
const LEASE: Duration = Duration::from_secs(120);

/// How many conversations are looked at at once.
const AT_ONCE: u64 = 100;

/// So many times as long as one has worked one rests.
const REST: u32 = 4;

impl TurnEngine {
    /// The same engine, which while it [keeps](Self::keep) deletes what `policy` does not keep.
    #[must_use]
    pub fn with_retention(self, policy: RetentionPolicy) -> Self {
        Self {
            retention: policy,
            ..self
        }
    }

    pub(super) async fn keep_deleting(&self) {
        if self.retention.keeps_all() {
            return std::future::pending().await;
        }
        let mut rounds = tokio::time::interval(ROUND);
        loop {
            rounds.tick().await;
            let begun = Instant::now();
            match self.sweep().await {
                Ok(removed) if removed != Removed::default() => tracing::info!(
                    conversations = removed.conversations,
                    checkpoints = removed.checkpoints,
                    bytes = removed.bytes,
                    seconds = begun.elapsed().as_secs(),
                    "deleted what is not kept"
                ),
                Ok(_) => tracing::debug!("nothing to delete"),
                Err(error) => tracing::warn!(error = error_chain(&error), "not all deleted"),
            }
        }
    }

    /// Goes through all conversations once.
    async fn sweep(&self) -> Result<Removed> {
        let mut removed = Removed::default();
        match self.storage.tenants() {
            None => removed += self.sweep_own().await?,
            Some(tenants) => {
                for tenant in tenants.all().await? {
                    let engine = self.on(tenants.storage(&tenant)?);
                    removed += engine.sweep_own().await?;
                }
            }
        }
        if let Some(age) = self.retention.audit_age {
            self.storage.audit().expire(age).await?;
        }
        Ok(removed)
    }

    /// Goes through those of one storage, unless another server does or has just done so.
    async fn sweep_own(&self) -> Result<Removed> {
        let store = self.storage.retention();
        let mut removed = Removed::default();
        let mut sweep = Sweep {
            after: None,
            limit: AT_ONCE,
            dry_run: false,
        };
        while store.lead(self.owner, LEASE).await? {
            let begun = Instant::now();
            let swept = store.sweep(&self.retention, sweep).await?;
            removed += swept.removed;
            if swept.next.is_none() {
                // The others rest as long as this one.
                store.lead(self.owner, ROUND).await?;
                break;
            }
            sweep.after = swept.next;
            tokio::time::sleep(begun.elapsed() * REST).await;
        }
        if removed != Removed::default() {
            let what = format!("{} conversations", removed.conversations);
            let act = Actor::new(format!("server {}", self.owner)).does(Action::Pruned, what);
            let act = act.counting(removed.checkpoints);
            self.storage.audit().record(&act).await?;
        }
        Ok(removed)
    }
}
