//! Each call of a storage on what is another tenant's.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use yai_agentkit_core::{
    CheckpointQuery, CheckpointSelector, Checkpointer, Conversation, ConversationId, Entity, Error,
    ListQuery, Message, PutOptions, Repository, Role, Storage, Stores, ThreadId, Turn, TurnStatus,
    audit::AuditQuery,
    checkpoint::{CheckpointerExt, PruneStrategy, ValueKey},
    conversation::SearchQuery,
    retention::{RetentionPolicy, Sweep},
    store::{ItemKey, MemoryStoreExt, NamespaceQuery, NewItem, Search},
    turn::{EventBatch, OwnerId, TurnChange, TurnOwner, TurnRecord},
};
use yai_agentkit_persistence::Database;

use super::{Divided, connect};

/// What acme has, and bob knows of.
struct Known {
    chat: Conversation,
    thread: ThreadId,
    message: Message,
    turn: Turn,
    owner: OwnerId,
    item: ItemKey,
}

impl Known {
    async fn of(acme: &Database) -> Self {
        let chat = acme
            .conversations()
            .add(Conversation::titled("Secret"))
            .await
            .unwrap();
        let thread = chat.thread_id();
        for state in [1, 2, 3] {
            acme.checkpointer().save(&thread, &state).await.unwrap();
        }
        let message = Message::new(chat.id, Role::User, "The word is xylophone");
        let message = acme.messages().add(message).await.unwrap();
        let owner = OwnerId::new();
        let turn = Turn::new(chat.id, message.id);
        let turn = acme.turns().add(turn).await.unwrap();
        let turn = acme
            .turn_store()
            .take(&turn, owner, Duration::ZERO)
            .await
            .unwrap();
        let turn = turn.expect("a turn without a lease");
        let batch = EventBatch::new(chat.id, turn.id, 1, vec!["secret".into()]);
        acme.turn_store().append(batch).await.unwrap();
        let item = ItemKey::new(["users", "ada"], "secret");
        let new = NewItem::new(
            item.clone(),
            &[("word", "xylophone")]
                .into_iter()
                .collect::<HashMap<_, _>>(),
        )
        .unwrap();
        acme.memory_store().put(new).await.unwrap();
        Self {
            chat,
            thread,
            message,
            turn,
            owner,
            item,
        }
    }
}

#[tokio::test]
async fn no_call_gets_at_what_is_of_another_tenant() {
    let database = Divided::create().await;
    attack_by_calls(&database, &database.postgres.url).await;
    database.postgres.remove().await;
}

#[tokio::test]
async fn no_call_through_pgbouncer_gets_at_what_is_of_another_tenant() {
    let database = Divided::create().await;
    attack_by_calls(&database, &database.postgres.pgbouncer_url).await;
    database.postgres.remove().await;
}

async fn attack_by_calls(database: &Divided, url: &str) {
    let all = connect(url).await;
    let (acme, bob) = (all.tenant("acme").unwrap(), all.tenant("bob").unwrap());
    let known = Known::of(&acme).await;
    while acme.search().index(1000).await.unwrap() > 0 {}
    let before = database.others().await;

    let id = known.chat.id.key(known.turn.id);
    let rows = acme.turns().get(&id).await.unwrap();
    assert!(rows.is_some(), "acme sees its own");
    attack_rows(&*bob.conversations(), &known.chat, true).await;
    attack_rows(&*bob.messages(), &known.message, true).await;
    attack_rows(&*bob.turns(), &known.turn, true).await;
    let keys = acme.api_keys().list(&ListQuery::default()).await.unwrap();
    attack_rows(&*bob.api_keys(), &keys.items[0], true).await;
    let used = acme
        .idempotency_keys()
        .list(&ListQuery::default())
        .await
        .unwrap();
    // The keys of requests are named by who sends them: both may have one.
    attack_rows(&*bob.idempotency_keys(), &used.items[0], false).await;
    attack_checkpoints(&*bob.checkpointer(), &known).await;
    let unit = bob.begin().await.unwrap();
    attack_checkpoints(&*unit.checkpointer(), &known).await;
    unit.commit().await.unwrap();
    attack_turns(&bob, &known).await;
    attack_ledger(&bob, &known).await;
    attack_items(&bob, &known).await;
    attack_whole(&bob, &known).await;

    assert_eq!(database.others().await, before);
    let state: Option<i32> = acme.checkpointer().latest(&known.thread).await.unwrap();
    assert_eq!(state, Some(3));
    let hits = acme
        .search()
        .find(&SearchQuery::text("xylophone").unwrap())
        .await
        .unwrap();
    assert_eq!(hits.items.len(), 1);
    all.close().await;
}

