//! Lists of rows, by offset and by keyset.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::{NoContext, Timestamp, Uuid};
use yai_agentkit_core::{
    Clock, Conversation, ConversationId, Entity, ListQuery, Message, MessageId, Repository, Role,
    Storage, Turn, TurnId, TurnStatus,
    conversation::{ConversationFilter, MessageFilter},
    storage::{Cursor, Order, Start},
    turn::TurnFilter,
};

use super::{Case, fixtures::add_conversation};

pub(super) const CASES: &[Case] = cases!["pages":
    the_default_is_the_hundred_newest,
    messages_and_turns_come_as_they_were_stored_whatever_the_clocks_say,
    limit_and_offset_cut_out_a_page,
    an_offset_beyond_the_end_is_an_empty_last_page,
    a_limit_of_zero_takes_nothing,
    the_greatest_limit_and_offset_are_numbers_like_others,
    keyset_pages_give_each_row_once,
    a_page_ends_where_its_bytes_do,
    next_is_none_exactly_on_the_last_page,
    a_cursor_outlives_its_row_and_new_rows_disturb_no_page,
    a_cursor_takes_only_rows_behind_it_and_of_its_filter,
    all_conversations_are_paged_newest_first,
    conversations_are_paged_by_what_was_said_in_them_last,
];

async fn the_default_is_the_hundred_newest(storage: Arc<dyn Storage>) {
    let rows = Rows::add(&storage, 101).await;
    let page = storage.messages().list(&rows.query()).await.unwrap();
    let expected: Vec<_> = rows.ids[1..].iter().rev().copied().collect();
    assert_eq!(ids(&page.items), expected);
    assert!(page.next.is_some());
}

/// Of servers whose clocks differ by as many milliseconds, day and night.
const SKEWS: [i64; 7] = [0, 20, -20, 86_400_000, 5, -3_600_000, 0];

/// An id, and a time, of a server whose clock is wrong by `skew` milliseconds.
fn by_clock(skew: i64) -> (Uuid, DateTime<Utc>) {
    let time = Clock::default().now() + TimeDelta::milliseconds(skew);
    let seconds = u64::try_from(time.timestamp()).unwrap();
    let timestamp = Timestamp::from_unix(NoContext, seconds, time.timestamp_subsec_nanos());
    (Uuid::new_v7(timestamp), time)
}

async fn messages_and_turns_come_as_they_were_stored_whatever_the_clocks_say(
    storage: Arc<dyn Storage>,
) {
    let conversation = add_conversation(&storage).await.id;
    let (mut messages, mut turns) = (Vec::new(), Vec::new());
    for skew in SKEWS {
        let (id, created_at) = by_clock(skew);
        let question = message(conversation).with(|message| {
            message.id = MessageId(id);
            message.created_at = created_at;
        });
        let turn = Turn::new(conversation, question.id).with(|turn| {
            turn.id = TurnId(id);
            turn.status = TurnStatus::Queued;
            turn.created_at = created_at;
            turn.updated_at = created_at;
        });
        let unit = storage.begin().await.unwrap();
        messages.push(unit.messages().add(question).await.unwrap().id());
        turns.push(unit.turns().add(turn).await.unwrap().id());
        unit.commit().await.unwrap();
    }
    let due = storage.turn_store().due(100_000).await.unwrap();
    let due = due.iter().map(Entity::id);
    let due: Vec<_> = due.filter(|id| turns.contains(id)).collect();
    assert_eq!(due, turns[..1]);
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let found = pages_of(&storage.messages(), MessageFilter::of(conversation), order).await;
        assert_eq!(found, messages);
        let filter = TurnFilter::default().of(conversation);
        assert_eq!(pages_of(&storage.turns(), filter, order).await, turns);
        messages.reverse();
        turns.reverse();
    }
}

/// The ids of all rows, in pages of two.
async fn pages_of<E: Entity>(
    rows: &Arc<dyn Repository<E>>,
    filter: E::Filter,
    order: Order,
) -> Vec<E::Id> {
    let mut query = ListQuery::filtered(filter).limit(2).order(order);
    let mut found = Vec::new();
    loop {
        let page = rows.list(&query).await.unwrap();
        found.extend(page.items.iter().map(Entity::id));
        assert!(found.len() < 100, "the pages have no end");
        match page.next {
            Some(next) => query = query.after(next),
            None => return found,
        }
    }
}

async fn limit_and_offset_cut_out_a_page(storage: Arc<dyn Storage>) {
    let rows = Rows::add(&storage, 7).await;
    for order in [Order::NewestFirst, Order::OldestFirst] {
        let expected = rows.ordered(order);
        for offset in 0..9 {
            for limit in 1..9 {
                let query = rows
                    .query()
                    .limit(limit as u64)
                    .offset(offset as u64)
                    .order(order);
                let page = storage.messages().list(&query).await.unwrap();
                let from = offset.min(7);
                let to = (offset + limit).min(7);
                assert_eq!(ids(&page.items), expected[from..to]);
                let is_last = page.next.is_none();
                assert_eq!(
                    is_last,
                    offset + limit >= 7,
                    "offset {offset}, limit {limit}"
                );
            }
        }
    }
}

