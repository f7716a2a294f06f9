//! Messages, and batches of rows.

use std::sync::Arc;

use serde_json::json;
use yai_agentkit_core::{
    ConversationId, Entity, ListQuery, Message, MessageId, Role, Storage,
    conversation::{MessageFilter, Part},
    redaction::REDACTED,
};

use super::{
    Case,
    fixtures::{
        AWKWARD, add_conversation, all_at_once, assert_conflict, assert_invalid, assert_not_found,
        fresh, picture, replace,
    },
};

pub(super) const CASES: &[Case] = cases!["messages":
    a_message_reads_back_equal_in_every_field,
    roles_are_an_open_set,
    a_role_that_is_empty_or_too_long_is_refused,
    a_nul_character_is_refused_with_the_name_of_its_field,
    a_message_without_its_conversation_is_not_found,
    an_update_to_a_missing_conversation_changes_nothing,
    a_message_has_one_answer,
    a_batch_is_stored_in_its_order,
    an_empty_batch_is_stored,
    a_batch_may_be_larger_than_a_statement_has_parameters,
    a_batch_is_stored_whole_or_not_at_all,
    filters_take_a_conversation_and_a_role,
    long_parts_come_back_as_they_were_said,
    a_long_part_stays_for_who_says_it_while_another_lets_it_go,
    a_long_part_is_read_whole_while_it_is_changed_and_redacted,
    a_page_is_bounded_by_its_long_parts_too,
];

async fn a_message_reads_back_equal_in_every_field(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let mut rich = Message::new(conversation, Role::Tool, AWKWARD);
    rich.metadata = Some(json!({AWKWARD: [null, {"a": 0.1}]}));
    let empty = Message::new(conversation, Role::System, "");
    let long = Message::new(conversation, Role::User, "long 漢 ".repeat(100_000));
    for message in [rich, empty, long] {
        let added = storage.messages().add(message.clone()).await.unwrap();
        assert_eq!(added, message);
        let read = storage.messages().get(&message.id()).await.unwrap();
        assert_eq!(read, Some(message));
    }
}

async fn roles_are_an_open_set(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let longest = "漢".repeat(Role::MAX_LENGTH);
    for role in ["user", "assistant", "system", "tool", "User", " ", &longest] {
        let message = Message::new(conversation, role.to_owned().into(), "text");
        storage.messages().add(message.clone()).await.unwrap();
        let read = storage.messages().get(&message.id()).await.unwrap();
        assert_eq!(read, Some(message));
    }
}

async fn a_role_that_is_empty_or_too_long_is_refused(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    for role in [String::new(), "r".repeat(Role::MAX_LENGTH + 1)] {
        let message = Message::new(conversation, role.into(), "text");
        assert_invalid(storage.messages().add(message.clone()).await, "role");
        assert!(!storage.messages().exists(&message.id()).await.unwrap());
    }
}

async fn a_nul_character_is_refused_with_the_name_of_its_field(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let mut metadata = Message::new(conversation, Role::User, "text");
    metadata.metadata = Some(json!(["\0"]));
    let refused = [
        (Message::new(conversation, Role::User, "\0"), "content"),
        (
            Message::new(conversation, "a\0".to_owned().into(), "text"),
            "role",
        ),
        (metadata, "metadata"),
    ];
    let stored = Message::new(conversation, Role::User, "stays");
    storage.messages().add(stored.clone()).await.unwrap();
    for (mut message, field) in refused {
        assert_invalid(storage.messages().add(message.clone()).await, field);
        assert!(!storage.messages().exists(&message.id()).await.unwrap());
        message.id = stored.id;
        assert_invalid(replace(&*storage.messages(), &message).await, field);
    }
    let read = storage.messages().get(&stored.id()).await.unwrap();
    assert_eq!(read, Some(stored));
}

async fn a_message_without_its_conversation_is_not_found(storage: Arc<dyn Storage>) {
    let orphan = Message::new(ConversationId::new(), Role::User, "text");
    assert_not_found(storage.messages().add(orphan.clone()).await);
    assert!(!storage.messages().exists(&orphan.id()).await.unwrap());
}

async fn an_update_to_a_missing_conversation_changes_nothing(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let message = Message::new(conversation, Role::User, "text");
    storage.messages().add(message.clone()).await.unwrap();
    let mut changed = message.clone();
    changed.conversation_id = ConversationId::new();
    assert_not_found(replace(&*storage.messages(), &changed).await);
    let read = storage.messages().get(&message.id()).await.unwrap();
    assert_eq!(read, Some(message));
}

async fn a_message_has_one_answer(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let question = Message::new(conversation, Role::User, "What is 17 * 23?");
    let answer = |content: &str| {
        Message::new(conversation, Role::Assistant, content)
            .with(|message| message.id = question.id.answer())
    };
    for message in [question.clone(), answer("391")] {
        storage.messages().add(message).await.unwrap();
    }
    assert_conflict(storage.messages().add(answer("392")).await);
}

