use std::{cmp::Reverse, collections::BTreeMap};

use async_trait::async_trait;

use super::Access;
use crate::{
    Result,
    conversation::{Hit, HitCursor, MessageSearch, TextQuery, terms},
    storage::{Cursor, Page},
};

/// Looks at every message.
pub(super) struct MemorySearch(pub(super) Access);

#[async_trait]
impl MessageSearch for MemorySearch {
    async fn index(&self, _limit: u64) -> Result<u64> {
        Ok(0)
    }

    async fn find(&self, query: &TextQuery) -> Result<Page<Hit, HitCursor>> {
        let newest = self.0.read(|state| {
            let mut newest = BTreeMap::new();
            for message in state.messages.values() {
                let id = message.conversation_id;
                let owner = state
                    .conversations
                    .get(&id)
                    .and_then(|of| of.owner.as_ref());
                let is_owned = query.owner.is_none() || query.owner.as_ref() == owner;
                if is_owned && query.terms.is_subset(&terms(&message.content)) {
                    let position = state.positions[&id.key(message.id.0)];
                    let found = newest.entry(id).or_insert((position, message.id));
                    *found = (*found).max((position, message.id));
                }
            }
            newest
        });
        let mut hits: Vec<_> = newest.into_iter().collect();
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
