//! Transactions over repositories and checkpoints.

use std::sync::Arc;

use yai_agentkit_core::{
    CheckpointId, Conversation, Entity, Message, NewCheckpoint, PutOptions, Role, Storage,
    ThreadState, Turn, TurnStatus, UnitOfWork, checkpoint::PruneStrategy,
    conversation::MessageFilter,
};

use super::{
    Case,
    fixtures::{
        Draft, TestThread, add_conversation, all_at_once, assert_conflict, assert_invalid,
        assert_not_found, fresh, replace, stored, tuple_of, version,
    },
};

pub(super) const CASES: &[Case] = cases!["unit_of_work":
    a_commit_makes_everything_visible,
    others_see_nothing_before_the_commit,
    a_unit_sees_what_it_has_done,
    what_is_dropped_never_happened,
    after_an_error_a_drop_leaves_nothing,
    an_updated_and_a_deleted_row_come_back_when_dropped,
    units_follow_one_another,
    an_empty_unit_commits,
    pruning_and_copying_are_part_of_a_unit,
    state_is_saved_within_a_unit,
    units_at_once_all_commit,
];

/// A row or a checkpoint of every kind, as one turn of a chat makes them.
struct Work {
    conversation: Conversation,
    message: Message,
    turn: Turn,
    thread: TestThread,
    checkpoint: NewCheckpoint,
}

impl Work {
    fn new(storage: &Arc<dyn Storage>) -> Self {
        let conversation = Conversation::titled("Within a unit");
        let message = Message::new(conversation.id, Role::User, "Hello");
        let turn = Turn::new(conversation.id, message.id);
        let thread = TestThread::named(storage, conversation.thread_id().as_str());
        let checkpoint = thread
            .draft(None)
            .value("channel", version(1), stored(&["value"]));
        Self {
            conversation,
            message,
            turn,
            thread,
            checkpoint,
        }
    }

    async fn run(&self, unit: &dyn UnitOfWork) {
        let conversation = self.conversation.clone();
        unit.conversations().add(conversation).await.unwrap();
        unit.messages().add(self.message.clone()).await.unwrap();
        unit.turns().add(self.turn.clone()).await.unwrap();
        let put = unit
            .checkpointer()
            .put(self.checkpoint.clone(), PutOptions::default())
            .await;
        let id = put.unwrap().checkpoint_id;
        let writes = self.thread.writes(&id, "task", "", &[("a", "1")]);
        unit.checkpointer().put_writes(writes, None).await.unwrap();
    }

    /// All of it is there, or nothing.
    async fn assert_stored(&self, storage: &Arc<dyn Storage>, is_stored: bool) {
        let conversation = storage.conversations().get(&self.conversation.id).await;
        let message = storage.messages().get(&self.message.id()).await;
        let turn = storage.turns().get(&self.turn.id()).await;
        let expect = |value: bool| value == is_stored;
        assert!(expect(
            conversation.unwrap().as_ref() == Some(&self.conversation)
        ));
        assert!(expect(message.unwrap().as_ref() == Some(&self.message)));
        assert!(expect(turn.unwrap().as_ref() == Some(&self.turn)));
        if is_stored {
            let mut tuple = self.thread.get(&self.checkpoint.checkpoint.id).await;
            assert_eq!(std::mem::take(&mut tuple.pending_writes).len(), 1);
            assert_eq!(tuple, tuple_of(&self.checkpoint));
        } else {
            assert_eq!(self.thread.list().await, []);
        }
    }

    /// Nothing is left, below the surface either.
    async fn assert_no_trace(&self, storage: &Arc<dyn Storage>) {
        self.assert_stored(storage, false).await;
        let source = self.thread.called(fresh());
        let mut draft = source.draft(None).unchanged("channel", version(1));
        draft.checkpoint.id = self.checkpoint.checkpoint.id.clone();
        source.put(&draft).await;
        let copied = source.copy_to(&self.thread.id).await;
        copied.expect("the thread was not to exist");
        let tuple = self.thread.get(&draft.checkpoint.id).await;
        assert_eq!(tuple.pending_writes, []);
        assert!(tuple.checkpoint.channel_values.is_empty());
    }
}