async fn an_offset_beyond_the_end_is_an_empty_last_page(storage: Arc<dyn Storage>) {
    let rows = Rows::add(&storage, 3).await;
    let query = rows.query().offset(4);
    let page = storage.messages().list(&query).await.unwrap();
    assert_eq!((page.items, page.next), (Vec::new(), None));
}

async fn a_limit_of_zero_takes_nothing(storage: Arc<dyn Storage>) {
    let rows = Rows::add(&storage, 3).await;
    let page = storage.messages().list(&rows.query().limit(0)).await;
    let page = page.unwrap();
    assert_eq!((page.items, page.next), (Vec::new(), None));
}

async fn the_greatest_limit_and_offset_are_numbers_like_others(storage: Arc<dyn Storage>) {
    let rows = Rows::add(&storage, 3).await;
    let all = rows.query().limit(u64::MAX);
    let page = storage.messages().list(&all).await.unwrap();
    assert_eq!(ids(&page.items), rows.ordered(Order::NewestFirst));
    assert_eq!(page.next, None);
    let page = storage.messages().list(&all.offset(u64::MAX)).await;
    assert_eq!(page.unwrap().items, []);
}

async fn keyset_pages_give_each_row_once(storage: Arc<dyn Storage>) {
    let rows = Rows::add(&storage, 10).await;
    for order in [Order::NewestFirst, Order::OldestFirst] {
        for limit in [1, 2, 3, 5, 9, 10, 11] {
            let pages = rows.pages(order, limit).await;
            assert_eq!(pages.concat(), rows.ordered(order), "limit {limit}");
        }
    }
}

async fn a_page_ends_where_its_bytes_do(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let mut added = Vec::new();
    for length in [100, 250, 400, 50, 10, 10] {
        let message = message(conversation).with(|message| {
            // Of two bytes each.
            message.content = "é".repeat(length / 2);
            message.metadata = (length == 50).then(|| "m".repeat(48).into());
        });
        added.push(storage.messages().add(message).await.unwrap());
    }
    let mut query = ListQuery::filtered(MessageFilter::of(conversation))
        .oldest_first()
        .max_bytes(350);
    let mut lengths = Vec::new();
    loop {
        let page = storage.messages().list(&query).await.unwrap();
        lengths.push(page.items.len());
        assert_eq!(
            page.items,
            added.drain(..page.items.len()).collect::<Vec<_>>()
        );
        let Some(next) = page.next else { break };
        query = query.after(next);
    }
    // One that is too long comes alone.
    assert_eq!(lengths, [2, 1, 3]);
    assert!(added.is_empty());
    let none = storage.messages().list(&query.limit(0)).await.unwrap();
    assert_eq!(none.items, []);
}

async fn next_is_none_exactly_on_the_last_page(storage: Arc<dyn Storage>) {
    let rows = Rows::add(&storage, 6).await;
    for order in [Order::NewestFirst, Order::OldestFirst] {
        for (limit, lengths) in [(2, vec![2, 2, 2]), (4, vec![4, 2]), (6, vec![6])] {
            let pages = rows.pages(order, limit).await;
            let found: Vec<_> = pages.iter().map(Vec::len).collect();
            assert_eq!(found, lengths);
        }
    }
}

async fn a_cursor_outlives_its_row_and_new_rows_disturb_no_page(storage: Arc<dyn Storage>) {
    for order in [Order::NewestFirst, Order::OldestFirst] {
        let rows = Rows::add(&storage, 9).await;
        let mut expected = rows.ordered(order);
        let mut found = Vec::new();
        let mut query = rows.query().limit(2).order(order);
        loop {
            let page = storage.messages().list(&query).await.unwrap();
            found.extend(ids(&page.items));
            let Some(next) = page.next else { break };
            let last = page.items.last().unwrap().id();
            assert!(storage.messages().delete(&last).await.unwrap());
            query = query.after(next);
            if expected.len() < 12 {
                // A newer row: behind the cursor only where the order goes that way.
                let row = message(rows.conversation);
                if order == Order::OldestFirst {
                    expected.push(row.id);
                }
                storage.messages().add(row).await.unwrap();
            }
            assert!(found.len() < 30, "the pages have no end");
        }
        assert_eq!(found, expected);
    }
}

