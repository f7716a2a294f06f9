use std::{collections::BTreeMap, marker::PhantomData};

use async_trait::async_trait;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Access, State};
use crate::{
    Conversation, Entity, Error, ListQuery, Message, Repository, Result, Role, Turn, TurnStatus,
    access::ApiKey,
    conversation::InConversation,
    storage::{Change, Cursor, Order, Page, Start},
    turn::IdempotencyKey,
};

pub(super) type Rows<E> = BTreeMap<<E as Entity>::Id, E>;

/// What a database knows from its schema.
pub(super) trait MemoryEntity: Entity {
    fn rows(state: &State) -> &Rows<Self>;
    fn rows_mut(state: &mut State) -> &mut Rows<Self>;
    fn matches(&self, filter: &Self::Filter) -> bool;

    /// Whether a unique index, other than the primary key's, does not let it in beside `others`.
    fn is_excluded<'a>(&self, _others: impl Iterator<Item = &'a Self>) -> bool {
        false
    }

    fn parent_exists(&self, state: &State) -> bool;

    /// Deletes what belongs to a row that was deleted.
    fn cascade(_state: &mut State, _id: &Self::Id) {}

    /// Notes when a row was added.
    fn added(_state: &mut State, _id: &Self::Id) {}

    /// What moves to its position when it is added.
    fn moves(&self) -> Option<InConversation<Uuid>> {
        None
    }

    /// Under which its position is kept, where rows have positions.
    fn placed(_id: &Self::Id) -> Option<InConversation<Uuid>> {
        None
    }

    fn cursor(state: &State, id: &Self::Id) -> Option<Cursor<Self::Id>> {
        match Self::placed(id) {
            Some(id) => Some(Cursor::Position(*state.positions.get(&id)?)),
            None => Some(Cursor::Id(id.clone())),
        }
    }
}

pub(super) struct MemoryRepository<E> {
    access: Access,
    entity: PhantomData<fn() -> E>,
}

impl<E: MemoryEntity> MemoryRepository<E> {
    pub(super) fn new(access: Access) -> Self {
        Self {
            access,
            entity: PhantomData,
        }
    }
}

/// What the schema of a database would refuse.
pub(super) fn check<E: MemoryEntity>(state: &State, entity: &E) -> Result<()> {
    if let Some((parent, id)) = entity.parent()
        && !entity.parent_exists(state)
    {
        return Err(Error::not_found(parent, id));
    }
    let id = entity.id();
    let others = E::rows(state).values().filter(|other| other.id() != id);
    if entity.is_excluded(others) {
        return Err(Error::Conflict(E::conflict(&id)));
    }
    Ok(())
}

pub(super) fn add<E: MemoryEntity>(state: &mut State, entity: &E) -> Result<()> {
    check(state, entity)?;
    let rows = E::rows_mut(state);
    if rows.insert(entity.id(), entity.clone()).is_some() {
        return Err(Error::Conflict(E::conflict(&entity.id())));
    }
    E::added(state, &entity.id());
    if let Some(id) = E::placed(&entity.id()) {
        state.last_position += 1;
        state.positions.insert(id, state.last_position);
        let moved = entity.moves();
        state
            .positions
            .extend(moved.map(|moved| (moved, state.last_position)));
    }
    Ok(())
}

/// Where a row stands in a list.
fn place<E: MemoryEntity>(
    state: &State,
    cursor: &Cursor<E::Id>,
) -> Option<(Option<i64>, Option<E::Id>)> {
    match cursor {
        Cursor::Position(position) => Some((Some(*position), None)),
        Cursor::Id(id) => match E::cursor(state, id)? {
            Cursor::Position(position) => Some((Some(position), None)),
            Cursor::Id(id) => Some((None, Some(id))),
        },
    }
}

#[async_trait]
impl<E: MemoryEntity> Repository<E> for MemoryRepository<E> {
    async fn get(&self, id: &E::Id) -> Result<Option<E>> {
        Ok(self.access.read(|state| E::rows(state).get(id).cloned()))
    }

