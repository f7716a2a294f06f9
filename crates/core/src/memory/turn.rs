use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Access, State,
    repository::{add, check},
};
use crate::{
    ConversationId, Entity, Error, Fence, MessageId, PutOptions, Result, Turn, TurnId, TurnStatus,
    TurnStore,
    conversation::InConversation,
    turn::{
        Announcements, EventBatch, LatestBatches, OwnerId, Place, TurnBegin, TurnChange, TurnStep,
    },
};

pub(super) struct MemoryTurns(pub(super) Access);

impl Turn {
    /// Where its position is kept.
    fn place(&self) -> InConversation<Uuid> {
        self.conversation_id.key(self.id.0)
    }
}

impl State {
    fn lease_has_ended(&self, turn: &Turn) -> bool {
        let renewed_at = self.renewed_at[&turn.id()];
        turn.lease_owner.is_none() || renewed_at.is_none_or(|time| time.elapsed() >= turn.lease)
    }

    /// Whether a turn that waits is the next of its conversation.
    pub(super) fn is_next(&self, turn: &Turn) -> bool {
        let position = |turn: &Turn| self.positions.get(&turn.place());
        let mut others = self.turns.values();
        !others.any(|other| {
            other.conversation_id == turn.conversation_id
                && match other.status {
                    TurnStatus::Running | TurnStatus::Waiting => true,
                    TurnStatus::Queued => position(other) < position(turn),
                    _ => false,
                }
        })
    }

    pub(super) fn take(&mut self, seen: &Turn, owner: OwnerId, lease: Duration) -> Option<Turn> {
        let stored = self.turns.get(&seen.id())?;
        let may_take = stored.status == TurnStatus::Running
            && stored.epoch == seen.epoch
            && (stored.lease_owner == Some(owner) || self.lease_has_ended(stored));
        let mut turn = stored.clone();
        turn.attempt += u32::from(turn.lease_owner.is_some());
        turn.epoch += 1;
        turn.lease_owner = Some(owner);
        turn.lease = lease;
        turn.touch(self.now());
        may_take.then(|| {
            self.store_turn(&turn);
            turn
        })
    }

