//! Conversations that are found by what was said in them.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ConversationId, Entity, Message, MessageId, Role, Storage,
    conversation::{Hit, TextQuery},
};

use super::Case;

pub(super) const CASES: &[Case] = cases!["search":
    conversations_are_found_by_the_words_of_their_messages,
    a_conversation_is_found_once_at_its_newest_message,
    pages_of_hits_give_each_conversation_once,
    what_is_deleted_is_found_no_more,
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
async fn found(storage: &Arc<dyn Storage>, query: &TextQuery, last: MessageId) -> Vec<Hit> {
    let search = storage.search();
    // Other cases take in messages too, and keep this one from it meanwhile.
    for _ in 0..600 {
        while search.index(1000).await.unwrap() > 0 {}
        let found = search.find(query).await.unwrap().items;
        if found.first().is_some_and(|hit| hit.message_id == last) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{query:?} is not found in a minute");
}

fn query(text: &str) -> TextQuery {
    TextQuery::new(text).unwrap()
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
        message_id,
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
    let expected = [(chats[0], last[4]), (chats[1], last[2])];
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
        message_id: stays,
    };
    let found_now = storage.search().find(&query(&word)).await.unwrap();
    assert_eq!(found_now.items, [expected]);
    // A place that is free again on SQLite is not passed over.
    let again = say(&storage, left, &word).await;
    let hits = found(&storage, &query(&word), again).await;
    assert_eq!(hits.len(), 1);
}
