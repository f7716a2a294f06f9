//! The calls of the repositories, leases and events.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ConversationId, Entity, ListQuery, Message, MessageId, PutOptions, Repository,
    Role, Storage, Stores, ThreadState, Turn, TurnStatus,
    access::{ApiKey, Scope},
    audit::{Action, Actor, AuditQuery},
    checkpoint::{CheckpointMetadata, CheckpointSource},
    conversation::{ConversationFilter, MessageFilter, SearchQuery},
    retention::{RetentionPolicy, Sweep},
    turn::{EventBatch, IdempotencyKey, LatestBatches, OwnerId, TurnChange, TurnFilter},
};

use super::Golden;
use crate::{Database, StoredEntity};

pub(super) async fn call_all(golden: &mut Golden) {
    let conversation = conversations(golden).await;
    messages(golden, &conversation).await;
    search(golden).await;
    audit(golden).await;
    let turn = turns(golden, &conversation).await;
    leases(golden, turn.clone()).await;
    events(golden, &turn).await;
    keys(golden).await;
    repository(golden, "api_keys", api_key).await;
    retention(golden).await;
    golden
        .call("ping", async |database| database.ping().await.unwrap())
        .await;
}

async fn conversations(golden: &mut Golden) -> Conversation {
    let new = || Conversation::titled("Golden");
    let stored = repository(golden, "conversations", new).await;
    let mut of_thread = ConversationFilter::default();
    of_thread.checkpoint_thread_id = Some(stored.checkpoint_thread_id);
    let mut titled = ConversationFilter::default();
    titled.title = stored.title.clone();
    let owned = ConversationFilter::default().owned_by(Some("Ada".to_owned()));
    let all = ListQuery::<Conversation>::default();
    for (name, query) in [
        ("conversations_list_next", all.clone().after(stored.id)),
        ("conversations_list_offset", all.offset(10)),
        (
            "conversations_list_of_thread",
            ListQuery::filtered(of_thread),
        ),
        ("conversations_list_titled", ListQuery::filtered(titled)),
        ("conversations_list_of_owner", ListQuery::filtered(owned)),
    ] {
        list(golden, name, &query).await;
    }
    golden
        .call("conversations_add_together", async |database| {
            let conversations = database.repository::<Conversation>();
            let added = join_all([new(), new()].map(|new| conversations.add(new))).await;
            assert!(added.iter().all(Result::is_ok));
        })
        .await;
    golden
        .call("conversations_get_together", async |database| {
            let conversations = database.repository::<Conversation>();
            join_all([conversations.get(&stored.id), conversations.get(&new().id)]).await;
        })
        .await;
    stored
}

async fn messages(golden: &mut Golden, conversation: &Conversation) {
    let new = || Message::new(conversation.id, Role::User, "Hello");
    repository(golden, "messages", new).await;
    let of_one = ListQuery::<Message>::filtered(MessageFilter::of(conversation.id));
    let of_role = MessageFilter::of(conversation.id).role(Role::User);
    for (name, query) in [
        ("messages_list_page", of_one.clone().oldest_first()),
        (
            "messages_list_next_page",
            of_one
                .clone()
                .oldest_first()
                .after(conversation.id.key(MessageId::new())),
        ),
        ("messages_list_newest", of_one.clone()),
        (
            "messages_list_within_bytes",
            of_one.clone().max_bytes(1 << 20),
        ),
        (
            "messages_list_before",
            of_one.after(conversation.id.key(MessageId::new())),
        ),
        ("messages_list_of_role", ListQuery::filtered(of_role)),
    ] {
        list(golden, name, &query).await;
    }
}

async fn search(golden: &mut Golden) {
    golden
        .call("search_index", async |database| {
            assert!(database.search().index(1_000_000).await.unwrap() > 0);
        })
        .await;
    golden
        .call("search_find", async |database| {
            let query = SearchQuery::text("Hello").unwrap();
            let query = query.owned_by(Some("Ada".to_owned()));
            drop(database.search().find(&query).await.unwrap());
        })
        .await;
    golden
        .call("search_find_fields", async |database| {
            let metadata = [("customer".to_owned(), json!(7))];
            let query = SearchQuery::fields(Some("Golden"), metadata.into()).unwrap();
            let query = query.owned_by(Some("Ada".to_owned()));
            drop(database.search().find(&query).await.unwrap());
        })
        .await;
}