async fn a_commit_makes_everything_visible(storage: Arc<dyn Storage>) {
    let work = Work::new(&storage);
    let unit = storage.begin().await.unwrap();
    work.run(&*unit).await;
    unit.commit().await.unwrap();
    work.assert_stored(&storage, true).await;
}

async fn others_see_nothing_before_the_commit(storage: Arc<dyn Storage>) {
    let work = Work::new(&storage);
    let unit = storage.begin().await.unwrap();
    work.run(&*unit).await;
    work.assert_stored(&storage, false).await;
    unit.commit().await.unwrap();
    work.assert_stored(&storage, true).await;
}

async fn a_unit_sees_what_it_has_done(storage: Arc<dyn Storage>) {
    let work = Work::new(&storage);
    let unit = storage.begin().await.unwrap();
    work.run(&*unit).await;
    let read = unit.messages().get(&work.message.id()).await.unwrap();
    assert_eq!(read.as_ref(), Some(&work.message));
    let filter = MessageFilter::of(work.conversation.id);
    assert_eq!(unit.messages().count(&filter).await.unwrap(), 1);
    let selector = work.thread.selector(None);
    let tuple = unit.checkpointer().get(&selector).await.unwrap();
    assert_eq!(tuple.map(|tuple| tuple.pending_writes.len()), Some(1));
    let mut turn = work.turn.clone();
    turn.status = TurnStatus::Completed;
    let turn = replace(&*unit.turns(), &turn).await.unwrap();
    let deleted = unit.messages().delete(&work.message.id()).await.unwrap();
    assert!(deleted);
    unit.commit().await.unwrap();
    assert_eq!(storage.turns().get(&turn.id()).await.unwrap(), Some(turn));
    assert_eq!(storage.messages().count(&filter).await.unwrap(), 0);
}

async fn what_is_dropped_never_happened(storage: Arc<dyn Storage>) {
    let work = Work::new(&storage);
    let unit = storage.begin().await.unwrap();
    work.run(&*unit).await;
    drop(unit);
    work.assert_no_trace(&storage).await;
}

async fn after_an_error_a_drop_leaves_nothing(storage: Arc<dyn Storage>) {
    for fault in 0..4 {
        let work = Work::new(&storage);
        let unit = storage.begin().await.unwrap();
        work.run(&*unit).await;
        match fault {
            0 => assert_conflict(unit.messages().add(work.message.clone()).await),
            1 => {
                let orphan =
                    Message::new(yai_agentkit_core::ConversationId::new(), Role::User, "text");
                assert_not_found(unit.messages().add(orphan).await);
            }
            2 => {
                let mut checkpoint = work.checkpoint.clone();
                checkpoint.checkpoint.ts = "\0".to_owned();
                assert_invalid(
                    unit.checkpointer()
                        .put(checkpoint, PutOptions::default())
                        .await,
                    "ts",
                );
            }
            _ => {
                let (thread, absent) = (&work.thread.id, fresh().into());
                let copied = unit.checkpointer().copy_thread(&absent, thread).await;
                assert_conflict(copied);
            }
        }
        drop(unit);
        work.assert_no_trace(&storage).await;
    }
}

async fn an_updated_and_a_deleted_row_come_back_when_dropped(storage: Arc<dyn Storage>) {
    let updated = add_conversation(&storage).await;
    let deleted = add_conversation(&storage).await;
    let message = Message::new(deleted.id, Role::User, "text");
    storage.messages().add(message.clone()).await.unwrap();
    let thread = TestThread::new(&storage);
    thread.put_chain(2).await;
    let before = thread.list().await;

    let unit = storage.begin().await.unwrap();
    let mut changed = updated.clone();
    changed.title = None;
    replace(&*unit.conversations(), &changed).await.unwrap();
    unit.conversations().delete(&deleted.id).await.unwrap();
    unit.checkpointer().delete_thread(&thread.id).await.unwrap();
    drop(unit);

    for row in [updated, deleted] {
        let read = storage.conversations().get(&row.id).await.unwrap();
        assert_eq!(read, Some(row));
    }
    let read = storage.messages().get(&message.id()).await.unwrap();
    assert_eq!(read, Some(message));
    assert_eq!(thread.list().await, before);
}

