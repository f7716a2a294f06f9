//! Conversations, and what holds for the rows of every repository.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use serde_json::{Value as Json, json};
use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ConversationId, Entity, Error, ListQuery, Message, Role, Storage, Turn,
    conversation::ConversationFilter,
};

use super::{
    Case,
    fixtures::{
        AWKWARD, add_conversation, assert_conflict, assert_invalid, assert_not_found, fresh,
        replace,
    },
};

pub(super) const CASES: &[Case] = cases!["conversations":
    what_was_never_added_is_none,
    what_was_added_reads_back_equal_in_every_field,
    what_comes_back_equals_a_later_get,
    a_json_null_is_not_an_absent_value,
    the_longest_title_counts_characters_and_not_bytes,
    a_title_that_is_too_long_is_refused_and_changes_nothing,
    a_nul_character_is_refused_with_the_name_of_its_field,
    a_duplicate_id_is_a_conflict_and_the_first_stays,
    a_thread_belongs_to_one_conversation,
    an_update_replaces_the_row_and_moves_updated_at,
    an_update_to_the_thread_of_another_is_a_conflict,
    an_update_of_what_is_gone_is_not_found_and_creates_nothing,
    an_update_that_fails_changes_nothing,
    delete_tells_whether_there_was_a_row,
    deleting_a_conversation_deletes_its_messages_and_turns_only,
    filters_take_exact_values,
];

async fn what_was_never_added_is_none(storage: Arc<dyn Storage>) {
    let conversations = storage.conversations();
    let id = ConversationId::new();
    assert_eq!(conversations.get(&id).await.unwrap(), None);
    assert!(!conversations.exists(&id).await.unwrap());
}

async fn what_was_added_reads_back_equal_in_every_field(storage: Arc<dyn Storage>) {
    let mut conversation = Conversation::new(
        Some(AWKWARD.to_owned()),
        Some(json!({
            "nested": {"list": [1, -1.5, true, null, AWKWARD, [], {}]},
            "": "empty key",
            AWKWARD: {"limits": [i64::MIN, i64::MAX, u64::MAX, 0.1, 1e-7, 1.5e300]},
        })),
    );
    conversation.created_at -= TimeDelta::microseconds(86_400_000_001);
    let empty = Conversation::new(Some(String::new()), Some(json!({})));
    let bare = Conversation::new(None, None);
    let scalar = Conversation::new(None, Some(json!("only a text")));
    for expected in [conversation, empty, bare, scalar] {
        let conversations = storage.conversations();
        let added = conversations.add(expected.clone()).await.unwrap();
        assert_eq!(added, expected);
        assert!(conversations.exists(&expected.id).await.unwrap());
        let read = conversations.get(&expected.id).await.unwrap();
        assert_eq!(read, Some(expected));
    }
}

async fn what_comes_back_equals_a_later_get(storage: Arc<dyn Storage>) {
    let conversations = storage.conversations();
    let mut conversation = Conversation::titled("Finer than a microsecond");
    conversation.created_at = Utc::now();
    conversation.updated_at = Utc::now();
    let added = conversations.add(conversation.clone()).await.unwrap();
    let read = conversations.get(&conversation.id).await.unwrap();
    assert_eq!(read, Some(added));
    let updated = replace(&*conversations, &conversation).await.unwrap();
    let read = conversations.get(&conversation.id).await.unwrap();
    assert_eq!(read, Some(updated));
}

async fn a_json_null_is_not_an_absent_value(storage: Arc<dyn Storage>) {
    let conversations = storage.conversations();
    for metadata in [Some(Json::Null), None] {
        let conversation = Conversation::new(None, metadata);
        conversations.add(conversation.clone()).await.unwrap();
        let read = conversations.get(&conversation.id).await.unwrap();
        assert_eq!(read, Some(conversation));
    }
}

async fn the_longest_title_counts_characters_and_not_bytes(storage: Arc<dyn Storage>) {
    for character in ["漢", "🦀", "é"] {
        let title = character.repeat(Conversation::MAX_TITLE);
        let conversation = Conversation::titled(title);
        storage
            .conversations()
            .add(conversation.clone())
            .await
            .unwrap();
        let read = storage.conversations().get(&conversation.id).await.unwrap();
        assert_eq!(read, Some(conversation));
    }
}