async fn turns(golden: &mut Golden, conversation: &Conversation) -> Turn {
    let new = || {
        let mut turn = Turn::new(conversation.id, MessageId::new());
        turn.status = TurnStatus::Queued;
        turn
    };
    let stored = repository(golden, "turns", new).await;
    for (name, filter) in [
        ("turns_list_running", TurnFilter::running()),
        ("turns_list_unfinished", TurnFilter::unfinished()),
        (
            "turns_list_unfinished_of",
            TurnFilter::unfinished().of(conversation.id),
        ),
    ] {
        list(golden, name, &ListQuery::<Turn>::filtered(filter)).await;
    }
    stored
}

async fn leases(golden: &mut Golden, queued: Turn) {
    let running = queued.clone().with(|turn| {
        turn.status = TurnStatus::Running;
        turn.epoch = 1;
    });
    let next = running.clone();
    golden
        .call("leases_replace", async |database| {
            let change = TurnChange::new(queued, next);
            database.turn_store().change(change).await.unwrap();
        })
        .await;
    let owner = OwnerId::new();
    golden
        .call("leases_take", async |database| {
            let taken = database
                .turn_store()
                .take(&running, owner, Duration::from_secs(9))
                .await;
            assert!(taken.unwrap().is_some());
        })
        .await;
    golden
        .call("leases_renew", async |database| {
            assert_eq!(database.turn_store().renew(owner).await.unwrap().len(), 1);
        })
        .await;
    golden
        .call("leases_due", async |database| {
            drop(database.turn_store().due(10).await.unwrap());
        })
        .await;
}

async fn events(golden: &mut Golden, turn: &Turn) {
    let batch = EventBatch::new(
        turn.conversation_id,
        turn.id,
        1,
        vec![json!({"type": "RUN_STARTED"})],
    );
    golden
        .call("events_append", async |database| {
            database.turn_store().append(batch.clone()).await.unwrap();
        })
        .await;
    golden
        .call("events_read", async |database| {
            let turns = database.turn_store();
            let read = turns
                .events(turn.conversation_id, turn.id, 0, 10)
                .await
                .unwrap();
            assert_eq!(read, std::slice::from_ref(&batch));
        })
        .await;
    golden
        .call("events_latest", async |database| {
            let latest = database
                .turn_store()
                .latest_events(&[(turn.conversation_id, turn.id)])
                .await;
            assert_eq!(latest.unwrap(), LatestBatches::from([(turn.id, 1)]));
        })
        .await;
    golden
        .call("events_delete_older", async |database| {
            let day = Duration::from_secs(86_400);
            database.turn_store().forget_events(day).await.unwrap();
        })
        .await;
    if golden.database.connection.is_postgres() {
        golden
            .call("events_announce", async |database| {
                let latest = LatestBatches::from([(turn.id, 1)]);
                database.turn_store().announce(&latest).await.unwrap();
            })
            .await;
    }
}

async fn keys(golden: &mut Golden) {
    let new = || IdempotencyKey::new(Uuid::now_v7(), "key", b"request", Uuid::now_v7());
    repository(golden, "idempotency_keys", new).await;
    golden
        .call("idempotency_keys_forget", async |database| {
            let day = Duration::from_secs(86_400);
            database.turn_store().forget_keys(day).await.unwrap();
        })
        .await;
}

async fn audit(golden: &mut Golden) {
    let act = Actor::new("golden").does(Action::Pruned, "nothing");
    golden
        .call("audit_record", async |database| {
            database.audit().record(&act).await.unwrap();
        })
        .await;
    golden
        .call("audit_list", async |database| {
            let query = AuditQuery {
                before: None,
                owner: None,
                limit: 1,
            };
            assert_eq!(database.audit().list(&query).await.unwrap().len(), 1);
        })
        .await;
    golden
        .call("audit_expire", async |database| {
            assert_eq!(database.audit().expire(Duration::ZERO).await.unwrap(), 0);
        })
        .await;
}

