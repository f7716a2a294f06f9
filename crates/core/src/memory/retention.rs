use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use tokio::time::Instant;

use super::{Access, State};
use crate::{
    ConflictKind, Conversation, ConversationId, Error, MessageId, Result, Value,
    audit::Act,
    memory::repository::MemoryEntity,
    redaction::Redaction,
    retention::{Removed, RetentionPolicy, RetentionStore, Sweep, Swept},
    turn::{OwnerId, TurnStatus},
};

pub(super) struct MemoryRetention(pub(super) Access);

impl State {
    fn idle(&self, conversation: &Conversation) -> Duration {
        let messages = self.messages.values();
        let said = messages.filter(|message| message.conversation_id == conversation.id);
        let last = said.map(|message| message.created_at).max();
        let last = last.max(self.checkpoints.updated_at(&conversation.thread_id()));
        let last = last.max(Some(conversation.updated_at));
        let idle = last.map(|last| self.now() - last);
        idle.and_then(|idle| idle.to_std().ok()).unwrap_or_default()
    }

    fn waits(&self, id: ConversationId) -> bool {
        let mut turns = self.turns.values();
        turns.any(|turn| turn.conversation_id == id && !turn.status.is_final())
    }

    fn erase(&mut self, id: ConversationId) -> bool {
        let Some(conversation) = self.conversations.remove(&id) else {
            return false;
        };
        let mut turns = self.turns.values();
        let runs =
            turns.any(|turn| turn.conversation_id == id && turn.status == TurnStatus::Running);
        let thread = conversation.thread_id();
        match runs {
            true => self.checkpoints.leave_epoch(&thread),
            false => self.checkpoints.delete_thread(&thread),
        }
        self.idempotency_keys
            .retain(|key, _| key.conversation_id != id);
        self.used_at.retain(|key, _| key.conversation_id != id);
        Conversation::cascade(self, &id);
        true
    }

    fn redact(&mut self, conversation: ConversationId, message: MessageId) -> Result<bool> {
        let of_it = |id: ConversationId| id == conversation;
        let Some(chat) = self.conversations.get(&conversation) else {
            return Ok(false);
        };
        let thread = chat.thread_id();
        let mut turns = self
            .turns
            .values()
            .filter(|turn| of_it(turn.conversation_id));
        if let Some(running) = turns.find(|turn| turn.status == TurnStatus::Running) {
            return Err(Error::Conflict(ConflictKind::Turn(running.id)));
        }
        let Some(said) = self.messages.get_mut(&conversation.key(message)) else {
            return Ok(false);
        };
        let redaction = Redaction::of(said);
        said.redact();
        for ((id, ..), (events, _)) in &mut self.events {
            if of_it(*id) {
                events.iter_mut().for_each(|event| {
                    redaction.json("", event);
                });
            }
        }
        for ((id, _, name), value) in &mut self.records {
            if of_it(*id)
                && let Some(value) = value
            {
                redacted(&redaction, name, value)?;
            }
        }
        for turn in self.turns.values_mut() {
            if of_it(turn.conversation_id) {
                if let Some(input) = &mut turn.input {
                    redaction.json("", input);
                }
                if let Some(interrupt) = &mut turn.interrupt {
                    let mut json = serde_json::json!(interrupt);
                    redaction.json("", &mut json);
                    *interrupt = serde_json::from_value(json).expect("it has the same fields");
                }
                let error = turn.error.as_deref();
                if let Some(error) = error.and_then(|error| redaction.text(error)) {
                    turn.error = Some(error);
                }
            }
        }
        self.checkpoints.redact(&thread, &redaction)?;
        Ok(true)
    }

    fn sweep_one(&mut self, conversation: &Conversation, policy: &RetentionPolicy) -> Removed {
        let thread = conversation.thread_id();
        let (checkpoints, bytes) = self.checkpoints.size(&thread);
        let expires = policy.expires(self.idle(conversation), self.waits(conversation.id));
        if expires {
            self.erase(conversation.id);
        } else if let Some(age) = policy.checkpoint_age {
            let age = TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
            let since = self.now().checked_sub_signed(age).unwrap_or_default();
            let retention = self.checkpoints.retention(&thread);
            let gone = retention.all_but_recent(policy.checkpoints, since);
            self.checkpoints.remove(&thread, &gone);
        }
        let (left, bytes_left) = self.checkpoints.size(&thread);
        Removed {
            conversations: expires.into(),
            checkpoints: checkpoints - left,
            bytes: bytes - bytes_left,
        }
    }
}

pub(super) fn redacted(redaction: &Redaction, key: &str, value: &mut Value) -> Result<()> {
    let redacted = redaction.value(key, value);
    let redacted = redacted.map_err(|error| Error::unreadable("a value of the chat", error))?;
    if let Some(redacted) = redacted {
        *value = redacted;
    }
    Ok(())
}

#[async_trait]
impl RetentionStore for MemoryRetention {
    async fn lead(&self, owner: OwnerId, lease: Duration) -> Result<bool> {
        let lead = |state: &mut State| {
            let now = Instant::now();
            let has_other = state
                .sweeper
                .is_some_and(|(other, until)| other != owner && until > now);
            if !has_other {
                state.sweeper = Some((owner, now + lease));
            }
            !has_other
        };
        Ok(self.0.write(lead).await)
    }

    async fn sweep(&self, policy: &RetentionPolicy, sweep: Sweep) -> Result<Swept> {
        let limit = usize::try_from(sweep.limit).unwrap_or(usize::MAX);
        let work = |state: &mut State| {
            let mut changed = state.clone();
            let rows = state.conversations.values();
            let behind = |row: &&Conversation| sweep.after.is_none_or(|after| row.id > after);
            let mut rows = rows.filter(behind);
            let mut swept = Swept::default();
            let mut last = None;
            for conversation in rows.by_ref().take(limit) {
                swept.removed += changed.sweep_one(conversation, policy);
                last = Some(conversation.id);
            }
            swept.next = rows.next().and(last);
            if !sweep.dry_run {
                *state = changed;
            }
            swept
        };
        Ok(self.0.write(work).await)
    }

    async fn erase(&self, conversation: ConversationId, told: Option<&Act>) -> Result<bool> {
        let erase = |state: &mut State| {
            let erased = state.erase(conversation);
            if erased {
                told.into_iter().for_each(|act| state.tell(act));
            }
            erased
        };
        Ok(self.0.write(erase).await)
    }

    async fn redact(
        &self,
        conversation: ConversationId,
        message: MessageId,
        told: Option<&Act>,
    ) -> Result<bool> {
        let redact = |state: &mut State| {
            let mut changed = state.clone();
            let done = changed.redact(conversation, message);
            if let Ok(true) = done {
                told.into_iter().for_each(|act| changed.tell(act));
                *state = changed;
            }
            done
        };
        self.0.write(redact).await
    }
}
