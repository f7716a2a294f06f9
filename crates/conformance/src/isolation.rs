//! Threads and namespaces don't affect each other, whatever they are called.

use std::sync::Arc;

use serde_json::json;
use yai_agentkit_core::{CheckpointId, NewCheckpoint, Storage, checkpoint::PruneStrategy};

use super::{
    Case,
    fixtures::{AWKWARD, Draft, TestThread, fresh, stored, tuple_of, version},
};

pub(super) const CASES: &[Case] = cases!["isolation":
    threads_with_similar_ids_are_apart,
    namespaces_with_similar_names_are_apart,
    a_name_is_only_a_name,
];

async fn threads_with_similar_ids_are_apart(storage: Arc<dyn Storage>) {
    let base = TestThread::new(&storage);
    let names = similar(base.id.as_str());
    let threads: Vec<_> = names.into_iter().map(|name| base.called(name)).collect();
    let drafts = fill(&threads).await;
    for (index, thread) in threads.iter().enumerate() {
        let checkpointer = &thread.checkpointer;
        if index % 2 == 0 {
            checkpointer.delete_thread(&thread.id).await.unwrap();
        } else {
            let ids = std::slice::from_ref(&thread.id);
            checkpointer
                .prune(ids, PruneStrategy::Delete)
                .await
                .unwrap();
        }
        assert_eq!(thread.list().await, [], "{}", thread.id);
        // The next stands for all that are left; each has its turn.
        check(&threads[index + 1..], drafts.get(index + 1)).await;
    }
}

async fn namespaces_with_similar_names_are_apart(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut names = similar("child");
    names.push(String::new());
    let graphs: Vec<_> = names.iter().map(|name| thread.within(name)).collect();
    let drafts = fill(&graphs).await;
    check(&graphs, &drafts).await;
    assert_eq!(thread.list().await.len(), graphs.len());
}

async fn a_name_is_only_a_name(storage: Arc<dyn Storage>) {
    // Channels, nodes and tasks with names that mean something elsewhere.
    let thread = TestThread::named(&storage, &format!("{} {AWKWARD}", fresh()));
    let names = [
        "", "v", "id", "__root__", "null", "0", "a.b", "a,b", "{a}", "$.a", "'; --", AWKWARD,
    ];
    let mut draft = thread.draft(None);
    for (number, name) in names.iter().enumerate() {
        draft = draft
            .value(name, version(1), stored(&[number]))
            .metadata(name, number);
        draft
            .checkpoint
            .extra
            .insert(format!("{name} extra"), json!({ *name: { *name: number } }));
    }
    let id = thread.put(&draft).await;
    assert_eq!(thread.get(&id).await, tuple_of(&draft));
    for name in names {
        thread.write_at(&id, name, name, &[(name, name)]).await;
    }
    let mut sorted = names;
    sorted.sort_unstable();
    assert_eq!(thread.texts(&id).await, sorted);
}

/// Names that a careless comparison takes for one another.
fn similar(base: &str) -> Vec<String> {
    let mut names = vec![base.to_owned(), base.to_uppercase(), base[1..].to_owned()];
    let parts = [
        " ", "%", "_", "'", "\"", "\\", "|", ":", "/", "*", "é", "e\u{301}", "🦀", "\n",
    ];
    for part in parts {
        names.push(format!("{base}{part}"));
        names.push(format!("{part}{base}"));
    }
    names.push(format!("_{}", &base[1..]));
    names
}

/// The same checkpoint for all, with another value and another write each.
async fn fill(threads: &[TestThread]) -> Vec<NewCheckpoint> {
    let id = CheckpointId::after(None);
    let mut drafts = Vec::new();
    for (number, thread) in threads.iter().enumerate() {
        let mut draft = thread
            .draft(None)
            .value("channel", version(1), stored(&[number]));
        draft.checkpoint.id = id.clone();
        thread.put(&draft).await;
        let text = number.to_string();
        thread.write(&id, "task", &[("channel", &text)]).await;
        drafts.push(draft);
    }
    check(threads, &drafts).await;
    drafts
}

async fn check<'a>(threads: &[TestThread], drafts: impl IntoIterator<Item = &'a NewCheckpoint>) {
    for (thread, draft) in threads.iter().zip(drafts) {
        let mut tuple = thread.find(None).await.expect("a checkpoint");
        assert_eq!(std::mem::take(&mut tuple.pending_writes).len(), 1);
        assert_eq!(tuple, tuple_of(draft));
        assert_eq!(thread.ids().await.len(), 1);
    }
}