async fn a_batch_is_stored_in_its_order(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let mut batch = numbered(conversation, 1000);
    batch.reverse();
    let added = storage.messages().add_many(batch.clone()).await.unwrap();
    assert_eq!(added, batch);
    let query = ListQuery::filtered(MessageFilter::of(conversation))
        .oldest_first()
        .limit(2000);
    let page = storage.messages().list(&query).await.unwrap();
    assert_eq!((page.items, page.next), (batch, None));
}

async fn an_empty_batch_is_stored(storage: Arc<dyn Storage>) {
    let added = storage.messages().add_many(Vec::new()).await.unwrap();
    assert_eq!(added, []);
}

async fn a_batch_may_be_larger_than_a_statement_has_parameters(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    // Six columns each: more than the 65,535 of PostgreSQL and the 32,766 of SQLite.
    let batch = numbered(conversation, 11_000);
    let added = storage.messages().add_many(batch.clone()).await.unwrap();
    assert_eq!(added, batch);
    let filter = MessageFilter::of(conversation);
    assert_eq!(storage.messages().count(&filter).await.unwrap(), 11_000);

    // Whole or not at all holds for a large one too: its last row is there already.
    let other = add_conversation(&storage).await.id;
    let batch = numbered(other, 11_000);
    let last = batch[10_999].clone();
    storage.messages().add(last).await.unwrap();
    assert_conflict(storage.messages().add_many(batch).await);
    let filter = MessageFilter::of(other);
    assert_eq!(storage.messages().count(&filter).await.unwrap(), 1);
}

async fn a_batch_is_stored_whole_or_not_at_all(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let messages = storage.messages();
    let stored = Message::new(conversation, Role::User, "stored before");
    messages.add(stored.clone()).await.unwrap();
    let batch = numbered(conversation, 3);

    let mut twice = batch.clone();
    twice.push(batch[1].clone());
    assert_conflict(messages.add_many(twice).await);

    let mut existing = batch.clone();
    existing[2].id = stored.id;
    assert_conflict(messages.add_many(existing).await);

    let mut orphan = batch.clone();
    orphan[1].conversation_id = ConversationId::new();
    assert_not_found(messages.add_many(orphan).await);

    let mut invalid = batch.clone();
    invalid[2].content = "\0".to_owned();
    assert_invalid(messages.add_many(invalid).await, "content");

    let page = messages
        .list(&ListQuery::filtered(MessageFilter::of(conversation)))
        .await
        .unwrap();
    assert_eq!(page.items, [stored]);
    messages.add_many(batch).await.unwrap();
}

async fn filters_take_a_conversation_and_a_role(storage: Arc<dyn Storage>) {
    let (one, other) = (
        add_conversation(&storage).await.id,
        add_conversation(&storage).await.id,
    );
    // A role of this case alone, to count across conversations.
    let own = Role::Other(fresh());
    let row = |conversation, role: &Role| Message::new(conversation, role.clone(), "text");
    let batch = vec![
        row(one, &Role::User),
        row(one, &own),
        row(one, &own),
        row(other, &own),
    ];
    storage.messages().add_many(batch.clone()).await.unwrap();
    let ids = |indexes: &[usize]| -> Vec<MessageId> {
        indexes.iter().map(|index| batch[*index].id).collect()
    };
    let expected = [
        (MessageFilter::of(one), ids(&[2, 1, 0])),
        (MessageFilter::of(one).role(Role::User), ids(&[0])),
        (MessageFilter::of(one).role(own.clone()), ids(&[2, 1])),
        (MessageFilter::of(other).role(Role::User), ids(&[])),
        (MessageFilter::default().role(own), ids(&[3, 2, 1])),
        (MessageFilter::of(ConversationId::new()), ids(&[])),
    ];
    for (filter, expected) in expected {
        let count = storage.messages().count(&filter).await.unwrap();
        assert_eq!(count, expected.len() as u64);
        let page = storage.messages().list(&ListQuery::filtered(filter)).await;
        let found: Vec<_> = page.unwrap().items.iter().map(|row| row.id).collect();
        assert_eq!(found, expected);
    }
}

fn numbered(conversation: ConversationId, count: usize) -> Vec<Message> {
    (0..count)
        .map(|number| Message::new(conversation, Role::User, number.to_string()))
        .collect()
}

