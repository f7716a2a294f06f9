//! What is told of acts that can't be undone.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ConversationId, MessageId, Storage,
    access::owner_id,
    audit::{Act, Action, Actor, AuditEntry, AuditQuery},
};

use super::{Case, fixtures::fresh};

pub(super) const CASES: &[Case] = cases!["audit":
    acts_are_listed_the_newest_first,
    an_act_is_told_if_it_was_done,
    an_erasure_is_told_with_what_it_erases,
    young_entries_do_not_expire,
];

/// Who is known to no other case, and acts for an owner of its own.
fn somebody() -> Actor {
    Actor {
        who: fresh(),
        owner: Some(owner_id(&fresh())),
    }
}

async fn list(storage: &Arc<dyn Storage>, owner: Option<Uuid>) -> Vec<AuditEntry> {
    let query = AuditQuery {
        before: None,
        owner,
        limit: 1000,
    };
    storage.audit().list(&query).await.unwrap()
}

async fn told(storage: &Arc<dyn Storage>, actor: &Actor) -> Vec<Act> {
    let entries = list(storage, actor.owner).await;
    entries.into_iter().map(|entry| entry.act).collect()
}

async fn acts_are_listed_the_newest_first(storage: Arc<dyn Storage>) {
    let actor = somebody();
    let log = storage.audit();
    let mut expected = Vec::new();
    for (action, count) in Action::ALL.into_iter().zip(0..) {
        let mut act = actor.does(action, ConversationId::new());
        if count % 2 == 0 {
            act = act.counting(count);
        }
        log.record(&act).await.unwrap();
        expected.insert(0, act);
    }
    let of_all = Actor::new(actor.who.clone()).does(Action::Pruned, "all");
    log.record(&of_all).await.unwrap();
    assert_eq!(told(&storage, &actor).await, expected);
    let entries = list(&storage, None).await;
    assert!(entries.iter().any(|entry| entry.act == of_all));
    assert!(entries.is_sorted_by(|one, next| one.position > next.position));
    let mut read = Vec::new();
    let mut before = None;
    loop {
        let query = AuditQuery {
            before,
            owner: actor.owner,
            limit: 4,
        };
        let page = log.list(&query).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.position);
        read.extend(page.into_iter().map(|entry| entry.act));
    }
    assert_eq!(read, expected);
}

async fn an_act_is_told_if_it_was_done(storage: Arc<dyn Storage>) {
    let actor = somebody();
    let act = actor.does(Action::KeyCreated, Uuid::now_v7());
    let unit = storage.begin().await.unwrap();
    unit.audit().record(&act).await.unwrap();
    drop(unit);
    assert_eq!(told(&storage, &actor).await, []);
    let unit = storage.begin().await.unwrap();
    unit.audit().record(&act).await.unwrap();
    unit.commit().await.unwrap();
    assert_eq!(told(&storage, &actor).await, [act]);
}

async fn an_erasure_is_told_with_what_it_erases(storage: Arc<dyn Storage>) {
    let actor = somebody();
    let chat = Conversation::titled("Told");
    let chat = storage.conversations().add(chat).await.unwrap();
    let retention = storage.retention();
    let redacted = actor.does(Action::MessageRedacted, chat.id);
    let nobody = MessageId::new();
    let done = retention.redact(chat.id, nobody, Some(&redacted)).await;
    assert!(!done.unwrap());
    let erased = actor.does(Action::ConversationErased, chat.id);
    for done in [true, false] {
        let erased = retention.erase(chat.id, Some(&erased)).await;
        assert_eq!(erased.unwrap(), done);
    }
    assert_eq!(told(&storage, &actor).await, [erased]);
}

async fn young_entries_do_not_expire(storage: Arc<dyn Storage>) {
    let actor = somebody();
    let act = actor.does(Action::Exported, ConversationId::new());
    storage.audit().record(&act).await.unwrap();
    storage.audit().expire(Duration::ZERO).await.unwrap();
    assert_eq!(told(&storage, &actor).await, [act]);
}
