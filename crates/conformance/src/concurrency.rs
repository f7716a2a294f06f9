//! Many callers at once.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use yai_agentkit_core::{
    ChannelValue, Conversation, Entity, Error, Message, MessageId, Role, Storage, Turn,
    conversation::MessageFilter,
};

use super::{
    Case,
    fixtures::{
        Draft, TestThread, add_conversation, all_at_once, ascending_ids, assert_conflict, fresh,
        stored, tuple_of, version,
    },
};

pub(super) const CASES: &[Case] = cases!["concurrency":
    of_adds_of_one_id_exactly_one_wins,
    an_add_that_is_refused_harms_none_beside_it,
    of_running_turns_of_a_conversation_exactly_one_wins,
    of_updates_of_one_row_none_is_lost,
    of_updates_that_ask_what_they_have_seen_one_succeeds,
    batches_to_one_conversation_are_all_stored,
    puts_to_one_thread_are_all_stored,
    puts_to_many_threads_are_all_stored,
    puts_of_one_checkpoint_leave_one_of_them_whole,
    puts_of_one_version_leave_one_value,
    writes_of_one_task_leave_one_of_them_whole,
    replacing_writes_of_one_task_leave_one_of_them_whole,
    many_writers_on_few_threads_all_succeed,
    of_copies_to_one_thread_exactly_one_wins,
    readers_see_checkpoints_whole,
];

const CALLERS: usize = 64;

async fn of_adds_of_one_id_exactly_one_wins(storage: Arc<dyn Storage>) {
    let first = Conversation::titled("0");
    let calls = (0..CALLERS).map(|number| {
        let conversations = storage.conversations();
        let mut conversation = Conversation::titled(number.to_string());
        conversation.id = first.id;
        async move { conversations.add(conversation).await }
    });
    let (won, lost): (Vec<_>, Vec<_>) = all_at_once(calls)
        .await
        .into_iter()
        .partition(Result::is_ok);
    lost.into_iter().for_each(assert_conflict);
    let won: Vec<_> = won.into_iter().flatten().collect();
    let stored = storage.conversations().get(&first.id).await.unwrap();
    assert_eq!(won, stored.into_iter().collect::<Vec<_>>());
    assert_eq!(won.len(), 1);
}

async fn an_add_that_is_refused_harms_none_beside_it(storage: Arc<dyn Storage>) {
    let taken = add_conversation(&storage).await;
    let calls = (0..CALLERS).map(|number| {
        let conversations = storage.conversations();
        let mut conversation = Conversation::titled(number.to_string());
        if number % 5 == 0 {
            conversation.id = taken.id;
        }
        async move { conversations.add(conversation).await }
    });
    for (number, added) in all_at_once(calls).await.into_iter().enumerate() {
        if number % 5 == 0 {
            assert_conflict(added);
        } else {
            let added = added.unwrap();
            assert_eq!(added.title, Some(number.to_string()));
            let stored = storage.conversations().get(&added.id).await.unwrap();
            assert_eq!(stored, Some(added));
        }
    }
    let stored = storage.conversations().get(&taken.id).await.unwrap();
    assert_eq!(stored, Some(taken));
}

async fn of_running_turns_of_a_conversation_exactly_one_wins(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let calls = (0..CALLERS).map(|_| {
        let turns = storage.turns();
        async move { turns.add(Turn::new(conversation, MessageId::new())).await }
    });
    let (won, lost): (Vec<_>, Vec<_>) = all_at_once(calls)
        .await
        .into_iter()
        .partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    lost.into_iter().for_each(assert_conflict);
}

async fn of_updates_of_one_row_none_is_lost(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await;
    let id = conversation.id;
    let calls = (0..CALLERS).map(|number| {
        let conversations = storage.conversations();
        async move {
            let add_one = |row: &mut Conversation| {
                let key = number.to_string();
                match row.metadata.get_or_insert_with(|| json!({})) {
                    Json::Object(fields) => fields.insert(key, json!(number)),
                    other => panic!("{other}"),
                };
                Ok(())
            };
            let rename = |row: &mut Conversation| {
                row.title = Some(number.to_string());
                Ok(())
            };
            conversations.update(&id, &add_one).await.unwrap();
            conversations.update(&id, &rename).await.unwrap()
        }
    });
    let mut updated = all_at_once(calls).await;
    updated.sort_by_key(|row| row.updated_at);
    assert!(updated.is_sorted_by(|earlier, later| earlier.updated_at < later.updated_at));
    let stored = storage.conversations().get(&id).await.unwrap();
    let stored = stored.expect("the conversation");
    let all = (0..CALLERS).map(|number| (number.to_string(), json!(number)));
    assert_eq!(stored.metadata, Some(Json::Object(all.collect())));
    assert_eq!(updated.last(), Some(&stored));
}

