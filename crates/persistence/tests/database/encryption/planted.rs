//! A chat in which a word stands wherever one can be.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value as Json, json};
use yai_agentkit_core::{
    ChannelValue, Checkpoint, CheckpointSelector, Conversation, Entity, Error, Fence, ListQuery,
    Message, Namespace, NewCheckpoint, NewWrites, Role, Stores, ThreadId, Turn, TurnId, TurnStatus,
    Value,
    checkpoint::{ChannelWrite, CheckpointMetadata, CheckpointSource, Version},
    conversation::{MessageFilter, Part},
    store::{ItemKey, MemoryStoreExt, NewItem},
    turn::{
        EventBatch, Interrupt, OwnerId, TurnBegin, TurnChange, TurnFilter, TurnOwner, TurnRecord,
    },
};
use yai_agentkit_persistence::Database;

/// Nowhere else.
pub(super) const WORD: &str = "Brombeerdickicht";

/// Where the word is.
pub(super) struct Planted {
    pub(super) chat: Conversation,
    pub(super) turn: TurnId,
    pub(super) item: ItemKey,
}

impl Planted {
    pub(super) fn thread(&self) -> ThreadId {
        self.chat.thread_id()
    }
}

fn checkpoint(chat: &Conversation) -> NewCheckpoint {
    let encoded = |field: &str| Value::encode(&json!({ field: WORD })).unwrap();
    let snapshot = Value::encode(&[WORD]).unwrap();
    let values = [
        ("inline", ChannelValue::Inline(WORD.into())),
        ("stored", ChannelValue::Stored(encoded("stored"))),
        ("other", ChannelValue::Stored(encoded("other"))),
        ("snapshot", ChannelValue::DeltaSnapshot(snapshot)),
    ];
    let mut checkpoint = Checkpoint::after(None);
    for (channel, value) in values {
        let version = Version::Text("1".to_owned());
        checkpoint
            .channel_versions
            .insert(channel.to_owned(), version);
        checkpoint.channel_values.insert(channel.to_owned(), value);
    }
    NewCheckpoint {
        thread_id: chat.thread_id(),
        namespace: Namespace::root(),
        parent: None,
        new_versions: checkpoint.channel_versions.clone(),
        checkpoint,
        metadata: CheckpointMetadata::new(CheckpointSource::Loop, 0),
    }
}

pub(super) async fn plant(database: &Database) -> Planted {
    let chat = Conversation::new(Some(WORD.to_owned()), Some(json!({"note": WORD})));
    let chat = database.conversations().add(chat).await.unwrap();
    let parts = vec![
        Part::text(format!("{WORD} ").repeat(2000)),
        Part::ToolCall {
            id: "1".to_owned(),
            name: "look".to_owned(),
            arguments: json!({"for": WORD}),
        },
    ];
    let mut message = Message::of_parts(chat.id, Role::User, parts);
    message.metadata = Some(json!({"note": WORD}));
    let turn = Turn::new(chat.id, message.id).with(|turn| {
        turn.epoch = 1;
        turn.lease_owner = Some(OwnerId::new());
        turn.lease = Duration::from_secs(300);
        turn.input = Some(json!({"tools": [WORD]}));
    });
    let events =
        |sequence| EventBatch::new(chat.id, turn.id, sequence, vec![json!({"said": WORD})]);
    let new = checkpoint(&chat);
    let key = new.key();
    let turns = database.turn_store();
    let begin = TurnBegin::new(turn.clone(), message, new, events(1));
    let turn = turns.begin(begin).await.unwrap();
    turns.append(events(2)).await.unwrap();
    let write = |channel: &str| ChannelWrite {
        channel: channel.to_owned(),
        value: Value::encode(WORD).unwrap(),
    };
    let writes = NewWrites {
        key,
        task_id: "task".to_owned(),
        task_path: String::new(),
        writes: vec![write("one"), write("two")],
    };
    let hold = Some(Fence::Hold(1));
    database
        .checkpointer()
        .put_writes(writes, hold)
        .await
        .unwrap();
    let owner = TurnOwner {
        thread_id: chat.thread_id(),
        conversation_id: chat.id,
        turn_id: turn.id,
        epoch: 1,
    };
    for name in ["result", "receipt"] {
        let record = TurnRecord {
            name: name.to_owned(),
            value: Some(Value::encode(WORD).unwrap()),
        };
        database.turn_ledger().record(&owner, record).await.unwrap();
    }
    let waiting = turn.clone().with(|turn| {
        turn.status = TurnStatus::Waiting;
        turn.error = Some(WORD.to_owned());
        turn.interrupt = Some(Interrupt::new(WORD, WORD));
    });
    let waiting = TurnChange::new(turn.clone(), waiting);
    turns.change(waiting).await.unwrap();
    let item = ItemKey::new(["notes"], chat.id.to_string());
    let new = NewItem::new(item.clone(), &json!({"note": WORD})).unwrap();
    database.memory_store().put(new).await.unwrap();
    Planted {
        chat,
        turn: turn.id,
        item,
    }
}

/// What is read of each table, or why it is not.
pub(super) type Read = BTreeMap<&'static str, Result<String, Error>>;

pub(super) async fn read(database: &Database, planted: &Planted) -> Read {
    let id = planted.chat.id;
    let latest = CheckpointSelector::latest(planted.thread());
    let messages = ListQuery::filtered(MessageFilter::of(id));
    let turns = ListQuery::filtered(TurnFilter::default().of(id));
    let store = database.turn_store();
    let all = [
        (
            "agent_conversations",
            shown(database.conversations().get(&id).await),
        ),
        (
            "agent_messages",
            shown(database.messages().list(&messages).await),
        ),
        ("agent_turns", shown(database.turns().list(&turns).await)),
        (
            "agent_turn_events",
            shown(store.events(id, planted.turn, 0, 10).await),
        ),
        (
            "agent_turn_records",
            shown(database.turn_ledger().records(id, planted.turn).await),
        ),
        (
            "checkpoints",
            shown(database.checkpointer().get(&latest).await),
        ),
        (
            "store",
            shown(database.memory_store().get(planted.item.clone()).await),
        ),
    ];
    all.into()
}

fn shown<T: std::fmt::Debug>(read: Result<T, Error>) -> Result<String, Error> {
    read.map(|read| format!("{read:?}"))
}

/// What is there, of which everything can be read.
pub(super) async fn whole(
    database: &Database,
    planted: &Planted,
) -> BTreeMap<&'static str, String> {
    let read = read(database, planted).await.into_iter();
    let read = read.map(|(table, read)| (table, read.expect(table)));
    let read: BTreeMap<_, _> = read.collect();
    for (table, read) in &read {
        assert!(read.contains(WORD), "{table}: {read}");
    }
    read
}

/// A JSON that has the word.
pub(super) fn noted() -> Json {
    json!({"note": WORD})
}