    async fn list(&self, query: &ListQuery<E>) -> Result<Page<E, Cursor<E::Id>>> {
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        self.access.read(|state| {
            let matching = E::rows(state)
                .values()
                .filter(|entity| entity.matches(&query.filter));
            let place_of = |entity: &&E| place::<E>(state, &Cursor::Id(entity.id()));
            let mut ordered: Vec<&E> = matching.collect();
            ordered.sort_by_key(place_of);
            if query.order == Order::NewestFirst {
                ordered.reverse();
            }
            let start = match &query.start {
                Start::Offset(offset) => usize::try_from(*offset).unwrap_or(usize::MAX),
                Start::After(cursor) => match place::<E>(state, cursor) {
                    None => usize::MAX,
                    cursor => ordered
                        .iter()
                        .take_while(|entity| match query.order {
                            Order::NewestFirst => place_of(entity) >= cursor,
                            Order::OldestFirst => place_of(entity) <= cursor,
                        })
                        .count(),
                },
            };
            let mut rest = ordered.into_iter().skip(start).peekable();
            let mut bytes = 0;
            let mut fits = |entity: &E| {
                bytes += entity.bytes() as u64;
                query.max_bytes.is_none_or(|max_bytes| bytes <= max_bytes)
            };
            let mut items: Vec<E> = Vec::new();
            while items.len() < limit
                && let Some(entity) = rest.peek()
                && (fits(entity) || items.is_empty())
            {
                items.extend(rest.next().cloned());
            }
            let next = rest.next().and_then(|_| items.last());
            let next = next.and_then(|last| E::cursor(state, &last.id()));
            Ok(Page { items, next })
        })
    }

    async fn add(&self, entity: E) -> Result<E> {
        let mut added = self.add_many(vec![entity]).await?;
        Ok(added.remove(0))
    }

    async fn add_many(&self, entities: Vec<E>) -> Result<Vec<E>> {
        entities.iter().try_for_each(Entity::validate)?;
        self.access
            .write(|state| {
                let mut changed = state.clone();
                for entity in &entities {
                    add(&mut changed, entity)?;
                }
                *state = changed;
                Ok(entities)
            })
            .await
    }

    async fn update(&self, id: &E::Id, change: Change<'_, E>) -> Result<E> {
        self.access
            .write(|state| {
                let stored = E::rows(state).get(id).cloned();
                let mut entity = stored.ok_or_else(|| Error::not_found(E::NAME, id))?;
                change(&mut entity)?;
                entity.changed(id, state.now())?;
                check(state, &entity)?;
                E::rows_mut(state).insert(entity.id(), entity.clone());
                Ok(entity)
            })
            .await
    }

    async fn delete(&self, id: &E::Id) -> Result<bool> {
        self.access
            .write(|state| {
                let existed = E::rows_mut(state).remove(id).is_some();
                if let Some(id) = E::placed(id) {
                    state.positions.remove(&id);
                }
                E::cascade(state, id);
                Ok(existed)
            })
            .await
    }

    async fn exists(&self, id: &E::Id) -> Result<bool> {
        Ok(self.access.read(|state| E::rows(state).contains_key(id)))
    }

    async fn count(&self, filter: &E::Filter) -> Result<u64> {
        Ok(self.access.read(|state| {
            let rows = E::rows(state).values();
            rows.filter(|entity| entity.matches(filter)).count() as u64
        }))
    }
}

fn admits<T: PartialEq>(filter: Option<&T>, value: &T) -> bool {
    filter.is_none_or(|wanted| wanted == value)
}

impl MemoryEntity for Conversation {
    fn rows(state: &State) -> &Rows<Self> {
        &state.conversations
    }

    fn rows_mut(state: &mut State) -> &mut Rows<Self> {
        &mut state.conversations
    }

    fn matches(&self, filter: &Self::Filter) -> bool {
        admits(
            filter.checkpoint_thread_id.as_ref(),
            &self.checkpoint_thread_id,
        ) && filter
            .title
            .as_ref()
            .is_none_or(|title| self.title.as_ref() == Some(title))
            && filter
                .owner
                .as_ref()
                .is_none_or(|owner| self.owner.as_ref() == Some(owner))
    }

