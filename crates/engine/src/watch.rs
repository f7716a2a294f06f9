use std::{collections::VecDeque, fmt, str::FromStr, sync::Arc};

use futures::{Stream, stream};
use serde_json::Value as Json;
use yai_agentkit_core::{Result, Storage, Turn};

use super::{TurnEngine, event::ends_run, followers::Follower};

/// How many batches one who watches reads at once, and so holds at most.
const PAGE: u64 = 32;

/// The place of an event in its turn, which is its id: a batch, and an event of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventPosition {
    sequence: u64,
    index: u64,
}

impl EventPosition {
    /// Behind every event of a batch.
    pub(super) fn behind(sequence: u64) -> Self {
        let index = u64::MAX;
        Self { sequence, index }
    }
}

impl fmt::Display for EventPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.sequence, self.index)
    }
}

impl FromStr for EventPosition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (sequence, index) = text.split_once('-').ok_or(())?;
        let number = |text: &str| text.parse::<u32>().map(u64::from).map_err(drop);
        Ok(Self {
            sequence: number(sequence)?,
            index: number(index)?,
        })
    }
}

impl TurnEngine {
    /// The events of a turn behind `after`, each with its place: those that are stored, then those
    /// to come, whoever runs the turn. Ends when the turn ends, waits for a person or is deleted,
    /// and when this engine stops. Who reads slowly holds nobody up: events are read when they are
    /// asked for.
    pub fn watch(
        &self,
        turn: &Turn,
        after: Option<EventPosition>,
    ) -> impl Stream<Item = Result<(EventPosition, Json)>> + use<> {
        let after = after.unwrap_or_default();
        let watcher = Watcher {
            storage: Arc::clone(&self.storage),
            follower: self.followers.follow(turn.conversation_id, turn.id),
            turn: turn.clone(),
            after,
            // Of its batch there may be more.
            read: after.sequence.saturating_sub(1),
            events: VecDeque::new(),
            is_current: false,
            is_over: false,
            has_ended: false,
        };
        let stopping = self.clone();
        let events = stream::unfold(watcher, |mut watcher| async move {
            let event = watcher.next().await.transpose()?;
            Some((event, watcher))
        });
        futures::StreamExt::take_until(events, async move { stopping.stopped().await })
    }
}

struct Watcher {
    storage: Arc<dyn Storage>,
    follower: Follower,
    turn: Turn,
    /// Behind this one.
    after: EventPosition,
    /// The last batch that was read.
    read: u64,
    /// Read, and not passed on.
    events: VecDeque<(EventPosition, Json)>,
    /// Whether all was read that is known.
    is_current: bool,
    /// Whether the last event that was read ends the run.
    is_over: bool,
    /// Whether the turn was found to have ended.
    has_ended: bool,
}

impl Watcher {
    async fn next(&mut self) -> Result<Option<(EventPosition, Json)>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.is_current {
                // Who tells the news is as long there as this follower.
                if self.is_over || self.follower.news.changed().await.is_err() {
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
        // What comes from here on is news again.
        let latest = self.follower.news.borrow_and_update().latest;
        let (conversation, turn) = (self.turn.conversation_id, self.turn.id);
        let events = self.storage.turn_events();
        let page = events.read(conversation, turn, self.read, PAGE).await?;
        let is_last = (page.len() as u64) < PAGE;
        for batch in page {
            let sequence = batch.sequence;
            self.read = sequence;
            for (event, index) in batch.events.into_iter().zip(0..) {
                self.is_over = ends_run(&event);
                let position = EventPosition { sequence, index };
                if position > self.after {
                    self.events.push_back((position, event));
                }
            }
        }
        self.is_current = is_last && latest <= self.read;
        Ok(())
    }

    /// Whether nothing can come any more of a turn that has told nothing new: it has ended, or is
    /// gone.
    async fn is_settled(&mut self) -> Result<bool> {
        if self.has_ended {
            return Ok(true);
        }
        let turn = self.storage.turns().get(&self.turn.id).await?;
        let Some(turn) = turn else {
            return Ok(true);
        };
        // Its end may have been stored since the page was read: the next page tells.
        self.has_ended = turn.status.is_final();
        self.is_current = !self.has_ended;
        Ok(false)
    }
}