async fn of_updates_that_ask_what_they_have_seen_one_succeeds(storage: Arc<dyn Storage>) {
    let seen = add_conversation(&storage).await;
    let calls = (0..CALLERS).map(|number| {
        let (conversations, seen) = (storage.conversations(), seen.clone());
        async move {
            let if_as_seen = |row: &mut Conversation| {
                if *row != seen {
                    return Err(Error::Conflict(Conversation::conflict(&seen.id)));
                }
                row.title = Some(number.to_string());
                Ok(())
            };
            conversations.update(&seen.id, &if_as_seen).await
        }
    });
    let (won, lost): (Vec<_>, Vec<_>) = all_at_once(calls)
        .await
        .into_iter()
        .partition(Result::is_ok);
    lost.into_iter().for_each(assert_conflict);
    let won: Vec<_> = won.into_iter().flatten().collect();
    let stored = storage.conversations().get(&seen.id).await.unwrap();
    assert_eq!(won, stored.into_iter().collect::<Vec<_>>());
}

async fn batches_to_one_conversation_are_all_stored(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let calls = (0..CALLERS).map(|_| {
        let messages = storage.messages();
        let batch = (0..5).map(|_| Message::new(conversation, Role::User, "text"));
        let batch = batch.collect();
        async move { messages.add_many(batch).await.unwrap() }
    });
    let added = all_at_once(calls).await.concat().len() as u64;
    let filter = MessageFilter::of(conversation);
    assert_eq!(storage.messages().count(&filter).await.unwrap(), added);
}

async fn puts_to_one_thread_are_all_stored(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let drafts: Vec<_> = (0..CALLERS)
        .map(|number| {
            let channel = format!("channel {number}");
            thread
                .draft(None)
                .value(&channel, version(1), stored(&[number]))
        })
        .collect();
    let calls = drafts.iter().cloned().map(|draft| {
        let thread = thread.clone();
        async move { thread.put(&draft).await }
    });
    all_at_once(calls).await;
    let expected: Vec<_> = drafts.iter().rev().map(tuple_of).collect();
    assert_eq!(thread.list().await, expected);
}

async fn puts_to_many_threads_are_all_stored(storage: Arc<dyn Storage>) {
    let calls = (0..CALLERS).map(|_| {
        let thread = TestThread::new(&storage);
        async move {
            let chain = thread.put_chain(3).await;
            let expected: Vec<_> = chain.iter().rev().map(tuple_of).collect();
            assert_eq!(thread.list().await, expected);
        }
    });
    all_at_once(calls).await;
}

async fn puts_of_one_checkpoint_leave_one_of_them_whole(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let parents = ascending_ids(CALLERS);
    let id = &thread.draft(parents.last()).checkpoint.id;
    let drafts: Vec<_> = (1..)
        .zip(&parents)
        .map(|(number, parent)| {
            let mut draft = thread
                .draft(Some(parent))
                .value("channel", version(number), stored(&[number]))
                .metadata("step", number);
            draft.checkpoint.id = id.clone();
            draft
        })
        .collect();
    let calls = drafts.iter().cloned().map(|draft| {
        let thread = thread.clone();
        async move { thread.put(&draft).await }
    });
    all_at_once(calls).await;
    let mut tuple = thread.get(id).await;
    // The parent is that of the first, the rest that of the last.
    assert!(parents.contains(&tuple.parent.take().expect("a parent")));
    let found = drafts.iter().any(|draft| {
        let mut expected = tuple_of(draft);
        expected.parent = None;
        expected == tuple
    });
    assert!(found, "{tuple:?}");
}

