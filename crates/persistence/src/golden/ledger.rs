//! The calls of [`TurnLedger`](yai_agentkit_core::turn::TurnLedger).

use yai_agentkit_core::{
    ConversationId, Message, MessageId, Role, Stores, Turn, TurnStatus, Value,
    turn::{IdempotencyKey, Opened, OwnerId, TurnClosing, TurnOpening, TurnOwner, TurnRecord},
};

use super::Golden;
use crate::Database;

pub(super) async fn call_all(golden: &mut Golden) {
    let opening = opening(ConversationId::new());
    let mut opened = None;
    let open = async |database: &Database| {
        opened = Some(database.turn_ledger().open(opening.clone()).await.unwrap());
    };
    golden.call("ledger_open", open).await;
    let Some(Opened::Turn(turn)) = opened else {
        panic!("busy");
    };
    let busy = async |database: &Database| {
        let busy = database.turn_ledger().open(opening.clone()).await.unwrap();
        assert_eq!(busy, Opened::Busy);
    };
    golden.call("ledger_open_busy", busy).await;

    let owner = TurnOwner {
        thread_id: opening.thread_id.clone(),
        conversation_id: turn.conversation_id,
        turn_id: turn.id,
        epoch: turn.epoch,
    };
    let record = record("effect");
    let recorded = async |database: &Database| {
        let ledger = database.turn_ledger();
        ledger.record(&owner, record.clone()).await.unwrap();
    };
    golden.call("ledger_record", recorded).await;
    let records = async |database: &Database| {
        let ledger = database.turn_ledger();
        let records = ledger.records(turn.conversation_id, turn.id).await;
        assert_eq!(records.unwrap().len(), 2);
    };
    golden.call("ledger_records", records).await;
    let mut next = (*turn).clone();
    (next.status, next.lease_owner) = (TurnStatus::Completed, None);
    let closing = TurnClosing {
        next,
        seen: (*turn).clone(),
        messages: vec![Message::new(turn.conversation_id, Role::Assistant, "Yes")],
        records: vec![record.clone()],
    };
    let close = async |database: &Database| {
        let ledger = database.turn_ledger();
        ledger.close(closing.clone()).await.unwrap();
    };
    golden.call("ledger_close", close).await;

    let mut waiting = self::opening(turn.conversation_id);
    waiting.turn.status = TurnStatus::Queued;
    waiting.turn.lease_owner = None;
    let enqueue = async |database: &Database| {
        let ledger = database.turn_ledger();
        ledger.enqueue(waiting.clone()).await.unwrap();
    };
    golden.call("ledger_enqueue", enqueue).await;
    let due = async |database: &Database| {
        assert_eq!(database.turn_ledger().due_opened(1).await.unwrap().len(), 1);
    };
    golden.call("ledger_due", due).await;
    let mut running = waiting.turn.clone();
    running.status = TurnStatus::Running;
    let begin = async |database: &Database| {
        let ledger = database.turn_ledger();
        let begun = ledger.begin_opened(&waiting.thread_id, running.clone());
        assert!(begun.await.unwrap().is_some());
    };
    golden.call("ledger_begin", begin).await;
    let mut seen = running.clone();
    seen.epoch = 2;
    let take = async |database: &Database| {
        let ledger = database.turn_ledger();
        let taken = ledger.take_opened(&seen, OwnerId::new(), seen.lease);
        assert!(taken.await.unwrap().is_some());
    };
    golden.call("ledger_take", take).await;
}

fn record(name: &str) -> TurnRecord {
    TurnRecord {
        name: name.to_owned(),
        value: Some(Value::from_parts("msgpack", vec![1])),
    }
}

fn opening(conversation: ConversationId) -> TurnOpening {
    let message = Message::new(conversation, Role::User, "Hello");
    let turn = Turn::new(conversation, message.id);
    TurnOpening {
        thread_id: conversation.to_string().into(),
        message: Some(message),
        key: Some(IdempotencyKey::new(
            conversation.0,
            &MessageId::new().to_string(),
            b"",
            turn.id.0,
        )),
        records: vec![record("input")],
        turn,
    }
}