async fn long_parts_come_back_as_they_were_said(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let messages = storage.messages();
    let url = format!("data:image/png;base64,{}", "iVBORw0K".repeat(5000));
    let linked = json!({"type": "file", "name": AWKWARD, "source": {"type": "url", "url": url}});
    let linked: Part = serde_json::from_value(linked).unwrap();
    let pretended = Part::text(format!("@sha256:{} 7", "0".repeat(64)));
    let all = vec![
        Part::text("Look:"),
        picture(100_000),
        picture(100_000),
        linked.clone(),
        Part::text("漢".repeat(10_000)),
        pretended.clone(),
    ];
    let said = |parts: Vec<Part>| Message::of_parts(conversation, Role::User, parts);
    let first = said(all.clone());
    assert_eq!(messages.add(first.clone()).await.unwrap(), first);
    let again = vec![said(all), said(vec![Part::text("a"), pretended, linked])];
    let again = messages.add_many(again).await.unwrap();
    let expected = [std::slice::from_ref(&first), &again[..]].concat();
    let query = ListQuery::filtered(MessageFilter::of(conversation)).oldest_first();
    assert_eq!(messages.list(&query).await.unwrap().items, expected);
    // One goes without taking what others have.
    let change = |message: &mut Message| {
        message.parts.truncate(1);
        message.parts.push(picture(40_000));
        Ok(())
    };
    let changed = messages.update(&first.id(), &change).await.unwrap();
    assert_eq!(changed.parts, [Part::text("Look:"), picture(40_000)]);
    assert_eq!(messages.get(&first.id()).await.unwrap(), Some(changed));
    for message in &again {
        let read = messages.get(&message.id()).await.unwrap();
        assert_eq!(read.as_ref(), Some(message));
    }
    let missing = Message::of_parts(ConversationId::new(), Role::User, vec![picture(40_000)]);
    assert_not_found(messages.add(missing).await);
}

/// Both at once, again and again.
async fn a_long_part_stays_for_who_says_it_while_another_lets_it_go(storage: Arc<dyn Storage>) {
    for _ in 0..24 {
        let conversation = add_conversation(&storage).await.id;
        let said = || Message::of_parts(conversation, Role::User, vec![picture(40_000)]);
        let (first, second) = (said(), said());
        storage.messages().add(first.clone()).await.unwrap();
        let calls = [true, false].map(|says| {
            let (messages, first, second) = (storage.messages(), first.id(), second.clone());
            async move {
                if says {
                    messages.add(second).await.unwrap();
                    return;
                }
                let change = |message: &mut Message| {
                    message.parts = vec![Part::text("nothing")];
                    Ok(())
                };
                messages.update(&first, &change).await.unwrap();
            }
        });
        all_at_once(calls).await;
        let read = storage.messages().get(&second.id()).await.unwrap();
        assert_eq!(read, Some(second));
    }
}

async fn a_long_part_is_read_whole_while_it_is_changed_and_redacted(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let [first, second] = [40_000, 48_000].map(picture);
    let said = Message::of_parts(conversation, Role::User, vec![first.clone()]);
    let id = said.id();
    storage.messages().add(said).await.unwrap();
    let changes = tokio::spawn({
        let (storage, pictures) = (storage.clone(), [second.clone(), first.clone()]);
        async move {
            for part in pictures.iter().cycle().take(100) {
                let change = |message: &mut Message| {
                    message.parts = vec![part.clone()];
                    Ok(())
                };
                storage.messages().update(&id, &change).await.unwrap();
            }
            let retention = storage.retention();
            let redacted = retention.redact(conversation, id.id, None);
            assert!(redacted.await.unwrap());
        }
    });
    let query = ListQuery::filtered(MessageFilter::of(conversation));
    let said = [first, second, Part::text(REDACTED)].map(|part| vec![part]);
    let is_whole = |message: &Message| said.contains(&message.parts);
    while !changes.is_finished() {
        let read = storage.messages().get(&id).await.unwrap();
        assert!(read.as_ref().is_some_and(is_whole), "{read:?}");
        let page = storage.messages().list(&query).await.unwrap().items;
        assert!(page.iter().all(is_whole) && page.len() == 1, "{page:?}");
        tokio::task::yield_now().await;
    }
    changes.await.unwrap();
}

async fn a_page_is_bounded_by_its_long_parts_too(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let said = || Message::of_parts(conversation, Role::User, vec![picture(40_000)]);
    let all = vec![said(), said(), said()];
    let all = storage.messages().add_many(all).await.unwrap();
    let query = ListQuery::filtered(MessageFilter::of(conversation)).oldest_first();
    let (mut query, mut pages) = (query.max_bytes(100_000), Vec::new());
    loop {
        let page = storage.messages().list(&query).await.unwrap();
        pages.push(page.items);
        let Some(next) = page.next else { break };
        query = query.after(next);
    }
    let pages: Vec<&[Message]> = pages.iter().map(Vec::as_slice).collect();
    assert_eq!(pages, [&all[..2], &all[2..]]);
}