async fn a_cursor_takes_only_rows_behind_it_and_of_its_filter(storage: Arc<dyn Storage>) {
    let rows = Rows::add(&storage, 2).await;
    let other = Rows::add(&storage, 2).await;
    let interleaved = message(rows.conversation);
    storage.messages().add(interleaved.clone()).await.unwrap();
    let query = rows.query().after(other.conversation.key(other.ids[0]));
    let older = storage.messages().list(&query).await.unwrap();
    assert_eq!(ids(&older.items), rows.ordered(Order::NewestFirst));
    let newer = storage.messages().list(&query.oldest_first()).await;
    assert_eq!(newer.unwrap().items, [interleaved]);
}

async fn all_conversations_are_paged_newest_first(storage: Arc<dyn Storage>) {
    let mut expected: Vec<ConversationId> = Vec::new();
    for _ in 0..5 {
        expected.push(add_conversation(&storage).await.id);
    }
    expected.reverse();
    // Others add conversations at the same time; the cursor starts behind those.
    let mut query = ListQuery::<Conversation>::default().limit(2);
    let last = add_conversation(&storage).await.id;
    query.start = Start::After(last.into());
    let mut found = Vec::new();
    while found.len() < expected.len() {
        let page = storage.conversations().list(&query).await.unwrap();
        let own = page.items.iter().map(|row| row.id);
        found.extend(own.filter(|id| expected.contains(id)));
        let Some(next) = page.next else { break };
        assert!(matches!(next, Cursor::Position(_)));
        query = query.after(next);
    }
    assert_eq!(found, expected);
}

async fn conversations_are_paged_by_what_was_said_in_them_last(storage: Arc<dyn Storage>) {
    let owner = Some(Uuid::new_v4().to_string());
    let new = || Conversation::titled("Listed").with(|new| new.owner.clone_from(&owner));
    let (mut rows, conversations) = (Vec::new(), storage.conversations());
    for new in [new(), new(), new(), new()] {
        rows.push(conversations.add(new).await.unwrap().id);
    }
    let filter = || ConversationFilter::default().owned_by(owner.clone());
    let listed = async || pages_of(&conversations, filter(), Order::NewestFirst).await;
    assert_eq!(listed().await, [rows[3], rows[2], rows[1], rows[0]]);
    let said = |place: usize, role| Message::new(rows[place], role, "text");
    storage.messages().add(said(0, Role::User)).await.unwrap();
    assert_eq!(listed().await, [rows[0], rows[3], rows[2], rows[1]]);
    // Neither an answer moves one, nor a change.
    let answer = said(2, Role::Assistant);
    storage.messages().add(answer).await.unwrap();
    conversations.update(&rows[1], &|_| Ok(())).await.unwrap();
    assert_eq!(listed().await, [rows[0], rows[3], rows[2], rows[1]]);
    let first = ListQuery::filtered(filter()).limit(1);
    let next = conversations.list(&first).await.unwrap().next.unwrap();
    // One that moves up is behind no place any more.
    let both = vec![said(1, Role::User), said(0, Role::User)];
    storage.messages().add_many(both).await.unwrap();
    let rest = ListQuery::filtered(filter()).after(next);
    let rest = conversations.list(&rest).await.unwrap().items;
    assert_eq!(
        rest.iter().map(|row| row.id).collect::<Vec<_>>(),
        [rows[3], rows[2]]
    );
    assert_eq!(listed().await, [rows[0], rows[1], rows[3], rows[2]]);
    let oldest = pages_of(&conversations, filter(), Order::OldestFirst).await;
    assert_eq!(oldest, [rows[2], rows[3], rows[1], rows[0]]);
}

/// The messages of a new conversation.
struct Rows {
    storage: Arc<dyn Storage>,
    conversation: ConversationId,
    /// Ascending.
    ids: Vec<MessageId>,
}

impl Rows {
    async fn add(storage: &Arc<dyn Storage>, count: usize) -> Self {
        let conversation = add_conversation(storage).await.id;
        let batch: Vec<_> = (0..count).map(|_| message(conversation)).collect();
        let ids = ids(&batch);
        storage.messages().add_many(batch).await.unwrap();
        Self {
            storage: Arc::clone(storage),
            conversation,
            ids,
        }
    }

    fn query(&self) -> ListQuery<Message> {
        ListQuery::filtered(MessageFilter::of(self.conversation))
    }

    fn ordered(&self, order: Order) -> Vec<MessageId> {
        let mut ids = self.ids.clone();
        if order == Order::NewestFirst {
            ids.reverse();
        }
        ids
    }

    async fn pages(&self, order: Order, limit: u64) -> Vec<Vec<MessageId>> {
        let mut pages = Vec::new();
        let mut query = self.query().limit(limit).order(order);
        loop {
            let page = self.storage.messages().list(&query).await.unwrap();
            pages.push(ids(&page.items));
            let Some(next) = page.next else { return pages };
            query = query.after(next);
            assert!(pages.len() <= self.ids.len(), "the pages have no end");
        }
    }
}

fn message(conversation: ConversationId) -> Message {
    Message::new(conversation, Role::User, "text")
}

fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}
