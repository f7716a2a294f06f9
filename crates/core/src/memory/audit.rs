use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;

use super::{Access, State};
use crate::{
    Result,
    audit::{Act, AuditEntry, AuditLog, AuditQuery, SHORTEST_AGE},
};

pub(super) struct MemoryAudit(pub(super) Access);

impl State {
    pub(super) fn tell(&mut self, act: &Act) {
        let last = self.audit.last().map_or(0, |entry| entry.position);
        let (position, at, act) = (last + 1, self.now(), act.clone());
        self.audit.push(AuditEntry { position, at, act });
    }
}

#[async_trait]
impl AuditLog for MemoryAudit {
    async fn record(&self, act: &Act) -> Result<()> {
        self.0.write(|state| state.tell(act)).await;
        Ok(())
    }

    async fn list(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>> {
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let before = query.before.unwrap_or(i64::MAX);
        Ok(self.0.read(|state| {
            let entries = state.audit.iter().rev();
            let wanted = entries.filter(|entry| {
                entry.position < before
                    && (query.owner.is_none() || query.owner == entry.act.actor.owner)
            });
            wanted.take(limit).cloned().collect()
        }))
    }

    async fn expire(&self, age: Duration) -> Result<u64> {
        let age = TimeDelta::from_std(age.max(SHORTEST_AGE)).unwrap_or(TimeDelta::MAX);
        let expire = |state: &mut State| {
            let since = state.now().checked_sub_signed(age).unwrap_or_default();
            let before = state.audit.len();
            state.audit.retain(|entry| entry.at >= since);
            (before - state.audit.len()) as u64
        };
        Ok(self.0.write(expire).await)
    }
}
