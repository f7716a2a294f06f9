//! Conversations that are found by what was said in them, by their titles and their metadata.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value as Json, json};
use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ConversationId, Entity, Message, MessageId, Role, Storage,
    conversation::{Hit, SearchQuery},
};

use super::{Case, fixtures::AWKWARD};

pub(super) const CASES: &[Case] = cases!["search":
    conversations_are_found_by_the_words_of_their_messages,
    a_conversation_is_found_once_at_its_newest_message,
    pages_of_hits_give_each_conversation_once,
    what_is_deleted_is_found_no_more,
    titles_are_searched_with_what_was_said,
    a_conversation_with_a_new_title_is_found_by_that_alone,
    conversations_are_found_by_words_of_their_titles_and_fields_of_their_metadata,
    those_with_a_title_or_metadata_come_in_the_order_of_the_list_of_all,
];

/// A word that no other case says.
fn word() -> String {
    format!("w{}", Uuid::new_v4().simple())
}

async fn chat(storage: &Arc<dyn Storage>, owner: Option<&str>) -> ConversationId {
    let new = Conversation::new(None, None).with(|new| new.owner = owner.map(str::to_owned));
    storage.conversations().add(new).await.unwrap().id
}

async fn say(storage: &Arc<dyn Storage>, chat: ConversationId, text: &str) -> MessageId {
    let message = Message::new(chat, Role::User, text);
    storage.messages().add(message).await.unwrap().id
}