async fn retention(golden: &mut Golden) {
    golden
        .call("retention_lead", async |database| {
            let retention = database.retention();
            let led = retention.lead(OwnerId::new(), Duration::ZERO).await;
            assert!(led.unwrap());
        })
        .await;
    let trims = RetentionPolicy {
        checkpoint_age: Some(Duration::ZERO),
        ..RetentionPolicy::default()
    };
    let expires = RetentionPolicy {
        conversation_age: Some(Duration::ZERO),
        ..RetentionPolicy::default()
    };
    for (name, policy, dry_run) in [
        ("retention_would_expire", &expires, true),
        ("retention_would_trim", &trims, true),
        ("retention_trim", &trims, false),
        ("retention_expire", &expires, false),
    ] {
        let id = chat_with_two(&golden.database).await;
        golden
            .call(name, async |database| {
                let sweep = Sweep {
                    after: Some(ConversationId(Uuid::from_u128(id.0.as_u128() - 1))),
                    limit: 1,
                    dry_run,
                };
                let swept = database.retention().sweep(policy, sweep).await.unwrap();
                assert!(swept.removed.checkpoints > 0, "{swept:?}");
            })
            .await;
    }
    let id = chat_with_two(&golden.database).await;
    let said = Message::new(id, Role::User, "Golden");
    let said = repository_of::<Message>(&golden.database).add(said).await;
    let said = said.unwrap().id;
    golden
        .call("retention_redact", async |database| {
            assert!(database.retention().redact(id, said, None).await.unwrap());
        })
        .await;
    golden
        .call("retention_erase", async |database| {
            assert!(database.retention().erase(id, None).await.unwrap());
        })
        .await;
}

/// A conversation whose thread has two checkpoints, so that one may go.
async fn chat_with_two(database: &Database) -> ConversationId {
    let chat = Conversation::titled("Golden");
    let thread = ThreadState::new(chat.thread_id(), None);
    let metadata = || CheckpointMetadata::new(CheckpointSource::Loop, 0);
    let (first, thread) = thread.next(&"one", metadata()).unwrap();
    let (second, _) = thread.next(&"two", metadata()).unwrap();
    let checkpointer = database.checkpointer();
    for checkpoint in [first, second] {
        let put = checkpointer.put(checkpoint, PutOptions::default()).await;
        put.unwrap();
    }
    let id = chat.id;
    repository_of(database).add(chat).await.unwrap();
    id
}

fn api_key() -> ApiKey {
    ApiKey::new(Uuid::now_v7(), "Golden", [0; 32], Scope::Read)
}

/// The calls of one repository; returns a row that it has stored.
async fn repository<E: StoredEntity>(golden: &mut Golden, table: &str, new: impl Fn() -> E) -> E {
    let name = |call: &str| format!("{table}_{call}");
    let stored = new();
    let id = stored.id();
    let row = stored.clone();
    golden
        .call(&name("add"), async |database| {
            repository_of(database).add(row).await.unwrap();
        })
        .await;
    golden
        .call(&name("add_many"), async |database| {
            repository_of(database)
                .add_many(vec![new(), new()])
                .await
                .unwrap();
        })
        .await;
    golden
        .call(&name("get"), async |database| {
            assert!(
                repository_of::<E>(database)
                    .get(&id)
                    .await
                    .unwrap()
                    .is_some()
            );
        })
        .await;
    golden
        .call(&name("exists"), async |database| {
            assert!(repository_of::<E>(database).exists(&id).await.unwrap());
        })
        .await;
    golden
        .call(&name("count"), async |database| {
            let count = repository_of::<E>(database)
                .count(&E::Filter::default())
                .await;
            assert!(count.unwrap() >= 3);
        })
        .await;
    golden
        .call(&name("update"), async |database| {
            let id = stored.id();
            let updated = repository_of::<E>(database).update(&id, &|_| Ok(())).await;
            updated.unwrap();
        })
        .await;
    list(golden, &name("list"), &ListQuery::<E>::default()).await;
    let other = new();
    let id = other.id();
    repository_of(&golden.database).add(other).await.unwrap();
    golden
        .call(&name("delete"), async |database| {
            assert!(repository_of::<E>(database).delete(&id).await.unwrap());
        })
        .await;
    stored
}

async fn list<E: StoredEntity>(golden: &mut Golden, name: &str, query: &ListQuery<E>) {
    golden
        .call(name, async |database| {
            repository_of::<E>(database).list(query).await.unwrap();
        })
        .await;
}

fn repository_of<E: StoredEntity>(database: &Database) -> std::sync::Arc<dyn Repository<E>> {
    database.repository()
}