    fn is_excluded<'a>(&self, mut others: impl Iterator<Item = &'a Self>) -> bool {
        others.any(|other| other.checkpoint_thread_id == self.checkpoint_thread_id)
    }

    fn parent_exists(&self, _state: &State) -> bool {
        true
    }

    fn placed(id: &Self::Id) -> Option<InConversation<Uuid>> {
        Some(id.key(id.0))
    }

    fn cascade(state: &mut State, id: &Self::Id) {
        state
            .messages
            .retain(|_, message| message.conversation_id != *id);
        state.turns.retain(|_, turn| turn.conversation_id != *id);
        state
            .events
            .retain(|(conversation, ..), _| conversation != id);
        state
            .renewed_at
            .retain(|turn, _| turn.conversation_id != *id);
        state.positions.retain(|row, _| row.conversation_id != *id);
        state.opened.retain(|turn, _| turn.conversation_id != *id);
        state
            .records
            .retain(|(conversation, ..), _| conversation != id);
    }
}

impl MemoryEntity for Message {
    fn rows(state: &State) -> &Rows<Self> {
        &state.messages
    }

    fn rows_mut(state: &mut State) -> &mut Rows<Self> {
        &mut state.messages
    }

    fn matches(&self, filter: &Self::Filter) -> bool {
        admits(filter.conversation_id.as_ref(), &self.conversation_id)
            && admits(filter.role.as_ref(), &self.role)
            && admits(filter.is_chosen.as_ref(), &self.is_chosen)
    }

    fn parent_exists(&self, state: &State) -> bool {
        state.conversations.contains_key(&self.conversation_id)
    }

    fn moves(&self) -> Option<InConversation<Uuid>> {
        let conversation = self.conversation_id;
        (self.role != Role::Assistant).then(|| conversation.key(conversation.0))
    }

    fn placed(id: &Self::Id) -> Option<InConversation<Uuid>> {
        Some(id.conversation_id.key(id.id.0))
    }
}

impl MemoryEntity for IdempotencyKey {
    fn rows(state: &State) -> &Rows<Self> {
        &state.idempotency_keys
    }

    fn rows_mut(state: &mut State) -> &mut Rows<Self> {
        &mut state.idempotency_keys
    }

    fn matches(&self, _filter: &Self::Filter) -> bool {
        true
    }

    fn parent_exists(&self, _state: &State) -> bool {
        true
    }

    fn added(state: &mut State, id: &Self::Id) {
        state.used_at.insert(*id, Instant::now());
    }
}

impl MemoryEntity for ApiKey {
    fn rows(state: &State) -> &Rows<Self> {
        &state.api_keys
    }

    fn rows_mut(state: &mut State) -> &mut Rows<Self> {
        &mut state.api_keys
    }

    fn matches(&self, filter: &Self::Filter) -> bool {
        let owner = filter.owner.as_ref();
        owner.is_none_or(|owner| self.owner.as_ref() == Some(owner))
    }

    fn parent_exists(&self, _state: &State) -> bool {
        true
    }
}

impl MemoryEntity for Turn {
    fn rows(state: &State) -> &Rows<Self> {
        &state.turns
    }

    fn rows_mut(state: &mut State) -> &mut Rows<Self> {
        &mut state.turns
    }

    fn matches(&self, filter: &Self::Filter) -> bool {
        admits(filter.conversation_id.as_ref(), &self.conversation_id)
            && admits(filter.status.as_ref(), &self.status)
            && !(filter.unfinished && self.status.is_final())
    }

    fn is_excluded<'a>(&self, mut others: impl Iterator<Item = &'a Self>) -> bool {
        self.status == TurnStatus::Running
            && others.any(|other| {
                other.status == TurnStatus::Running && other.conversation_id == self.conversation_id
            })
    }

    fn parent_exists(&self, state: &State) -> bool {
        state.conversations.contains_key(&self.conversation_id)
    }

    fn placed(id: &Self::Id) -> Option<InConversation<Uuid>> {
        Some(id.conversation_id.key(id.id.0))
    }

    fn added(state: &mut State, id: &Self::Id) {
        state.renewed_at.insert(*id, Some(Instant::now()));
    }
}
