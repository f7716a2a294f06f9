use std::time::Duration;

use async_trait::async_trait;

use super::{
    Access, State,
    repository::{add, check},
    turn::MemoryTurns,
};
use crate::{
    Conversation, ConversationId, Entity, Error, Fence, Result, ThreadId, Turn, TurnId, TurnStatus,
    turn::{DueTurn, Opened, OwnerId, TurnClosing, TurnLedger, TurnOpening, TurnOwner, TurnRecord},
};

pub(super) struct MemoryLedger(pub(super) Access);

impl State {
    fn has_unfinished(&self, conversation: ConversationId) -> bool {
        let mut turns = self.turns.values();
        turns.any(|turn| turn.conversation_id == conversation && !turn.status.is_final())
    }

    /// The conversation whose id is that of the thread exists from now on.
    fn conversation_of(&mut self, opening: &TurnOpening) -> Result<()> {
        let id = opening.turn.conversation_id;
        if self.conversations.contains_key(&id) || id.to_string() != opening.thread_id.as_str() {
            return Ok(());
        }
        let conversation = Conversation::with_id(id, self.now());
        // Another one may have the thread.
        check(self, &conversation).map_err(|_| Error::not_found("conversation", id))?;
        add(self, &conversation)
    }

    fn store_opening(&mut self, opening: &TurnOpening) -> Result<()> {
        let turn = &opening.turn;
        self.conversation_of(opening)?;
        if let Some(key) = &opening.key {
            add(self, key)?;
        }
        add(self, turn)?;
        if let Some(message) = &opening.message {
            add(self, message)?;
        }
        self.opened.insert(turn.id(), opening.thread_id.clone());
        for record in &opening.records {
            self.note(turn, record);
        }
        Ok(())
    }

    fn note(&mut self, turn: &Turn, record: &TurnRecord) {
        let key = (turn.conversation_id, turn.id, record.name.clone());
        let stored = self.records.entry(key).or_default();
        if stored.is_none() {
            stored.clone_from(&record.value);
        }
    }

    fn record(&mut self, owner: &TurnOwner, record: TurnRecord) -> Result<Option<TurnRecord>> {
        let held = Some(Fence::Hold(owner.epoch));
        self.checkpoints.check(&owner.thread_id, held)?;
        let key = (owner.conversation_id, owner.turn_id, record.name.clone());
        let before = self.records.get(&key).cloned();
        if !matches!(before, Some(Some(_))) {
            self.records.insert(key, record.value);
        }
        Ok(before.map(|value| TurnRecord {
            name: record.name,
            value,
        }))
    }
}

impl MemoryLedger {
    fn turns(&self) -> MemoryTurns {
        MemoryTurns(self.0.clone())
    }
}

#[async_trait]
impl TurnLedger for MemoryLedger {
    async fn open(&self, mut opening: TurnOpening) -> Result<Opened> {
        opening.validate()?;
        let open = |state: &mut State| {
            if state.has_unfinished(opening.turn.conversation_id) {
                return Ok(Opened::Busy);
            }
            opening.turn.epoch = state.checkpoints.raise_by_one(&opening.thread_id);
            state.store_opening(&opening)?;
            Ok(Opened::Turn(Box::new(opening.turn)))
        };
        self.turns().whole(open).await
    }

    async fn enqueue(&self, opening: TurnOpening) -> Result<Turn> {
        opening.validate()?;
        let enqueue = |state: &mut State| {
            state.store_opening(&opening)?;
            Ok(opening.turn)
        };
        self.turns().whole(enqueue).await
    }

    async fn begin_opened(&self, thread_id: &ThreadId, mut next: Turn) -> Result<Option<Turn>> {
        next.validate()?;
        let begin = |state: &mut State| {
            let stored = state.turns.get(&next.id());
            let queued = stored.filter(|turn| turn.status == TurnStatus::Queued);
            let Some(queued) = queued.filter(|turn| state.is_next(turn)).cloned() else {
                return Ok(None);
            };
            next.epoch = state.checkpoints.raise_by_one(thread_id);
            state.replace_turn(&queued, next).map(Some)
        };
        self.turns().whole(begin).await
    }

    async fn take_opened(
        &self,
        seen: &Turn,
        owner: OwnerId,
        lease: Duration,
    ) -> Result<Option<Turn>> {
        let take = |state: &mut State| {
            let is_opened = state.opened.contains_key(&seen.id());
            is_opened.then(|| state.take(seen, owner, lease)).flatten()
        };
        Ok(self.0.write(take).await)
    }

    async fn close(&self, closing: TurnClosing) -> Result<Turn> {
        closing.validate()?;
        let close = |state: &mut State| {
            let turn = state.replace_turn(&closing.seen, closing.next)?;
            for message in &closing.messages {
                add(state, message)?;
            }
            for record in &closing.records {
                state.note(&turn, record);
            }
            Ok(turn)
        };
        self.turns().whole(close).await
    }

    async fn record(&self, owner: &TurnOwner, record: TurnRecord) -> Result<Option<TurnRecord>> {
        record.validate()?;
        let noted = |state: &mut State| state.record(owner, record);
        self.turns().whole(noted).await
    }

    async fn records(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
    ) -> Result<Vec<TurnRecord>> {
        Ok(self.0.read(|state| {
            let first = (conversation_id, turn_id, String::new());
            let records = state.records.range(first..);
            records
                .take_while(|((conversation, turn, _), _)| {
                    (*conversation, *turn) == (conversation_id, turn_id)
                })
                .map(|((.., name), value)| TurnRecord {
                    name: name.clone(),
                    value: value.clone(),
                })
                .collect()
        }))
    }

    async fn due_opened(&self, limit: u64) -> Result<Vec<DueTurn>> {
        let due = |state: &State| {
            let due = state.due(true, limit).into_iter();
            due.map(|turn| DueTurn {
                thread_id: state.opened[&turn.id()].clone(),
                turn,
            })
            .collect()
        };
        Ok(self.0.read(due))
    }
}
