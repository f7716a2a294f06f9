//! What the main kinds of turn publish, as it is stored. `INSTA_UPDATE=always` writes the snapshots.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ListQuery, Message, Role, Stores, Turn, memory::MemoryStorage, turn::TurnFilter,
};
use yai_agentkit_engine::{
    SendOptions, TurnEngine,
    test_kit::{ScriptedAgent, limits},
};

struct Chat {
    storage: MemoryStorage,
    conversation: Conversation,
}

impl Chat {
    async fn new() -> Self {
        let storage = MemoryStorage::default();
        let conversation = Conversation::titled("test");
        let conversation = storage.conversations().add(conversation).await.unwrap();
        Self {
            storage,
            conversation,
        }
    }

    fn engine(&self, agent: ScriptedAgent) -> TurnEngine {
        let storage = Arc::new(self.storage.clone());
        TurnEngine::new(storage, Arc::new(agent)).with_limits(limits())
    }

    fn message(&self, content: &str) -> Message {
        Message::new(self.conversation.id, Role::User, content)
    }

    /// Sends to an agent that hangs after so many calls, and waits for a batch that it gets to.
    async fn hang(&self, content: &str, calls: usize, sequence: u64) -> TurnEngine {
        let engine = self.engine(ScriptedAgent::hanging_after(calls));
        let begun = engine.start(self.message(content), SendOptions::default());
        let turn = begun.await.unwrap();
        let mut batches =
            std::pin::pin!(engine.watch(self.conversation.id, turn.turn_id(), sequence - 1,));
        batches.next().await.expect("the turn runs").unwrap();
        engine
    }

    async fn turns(&self) -> Vec<Turn> {
        let query = ListQuery::filtered(TurnFilter::default());
        self.storage.turns().list(&query).await.unwrap().items
    }

    /// A line for each event of the only turn, behind the sequence of its batch. Ids are numbered.
    async fn published(&self) -> String {
        let engine = self.engine(ScriptedAgent::default());
        let turn = self.turns().await.remove(0);
        let batches = engine.watch(turn.conversation_id, turn.id, 0);
        let batches: Vec<_> = batches.try_collect().await.unwrap();
        let (mut ids, mut lines) = (Vec::new(), Vec::new());
        for batch in batches {
            for event in batch.events {
                let mut event = json!(event);
                redact(&mut event, &mut ids);
                lines.push(format!("{} {event}", batch.sequence));
            }
        }
        lines.join("\n")
    }
}

fn redact(value: &mut Value, ids: &mut Vec<Uuid>) {
    match value {
        Value::String(text) => {
            if let Ok(id) = text.parse::<Uuid>() {
                let known = ids.iter().position(|known| *known == id);
                let number = known.unwrap_or_else(|| {
                    ids.push(id);
                    ids.len() - 1
                });
                *text = format!("#{number}");
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| redact(value, ids)),
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "created_at" {
                    *value = json!("…");
                }
                redact(value, ids);
            }
        }
        _ => {}
    }
}

#[tokio::test]
async fn an_answer() {
    let chat = Chat::new().await;
    let engine = chat.engine(ScriptedAgent::default());
    engine.send(chat.message("nul")).await.unwrap();
    insta::assert_snapshot!(chat.published().await);
}

#[tokio::test]
async fn tools_and_an_answer() {
    let chat = Chat::new().await;
    let engine = chat.engine(ScriptedAgent::default());
    engine.send(chat.message("hi")).await.unwrap();
    insta::assert_snapshot!(chat.published().await);
}

#[tokio::test]
async fn a_question_and_its_answer() {
    let chat = Chat::new().await;
    let engine = chat.engine(ScriptedAgent::default());
    engine.send(chat.message("ask")).await.unwrap();
    let (turn, asked) = engine.asking(chat.conversation.id).await.unwrap().unwrap();
    let resumed = engine.resume(chat.conversation.id, turn, asked.id, "red".to_owned());
    resumed.await.unwrap().outcome().await.unwrap();
    insta::assert_snapshot!(chat.published().await);
}

#[tokio::test]
async fn a_failure() {
    let chat = Chat::new().await;
    let engine = chat.engine(ScriptedAgent::default());
    engine.send(chat.message("refuse")).await.unwrap_err();
    insta::assert_snapshot!(chat.published().await);
}

#[tokio::test]
async fn a_cancellation_while_tools_run() {
    let chat = Chat::new().await;
    let engine = chat.hang("hi", 2, 2).await;
    let turn = chat.turns().await.remove(0);
    engine.cancel(chat.conversation.id, turn.id).await.unwrap();
    insta::assert_snapshot!(chat.published().await);
}

#[tokio::test]
async fn a_cancellation_while_a_person_is_asked() {
    let chat = Chat::new().await;
    let engine = chat.engine(ScriptedAgent::default());
    engine.send(chat.message("ask")).await.unwrap();
    let turn = chat.turns().await.remove(0);
    engine.cancel(chat.conversation.id, turn.id).await.unwrap();
    insta::assert_snapshot!(chat.published().await);
}

#[tokio::test]
async fn a_turn_that_another_engine_goes_on_with() {
    let chat = Chat::new().await;
    chat.hang("hi", 3, 3).await;
    let engine = chat.engine(ScriptedAgent::default());
    engine.settle(chat.conversation.id).await.unwrap();
    insta::assert_snapshot!(chat.published().await);
}
