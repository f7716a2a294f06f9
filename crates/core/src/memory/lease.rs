use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Access, State, repository::check};
use crate::{ConversationId, Entity, Error, Leases, OwnerId, Result, Turn, TurnStatus, now};

pub(super) struct MemoryLeases(pub(super) Access);

fn has_ended(state: &State, turn: &Turn) -> bool {
    let renewed_at = state.renewed_at[&turn.id];
    turn.lease_owner.is_none() || renewed_at.is_none_or(|time| time.elapsed() >= turn.lease)
}

/// Whether a turn that waits is the next of its conversation.
fn is_next(state: &State, turn: &Turn) -> bool {
    let position = |turn: &Turn| state.positions.get(&turn.id.0);
    let mut others = state.turns.values();
    !others.any(|other| {
        other.conversation_id == turn.conversation_id
            && match other.status {
                TurnStatus::Running | TurnStatus::Waiting => true,
                TurnStatus::Queued => position(other) < position(turn),
                _ => false,
            }
    })
}

fn store(state: &mut State, turn: &Turn) {
    state.turns.insert(turn.id, turn.clone());
    state.renewed_at.insert(turn.id, Some(Instant::now()));
}

pub(super) fn replace(state: &mut State, seen: &Turn, next: &mut Turn) -> Result<()> {
    let stored = state.turns.get(&seen.id);
    let as_seen = |turn: &Turn| (turn.status, turn.epoch) == (seen.status, seen.epoch);
    if !stored.is_some_and(as_seen) {
        return Err(Error::Conflict(Turn::conflict(&seen.id)));
    }
    check(state, next)?;
    next.touch(now());
    store(state, next);
    Ok(())
}

#[async_trait]
impl Leases for MemoryLeases {
    async fn replace(&self, seen: &Turn, mut next: Turn) -> Result<Turn> {
        next.validate()?;
        let replaced = |state: &mut State| {
            replace(state, seen, &mut next)?;
            Ok(next)
        };
        self.0.write(replaced).await
    }

    async fn take(&self, seen: &Turn, owner: OwnerId, lease: Duration) -> Result<Option<Turn>> {
        let taken = |state: &mut State| {
            let stored = state.turns.get(&seen.id)?;
            let may_take = stored.status == TurnStatus::Running
                && stored.epoch == seen.epoch
                && (stored.lease_owner == Some(owner) || has_ended(state, stored));
            let mut turn = stored.clone();
            turn.attempt += u32::from(turn.lease_owner.is_some());
            turn.epoch += 1;
            turn.lease_owner = Some(owner);
            turn.lease = lease;
            turn.touch(now());
            may_take.then(|| {
                store(state, &turn);
                turn
            })
        };
        Ok(self.0.write(taken).await)
    }

    async fn renew(&self, owner: OwnerId) -> Result<Vec<ConversationId>> {
        let renewed = |state: &mut State| {
            let turns = state.turns.values();
            let own = turns.filter(|turn| {
                turn.status == TurnStatus::Running && turn.lease_owner == Some(owner)
            });
            let own: Vec<_> = own.map(|turn| (turn.id, turn.conversation_id)).collect();
            for (id, _) in &own {
                state.renewed_at.insert(*id, Some(Instant::now()));
            }
            own.into_iter()
                .map(|(_, conversation)| conversation)
                .collect()
        };
        Ok(self.0.write(renewed).await)
    }

    async fn due(&self, limit: u64) -> Result<Vec<Turn>> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(self.0.read(|state| {
            let is_due = |turn: &&Turn| match turn.status {
                TurnStatus::Running => has_ended(state, turn),
                TurnStatus::Queued => is_next(state, turn),
                _ => false,
            };
            let mut due: Vec<_> = state.turns.values().filter(is_due).collect();
            due.sort_by_key(|turn| state.positions.get(&turn.id.0));
            due.into_iter().take(limit).cloned().collect()
        }))
    }
}