    /// The turns that wait for somebody, of those that were opened or of the others.
    pub(super) fn due(&self, is_opened: bool, limit: u64) -> Vec<Turn> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let is_due = |turn: &&Turn| match turn.status {
            _ if self.opened.contains_key(&turn.id()) != is_opened => false,
            TurnStatus::Running => self.lease_has_ended(turn),
            TurnStatus::Queued => self.is_next(turn),
            _ => false,
        };
        let mut due: Vec<_> = self.turns.values().filter(is_due).collect();
        due.sort_by_key(|turn| self.positions.get(&turn.place()));
        due.into_iter().take(limit).cloned().collect()
    }

    fn store_turn(&mut self, turn: &Turn) {
        self.turns.insert(turn.id(), turn.clone());
        self.renewed_at.insert(turn.id(), Some(Instant::now()));
    }

    pub(super) fn replace_turn(&mut self, seen: &Turn, mut next: Turn) -> Result<Turn> {
        next.validate()?;
        let stored = self.turns.get(&seen.id());
        let as_seen = |turn: &Turn| (turn.status, turn.epoch) == (seen.status, seen.epoch);
        if !stored.is_some_and(as_seen) {
            return Err(Error::Conflict(Turn::conflict(&seen.id())));
        }
        check(self, &next)?;
        next.touch(self.now());
        self.store_turn(&next);
        Ok(next)
    }

    /// Adds a batch, unless exactly this one is there.
    fn append_once(&mut self, batch: EventBatch) -> Result<()> {
        batch.validate()?;
        if self.has_batch(&batch) {
            return Ok(());
        }
        self.append(batch)
    }

    fn begin_turn(&mut self, begin: TurnBegin) -> Result<Turn> {
        let TurnBegin {
            turn,
            mut message,
            place,
            key,
            queued,
            checkpoint,
            events,
        } = begin;
        let raise = Fence::Raise(turn.epoch);
        // One that has waited may have been left on another branch.
        message.is_chosen = true;
        message.validate()?;
        turn.validate()?;
        self.checkpoints.put_asking(checkpoint, raise.into())?;
        if let Some(key) = key {
            add(self, &key)?;
        }
        let turn = match queued {
            Some(queued) => {
                self.messages.remove(&message.id());
                self.replace_turn(&queued, turn)?
            }
            None => {
                add(self, &turn)?;
                turn
            }
        };
        match place {
            Place::Last => add(self, &message)?,
            Place::Behind(parent) => {
                self.choose(message.conversation_id, parent)?;
                add(self, &message)?;
            }
            Place::Stored => self.choose(message.conversation_id, Some(message.id))?,
        }
        self.append_once(events)?;
        Ok(turn)
    }

    fn choose(&mut self, conversation: ConversationId, last: Option<MessageId>) -> Result<()> {
        let mut chosen = BTreeSet::new();
        let mut next = last;
        while let Some(id) = next {
            let message = self.messages.get(&conversation.key(id));
            let message = message.ok_or_else(|| Error::not_found("message", id))?;
            if message.is_chosen {
                // So is all before it, whether it names it or not.
                let position = |key: &InConversation<MessageId>| {
                    let key = key.conversation_id.key(key.id.0);
                    self.positions.get(&key).copied()
                };
                let until = position(&message.id());
                let before = self.messages.values().filter(|other| {
                    let is_here = other.conversation_id == conversation && other.is_chosen;
                    is_here && position(&other.id()) <= until
                });
                chosen.extend(before.map(|other| other.id));
                break;
            }
            chosen.insert(id);
            next = message.parent_id;
        }
        let of_conversation = self.messages.values_mut();
        for message in of_conversation.filter(|other| other.conversation_id == conversation) {
            message.is_chosen = chosen.contains(&message.id);
        }
        Ok(())
    }

    fn change_turn(&mut self, change: TurnChange) -> Result<Turn> {
        let may_repeat = change.checkpoint.is_some();
        if let Some(key) = change.key {
            add(self, &key)?;
        }
        if let Some((checkpoint, fence)) = change.checkpoint {
            self.checkpoints.put_asking(checkpoint, fence.into())?;
        }
        if let Some((writes, mut fence)) = change.writes {
            for writes in &writes {
                self.checkpoints.put_writes_asking(writes, Some(fence))?;
                fence = Fence::Hold(fence.epoch());
            }
        }
        if let Some(answer) = change.answer {
            answer.validate()?;
            add(self, &answer)?;
        }
        let turn = self.replace_turn(&change.seen, change.next)?;
        match change.events {
            Some(events) if may_repeat => self.append_once(events)?,
            Some(events) => self.append(events)?,
            None => {}
        }
        Ok(turn)
    }
}

impl MemoryTurns {
    /// Where `write` fails, nothing is changed.
    pub(super) async fn whole<R>(&self, write: impl FnOnce(&mut State) -> Result<R>) -> Result<R> {
        let all_or_nothing = |state: &mut State| {
            let mut changed = state.clone();
            let written = write(&mut changed)?;
            *state = changed;
            Ok(written)
        };
        self.0.write(all_or_nothing).await
    }
}

#[async_trait]
impl TurnStore for MemoryTurns {
    async fn begin(&self, begin: TurnBegin) -> Result<Turn> {
        self.whole(|state| state.begin_turn(begin)).await
    }

    async fn choose(&self, conversation_id: ConversationId, last: Option<MessageId>) -> Result<()> {
        self.whole(|state| state.choose(conversation_id, last))
            .await
    }

    async fn step(&self, step: TurnStep) -> Result<()> {
        let hold = PutOptions::from(Fence::Hold(step.epoch));
        let stepped = |state: &mut State| {
            state.checkpoints.put_asking(step.checkpoint, hold)?;
            state.append_once(step.events)
        };
        self.whole(stepped).await
    }

    async fn change(&self, change: TurnChange) -> Result<Turn> {
        self.whole(|state| state.change_turn(change)).await
    }

