//! What many write or read at once goes together, and nobody notices otherwise.

use std::{collections::BTreeMap, future, pin::Pin, task::Poll, time::Duration};

use futures::future::{join_all, try_join_all};
use serde_json::json;
use yai_agentkit_core::{
    Checkpoint, CheckpointId, CheckpointKey, CheckpointMetadata, CheckpointQuery,
    CheckpointSelector, CheckpointSource, CheckpointerExt, ConflictKind, Conversation,
    ConversationId, Entity, Error, Fence, Message, MessageId, Namespace, NewCheckpoint, OwnerId,
    PutOptions, Result, Role, Storage, Stores, Turn, TurnId, TurnStatus, Value,
    turn::{EventBatch, IdempotencyKey, TurnBegin, TurnChange, TurnStep},
};
use yai_agentkit_persistence::{Database, NewRawCheckpoint, RawCheckpoints, RawValue};

use crate::{
    fixture::{assert_unavailable, connect, sqlite_file, texts},
    proxy::Proxy,
    support::PostgresDatabase,
};

/// More than one group takes.
const THREADS: usize = 300;

fn checkpoint(thread: &str, metadata: &str) -> NewRawCheckpoint {
    NewRawCheckpoint {
        key: CheckpointKey {
            thread_id: thread.into(),
            namespace: Namespace::root(),
            checkpoint_id: CheckpointId::from("1".to_owned()),
        },
        parent: None,
        checkpoint: r#"{"v": 4, "id": "1", "channel_versions": {"list": "1"}}"#.to_owned(),
        metadata: metadata.to_owned(),
        values: vec![RawValue {
            channel: "list".to_owned(),
            version: "1".to_owned(),
            value: Value::encode(thread).unwrap(),
        }],
    }
}

async fn is_stored(checkpoints: &RawCheckpoints, thread: &str) -> bool {
    let found = checkpoints.get(&CheckpointSelector::latest(thread)).await;
    found.unwrap().is_some()
}

fn names() -> Vec<String> {
    (0..THREADS)
        .map(|index| format!("thread-{index}"))
        .collect()
}

/// Every test on SQLite as well: `$test` takes a database.
async fn on_both(test: impl AsyncFn(Database)) {
    let postgres = PostgresDatabase::create("group").await;
    test(connect(&postgres.url).await).await;
    postgres.remove().await;
    let (_directory, _, url) = sqlite_file();
    test(connect(&url).await).await;
}