/// What is found once `text` is in the index with `last`, the newest message that has it.
async fn found(storage: &Arc<dyn Storage>, query: &SearchQuery, last: MessageId) -> Vec<Hit> {
    let search = storage.search();
    // Other cases take in messages too, and keep this one from it meanwhile.
    for _ in 0..600 {
        while search.index(1000).await.unwrap() > 0 {}
        let found = search.find(query).await.unwrap().items;
        if found
            .first()
            .is_some_and(|hit| hit.message_id == Some(last))
        {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{query:?} is not found in a minute");
}

/// Waits until so many are found: one whose transaction was slow comes after those behind it.
async fn all_found(storage: &Arc<dyn Storage>, query: &SearchQuery, count: usize) {
    let search = storage.search();
    for _ in 0..600 {
        while search.index(1000).await.unwrap() > 0 {}
        if search.find(query).await.unwrap().items.len() == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{query:?} is not found in a minute");
}

fn query(text: &str) -> SearchQuery {
    SearchQuery::text(text).unwrap()
}

async fn conversations_are_found_by_the_words_of_their_messages(storage: Arc<dyn Storage>) {
    let (word, other) = (word(), word());
    let english = chat(&storage, Some("Ada")).await;
    let chinese = chat(&storage, Some("Bob")).await;
    let asked = say(&storage, english, &format!("{word}: a TRIP, to Rome")).await;
    let told = say(&storage, chinese, &format!("{word}我想去北京旅行")).await;
    say(&storage, chinese, &other).await;
    let both = found(&storage, &query(&word), told).await;
    let hits = [(chinese, told), (english, asked)].map(|(conversation_id, message_id)| Hit {
        conversation_id,
        message_id: Some(message_id),
    });
    assert_eq!(both, hits);
    let cases: [(&str, &[Hit]); 10] = [
        ("trip", &hits[1..]),
        ("rome Trip", &hits[1..]),
        ("tri", &[]),
        ("trips", &[]),
        ("北京", &hits[..1]),
        ("旅行北京", &[]),
        ("去北京旅行", &hits[..1]),
        ("南京", &[]),
        ("trip 北京", &[]),
        (&other, &[]),
    ];
    for (text, expected) in cases {
        let query = query(&format!("{text} {word}"));
        let found = storage.search().find(&query).await.unwrap();
        assert_eq!(
            (found.items, found.next),
            (expected.to_vec(), None),
            "{text}"
        );
    }
    for (owner, expected) in [("Ada", &hits[1..]), ("Bob", &hits[..1]), ("Eve", &[])] {
        let query = query(&word).owned_by(Some(owner.to_owned()));
        let found = storage.search().find(&query).await.unwrap();
        assert_eq!(found.items, expected, "{owner}");
    }
}

async fn a_conversation_is_found_once_at_its_newest_message(storage: Arc<dyn Storage>) {
    let (word, mut last) = (word(), Vec::new());
    let chats = [chat(&storage, None).await, chat(&storage, None).await];
    for chat in [chats[0], chats[1], chats[1], chats[0], chats[0]] {
        last.push(say(&storage, chat, &word).await);
    }
    say(&storage, chats[1], "something else").await;
    let hits = found(&storage, &query(&word), last[4]).await;
    let expected = [(chats[0], Some(last[4])), (chats[1], Some(last[2]))];
    let hits: Vec<_> = hits
        .iter()
        .map(|hit| (hit.conversation_id, hit.message_id))
        .collect();
    assert_eq!(hits, expected);
}

async fn pages_of_hits_give_each_conversation_once(storage: Arc<dyn Storage>) {
    let (word, mut chats, mut last) = (word(), Vec::new(), MessageId::new());
    for _ in 0..5 {
        let chat = chat(&storage, None).await;
        for _ in 0..2 {
            last = say(&storage, chat, &word).await;
        }
        chats.insert(0, chat);
    }
    found(&storage, &query(&word), last).await;
    for limit in 1..=6 {
        let (mut query, mut pages) = (query(&word).limit(limit), Vec::new());
        loop {
            let page = storage.search().find(&query).await.unwrap();
            assert!(page.items.len() as u64 <= limit);
            pages.extend(page.items.iter().map(|hit| hit.conversation_id));
            let Some(next) = page.next else { break };
            query = query.after(&next).unwrap();
            assert!(pages.len() <= 5, "the pages have no end");
        }
        assert_eq!(pages, chats, "pages of {limit}");
    }
}

async fn what_is_deleted_is_found_no_more(storage: Arc<dyn Storage>) {
    let word = word();
    let (gone, left) = (chat(&storage, None).await, chat(&storage, None).await);
    let stays = say(&storage, left, &word).await;
    let deleted = say(&storage, left, &word).await;
    let last = say(&storage, gone, &word).await;
    assert_eq!(found(&storage, &query(&word), last).await.len(), 2);
    let id = left.key(deleted);
    assert!(storage.messages().delete(&id).await.unwrap());
    assert!(storage.conversations().delete(&gone).await.unwrap());
    let expected = Hit {
        conversation_id: left,
        message_id: Some(stays),
    };
    all_found(&storage, &query(&word), 1).await;
    let found_now = storage.search().find(&query(&word)).await.unwrap();
    assert_eq!(found_now.items, [expected]);
    // A place that is free again on SQLite is not passed over.
    let again = say(&storage, left, &word).await;
    let hits = found(&storage, &query(&word), again).await;
    assert_eq!(hits.len(), 1);
}

async fn titles_are_searched_with_what_was_said(storage: Arc<dyn Storage>) {
    let (word, other) = (word(), word());
    let titled = |title: String| {
        let new = Conversation::titled(title).with(|new| new.owner = Some("Ada".to_owned()));
        let storage = &storage;
        async move { storage.conversations().add(new).await.unwrap().id }
    };
    let called = titled(format!("Trip {word}")).await;
    let said = chat(&storage, Some("Bob")).await;
    let first = say(&storage, said, &format!("trip {word}")).await;
    let both = titled(format!("{word} trip")).await;
    let asked = say(&storage, both, "Where to?").await;
    let told = say(&storage, both, &format!("a trip {word}")).await;
    let silent = titled(format!("{word}去北京旅行")).await;
    let last = say(&storage, said, &other).await;
    found(&storage, &query(&other), last).await;
    all_found(&storage, &query(&word), 4).await;
    let hits = async |text: &str, owner: Option<&str>| {
        let query = query(&format!("{text} {word}")).owned_by(owner.map(str::to_owned));
        let found = storage.search().find(&query).await.unwrap().items;
        let hit = |hit: Hit| (hit.conversation_id, hit.message_id);
        let mut found: Vec<_> = found.into_iter().map(hit).collect();
        // Where others delete what is the newest, SQLite gives its place again to what is said next.
        found.sort_by_key(|(_, message)| message.is_none());
        found
    };
    let trips = [(both, Some(told)), (said, Some(first)), (called, None)];
    assert_eq!(hits("trip", None).await, trips);
    assert_eq!(hits("Trip", Some("Ada")).await, [trips[0], trips[2]]);
    assert_eq!(hits("北京", None).await, [(silent, None)]);
    let expected = [trips[0], trips[1], (silent, None), trips[2]];
    assert_eq!(hits("", None).await, expected);
    // What was said last is told, and then the title.
    assert!(storage.messages().delete(&both.key(told)).await.unwrap());
    assert!(storage.messages().delete(&both.key(asked)).await.unwrap());
    let trips = [(said, Some(first)), (both, None), (called, None)];
    assert_eq!(hits("trip", None).await, trips);
    assert!(storage.conversations().delete(&both).await.unwrap());
    assert_eq!(hits("trip", None).await, [trips[0], trips[2]]);
}

async fn a_conversation_with_a_new_title_is_found_by_that_alone(storage: Arc<dyn Storage>) {
    let (before, now) = (word(), word());
    let new = Conversation::titled(&before);
    let id = storage.conversations().add(new).await.unwrap().id;
    let last = say(&storage, id, "something").await;
    for (taken_in, title) in [(false, &now), (true, &before), (true, &now)] {
        if taken_in {
            let said = word();
            let last = say(&storage, id, &said).await;
            found(&storage, &query(&said), last).await;
        }
        let rename = |stored: &mut Conversation| {
            stored.title = Some(title.clone());
            Ok(())
        };
        storage.conversations().update(&id, &rename).await.unwrap();
        for word in [&before, &now] {
            let expected = if word == title { vec![id] } else { Vec::new() };
            let fields = SearchQuery::fields(Some(word), BTreeMap::new()).unwrap();
            assert_eq!(ids(&storage, &fields).await, expected, "{title} by {word}");
            if taken_in {
                let text = ids(&storage, &query(word)).await;
                assert_eq!(text, expected, "{title} by a text with {word}");
            }
        }
    }
    assert!(storage.messages().delete(&id.key(last)).await.unwrap());
}

async fn ids(storage: &Arc<dyn Storage>, query: &SearchQuery) -> Vec<ConversationId> {
    let found = storage.search().find(query).await.unwrap().items;
    found.into_iter().map(|hit| hit.conversation_id).collect()
}

async fn conversations_are_found_by_words_of_their_titles_and_fields_of_their_metadata(
    storage: Arc<dyn Storage>,
) {
    let case = word();
    let many: BTreeMap<_, _> = (0..1000)
        .map(|field| (format!("field {field}"), 7))
        .collect();
    let rows = [
        (
            "A trip to Rome",
            json!({"customer": 7, "tag": "a", "one of": 1.5}),
        ),
        ("TRIPS (100%_sure)", json!({"customer": "7", "paid": true})),
        (
            "去北京旅行",
            json!({"customer": 7.0, "paid": 1, "left": null}),
        ),
        ("trip", json!(["customer"])),
        (
            "trips",
            json!({"customer": {"id": 7}, "a \"key\"$ 键": AWKWARD}),
        ),
        ("", json!(many)),
    ];
    let mut own = Vec::new();
    for (title, metadata) in rows {
        let new = Conversation::new(Some(format!("{title} {case}")), Some(metadata));
        own.push(storage.conversations().add(new).await.unwrap().id);
    }
    let none = || None::<(&str, Json)>;
    let cases = [
        ("Trip", none(), vec![0, 3]),
        ("rome trip", none(), vec![0]),
        ("trips", none(), vec![1, 4]),
        ("tri", none(), vec![]),
        ("北京", none(), vec![2]),
        ("sure 100", none(), vec![1]),
        ("", Some(("customer", json!(7))), vec![0, 2]),
        ("", Some(("customer", json!("7"))), vec![1]),
        ("", Some(("paid", json!(true))), vec![1]),
        ("", Some(("paid", json!(1.0))), vec![2]),
        ("", Some(("one of", json!(1.5))), vec![0]),
        ("", Some(("left", Json::Null)), vec![2]),
        ("", Some(("customer", Json::Null)), vec![]),
        ("", Some(("customer", json!({"id": 7}))), vec![]),
        ("", Some(("a \"key\"$ 键", json!(AWKWARD))), vec![4]),
        ("", Some(("field 999", json!(7))), vec![5]),
        ("", Some(("field 1000", json!(7))), vec![]),
        ("旅行", Some(("customer", json!(7))), vec![2]),
        ("trips", Some(("customer", json!(7))), vec![]),
    ];
    let check = async || {
        for (title, field, expected) in &cases {
            let metadata = field
                .iter()
                .map(|(field, value)| ((*field).to_owned(), value.clone()));
            let title = format!("{title} {case}");
            let query = SearchQuery::fields(Some(&title), metadata.collect()).unwrap();
            let found = ids(&storage, &query).await.into_iter();
            let mut found: Vec<_> = found
                .filter_map(|found| own.iter().position(|id| *id == found))
                .collect();
            found.reverse();
            assert_eq!(found, *expected, "{title} {field:?}");
        }
    };
    check().await;
    let said = word();
    let last = say(&storage, chat(&storage, None).await, &said).await;
    found(&storage, &query(&said), last).await;
    check().await;
    let alone = SearchQuery::fields(None, [("one of".to_owned(), json!(1.5))].into()).unwrap();
    assert!(ids(&storage, &alone.limit(10_000)).await.contains(&own[0]));
}

async fn those_with_a_title_or_metadata_come_in_the_order_of_the_list_of_all(
    storage: Arc<dyn Storage>,
) {
    let (word, mut chats) = (word(), Vec::new());
    for number in 0..5 {
        let new = Conversation::new(Some(word.clone()), Some(json!({"case": word})));
        let new = new.with(|new| new.owner = (number != 2).then(|| "Ada".to_owned()));
        chats.push(storage.conversations().add(new).await.unwrap().id);
    }
    // None is in the index, some are, all are; and those that were move.
    for moved in [4, 1, 3, 0] {
        let id = chats.remove(moved);
        chats.push(id);
        let said = format!("{word}{moved}");
        let last = say(&storage, id, &said).await;
        let newest_first: Vec<_> = chats.iter().rev().copied().collect();
        for is_taken_in in [false, true] {
            if is_taken_in && moved != 3 {
                found(&storage, &query(&said), last).await;
            }
            for limit in [1, 2, 5, 6] {
                let pages = all_pages(&storage, &word, limit).await;
                assert_eq!(
                    pages, newest_first,
                    "{moved} {is_taken_in} pages of {limit}"
                );
            }
        }
    }
    let owned = SearchQuery::fields(Some(&word), BTreeMap::new()).unwrap();
    let owned = ids(&storage, &owned.owned_by(Some("Ada".to_owned()))).await;
    assert_eq!(owned.len(), 4);
}

async fn all_pages(storage: &Arc<dyn Storage>, word: &str, limit: u64) -> Vec<ConversationId> {
    let metadata = [("case".to_owned(), json!(word))];
    let query = SearchQuery::fields(Some(word), metadata.into()).unwrap();
    let (mut query, mut pages) = (query.limit(limit), Vec::new());
    loop {
        let page = storage.search().find(&query).await.unwrap();
        assert!(page.items.len() as u64 <= limit);
        pages.extend(page.items.iter().map(|hit| hit.conversation_id));
        let Some(next) = page.next else { return pages };
        query = query.after(&next).unwrap();
        assert!(pages.len() <= 5, "the pages have no end");
    }
}