async fn attack_rows<E>(bobs: &dyn Repository<E>, theirs: &E, is_refused: bool)
where
    E: Entity + Clone + std::fmt::Debug,
    E::Filter: Default,
{
    let id = theirs.id();
    let is_theirs = |row: &E| format!("{:?}", row.id()) == format!("{id:?}");
    assert!(bobs.get(&id).await.unwrap().is_none());
    assert!(!bobs.exists(&id).await.unwrap());
    let nothing = |_: &mut E| Ok(());
    let updated = bobs.update(&id, &nothing).await;
    assert!(
        matches!(updated, Err(Error::NotFound { .. })),
        "{updated:?}"
    );
    assert!(!bobs.delete(&id).await.unwrap());
    let page = bobs.list(&ListQuery::default()).await.unwrap();
    assert!(!page.items.iter().any(is_theirs));
    assert_eq!(
        bobs.count(&E::Filter::default()).await.unwrap(),
        page.items.len() as u64
    );
    let added = bobs.add(theirs.clone()).await;
    assert_eq!(added.is_err(), is_refused, "{added:?}");
    let added = bobs.add_many(vec![theirs.clone()]).await;
    assert!(added.is_err(), "{added:?}");
}

/// Bob can have a thread of the same name, and does.
async fn attack_checkpoints(bobs: &dyn Checkpointer, known: &Known) {
    let theirs = &known.thread;
    let latest = CheckpointSelector::latest(theirs.clone());
    assert!(bobs.get(&latest).await.unwrap().is_none());
    let of_thread = CheckpointQuery::of(theirs.clone());
    assert!(bobs.list(&of_thread).await.unwrap().is_empty());
    for version in ["1", "2", "3"] {
        let key = ValueKey {
            channel: "state".into(),
            version: version.into(),
        };
        let found = bobs
            .values(theirs, &latest.namespace, &BTreeSet::from([key]))
            .await;
        assert!(found.unwrap().is_empty());
    }
    let history = bobs
        .delta_channel_history(&latest, &["state".to_owned()])
        .await;
    for history in history.unwrap().into_values() {
        assert!(history.writes.is_empty() && history.seed.is_none());
    }
    let page = bobs.threads(100, None).await.unwrap();
    assert!(!page.items.iter().any(|thread| thread.id == *theirs));
    let copy = ThreadId::from("a copy");
    bobs.copy_thread(theirs, &copy).await.unwrap();
    let of_copy = CheckpointQuery::of(copy);
    assert!(bobs.list(&of_copy).await.unwrap().is_empty());
    for strategy in [PruneStrategy::KeepLatest, PruneStrategy::Delete] {
        bobs.prune(std::slice::from_ref(theirs), strategy)
            .await
            .unwrap();
    }
    bobs.delete_thread(theirs).await.unwrap();
    bobs.delete_for_runs(&["run".to_owned()]).await.unwrap();
    let own = ThreadId::from(format!("own {}", uuid::Uuid::new_v4()));
    bobs.save(&own, &"bob's").await.unwrap();
    bobs.copy_thread(&own, theirs).await.unwrap();
    let state: Option<String> = bobs.latest(theirs).await.unwrap();
    assert_eq!(state.as_deref(), Some("bob's"));
    let found = bobs.list(&of_thread).await.unwrap();
    assert_eq!(found.len(), 1);
    bobs.raise_epoch(theirs, 99).await.unwrap();
    let again = found.into_iter().next().unwrap();
    let put = yai_agentkit_core::NewCheckpoint {
        thread_id: theirs.clone(),
        namespace: latest.namespace.clone(),
        parent: None,
        checkpoint: again.checkpoint,
        metadata: again.metadata,
        new_versions: Default::default(),
    };
    bobs.put(put, PutOptions::default()).await.unwrap();
    bobs.delete_thread(theirs).await.unwrap();
    bobs.delete_thread(&own).await.unwrap();
}

