//! Edited messages, answers given anew, and going back to another branch.

use std::sync::atomic::Ordering;

use yai_agentkit_core::{
    CheckpointSelector, Entity, ListQuery, Message, MessageId, Role, Stores,
    checkpoint::PruneStrategy, conversation::MessageFilter, turn::Place,
};
use yai_agentkit_engine::{ForkPoint, SendOptions, TurnError, test_kit::send_with};

use super::turns::Bench;

/// The messages of the chosen branch.
async fn chosen(bench: &Bench) -> Vec<Message> {
    let query = ListQuery::filtered(MessageFilter::of(bench.conversation.id)).oldest_first();
    bench.storage.messages().list(&query).await.unwrap().items
}

fn at(place: Place) -> SendOptions {
    SendOptions {
        place,
        ..SendOptions::default()
    }
}

/// Says `words` in place of `message`.
async fn edit(bench: &Bench, message: MessageId, words: &str) {
    let place = bench.engine.beside(bench.conversation.id, message).await;
    let place = at(place.unwrap());
    let sent = send_with(&bench.engine, bench.message(words), place).await;
    sent.unwrap();
}

/// What users have said as the agent knows it.
async fn known(bench: &Bench) -> Vec<String> {
    let state = bench.state().await;
    let said = state.messages.iter();
    let said = said.filter(|message| message.role == Role::User);
    said.map(|message| message.content.clone()).collect()
}

#[tokio::test]
async fn an_edited_message_begins_a_branch_and_one_can_go_back() {
    let bench = Bench::new().await;
    for words in ["one", "two", "three"] {
        bench.send(words).await.unwrap();
    }
    let before = chosen(&bench).await;
    edit(&bench, before[2].id, "two!").await;
    let edited = chosen(&bench).await;
    assert_eq!(edited[..2], before[..2]);
    assert_eq!(edited[2].content, "two!");
    assert_eq!(edited[2].parent_id, before[2].parent_id);
    assert_eq!(edited[3].parent_id, Some(edited[2].id));
    assert_eq!(edited.len(), 4);
    assert_eq!(known(&bench).await, ["one", "two!"]);

    edit(&bench, edited[0].id, "one!").await;
    assert_eq!(known(&bench).await, ["one!"]);
    assert_eq!(chosen(&bench).await[0].parent_id, None);

    // By a message in the middle of it.
    let (engine, conversation) = (&bench.engine, bench.conversation.id);
    engine.choose(conversation, before[3].id).await.unwrap();
    assert_eq!(known(&bench).await, ["one", "two", "three"]);
    let contents = |messages: &[Message]| -> Vec<String> {
        messages
            .iter()
            .map(|message| message.content.clone())
            .collect()
    };
    assert_eq!(contents(&chosen(&bench).await), contents(&before));
    bench.send("four").await.unwrap();
    assert_eq!(known(&bench).await, ["one", "two", "three", "four"]);
    let nobody = engine.choose(conversation, MessageId::new()).await;
    assert!(matches!(nobody, Err(TurnError::Storage(_))), "{nobody:?}");
}

#[tokio::test]
async fn an_answer_given_anew_stands_beside_the_first() {
    let bench = Bench::new().await;
    bench.send("one").await.unwrap();
    bench.send("two").await.unwrap();
    let before = chosen(&bench).await;
    // By the answer, and by the question.
    for message in [before[3].id, before[2].id] {
        let turn = bench
            .engine
            .regenerate(bench.conversation.id, message, SendOptions::default());
        turn.await.unwrap().outcome().await.unwrap();
        let now = chosen(&bench).await;
        assert_eq!(now[..3], before[..3]);
        assert_ne!(now[3].id, before[3].id);
        assert_eq!(now[3].parent_id, Some(before[2].id));
        assert_eq!(known(&bench).await, ["one", "two"]);
    }
    let others = MessageFilter::of(bench.conversation.id).of_other_branches();
    assert_eq!(bench.storage.messages().count(&others).await.unwrap(), 2);
}

#[tokio::test]
async fn branches_survive_a_prune_and_are_forked() {
    let bench = Bench::new().await;
    bench.send("one").await.unwrap();
    bench.send("two").await.unwrap();
    let before = chosen(&bench).await;
    edit(&bench, before[2].id, "two!").await;
    let checkpointer = bench.storage.checkpointer();
    let threads = [bench.conversation.thread_id()];
    checkpointer
        .prune(&threads, PruneStrategy::KeepLatest)
        .await
        .unwrap();
    assert_eq!(known(&bench).await, ["one", "two!"]);

    let point = ForkPoint {
        message_id: Some(chosen(&bench).await[3].id),
        ..ForkPoint::default()
    };
    let conversations = bench.engine.conversations();
    let fork = conversations
        .fork(bench.conversation.id, &point)
        .await
        .unwrap();
    let query = ListQuery::filtered(MessageFilter::of(fork.id)).oldest_first();
    let copies = bench.storage.messages().list(&query).await.unwrap().items;
    let words: Vec<_> = copies.iter().map(|copy| copy.content.as_str()).collect();
    assert!(words[0] == "one" && words[2] == "two!", "{words:?}");
    assert!(
        copies
            .windows(2)
            .all(|pair| pair[1].parent_id == Some(pair[0].id))
    );

    // What the agent knew then is made of what was said.
    let (engine, conversation) = (&bench.engine, bench.conversation.id);
    engine.choose(conversation, before[3].id).await.unwrap();
    assert_eq!(known(&bench).await, ["one", "two"]);
    bench.send("three").await.unwrap();
    assert_eq!(known(&bench).await, ["one", "two", "three"]);
    let latest = CheckpointSelector::latest(bench.conversation.thread_id());
    assert!(checkpointer.get(&latest).await.unwrap().is_some());
}

#[tokio::test]
async fn a_branch_is_not_chosen_under_a_turn() {
    let bench = Bench::new().await;
    bench.send("one").await.unwrap();
    let before = chosen(&bench).await;
    edit(&bench, before[0].id, "one!").await;
    bench.engine.send(bench.message("ask")).await.unwrap();
    let busy = bench
        .engine
        .choose(bench.conversation.id, before[0].id)
        .await;
    assert!(matches!(busy, Err(TurnError::Busy(_))), "{busy:?}");
}

#[tokio::test]
async fn a_turn_in_a_chat_of_200_branches_costs_what_one_in_a_short_chat_does() {
    let bench = Bench::new().await;
    let cost = async || {
        let watch = &bench.storage.watch;
        let counts = [&watch.calls, &watch.bytes_read, &watch.bytes_written];
        let before = counts.map(|count| count.load(Ordering::SeqCst));
        for _ in 0..4 {
            bench.send("hi").await.unwrap();
        }
        let after = counts.map(|count| count.load(Ordering::SeqCst));
        [0, 1, 2].map(|index: usize| after[index] - before[index])
    };
    bench.send("hi").await.unwrap();
    let [calls, _, written] = cost().await;
    for _ in 0..200 {
        let first = chosen(&bench).await[0].id;
        edit(&bench, first, "hi").await;
    }
    // As if each branch were long.
    let of_branches = (0..10_000).map(|_| {
        let message = Message::new(bench.conversation.id, Role::Assistant, "x");
        message.with(|message| message.is_chosen = false)
    });
    let messages = bench.storage.messages();
    messages.add_many(of_branches.collect()).await.unwrap();
    bench.send("hi").await.unwrap();
    let [late_calls, _, late_written] = cost().await;
    assert_eq!(late_calls, calls);
    assert!(
        late_written * 10 <= written * 13,
        "{written} to {late_written} bytes"
    );
}
