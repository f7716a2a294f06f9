//! The turns that begin, go on and end with a checkpoint.

use serde_json::{Value as Json, json};
use yai_agentkit_core::{
    Conversation, Entity, Fence, Message, Role, Stores, Turn, TurnStatus,
    turn::{EventBatch, IdempotencyKey, TurnBegin, TurnChange, TurnStep},
};

use super::{
    Golden,
    checkpoints::{FIRST_WRITE_STAYS, checkpoint, writes},
};
use crate::Database;

pub(super) async fn call_all(golden: &mut Golden) {
    let storage = golden.database.clone();
    let conversation = Conversation::titled("Golden");
    let conversation = storage.conversations().add(conversation).await.unwrap();
    let thread = conversation.thread_id();
    let question = Message::new(conversation.id, Role::User, "Hello");
    let mut turn = Turn::new(conversation.id, question.id);
    turn.epoch = 1;
    let events = |sequence| EventBatch::new(conversation.id, turn.id, sequence, first_event());
    let first = checkpoint(&thread);
    golden
        .call("begin_turn", async |database| {
            let begin = TurnBegin::new(turn.clone(), question.clone(), first, events(1));
            database.turn_store().begin(begin).await.unwrap();
        })
        .await;
    let step = TurnStep::new(1, checkpoint(&thread), events(2));
    let step = async |database: &Database| {
        database.turn_store().step(step.clone()).await.unwrap();
    };
    golden.call("step_of_turn", step).await;
    golden.call("step_of_turn_again", step).await;
    let mut ended = turn.clone();
    ended.status = TurnStatus::Completed;
    ended.assistant_message_id = Some(question.id.answer());
    let mut answer = Message::new(conversation.id, Role::Assistant, "Hello");
    answer.id = question.id.answer();
    let end = TurnChange::new(turn.clone(), ended)
        .with_answer(Some(answer))
        .with_checkpoint(checkpoint(&thread), Fence::Hold(1))
        .with_events(events(3));
    golden
        .call("end_turn", async |database| {
            database.turn_store().change(end).await.unwrap();
        })
        .await;

    // The next waits before it begins, and asks a person.
    let question = Message::new(conversation.id, Role::User, "And you?");
    let mut queued = Turn::new(conversation.id, question.id);
    queued.status = TurnStatus::Queued;
    storage.messages().add(question.clone()).await.unwrap();
    storage.turns().add(queued.clone()).await.unwrap();
    let events = |sequence| EventBatch::new(conversation.id, queued.id, sequence, first_event());
    let begun = queued.clone().with(|turn| {
        turn.status = TurnStatus::Running;
        turn.epoch = 2;
    });
    let mut begin = TurnBegin::new(begun.clone(), question, checkpoint(&thread), events(1));
    begin.queued = Some(queued.clone());
    let head = begin.checkpoint.clone();
    golden
        .call("begin_queued_turn", async |database| {
            database.turn_store().begin(begin).await.unwrap();
        })
        .await;
    let mut asking = begun.clone();
    asking.status = TurnStatus::Waiting;
    let ask = TurnChange::new(begun.clone(), asking.clone()).with_events(events(2));
    golden
        .call("turn_asks", async |database| {
            database.turn_store().change(ask).await.unwrap();
        })
        .await;
    let goes_on = TurnChange::new(asking, begun.with(|turn| turn.epoch = 3))
        .with_writes(vec![writes(&head, FIRST_WRITE_STAYS)], Fence::Raise(3))
        .with_events(events(3));
    golden
        .call("answer_turn", async |database| {
            database.turn_store().change(goes_on).await.unwrap();
        })
        .await;

    let conversation = Conversation::titled("Keyed");
    let conversation = storage.conversations().add(conversation).await.unwrap();
    let message = Message::new(conversation.id, Role::User, "Hello");
    let mut turn = Turn::new(conversation.id, message.id);
    turn.epoch = 1;
    let key = IdempotencyKey::new(conversation.id.0, "key", b"request", turn.id.0);
    let events = EventBatch::new(conversation.id, turn.id, 1, first_event());
    let checkpoint = checkpoint(&conversation.thread_id());
    let mut begin = TurnBegin::new(turn, message, checkpoint, events);
    begin.key = Some(key);
    golden
        .call("begin_turn_with_key", async |database| {
            database.turn_store().begin(begin).await.unwrap();
        })
        .await;
}

fn first_event() -> Vec<Json> {
    vec![json!({"type": "RUN_STARTED"})]
}
