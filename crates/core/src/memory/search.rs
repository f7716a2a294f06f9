use std::cmp::Reverse;

use async_trait::async_trait;

use super::{Access, State};
use crate::{
    Conversation, MessageId, Result,
    conversation::{ConversationSearch, Hit, HitCursor, SearchQuery, Wanted, terms},
    storage::{Cursor, Page},
};

/// Looks at everything.
pub(super) struct MemorySearch(pub(super) Access);

#[async_trait]
impl ConversationSearch for MemorySearch {
    async fn index(&self, _limit: u64) -> Result<u64> {
        Ok(0)
    }

    async fn find(&self, query: &SearchQuery) -> Result<Page<Hit, HitCursor>> {
        let newest = self.0.read(|state| {
            let owned = state
                .conversations
                .values()
                .filter(|conversation| query.owner.is_none() || query.owner == conversation.owner);
            let found = owned.filter_map(|conversation| {
                Some((conversation.id, newest(state, conversation, &query.wanted)?))
            });
            found.collect::<Vec<_>>()
        });
        let mut hits = newest;
        let is_behind = |position: i64| query.before.is_none_or(|before| position < before);
        hits.retain(|(_, (position, _))| is_behind(*position));
        hits.sort_by_key(|(_, (position, _))| Reverse(*position));
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let is_last = hits.len() <= limit;
        hits.truncate(limit);
        let next = hits.last().filter(|_| !is_last);
        let next = next.map(|(_, (position, _))| Cursor::Position(*position));
        let hit = |(conversation_id, (_, message_id))| Hit {
            conversation_id,
            message_id,
        };
        let items = hits.into_iter().map(hit).collect();
        Ok(Page { items, next })
    }
}

/// Where a conversation is found, and which message.
fn newest(
    state: &State,
    conversation: &Conversation,
    wanted: &Wanted,
) -> Option<(i64, Option<MessageId>)> {
    let id = conversation.id;
    let title = conversation.title.as_deref();
    let own = || Some((state.positions[&id.key(id.0)], None));
    let words = match wanted {
        Wanted::Fields(fields) => {
            let is_found = fields.are_of(title, conversation.metadata.as_ref());
            return own().filter(|_| is_found);
        }
        Wanted::Text(words) => words,
    };
    let said = state.messages.values().filter(|message| {
        message.conversation_id == id && words.is_subset(&terms(&message.content))
    });
    let said = said.map(|message| (state.positions[&id.key(message.id.0)], Some(message.id)));
    let is_called = words.is_subset(&terms(title.unwrap_or_default()));
    // Of a message at the same place it is said that it was found.
    said.chain(own().filter(|_| is_called)).max()
}