async fn a_title_that_is_too_long_is_refused_and_changes_nothing(storage: Arc<dyn Storage>) {
    let conversations = storage.conversations();
    let title = "t".repeat(Conversation::MAX_TITLE + 1);
    let refused = Conversation::titled(title.clone());
    assert_invalid(conversations.add(refused.clone()).await, "title");
    assert!(!conversations.exists(&refused.id).await.unwrap());

    let stored = add_conversation(&storage).await;
    let mut longer = stored.clone();
    longer.title = Some(title);
    assert_invalid(replace(&*conversations, &longer).await, "title");
    assert_eq!(conversations.get(&stored.id).await.unwrap(), Some(stored));
}

async fn a_nul_character_is_refused_with_the_name_of_its_field(storage: Arc<dyn Storage>) {
    let conversations = storage.conversations();
    let refused = [
        (Conversation::titled("a\0b"), "title"),
        (Conversation::new(None, Some(json!("\0"))), "metadata"),
        (
            Conversation::new(None, Some(json!({"a": [{"b": "\0"}]}))),
            "metadata",
        ),
        (
            Conversation::new(None, Some(json!({"a": {"\0": 1}}))),
            "metadata",
        ),
    ];
    for (conversation, field) in refused {
        let good = Conversation::titled("Beside it");
        let batch = vec![good.clone(), conversation.clone()];
        assert_invalid(conversations.add(conversation.clone()).await, field);
        assert_invalid(conversations.add_many(batch).await, field);
        assert!(!conversations.exists(&conversation.id).await.unwrap());
        assert!(!conversations.exists(&good.id).await.unwrap());
    }
}

async fn a_duplicate_id_is_a_conflict_and_the_first_stays(storage: Arc<dyn Storage>) {
    let first = add_conversation(&storage).await;
    let mut second = Conversation::titled("The second");
    second.id = first.id;
    assert_conflict(storage.conversations().add(second.clone()).await);
    let batch = vec![Conversation::titled("Beside it"), second];
    assert_conflict(storage.conversations().add_many(batch.clone()).await);
    let read = storage.conversations().get(&first.id).await.unwrap();
    assert_eq!(read, Some(first));
    assert!(!storage.conversations().exists(&batch[0].id).await.unwrap());
}

async fn a_thread_belongs_to_one_conversation(storage: Arc<dyn Storage>) {
    let first = add_conversation(&storage).await;
    let mut second = Conversation::titled("The second");
    second.checkpoint_thread_id = first.checkpoint_thread_id;
    assert_conflict(storage.conversations().add(second.clone()).await);
    assert!(!storage.conversations().exists(&second.id).await.unwrap());
}

async fn an_update_replaces_the_row_and_moves_updated_at(storage: Arc<dyn Storage>) {
    let conversations = storage.conversations();
    let mut last = add_conversation(&storage).await;
    for title in [Some("Another".to_owned()), Some("Another".to_owned()), None] {
        let mut changed = last.clone();
        changed.title = title.clone();
        changed.metadata = Some(json!({"title": title}));
        let updated = replace(&*conversations, &changed).await.unwrap();
        assert!(updated.updated_at > last.updated_at);
        changed.updated_at = updated.updated_at;
        assert_eq!(updated, changed);
        let read = conversations.get(&last.id).await.unwrap();
        assert_eq!(read.as_ref(), Some(&updated));
        last = updated;
    }
}

async fn an_update_to_the_thread_of_another_is_a_conflict(storage: Arc<dyn Storage>) {
    let first = add_conversation(&storage).await;
    let second = add_conversation(&storage).await;
    let mut changed = second.clone();
    changed.checkpoint_thread_id = first.checkpoint_thread_id;
    assert_conflict(replace(&*storage.conversations(), &changed).await);
    let read = storage.conversations().get(&second.id).await.unwrap();
    assert_eq!(read, Some(second));
}