async fn puts_of_one_version_leave_one_value(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let calls = (0..CALLERS).map(|number| {
        let thread = thread.clone();
        async move {
            let value = stored(&[number]);
            let draft = thread.draft(None).value("channel", version(1), value);
            thread.put(&draft).await
        }
    });
    assert_eq!(all_at_once(calls).await.len(), CALLERS);
    let value = |tuple: yai_agentkit_core::CheckpointTuple| -> ChannelValue {
        let mut values = tuple.checkpoint.channel_values;
        values.remove("channel").expect("a value")
    };
    let mut values: Vec<_> = thread.list().await.into_iter().map(value).collect();
    values.dedup();
    assert_eq!(values.len(), 1);
}

async fn writes_of_one_task_leave_one_of_them_whole(storage: Arc<dyn Storage>) {
    assert_one_wins_whole(&storage, ["a", "b", "c"]).await;
}

async fn replacing_writes_of_one_task_leave_one_of_them_whole(storage: Arc<dyn Storage>) {
    assert_one_wins_whole(&storage, ["__error__", "__resume__", "__interrupt__"]).await;
}

async fn assert_one_wins_whole(storage: &Arc<dyn Storage>, channels: [&'static str; 3]) {
    let thread = TestThread::new(storage);
    let id = thread.put(&thread.draft(None)).await;
    let calls = (0..CALLERS).map(|number| {
        let (thread, id) = (thread.clone(), id.clone());
        async move {
            let text = number.to_string();
            let writes = channels.map(|channel| (channel, text.as_str()));
            thread.write(&id, "task", &writes).await;
        }
    });
    all_at_once(calls).await;
    let mut texts = thread.texts(&id).await;
    assert_eq!(texts.len(), 3);
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
}

async fn many_writers_on_few_threads_all_succeed(storage: Arc<dyn Storage>) {
    let threads: Vec<_> = (0..4).map(|_| TestThread::new(&storage)).collect();
    let calls = (0..CALLERS).map(|number| {
        let mut threads = threads.clone();
        // Each goes through the threads in another order.
        threads.rotate_left(number % 4);
        if number % 8 >= 4 {
            threads.reverse();
        }
        async move {
            for thread in threads {
                let draft = thread
                    .draft(None)
                    .value("shared", version(1), stored(&["value"]));
                thread.put(&draft).await;
                let id = &draft.checkpoint.id;
                let task = format!("task {number}");
                thread.write(id, &task, &[("a", "1"), ("b", "2")]).await;
            }
        }
    });
    all_at_once(calls).await;
    for thread in threads {
        let tuples = thread.list().await;
        assert_eq!(tuples.len(), CALLERS);
        assert!(tuples.iter().all(|tuple| tuple.pending_writes.len() == 2));
    }
}

async fn of_copies_to_one_thread_exactly_one_wins(storage: Arc<dyn Storage>) {
    let target = TestThread::named(&storage, &fresh());
    let mut sources = Vec::new();
    for _ in 0..8 {
        let source = target.called(fresh());
        source.put_chain(3).await;
        sources.push(source);
    }
    let calls = sources.iter().cloned().map(|source| {
        let target = target.id.clone();
        async move { source.copy_to(&target).await }
    });
    let results = all_at_once(calls).await;
    let winner = results.iter().position(Result::is_ok).expect("a winner");
    for (number, result) in results.into_iter().enumerate() {
        if number != winner {
            assert_conflict(result);
        }
    }
    assert_eq!(target.ids().await, sources[winner].ids().await);
}

async fn readers_see_checkpoints_whole(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let first = thread.put_chain(1).await;
    let writer = {
        let (thread, mut last) = (thread.clone(), first[0].clone());
        tokio::spawn(async move {
            for step in 2..=60 {
                last = thread
                    .draft(Some(&last.checkpoint.id))
                    .value("step", version(step), stored(&vec![step]))
                    .metadata("step", step);
                thread.put(&last).await;
            }
        })
    };
    while !writer.is_finished() {
        let tuple = thread.find(None).await.expect("a checkpoint");
        let step = tuple.metadata.step().expect("a step");
        let values = &tuple.checkpoint.channel_values;
        assert_eq!(values.get("step"), Some(&stored(&vec![step])));
        tokio::task::yield_now().await;
    }
    writer.await.expect("the writer panicked");
}
