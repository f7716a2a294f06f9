use std::time::{Duration, Instant};

use yai_agentkit_core::{
    CheckpointQuery, CheckpointSelector, Conversation, Error, ListQuery, NewWrites, Storage,
    Stores, TurnId, Value,
    checkpoint::{ChannelWrite, CheckpointerExt, PruneStrategy},
    conversation::ConversationFilter,
    error::Outcome,
    turn::{EventBatch, LatestBatches},
};
use yai_agentkit_persistence::Database;

use crate::{
    fixture::{assert_unavailable, config, connect, outcome, store_something, texts},
    proxy::Proxy,
    support::PostgresDatabase,
};

/// As many connections as the pool gets before they are lost.
const CONNECTIONS: usize = 4;

/// Runs each call after all connections of its database were lost.
macro_rules! each_survives {
    ($database:expr, $url:expr, $($call:expr),+ $(,)?) => {$(
        lose_connections($database, $url).await;
        if let Err(error) = $call.await {
            panic!("{}: {error:?}", stringify!($call));
        }
    )+};
}

#[tokio::test]
async fn every_call_survives_the_loss_of_all_connections() {
    let postgres = PostgresDatabase::create("lost").await;
    let url = &plain(&postgres.url);
    let database = connect(url).await;
    let conversations = database.conversations();
    let conversation = store_something(&database).await;
    let (id, new) = (conversation.id, || Conversation::titled("new"));
    each_survives!(
        &database,
        url,
        database.ping(),
        database.begin(),
        database.execute_script("SELECT 1"),
        conversations.get(&id),
        conversations.list(&ListQuery::default()),
        conversations.exists(&id),
        conversations.count(&ConversationFilter::default()),
        conversations.add(new()),
        conversations.add_many(vec![new(), new()]),
        conversations.update(&id, &|_| Ok(())),
        conversations.delete(&id),
    );
    assert_eq!(conversations.get(&id).await.unwrap(), None);
    let all = ConversationFilter::default();
    assert_eq!(conversations.count(&all).await.unwrap(), 3);

    let checkpointer = database.checkpointer();
    let thread = conversation.thread_id();
    let latest = CheckpointSelector::latest(thread.clone());
    let Some(tuple) = checkpointer.get(&latest).await.unwrap() else {
        panic!("no checkpoint");
    };
    let writes = NewWrites {
        key: tuple.key,
        task_id: "task".to_owned(),
        task_path: String::new(),
        writes: vec![ChannelWrite {
            channel: "list".to_owned(),
            value: Value::encode("text").unwrap(),
        }],
    };
    let (threads, copy) = ([thread.clone()], "copy".into());
    each_survives!(
        &database,
        url,
        checkpointer.get(&latest),
        checkpointer.list(&CheckpointQuery::of(thread.clone())),
        checkpointer.save(&thread, &1),
        checkpointer.put_writes(writes.clone(), None),
        checkpointer.threads(10, None),
        checkpointer.delta_channel_history(&latest, &["list".to_owned()]),
        checkpointer.copy_thread(&thread, &copy),
        checkpointer.prune(&threads, PruneStrategy::KeepLatest),
        checkpointer.delete_for_runs(&["run".to_owned()]),
        checkpointer.delete_thread(&thread),
    );
    assert_eq!(checkpointer.keys(10).await.unwrap(), [copy]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn events_survive_the_loss_of_all_connections() {
    let postgres = PostgresDatabase::create("lost_events").await;
    let url = &plain(&postgres.url);
    let database = connect(url).await;
    let conversation_id = store_something(&database).await.id;
    let turn_id = TurnId::new();
    let batch = |sequence| {
        EventBatch::new(
            conversation_id,
            turn_id,
            sequence,
            vec![serde_json::json!({"type": "TEST"})],
        )
    };
    let turns = database.turn_store();
    let mut announcements = turns.announcements().await.unwrap().unwrap();
    let latest = LatestBatches::from([(turn_id, 1)]);
    each_survives!(
        &database,
        url,
        turns.append(batch(1)),
        turns.events(conversation_id, turn_id, 0, 10),
        turns.latest_events(&[(conversation_id, turn_id)]),
        turns.forget_events(Duration::from_secs(3600)),
        turns.announce(&latest),
    );
    // It was interrupted several times, and hears what is announced when it listens again.
    let heard = async {
        loop {
            match announcements.next().await.unwrap() {
                None => turns.announce(&latest).await.unwrap(),
                Some(heard) => return heard,
            }
        }
    };
    let heard = tokio::time::timeout(Duration::from_secs(15), heard).await;
    assert_eq!(heard.unwrap(), latest);
    database.close().await;
    postgres.remove().await;
}

/// Terminates every connection of the database, after making sure that the pool has several idle.
async fn lose_connections(database: &Database, url: &str) {
    let units = futures::future::try_join_all((0..CONNECTIONS).map(|_| database.begin()));
    drop(units.await.unwrap());
    // With the answer to this the last of them is back: the pool takes the one that waited longest.
    for _ in 0..CONNECTIONS {
        database.ping().await.unwrap();
    }
    let terminate = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let terminated = texts(url, terminate).await;
    assert!(terminated.len() >= CONNECTIONS, "{terminated:?}");
    while !texts(url, terminate).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_row_whose_acknowledgement_was_lost_is_stored_once() {
    let postgres = PostgresDatabase::create("lost").await;
    let proxy = Proxy::start(&plain(&postgres.url)).await;
    let database = connect(&proxy.url()).await;
    let conversations = database.conversations();

    proxy.lose_answer("INSERT 0 1");
    let conversation = conversations.add(Conversation::titled("once")).await;
    assert!(proxy.has_lost_answer());
    let found = conversations.list(&ListQuery::default()).await.unwrap();
    assert_eq!(found.items, [conversation.unwrap()]);

    let thread = "thread".into();
    proxy.lose_answer("INSERT 0 1");
    let checkpointer = database.checkpointer();
    checkpointer.save(&thread, &1).await.unwrap();
    assert!(proxy.has_lost_answer());
    let query = CheckpointQuery::of(thread);
    assert_eq!(checkpointer.list(&query).await.unwrap().len(), 1);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn another_row_with_the_same_id_is_a_conflict_also_after_a_loss() {
    let postgres = PostgresDatabase::create("lost").await;
    let database = connect(&postgres.url).await;
    let mut conversation = store_something(&database).await;
    conversation.title = Some("Another".to_owned());
    lose_connections(&database, &postgres.url).await;
    let added = database.conversations().add(conversation).await;
    assert!(matches!(added, Err(Error::Conflict(_))), "{added:?}");
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn nobody_knows_what_became_of_a_commit_whose_answer_is_lost() {
    let postgres = PostgresDatabase::create("lost").await;
    let proxy = Proxy::start(&plain(&postgres.url)).await;
    let database = connect(&proxy.url()).await;
    let unit = database.begin().await.unwrap();
    let conversation = Conversation::titled("stored");
    let added = unit.conversations().add(conversation.clone()).await;
    proxy.lose_answer("COMMIT");
    assert_eq!(outcome(unit.commit().await), Outcome::Unknown);
    assert!(proxy.has_lost_answer());
    let stored = database.conversations().get(&conversation.id).await;
    assert_eq!(stored.unwrap(), added.ok());
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_unit_of_work_whose_connection_is_lost_stores_nothing() {
    let postgres = PostgresDatabase::create("lost").await;
    let proxy = Proxy::start(&plain(&postgres.url)).await;
    let database = connect(&proxy.url()).await;
    let unit = database.begin().await.unwrap();
    let conversations = unit.conversations();
    conversations
        .add(Conversation::titled("first"))
        .await
        .unwrap();
    proxy.lose_answer("INSERT 0 1");
    assert_unavailable(conversations.add(Conversation::titled("second")).await);
    assert!(proxy.has_lost_answer());
    assert_unavailable(unit.commit().await);
    let all = ListQuery::default();
    let stored = database.conversations().list(&all).await.unwrap();
    assert_eq!(stored.items, []);
    database.close().await;
    postgres.remove().await;
}

/// As behind a firewall that forgets connections which have been idle.
#[tokio::test]
async fn connections_that_went_silent_are_replaced() {
    let postgres = PostgresDatabase::create("lost").await;
    let proxy = Proxy::start(&plain(&postgres.url)).await;
    let database = connect(&proxy.url()).await;
    let conversation = store_something(&database).await;
    proxy.freeze();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let started = Instant::now();
    let found = database.conversations().get(&conversation.id).await;
    assert_eq!(found.unwrap(), Some(conversation));
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    postgres.remove().await;
}

/// As one that is stopped, or whose machine is.
#[tokio::test]
async fn a_server_that_falls_silent_keeps_no_call_waiting_for_long() {
    let postgres = PostgresDatabase::create("lost").await;
    let proxy = Proxy::start(&plain(&postgres.url)).await;
    let config = config(&proxy.url()).query_timeout(Duration::from_secs(1));
    let config = config.and_then(|config| config.connection_timeout(Duration::from_secs(5)));
    let database = Database::connect(&config.unwrap()).await.unwrap();
    let conversation = store_something(&database).await;
    let (conversations, checkpointer) = (database.conversations(), database.checkpointer());
    let thread = conversation.thread_id();
    macro_rules! each_ends {
        ($($call:expr),+ $(,)?) => {$(
            database.ping().await.unwrap();
            let call = $call;
            proxy.freeze();
            let ended = tokio::time::timeout(Duration::from_secs(60), call).await;
            match ended.expect(stringify!($call)) {
                Ok(_) | Err(Error::Unavailable { .. }) => {}
                Err(error) => panic!("{}: {error:?}", stringify!($call)),
            }
        )+};
    }
    let unit = database.begin().await.unwrap();
    let in_unit = unit.conversations();
    let other = database.begin().await.unwrap();
    each_ends!(
        conversations.get(&conversation.id),
        in_unit.add(Conversation::titled("lost")),
        other.commit(),
        checkpointer.save(&thread, &1),
        database.begin(),
    );
    assert_unavailable(unit.commit().await);
    let found = conversations.get(&conversation.id).await.unwrap();
    assert_eq!(found.unwrap().id, conversation.id);
    postgres.remove().await;
}

/// Without TLS: the proxy can read the answers, and connections come quickly.
fn plain(url: &str) -> String {
    format!("{url}?sslmode=disable")
}