async fn an_update_of_what_is_gone_is_not_found_and_creates_nothing(storage: Arc<dyn Storage>) {
    let conversations = storage.conversations();
    let deleted = add_conversation(&storage).await;
    conversations.delete(&deleted.id).await.unwrap();
    for gone in [Conversation::titled("Never added"), deleted] {
        assert_not_found(replace(&*conversations, &gone).await);
        assert!(!conversations.exists(&gone.id).await.unwrap());
    }
}

async fn an_update_that_fails_changes_nothing(storage: Arc<dyn Storage>) {
    let conversations = storage.conversations();
    let stored = add_conversation(&storage).await;
    let refuse = |row: &mut Conversation| {
        row.title = None;
        Err(Error::invalid("title", "is wanted"))
    };
    assert_invalid(conversations.update(&stored.id, &refuse).await, "title");
    let other_id = |row: &mut Conversation| {
        row.id = ConversationId::new();
        Ok(())
    };
    assert_invalid(conversations.update(&stored.id, &other_id).await, "id");
    let read = conversations.get(&stored.id).await.unwrap();
    assert_eq!(read.as_ref(), Some(&stored));

    // Nor the unit of work that it is part of.
    let unit = storage.begin().await.unwrap();
    let refused = unit.conversations().update(&stored.id, &refuse).await;
    assert_invalid(refused, "title");
    drop(unit);
    assert_eq!(conversations.get(&stored.id).await.unwrap(), Some(stored));
}

async fn delete_tells_whether_there_was_a_row(storage: Arc<dyn Storage>) {
    let conversations = storage.conversations();
    let conversation = add_conversation(&storage).await;
    assert!(conversations.delete(&conversation.id).await.unwrap());
    assert!(!conversations.delete(&conversation.id).await.unwrap());
    assert_eq!(conversations.get(&conversation.id).await.unwrap(), None);
    assert!(!conversations.exists(&conversation.id).await.unwrap());
    // The id and the thread are free again.
    conversations.add(conversation).await.unwrap();
}

async fn deleting_a_conversation_deletes_its_messages_and_turns_only(storage: Arc<dyn Storage>) {
    let mut pairs = Vec::new();
    for _ in 0..2 {
        let conversation = add_conversation(&storage).await;
        let message = Message::new(conversation.id, Role::User, "Hello");
        let turn = Turn::new(conversation.id, message.id);
        storage.messages().add(message.clone()).await.unwrap();
        storage.turns().add(turn.clone()).await.unwrap();
        pairs.push((conversation, message, turn));
    }
    let deleted = &pairs[0].0.id;
    assert!(storage.conversations().delete(deleted).await.unwrap());
    for (conversation, message, turn) in &pairs {
        let stays = conversation.id != *deleted;
        assert_eq!(
            storage.messages().exists(&message.id()).await.unwrap(),
            stays
        );
        assert_eq!(storage.turns().exists(&turn.id()).await.unwrap(), stays);
    }
}

async fn filters_take_exact_values(storage: Arc<dyn Storage>) {
    let conversations = storage.conversations();
    let name = fresh();
    let titles = [
        format!("{name} chat"),
        format!("{name} Chat"),
        format!("{name} chat "),
        format!("{name} cha%"),
        format!("{name} cha_"),
        format!("{name} ch\u{e9}"),
        format!("{name} che\u{301}"),
        format!("{name} '\\"),
    ];
    for title in &titles {
        let added = conversations
            .add(Conversation::titled(title))
            .await
            .unwrap();
        for filter in [
            ConversationFilter::titled(title),
            ConversationFilter::default().thread(added.checkpoint_thread_id),
        ] {
            assert_eq!(conversations.count(&filter).await.unwrap(), 1);
            let page = conversations.list(&ListQuery::filtered(filter)).await;
            let page = page.unwrap();
            assert_eq!((page.items, page.next), (vec![added.clone()], None));
        }
        let neither = ConversationFilter::titled(title).thread(Uuid::now_v7());
        assert_eq!(conversations.count(&neither).await.unwrap(), 0);
        let page = conversations.list(&ListQuery::filtered(neither)).await;
        assert!(page.unwrap().items.is_empty());
    }
}