    async fn take(&self, seen: &Turn, owner: OwnerId, lease: Duration) -> Result<Option<Turn>> {
        let taken = |state: &mut State| {
            let is_opened = state.opened.contains_key(&seen.id());
            (!is_opened)
                .then(|| state.take(seen, owner, lease))
                .flatten()
        };
        Ok(self.0.write(taken).await)
    }

    async fn renew(&self, owner: OwnerId) -> Result<Vec<ConversationId>> {
        let renewed = |state: &mut State| {
            let running = state.turns.values().filter(|turn| {
                turn.status == TurnStatus::Running && turn.lease_owner == Some(owner)
            });
            let own: Vec<_> = running.map(Entity::id).collect();
            for turn in &own {
                state.renewed_at.insert(*turn, Some(Instant::now()));
            }
            own.into_iter().map(|turn| turn.conversation_id).collect()
        };
        Ok(self.0.write(renewed).await)
    }

    async fn due(&self, limit: u64) -> Result<Vec<Turn>> {
        Ok(self.0.read(|state| state.due(false, limit)))
    }

    async fn running(&self, owner: Option<&str>) -> Result<u64> {
        Ok(self.0.read(|state| {
            let is_of = |turn: &&Turn| {
                let conversation = state.conversations.get(&turn.conversation_id);
                let of = conversation.and_then(|conversation| conversation.owner.as_deref());
                turn.status == TurnStatus::Running && (owner.is_none() || of == owner)
            };
            state.turns.values().filter(is_of).count() as u64
        }))
    }

    async fn append(&self, batch: EventBatch) -> Result<()> {
        batch.validate()?;
        self.0.write(|state| state.append(batch)).await
    }

    async fn events(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
        after: u64,
        limit: u64,
    ) -> Result<Vec<EventBatch>> {
        let place = |sequence| (conversation_id, turn_id, sequence);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(self.0.read(|state| {
            let batches = state.events.range(place(0)..=place(u64::MAX));
            batches
                .filter(|((.., sequence), _)| *sequence > after)
                .take(limit)
                .map(|((.., sequence), (events, _))| {
                    EventBatch::new(conversation_id, turn_id, *sequence, events.clone())
                })
                .collect()
        }))
    }

    async fn latest_events(&self, turns: &[(ConversationId, TurnId)]) -> Result<LatestBatches> {
        Ok(self.0.read(|state| {
            let newest = |(conversation, turn): &(ConversationId, TurnId)| {
                let place = |sequence| (*conversation, *turn, sequence);
                let mut batches = state.events.range(place(0)..=place(u64::MAX));
                batches
                    .next_back()
                    .map(|((.., sequence), _)| (*turn, *sequence))
            };
            turns.iter().filter_map(newest).collect()
        }))
    }

    async fn forget_events(&self, age: Duration) -> Result<u64> {
        let delete = |state: &mut State| {
            let (turns, before) = (&state.turns, state.events.len());
            state
                .events
                .retain(|(conversation, turn, _), (_, stored_at)| {
                    let turn = turns.get(&conversation.key(*turn));
                    let has_ended = turn.is_none_or(|turn| turn.status.is_final());
                    let is_old = stored_at.elapsed() > age;
                    !(has_ended && is_old)
                });
            (before - state.events.len()) as u64
        };
        Ok(self.0.write(delete).await)
    }

    async fn forget_keys(&self, age: Duration) -> Result<u64> {
        let forgotten = |state: &mut State| {
            let keys = &mut state.idempotency_keys;
            let before = keys.len();
            keys.retain(|id, _| state.used_at[id].elapsed() < age);
            state.used_at.retain(|id, _| keys.contains_key(id));
            (before - keys.len()) as u64
        };
        Ok(self.0.write(forgotten).await)
    }

    /// There is no other process.
    async fn announce(&self, _latest: &LatestBatches) -> Result<()> {
        Ok(())
    }

    async fn announcements(&self) -> Result<Option<Box<dyn Announcements>>> {
        Ok(None)
    }
}
