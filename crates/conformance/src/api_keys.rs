//! The keys of those who call a server, and the owners of conversations.

use std::sync::Arc;

use chrono::TimeDelta;
use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, Entity, ListQuery, Storage,
    access::{ApiKey, ApiKeyFilter, MAX_OWNER, Scope},
    conversation::ConversationFilter,
};

use super::{
    Case,
    fixtures::{AWKWARD, assert_conflict, assert_invalid},
};

pub(super) const CASES: &[Case] = cases!["api_keys":
    a_key_reads_back_equal_in_every_field,
    a_key_is_revoked_by_an_update,
    an_owner_has_a_name_that_is_not_too_long,
    the_keys_of_an_owner_are_found,
    the_conversations_of_an_owner_come_in_pages_without_others,
];

fn key(scope: Scope) -> ApiKey {
    let digest = [7; 32];
    ApiKey::new(Uuid::now_v7(), AWKWARD, digest, scope)
}

async fn a_key_reads_back_equal_in_every_field(storage: Arc<dyn Storage>) {
    let keys = storage.api_keys();
    for scope in Scope::ALL {
        let plain = key(scope);
        let expiring = key(scope).with(|key| {
            key.owner = Some(AWKWARD.to_owned());
            key.expires_at = Some(key.created_at + TimeDelta::days(90));
            key.revoked_at = Some(key.created_at + TimeDelta::microseconds(1));
        });
        for expected in [plain, expiring] {
            assert_eq!(keys.add(expected.clone()).await.unwrap(), expected);
            let read = keys.get(&expected.id).await.unwrap();
            assert_eq!(read, Some(expected.clone()));
            assert_conflict(keys.add(expected).await);
        }
    }
}

async fn a_key_is_revoked_by_an_update(storage: Arc<dyn Storage>) {
    let keys = storage.api_keys();
    let stored = keys.add(key(Scope::Write)).await.unwrap();
    let now = Some(stored.created_at);
    let revoke = |key: &mut ApiKey| {
        key.revoked_at = now;
        Ok(())
    };
    let revoked = keys.update(&stored.id, &revoke).await.unwrap();
    assert_eq!(revoked, stored.with(|key| key.revoked_at = now));
    assert_eq!(keys.get(&revoked.id).await.unwrap(), Some(revoked));
}

async fn an_owner_has_a_name_that_is_not_too_long(storage: Arc<dyn Storage>) {
    for owner in [String::new(), "o".repeat(MAX_OWNER + 1), "\0".to_owned()] {
        let key = key(Scope::Read).with(|key| key.owner = Some(owner.clone()));
        assert_invalid(storage.api_keys().add(key).await, "owner");
        let chat = Conversation::new(None, None).with(|chat| chat.owner = Some(owner));
        assert_invalid(storage.conversations().add(chat).await, "owner");
    }
    let longest = "ö".repeat(MAX_OWNER);
    let chat = Conversation::new(None, None).with(|chat| chat.owner = Some(longest));
    let added = storage.conversations().add(chat.clone()).await.unwrap();
    assert_eq!(added, chat);
    let read = storage.conversations().get(&chat.id).await.unwrap();
    assert_eq!(read, Some(chat));
}

async fn the_keys_of_an_owner_are_found(storage: Arc<dyn Storage>) {
    let keys = storage.api_keys();
    let owner = Uuid::new_v4().to_string();
    let own = key(Scope::Read).with(|key| key.owner = Some(owner.clone()));
    for key in [own.clone(), key(Scope::Read)] {
        keys.add(key).await.unwrap();
    }
    let found = ListQuery::filtered(ApiKeyFilter::of(owner));
    assert_eq!(keys.list(&found).await.unwrap().items, [own]);
}

async fn the_conversations_of_an_owner_come_in_pages_without_others(storage: Arc<dyn Storage>) {
    let conversations = storage.conversations();
    let [ada, bob] = [(); 2].map(|()| Some(Uuid::new_v4().to_string()));
    let mut own = Vec::new();
    for owner in [&ada, &bob, &None, &ada, &ada] {
        let chat = Conversation::new(None, None).with(|chat| chat.owner.clone_from(owner));
        let chat = conversations.add(chat).await.unwrap();
        if *owner == ada {
            own.insert(0, chat);
        }
    }
    let of_ada = ConversationFilter::default().owned_by(ada);
    assert_eq!(conversations.count(&of_ada).await.unwrap(), 3);
    let query = ListQuery::filtered(of_ada).limit(2);
    let first = conversations.list(&query).await.unwrap();
    let second = query.after(first.next.expect("a second page"));
    let second = conversations.list(&second).await.unwrap();
    assert_eq!([first.items, second.items].concat(), own);
    assert_eq!(second.next, None);
}
