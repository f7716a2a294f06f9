//! Branches: a tree of messages, one branch of which is chosen.

use std::sync::Arc;

use serde_json::json;
use yai_agentkit_core::{
    ConversationId, Entity, Error, ListQuery, Message, MessageId, Role, Storage,
    conversation::{MessageFilter, Part, Source},
};

use super::{
    Case,
    fixtures::{AWKWARD, add_conversation, assert_not_found},
};

pub(super) const CASES: &[Case] = cases!["branches":
    a_message_keeps_its_parts_and_its_place,
    the_chosen_branch_is_what_a_list_takes,
    a_message_that_names_no_parent_stands_behind_what_was_chosen,
    a_choice_within_a_unit_is_a_part_of_it,
    a_long_history_is_stored_in_order_with_the_branch_that_is_chosen,
];

async fn a_message_keeps_its_parts_and_its_place(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let source = Source::Data {
        data: "aGVsbG8=".to_owned(),
        media_type: "image/png".to_owned(),
    };
    let parts = vec![
        Part::text(AWKWARD),
        Part::Image { source },
        Part::ToolCall {
            id: "call".to_owned(),
            name: AWKWARD.to_owned(),
            arguments: json!({AWKWARD: [1, null]}),
        },
    ];
    let message = Message::of_parts(conversation, Role::Assistant, parts.clone());
    let message = message.with(|message| {
        message.parent_id = Some(MessageId::new());
        message.is_chosen = false;
        message.checkpoint_id = Some("a checkpoint".into());
    });
    assert_eq!(message.content, AWKWARD);
    storage.messages().add(message.clone()).await.unwrap();
    let read = storage.messages().get(&message.id()).await.unwrap();
    assert_eq!(read, Some(message));
    let nul = Message::of_parts(
        conversation,
        Role::User,
        vec![Part::Reasoning {
            text: "\0".to_owned(),
        }],
    );
    let refused = storage.messages().add(nul).await;
    assert!(
        matches!(refused, Err(Error::InvalidInput { .. })),
        "{refused:?}"
    );
}

async fn add(
    storage: &Arc<dyn Storage>,
    conversation: ConversationId,
    parent: Option<MessageId>,
) -> MessageId {
    let message = Message::new(conversation, Role::User, "Hello");
    let message = message.with(|message| message.parent_id = parent);
    storage.messages().add(message).await.unwrap().id
}

async fn ids(storage: &Arc<dyn Storage>, filter: MessageFilter) -> Vec<MessageId> {
    let query = ListQuery::filtered(filter).oldest_first();
    let page = storage.messages().list(&query).await.unwrap();
    page.items.iter().map(|message| message.id).collect()
}

async fn the_chosen_branch_is_what_a_list_takes(storage: Arc<dyn Storage>) {
    let one = add_conversation(&storage).await.id;
    let untouched = add_conversation(&storage).await.id;
    let elsewhere = add(&storage, untouched, None).await;
    let turns = storage.turn_store();
    let first = add(&storage, one, None).await;
    let second = add(&storage, one, Some(first)).await;
    let third = add(&storage, one, Some(second)).await;
    let chosen = MessageFilter::of(one);
    let others = || chosen.clone().of_other_branches();
    assert_eq!(ids(&storage, chosen.clone()).await, [first, second, third]);

    turns.choose(one, Some(first)).await.unwrap();
    assert_eq!(ids(&storage, chosen.clone()).await, [first]);
    assert_eq!(ids(&storage, others()).await, [second, third]);
    let beside = add(&storage, one, Some(first)).await;
    assert_eq!(ids(&storage, chosen.clone()).await, [first, beside]);

    for _ in 0..2 {
        turns.choose(one, Some(third)).await.unwrap();
        assert_eq!(ids(&storage, chosen.clone()).await, [first, second, third]);
        assert_eq!(ids(&storage, others()).await, [beside]);
    }
    turns.choose(one, None).await.unwrap();
    assert_eq!(ids(&storage, chosen.clone()).await, []);
    let all = chosen.clone().of_all_branches();
    assert_eq!(
        ids(&storage, all.clone()).await,
        [first, second, third, beside]
    );
    turns.choose(one, Some(beside)).await.unwrap();
    assert_eq!(ids(&storage, chosen.clone()).await, [first, beside]);

    assert_not_found(turns.choose(one, Some(MessageId::new())).await);
    assert_not_found(turns.choose(one, Some(elsewhere)).await);
    assert_eq!(ids(&storage, chosen).await, [first, beside]);
    assert_eq!(
        ids(&storage, MessageFilter::of(untouched)).await,
        [elsewhere]
    );
    assert_eq!(storage.messages().count(&all).await.unwrap(), 4);
}

async fn a_message_that_names_no_parent_stands_behind_what_was_chosen(storage: Arc<dyn Storage>) {
    let one = add_conversation(&storage).await.id;
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(add(&storage, one, None).await);
    }
    storage
        .turn_store()
        .choose(one, Some(all[1]))
        .await
        .unwrap();
    assert_eq!(ids(&storage, MessageFilter::of(one)).await, all[..2]);
}

async fn a_choice_within_a_unit_is_a_part_of_it(storage: Arc<dyn Storage>) {
    let one = add_conversation(&storage).await.id;
    let first = add(&storage, one, None).await;
    let unit = storage.begin().await.unwrap();
    unit.turn_store().choose(one, None).await.unwrap();
    drop(unit);
    assert_eq!(ids(&storage, MessageFilter::of(one)).await, [first]);
}

async fn a_long_history_is_stored_in_order_with_the_branch_that_is_chosen(
    storage: Arc<dyn Storage>,
) {
    let one = add_conversation(&storage).await.id;
    let (mut history, mut branch) = (Vec::new(), Vec::new());
    for place in 0..1500 {
        let message = Message::new(one, Role::Tool, place.to_string());
        let message = message.with(|message| {
            message.parent_id = branch.last().copied();
            message.is_chosen = false;
        });
        // Every third one is answered by nothing.
        if place % 3 != 1 {
            branch.push(message.id);
        }
        history.push(message);
    }
    let all = MessageFilter::of(one).of_all_branches();
    for is_committed in [false, true] {
        let unit = storage.begin().await.unwrap();
        unit.messages().add_many(history.clone()).await.unwrap();
        let last = branch.last().copied();
        unit.turn_store().choose(one, last).await.unwrap();
        if is_committed {
            unit.commit().await.unwrap();
        } else {
            drop(unit);
            assert_eq!(storage.messages().count(&all).await.unwrap(), 0);
        }
    }
    let mut read = Vec::new();
    let mut query = ListQuery::filtered(all).oldest_first().limit(1000);
    loop {
        let page = storage.messages().list(&query).await.unwrap();
        read.extend(page.items);
        match page.next {
            Some(next) => query = query.after(next),
            None => break,
        }
    }
    let stored = history.into_iter().map(|message| {
        let is_chosen = branch.contains(&message.id);
        message.with(|message| message.is_chosen = is_chosen)
    });
    assert!(read.into_iter().eq(stored), "another history");
}