async fn units_follow_one_another(storage: Arc<dyn Storage>) {
    let works: Vec<_> = (0..6).map(|_| Work::new(&storage)).collect();
    for (number, work) in works.iter().enumerate() {
        let unit = storage.begin().await.unwrap();
        work.run(&*unit).await;
        if number % 2 == 0 {
            unit.commit().await.unwrap();
        }
    }
    for (number, work) in works.iter().enumerate() {
        work.assert_stored(&storage, number % 2 == 0).await;
    }
}

async fn an_empty_unit_commits(storage: Arc<dyn Storage>) {
    storage.begin().await.unwrap().commit().await.unwrap();
    drop(storage.begin().await.unwrap());
    add_conversation(&storage).await;
}

async fn pruning_and_copying_are_part_of_a_unit(storage: Arc<dyn Storage>) {
    for commits in [false, true] {
        let thread = TestThread::new(&storage);
        let copy = thread.called(fresh());
        let run = fresh();
        let chain = thread.put_chain(3).await;
        let of_run = thread.draft(None).metadata("run_id", run.as_str());
        let of_run = thread.put(&of_run).await;
        let unit = storage.begin().await.unwrap();
        let checkpointer = unit.checkpointer();
        checkpointer.delete_for_runs(&[run]).await.unwrap();
        checkpointer
            .copy_thread(&thread.id, &copy.id)
            .await
            .unwrap();
        let ids = std::slice::from_ref(&thread.id);
        checkpointer
            .prune(ids, PruneStrategy::KeepLatest)
            .await
            .unwrap();
        drop(checkpointer);
        assert_eq!(thread.list().await.len(), 4);
        assert_eq!(copy.list().await, []);
        let mut expected: Vec<CheckpointId> =
            chain.into_iter().map(|draft| draft.checkpoint.id).collect();
        expected.reverse();
        if commits {
            unit.commit().await.unwrap();
            assert_eq!(thread.ids().await, expected[..1]);
            assert_eq!(copy.ids().await, expected);
        } else {
            drop(unit);
            expected.insert(0, of_run);
            assert_eq!(thread.ids().await, expected);
            assert_eq!(copy.list().await, []);
        }
    }
}

async fn state_is_saved_within_a_unit(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let metadata = || {
        yai_agentkit_core::checkpoint::CheckpointMetadata::new(
            yai_agentkit_core::checkpoint::CheckpointSource::Loop,
            0,
        )
    };
    let checkpointer = storage.checkpointer();
    let mut state = ThreadState::load(&*checkpointer, thread.id.clone())
        .await
        .unwrap();
    let mut saved = Vec::new();
    for commits in [true, false, true] {
        let before = state.clone();
        let unit = storage.begin().await.unwrap();
        let value = vec![saved.len()];
        let save = state.save(&*unit.checkpointer(), &value, metadata()).await;
        let id = save.unwrap();
        if commits {
            unit.commit().await.unwrap();
            saved.push(id);
        } else {
            drop(unit);
            state = before;
        }
    }
    saved.reverse();
    assert_eq!(thread.ids().await, saved);
}

async fn units_at_once_all_commit(storage: Arc<dyn Storage>) {
    let works: Vec<_> = (0..16).map(|_| Work::new(&storage)).collect();
    let works = all_at_once(works.into_iter().map(|work| {
        let storage = Arc::clone(&storage);
        async move {
            let unit = storage.begin().await.unwrap();
            work.run(&*unit).await;
            unit.commit().await.unwrap();
            work
        }
    }));
    for work in works.await {
        work.assert_stored(&storage, true).await;
    }
}
