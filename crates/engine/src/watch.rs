use std::{collections::VecDeque, sync::Arc};

use futures::{Stream, stream};
use serde_json::Value as Json;
use yai_agentkit_core::{ConversationId, Result, Storage, TurnId, turn::EventBatch};

use super::{
    TurnEngine,
    event::{Published, TurnEvent},
    subscriptions::Subscription,
    told::read_events,
};

/// How many batches one who watches reads at once.
const PAGE: u64 = 32;

/// How many bytes of them it holds, or one batch.
const AHEAD: usize = 64 * 1024;

impl TurnEngine {
    /// The events of a turn with a greater sequence than `after`: those that are stored, then those
    /// to come, whoever runs the turn. Ends when the turn ends, waits for a person or is deleted,
    /// and when this engine stops. Who reads slowly holds nobody up: events are read when they are
    /// asked for.
    pub fn watch(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
        after: u64,
    ) -> impl Stream<Item = Result<Published>> + use<> {
        let watcher = Watcher {
            storage: Arc::clone(&self.storage),
            subscription: self.subscriptions.subscribe(conversation_id, turn_id),
            conversation_id,
            turn_id,
            read: after,
            batches: VecDeque::new(),
            page: PAGE,
            is_current: false,
            is_over: false,
            has_ended: false,
        };
        let stopping = self.clone();
        let events = stream::unfold(watcher, |mut watcher| async move {
            let batch = watcher.next().await.transpose()?;
            Some((batch, watcher))
        });
        futures::StreamExt::take_until(events, async move { stopping.stopped().await })
    }
}

struct Watcher {
    storage: Arc<dyn Storage>,
    subscription: Subscription,
    conversation_id: ConversationId,
    turn_id: TurnId,
    /// The last batch that was read.
    read: u64,
    /// Read, and not passed on.
    batches: VecDeque<EventBatch>,
    /// How many are read next.
    page: u64,
    /// Whether all was read that is known.
    is_current: bool,
    /// Whether the last event that was read ends the run.
    is_over: bool,
    /// Whether the turn was found to have ended.
    has_ended: bool,
}

impl Watcher {
    async fn next(&mut self) -> Result<Option<Published>> {
        loop {
            if let Some(batch) = self.batches.pop_front() {
                let read = read_events(&*self.storage, vec![batch]).await?;
                return Ok(read.into_iter().next());
            }
            if self.is_current {
                // Who notifies is as long there as this subscription.
                if self.is_over || self.subscription.progress.changed().await.is_err() {
                    return Ok(None);
                }
            }
            let (read, was_over) = (self.read, self.is_over);
            self.read_page().await?;
            let is_nothing_new = self.read == read && self.is_current && !was_over;
            if is_nothing_new && self.is_settled().await? {
                return Ok(None);
            }
        }
    }

    async fn read_page(&mut self) -> Result<()> {
        // What comes from here on is progress again.
        let latest = self.subscription.progress.borrow_and_update().latest;
        let (conversation, turn) = (self.conversation_id, self.turn_id);
        let turns = self.storage.turn_store();
        let page = turns.events(conversation, turn, self.read, self.page);
        let page = page.await?;
        let mut is_last = (page.len() as u64) < self.page;
        // About as many as fit, so that few are read twice.
        self.page = PAGE.min(2 * self.page);
        let mut bytes = 0;
        for batch in page {
            bytes += batch.events.iter().map(size).sum::<usize>();
            if bytes > AHEAD && !self.batches.is_empty() {
                // To be read again: it would be held for as long as the client reads nothing.
                is_last = false;
                self.page = 2 * self.batches.len() as u64;
                break;
            }
            self.read = batch.sequence;
            let last = batch.events.last().cloned();
            let last = TurnEvent::read(last.into_iter().collect(), None);
            self.is_over = last.last().is_some_and(TurnEvent::ends_run);
            self.batches.push_back(batch);
        }
        self.is_current = is_last && latest <= self.read;
        Ok(())
    }

    /// Whether nothing can come any more of a turn that has published nothing new: it has ended, or is
    /// gone.
    async fn is_settled(&mut self) -> Result<bool> {
        if self.has_ended {
            return Ok(true);
        }
        let id = self.conversation_id.key(self.turn_id);
        let turn = self.storage.turns().get(&id).await?;
        let Some(turn) = turn else {
            return Ok(true);
        };
        // Its end may have been stored since the page was read: the next page has it.
        self.has_ended = turn.status.is_final();
        self.is_current = !self.has_ended;
        Ok(false)
    }
}

/// About as many bytes as JSON has as text.
fn size(json: &Json) -> usize {
    match json {
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(size).sum(),
        Json::Object(fields) => fields
            .iter()
            .map(|(name, value)| name.len() + size(value))
            .sum(),
        Json::Null | Json::Bool(_) | Json::Number(_) => size_of::<Json>(),
    }
}