async fn attack_turns(bob: &Database, known: &Known) {
    let turns = bob.turn_store();
    let (chat, turn) = (known.chat.id, &known.turn);
    let taken = turns.take(turn, known.owner, Duration::from_secs(9)).await;
    assert!(taken.unwrap().is_none());
    let cancelled = turn
        .clone()
        .with(|turn| turn.status = TurnStatus::Cancelled);
    turns
        .change(TurnChange::new(turn.clone(), cancelled))
        .await
        .unwrap_err();
    assert!(turns.renew(known.owner).await.unwrap().is_empty());
    assert!(turns.due(100).await.unwrap().is_empty());
    assert_eq!(turns.running(None).await.unwrap(), 0);
    assert!(turns.events(chat, turn.id, 0, 10).await.unwrap().is_empty());
    assert!(
        turns
            .latest_events(&[(chat, turn.id)])
            .await
            .unwrap()
            .is_empty()
    );
    for sequence in [1, 2] {
        let batch = EventBatch::new(chat, turn.id, sequence, vec!["planted".into()]);
        turns.append(batch).await.unwrap_err();
    }
    turns
        .choose(chat, Some(known.message.id))
        .await
        .unwrap_err();
    turns.forget_events(Duration::ZERO).await.unwrap();
    turns.forget_keys(Duration::ZERO).await.unwrap();
}

async fn attack_ledger(bob: &Database, known: &Known) {
    let ledger = bob.turn_ledger();
    let (chat, turn) = (known.chat.id, known.turn.id);
    assert!(ledger.records(chat, turn).await.unwrap().is_empty());
    assert!(ledger.due_opened(100).await.unwrap().is_empty());
    let owner = TurnOwner {
        thread_id: known.thread.clone(),
        conversation_id: chat,
        turn_id: turn,
        epoch: known.turn.epoch,
    };
    let record = TurnRecord {
        name: "planted".to_owned(),
        value: None,
    };
    ledger.record(&owner, record).await.unwrap_err();
}

/// Bob has the same places for himself.
async fn attack_items(bob: &Database, known: &Known) {
    let store = bob.memory_store();
    assert!(store.get(known.item.clone()).await.unwrap().is_none());
    let namespaces = NamespaceQuery {
        patterns: Vec::new(),
        max_depth: None,
        limit: 100,
        offset: 0,
    };
    let all = store.search(Search::default()).await.unwrap();
    assert!(all.iter().all(|item| item.key != known.item));
    let all = store.namespaces(namespaces).await.unwrap();
    assert!(!all.contains(&known.item.namespace));
    store.delete(known.item.clone()).await.unwrap();
    store
        .put(
            NewItem::new(
                known.item.clone(),
                &[("word", "bob's")].into_iter().collect::<HashMap<_, _>>(),
            )
            .unwrap(),
        )
        .await
        .unwrap();
    let item = store
        .get(known.item.clone())
        .await
        .unwrap()
        .expect("his own");
    assert!(item.value.contains("bob's"));
    store.sweep().await.unwrap();
}

async fn attack_whole(bob: &Database, known: &Known) {
    let chat: ConversationId = known.chat.id;
    assert!(bob.thread_of(chat).await.unwrap().is_none());
    let hits = bob
        .search()
        .find(&SearchQuery::text("xylophone").unwrap())
        .await
        .unwrap();
    assert!(hits.items.is_empty());
    let retention = bob.retention();
    assert!(!retention.erase(chat, None).await.unwrap());
    let redacted = retention.redact(chat, known.message.id, None).await;
    assert!(!redacted.unwrap_or_default());
    let all = AuditQuery {
        before: None,
        owner: None,
        limit: 100,
    };
    let told = bob.audit().list(&all).await.unwrap();
    assert_eq!(told.len(), 1, "his own");
    let policy = RetentionPolicy {
        conversation_age: Some(Duration::ZERO),
        checkpoint_age: Some(Duration::ZERO),
        ..RetentionPolicy::default()
    };
    let sweep = Sweep {
        after: None,
        limit: 1000,
        dry_run: false,
    };
    let swept = retention.sweep(&policy, sweep).await.unwrap();
    assert_eq!(swept.removed.conversations, 1, "his own");
}