#[tokio::test]
async fn writes_at_once_share_transactions() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let checkpoints = database.raw_checkpoints();
    let names = names();
    let puts = names
        .iter()
        .map(|name| checkpoints.put(checkpoint(name, "{}")));
    try_join_all(puts).await.unwrap();

    let transactions = "SELECT count(DISTINCT xmin::text)::text FROM checkpoints";
    assert_eq!(texts(&postgres.url, transactions).await, ["2"]);
    let rows = "SELECT count(*)::text FROM checkpoints JOIN checkpoint_blobs USING (thread_id)
        JOIN threads USING (thread_id)";
    assert_eq!(texts(&postgres.url, rows).await, [THREADS.to_string()]);
    for name in &names {
        let found = checkpoints.get(&CheckpointSelector::latest(&**name)).await;
        let value = found.unwrap().unwrap().values["list"].decode::<String>();
        assert_eq!(value.unwrap(), *name);
    }
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn among_new_rows_one_that_is_there_is_found_and_all_are_stored_together() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let checkpoints = database.raw_checkpoints();
    let names = names();
    checkpoints.put(checkpoint(&names[7], "{}")).await.unwrap();
    // The first finds out, the second looks from the start.
    for round in ["1", "2"] {
        let metadata = format!(r#"{{"round": {round}}}"#);
        let puts = names[..100]
            .iter()
            .map(|name| checkpoints.put(checkpoint(name, &metadata)));
        try_join_all(puts).await.unwrap();
        let rows =
            "SELECT concat_ws(' ', metadata ->> 'round', count(*), count(DISTINCT xmin::text))
            FROM checkpoints GROUP BY metadata ->> 'round'";
        let all_at_once = format!("{round} 100 1");
        assert_eq!(texts(&postgres.url, rows).await, [all_at_once]);
    }
    let values = "SELECT count(*)::text FROM checkpoint_blobs";
    assert_eq!(texts(&postgres.url, values).await, ["100"]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn writes_of_one_thread_keep_their_order() {
    on_both(async |database| {
        let checkpoints = database.raw_checkpoints();
        let puts = (0..THREADS).map(|step| {
            let metadata = format!(r#"{{"step": {step}}}"#);
            checkpoints.put(checkpoint(&format!("thread-{}", step % 3), &metadata))
        });
        try_join_all(puts).await.unwrap();
        for last in THREADS - 3..THREADS {
            let thread = format!("thread-{}", last % 3);
            let found = checkpoints.get(&CheckpointSelector::latest(&*thread)).await;
            let metadata = found.unwrap().unwrap().metadata;
            assert_eq!(metadata.replace(": ", ":"), format!(r#"{{"step":{last}}}"#));
        }
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn one_that_the_database_refuses_fails_alone() {
    on_both(async |database| {
        let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON checkpoints
            WHEN new.metadata = 'refused' BEGIN SELECT RAISE(ABORT, 'refused'); END";
        // PostgreSQL refuses what is no JSON by itself.
        if database
            .execute_script("SELECT sqlite_version()")
            .await
            .is_ok()
        {
            database.execute_script(refuse).await.unwrap();
        }
        let checkpoints = database.raw_checkpoints();
        let names = names();
        let puts = names.iter().enumerate().map(|(index, name)| {
            let metadata = if index == 7 { "refused" } else { "{}" };
            checkpoints.put(checkpoint(name, metadata))
        });
        let outcomes = join_all(puts).await;
        for (index, (name, outcome)) in names.iter().zip(outcomes).enumerate() {
            assert_eq!(outcome.is_ok(), index != 7, "{name}: {outcome:?}");
            assert_eq!(is_stored(&checkpoints, name).await, index != 7, "{name}");
        }
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_thread_that_somebody_holds_keeps_no_other_waiting() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let checkpoints = database.raw_checkpoints();
    let unit = database.begin().await.unwrap();
    unit.checkpointer().save(&"held".into(), &0).await.unwrap();

    let mut held = Box::pin(try_join_all([
        checkpoints.put(checkpoint("held", r#"{"step": 1}"#)),
        checkpoints.put(checkpoint("held", r#"{"step": 2}"#)),
    ]));
    assert!(begins_to_wait(&mut held).await);
    let others = names();
    let others = others
        .iter()
        .map(|name| checkpoints.put(checkpoint(name, "{}")));
    try_join_all(others).await.unwrap();
    assert!(!is_stored(&checkpoints, "held").await);

    unit.commit().await.unwrap();
    held.await.unwrap();
    let query = CheckpointQuery {
        checkpoint_id: Some(CheckpointId::from("1".to_owned())),
        ..CheckpointQuery::of("held")
    };
    let found = checkpoints.list(&query).await.unwrap();
    assert_eq!(found[0].metadata, r#"{"step": 2}"#);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn who_stops_waiting_takes_a_write_back_that_is_not_under_way() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let checkpoints = database.raw_checkpoints();
    let unit = database.begin().await.unwrap();
    unit.checkpointer().save(&"held".into(), &0).await.unwrap();

    let put = |metadata| checkpoints.put(checkpoint("held", metadata));
    let (mut first, mut second) = (Box::pin(put("{}")), Box::pin(put(r#"{"late": true}"#)));
    assert!(begins_to_wait(&mut first).await);
    assert!(begins_to_wait(&mut second).await);
    drop(second);
    unit.commit().await.unwrap();
    first.await.unwrap();
    // Waits for whatever is under way.
    put("{}").await.unwrap();
    let late = "SELECT count(*)::text FROM checkpoints WHERE metadata ? 'late'";
    assert_eq!(texts(&postgres.url, late).await, ["0"]);
    database.close().await;
    postgres.remove().await;
}

/// Turns of one conversation, each with a thread of its name that has the epoch 1, and those who
/// own them.
struct Owned {
    conversation: ConversationId,
    turns: Vec<TurnId>,
}

impl Owned {
    async fn create(database: &Database) -> Self {
        let conversation = Conversation::titled("All turns");
        let conversation = database.conversations().add(conversation).await.unwrap().id;
        let turns: Vec<_> = (0..THREADS).map(|_| TurnId::new()).collect();
        let raised = turns.iter().map(async |turn| {
            let new = next(&turn.to_string(), 0);
            let raise = Fence::Raise(1).into();
            database.checkpointer().put(new, raise).await
        });
        try_join_all(raised).await.unwrap();
        Self {
            conversation,
            turns,
        }
    }

    fn batch(&self, turn: TurnId, events: &str) -> EventBatch {
        EventBatch::new(self.conversation, turn, 1, vec![json!(events)])
    }

    /// A step of each turn, its events with its checkpoint: what comes of each.
    async fn step(&self, database: &Database) -> Vec<Result<()>> {
        let steps = self.turns.iter().map(async |turn| {
            let batch = self.batch(*turn, "step");
            let step = TurnStep::new(1, next(&turn.to_string(), 1), batch);
            database.turn_store().step(step).await
        });
        join_all(steps).await
    }

    /// That each turn has its step but one, of which nothing is stored.
    async fn assert_all_but(&self, refused: usize, outcomes: &[Result<()>], database: &Database) {
        for (index, (turn, outcome)) in self.turns.iter().zip(outcomes).enumerate() {
            assert_eq!(outcome.is_ok(), index != refused, "{index}: {outcome:?}");
            let steps = usize::from(index != refused);
            let thread = turn.to_string();
            let query = CheckpointQuery::of(thread);
            let checkpoints = database.checkpointer().list(&query).await.unwrap();
            assert_eq!(checkpoints.len(), 1 + steps, "{index}");
            let turns = database.turn_store();
            let events = turns.events(self.conversation, *turn, 0, 10).await.unwrap();
            let events = events
                .iter()
                .filter(|batch| batch.events == [json!("step")]);
            assert_eq!(events.count(), steps, "{index}");
        }
    }
}

fn next(thread: &str, step: i64) -> NewCheckpoint {
    NewCheckpoint {
        thread_id: thread.into(),
        namespace: Namespace::root(),
        parent: None,
        checkpoint: Checkpoint::after(None),
        metadata: CheckpointMetadata::new(CheckpointSource::Loop, step),
        new_versions: BTreeMap::new(),
    }
}

#[tokio::test]
async fn steps_at_once_share_transactions_with_their_events() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let owned = Owned::create(&database).await;
    let outcomes = owned.step(&database).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let together = "SELECT count(*) || ' in ' || count(DISTINCT c.xmin::text)
        FROM checkpoints c JOIN agent_turn_events e
            ON e.turn_id::text = c.thread_id AND e.xmin::text = c.xmin::text
        JOIN threads t ON t.thread_id = c.thread_id AND t.xmin::text = c.xmin::text";
    let expected = format!("{THREADS} in 2");
    assert_eq!(texts(&postgres.url, together).await, [expected]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn of_steps_at_once_only_that_of_a_former_owner_is_refused() {
    on_both(async |database| {
        let owned = Owned::create(&database).await;
        let taken = owned.turns[7].to_string().into();
        database
            .checkpointer()
            .raise_epoch(&taken, 5)
            .await
            .unwrap();
        let outcomes = owned.step(&database).await;
        assert!(matches!(outcomes[7], Err(Error::Fenced { epoch: 5, .. })));
        owned.assert_all_but(7, &outcomes, &database).await;
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn of_steps_at_once_only_one_whose_events_are_refused_fails() {
    on_both(async |database| {
        let owned = Owned::create(&database).await;
        let other = owned.batch(owned.turns[7], "another");
        database.turn_store().append(other).await.unwrap();
        let outcomes = owned.step(&database).await;
        let conflict = matches!(
            &outcomes[7],
            Err(Error::Conflict(ConflictKind::EventBatch { .. }))
        );
        assert!(conflict, "{:?}", outcomes[7]);
        owned.assert_all_but(7, &outcomes, &database).await;
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_take_over_that_is_under_way_decides_over_a_group() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    for commits in [true, false] {
        let owned = Owned::create(&database).await;
        let thread = owned.turns[7].to_string().into();
        let unit = database.begin().await.unwrap();
        unit.checkpointer().raise_epoch(&thread, 2).await.unwrap();
        let mut steps = Box::pin(owned.step(&database));
        assert!(begins_to_wait(&mut steps).await);
        // The others are through while one waits for the end of the transaction.
        let batches = "SELECT count(*)::text FROM agent_turn_events";
        let others = (THREADS - 1).to_string();
        loop {
            let waits = tokio::time::timeout(Duration::from_millis(20), &mut steps).await;
            assert!(waits.is_err(), "one can't be through");
            if texts(&postgres.url, batches).await == [others.as_str()] {
                break;
            }
        }
        if commits {
            unit.commit().await.unwrap();
            let outcomes = steps.await;
            assert!(matches!(outcomes[7], Err(Error::Fenced { epoch: 2, .. })));
            owned.assert_all_but(7, &outcomes, &database).await;
        } else {
            drop(unit);
            let outcomes = steps.await;
            owned.assert_all_but(usize::MAX, &outcomes, &database).await;
        }
        let conversations = database.conversations();
        assert!(conversations.delete(&owned.conversation).await.unwrap());
    }
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn writes_of_one_thread_keep_their_order_whatever_they_ask() {
    on_both(async |database| {
        let checkpointer = database.checkpointer();
        let checkpoints = [next("one", 0), next("two", 0)];
        for new in &checkpoints {
            checkpointer
                .put(new.clone(), Fence::Raise(1).into())
                .await
                .unwrap();
        }
        let fences = [
            Some(Fence::Hold(1)),
            None,
            Some(Fence::Hold(9)),
            Some(Fence::Hold(1)),
        ];
        let puts = (1..=THREADS).map(async |step| {
            let fence = fences[step / 2 % fences.len()];

            let metadata = CheckpointMetadata::new(CheckpointSource::Loop, step as i64);
            let new = NewCheckpoint {
                metadata,
                ..checkpoints[step % 2].clone()
            };
            let put = checkpointer.put(new, fence.map_or_else(PutOptions::default, Into::into));
            assert_eq!(put.await.is_ok(), fence != Some(Fence::Hold(9)), "{step}");
        });
        join_all(puts).await;
        for (index, new) in checkpoints.iter().enumerate() {
            let is_admitted =
                |step: &usize| fences[step / 2 % fences.len()] != Some(Fence::Hold(9));
            let last = (1..=THREADS)
                .rev()
                .filter(|step| step % 2 == index)
                .find(is_admitted);
            let latest = CheckpointSelector::latest(new.thread_id.clone());
            let found = checkpointer.get(&latest).await.unwrap().unwrap();
            assert_eq!(found.metadata.step(), last.map(|step| step as i64));
        }
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn steps_whose_acknowledgement_was_lost_are_stored_once_with_their_events() {
    let postgres = PostgresDatabase::create("group").await;
    let direct = postgres.url.replace("localhost", "127.0.0.1");
    let proxy = Proxy::start(&format!("{direct}?sslmode=disable")).await;
    let database = connect(&proxy.url()).await;
    // The answer to a group that refused none, and to a step alone.
    for (answer, turns) in [("SELECT 0", THREADS), ("SELECT 0", 1)] {
        let mut owned = Owned::create(&database).await;
        owned.turns.truncate(turns);
        proxy.lose_answer(answer);
        let outcomes = owned.step(&database).await;
        assert!(proxy.has_lost_answer());
        owned.assert_all_but(usize::MAX, &outcomes, &database).await;
    }
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_turn_whose_acknowledgements_were_lost_begins_and_ends_once() {
    let postgres = PostgresDatabase::create("group").await;
    let direct = postgres.url.replace("localhost", "127.0.0.1");
    let proxy = Proxy::start(&format!("{direct}?sslmode=disable")).await;
    let database = connect(&proxy.url()).await;
    let conversation = Conversation::titled("Of one turn");
    let conversation = database.conversations().add(conversation).await.unwrap().id;
    let message = Message::new(conversation, Role::User, "Hello");
    let mut turn = Turn::new(conversation, message.id);
    turn.epoch = 1;
    let mut answer = Message::new(conversation, Role::Assistant, "Hello!");
    answer.id = message.id.answer();
    let batch = |sequence| EventBatch::new(conversation, turn.id, sequence, Vec::new());
    let key = IdempotencyKey::new(conversation.0, "key", b"request", turn.id.0);
    let mut begin = TurnBegin::new(turn.clone(), message, next("thread", 0), batch(1));
    begin.key = Some(key);
    let turns = database.turn_store();
    proxy.lose_answer("SELECT 1");
    turns.begin(begin.clone()).await.unwrap();
    assert!(proxy.has_lost_answer());
    // Again is another matter.
    begin.checkpoint = next("thread", 1);
    let again = turns.begin(begin).await;
    assert!(matches!(again, Err(Error::Fenced { .. })), "{again:?}");

    let ended = turn
        .clone()
        .with(|turn| turn.status = TurnStatus::Completed);
    let end = |step| {
        TurnChange::new(turn.clone(), ended.clone())
            .with_answer(Some(answer.clone()))
            .with_checkpoint(next("thread", step), Fence::Hold(1))
            .with_events(batch(2))
    };
    proxy.lose_answer("SELECT 1");
    turns.change(end(2)).await.unwrap();
    assert!(proxy.has_lost_answer());
    let again = turns.change(end(3)).await;
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    let rows = "SELECT (SELECT count(*) FROM checkpoints) || ' ' ||
        (SELECT count(*) FROM agent_turn_events) || ' ' ||
        (SELECT count(*) FROM agent_messages) || ' ' || (SELECT status FROM agent_turns)";
    assert_eq!(texts(&postgres.url, rows).await, ["2 2 2 completed"]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_turn_ends_although_its_rows_change_meanwhile() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let conversation = Conversation::titled("Of one turn");
    let conversation = database.conversations().add(conversation).await.unwrap().id;
    let owner = OwnerId::new();
    let turn =
        Turn::new(conversation, MessageId::new()).with(|turn| turn.lease_owner = Some(owner));
    database.turns().add(turn.clone()).await.unwrap();
    let checkpointer = database.checkpointer();
    let raised = checkpointer.put(next("thread", 0), Fence::Raise(1).into());
    raised.await.unwrap();

    let unit = database.begin().await.unwrap();
    unit.checkpointer()
        .put(next("thread", 1), PutOptions::default())
        .await
        .unwrap();
    assert_eq!(
        unit.turn_store().renew(owner).await.unwrap(),
        [conversation]
    );
    let batch = EventBatch::new(conversation, turn.id, 1, Vec::new());
    let failed = turn.clone().with(|turn| turn.status = TurnStatus::Failed);
    let end = TurnChange::new(turn, failed)
        .with_checkpoint(next("thread", 2), Fence::Hold(1))
        .with_events(batch);
    let turns = database.turn_store();
    let mut ending = turns.change(end);
    let waits = tokio::time::timeout(Duration::from_millis(200), &mut ending).await;
    assert!(waits.is_err(), "{waits:?}");
    unit.commit().await.unwrap();
    ending.await.unwrap();
    let rows = "SELECT (SELECT count(*) FROM checkpoints) || ' ' ||
        (SELECT count(*) FROM agent_turn_events) || ' ' || (SELECT status FROM agent_turns)";
    assert_eq!(texts(&postgres.url, rows).await, ["3 1 failed"]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_group_whose_acknowledgement_was_lost_is_stored_once() {
    let postgres = PostgresDatabase::create("group").await;
    let direct = postgres.url.replace("localhost", "127.0.0.1");
    let proxy = Proxy::start(&format!("{direct}?sslmode=disable")).await;
    let database = connect(&proxy.url()).await;
    let checkpoints = database.raw_checkpoints();
    proxy.lose_answer("INSERT 0");
    let names = names();
    let puts = names
        .iter()
        .map(|name| checkpoints.put(checkpoint(name, "{}")));
    try_join_all(puts).await.unwrap();
    assert!(proxy.has_lost_answer());
    let rows = "SELECT count(*)::text FROM checkpoints";
    assert_eq!(texts(&postgres.url, rows).await, [THREADS.to_string()]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn rows_that_are_read_at_once_come_to_who_asked() {
    on_both(async |database| {
        let conversations = database.conversations();
        let titles = (0..100).map(|index| Conversation::titled(format!("Number {index}")));
        let mut stored = conversations.add_many(titles.collect()).await.unwrap();
        let absent = Conversation::titled("Not stored");
        stored.push(absent.clone());
        stored.push(stored[7].clone());
        let found = stored.iter().map(|row| conversations.get(&row.id));
        let found = try_join_all(found).await.unwrap();
        for (row, found) in stored.into_iter().zip(found) {
            assert_eq!(found, Some(row).filter(|row| *row != absent));
        }
        database.close().await;
        assert_unavailable(conversations.get(&absent.id).await);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_is_cut_off_at_its_begin_swallows_nothing() {
    let postgres = PostgresDatabase::create("group").await;
    let direct = postgres.url.replace("localhost", "127.0.0.1");
    // A task of this thread: no answer is there before somebody waits for it.
    let proxy = Proxy::start(&format!("{direct}?sslmode=disable")).await;
    let database = connect(&proxy.url()).await;
    let checkpoints = database.raw_checkpoints();
    for name in names().iter().take(20) {
        database.ping().await.unwrap();
        let mut begin = database.begin();
        // On the connection of the ping.
        assert!(begins_to_wait(&mut begin).await);
        drop(begin);
        checkpoints.put(checkpoint(name, "{}")).await.unwrap();
    }
    let rows = "SELECT count(*)::text FROM checkpoints";
    assert_eq!(texts(&postgres.url, rows).await, ["20"]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn closing_waits_for_what_is_being_written() {
    on_both(async |database| {
        let checkpoints = database.raw_checkpoints();
        let names = names();
        let puts = names
            .iter()
            .map(|name| checkpoints.put(checkpoint(name, "{}")));
        let mut puts = Box::pin(try_join_all(puts));
        assert!(begins_to_wait(&mut puts).await);
        let (written, ()) = futures::join!(puts, database.close());
        written.unwrap();
    })
    .await;
}

/// Polls once.
async fn begins_to_wait(future: &mut (impl Future + Unpin)) -> bool {
    let polled = future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context)));
    polled.await.is_pending()
}
