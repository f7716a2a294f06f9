//! Long chats.

use std::sync::{Arc, Mutex, atomic::Ordering};

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use yai_agentkit_core::{CheckpointSelector, Message, Role, Stores, ThreadState};
use yai_agentkit_engine::{
    SendOptions, TurnEngine,
    agent::{
        Agent, AgentError, AgentState, ChatMessage, Context, Messages, Step, ToolCall, ToolOutcome,
        ToolTraits, Tools,
    },
    test_kit::{FailingStorage, ScriptedAgent},
};

use super::turns::{Bench, engine, until_hanging};

/// Of eight turns: calls of the storage, bytes of values read and written.
async fn cost(bench: &Bench) -> [u64; 3] {
    let watch = &bench.storage.watch;
    let counts = [&watch.calls, &watch.bytes_read, &watch.bytes_written];
    let before = counts.map(|count| count.load(Ordering::SeqCst));
    for _ in 0..8 {
        bench.send("hi").await.unwrap();
    }
    let after = counts.map(|count| count.load(Ordering::SeqCst));
    std::array::from_fn(|index| after[index] - before[index])
}

/// Saves the state with what `change` makes of its messages.
async fn change(bench: &Bench, change: impl FnOnce(&mut Messages)) {
    let checkpointer = bench.storage.checkpointer();
    let latest = CheckpointSelector::latest(bench.conversation.thread_id());
    let latest = checkpointer.get(&latest).await.unwrap().unwrap();
    let metadata = latest.metadata.clone();
    let mut thread = ThreadState::new(latest.key.thread_id.clone(), Some(latest));
    let mut state: AgentState = thread.state().unwrap().unwrap();
    change(&mut state.messages);
    thread.save(&*checkpointer, &state, metadata).await.unwrap();
}

#[tokio::test]
async fn turn_10_000_of_a_chat_costs_what_turn_10_does() {
    const OF_A_TURN: usize = 7;
    let bench = Bench::new().await;
    for _ in 0..6 {
        bench.send("hi").await.unwrap();
    }
    let [calls, read, written] = cost(&bench).await;
    change(&bench, |messages| {
        while messages.len() < 10_000 * OF_A_TURN {
            let message = &messages[messages.len() - 14 * OF_A_TURN];
            messages.push(ChatMessage::clone(message));
        }
    })
    .await;
    // Of the first the epoch is not known.
    bench.send("hi").await.unwrap();
    let [late_calls, late_read, late_written] = cost(&bench).await;
    assert_eq!(late_calls, calls);
    assert!(
        late_written * 10 <= written * 13,
        "{written} to {late_written} bytes"
    );
    // The agent asks for the newest nine messages, and is given at most 72.
    assert!(late_read * 10 <= read * 13, "{read} to {late_read} bytes");

    let state = bench.state().await;
    assert_eq!(state.messages.len(), 10_009 * OF_A_TURN);
    assert_eq!(state.messages.last(), state.messages.get(OF_A_TURN - 1));
}

#[tokio::test]
async fn a_turn_longer_than_what_a_chat_is_opened_with_goes_on() {
    const RESULTS: usize = 700;
    let agent = ScriptedAgent::hanging_after(3);
    let bench = Bench::with(FailingStorage::default(), agent.clone()).await;
    let (first, message) = (bench.engine.clone(), bench.message("hi"));
    let cut_short = tokio::spawn(async move { first.send(message).await });
    until_hanging(&agent, 3).await;
    change(&bench, |messages| {
        for _ in 0..RESULTS {
            messages.push(ChatMessage {
                tool_call_id: Some("a".to_owned()),
                ..ChatMessage::new(Role::Tool, "x")
            });
        }
    })
    .await;
    agent.permits.add_permits(100);
    engine(&bench.storage, &agent)
        .send(bench.message("and?"))
        .await
        .unwrap();
    drop(cut_short);
    let said = bench.said().await;
    let results = "x ".repeat(RESULTS);
    assert_eq!(
        said[1],
        format!("assistant: hi: result-a result-b {results}result-c")
    );
}

/// Remembers the state that it has seen last.
#[derive(Default)]
struct Watchful(Mutex<AgentState>);

#[async_trait]
impl Agent for Watchful {
    type State = Json;

    async fn step(&self, _: &Context, state: &mut AgentState) -> Result<Step, AgentError> {
        *self.0.lock().unwrap() = state.clone();
        Ok(match state.messages.last().map(|last| last.role.clone()) {
            Some(Role::Tool) => Step::Answer("done".to_owned()),
            _ => Step::ToolCalls {
                content: String::new(),
                calls: ["all", "newest"].map(call).into(),
            },
        })
    }

    fn tools(&self) -> &dyn Tools<Json> {
        self
    }
}

#[async_trait]
impl Tools<Json> for Watchful {
    fn traits(&self, call: &ToolCall) -> ToolTraits {
        ToolTraits {
            reads_all_messages: call.name == "all",
            ..ToolTraits::repeatable()
        }
    }

    async fn run(
        &self,
        _: &Context,
        _: &ToolCall,
        state: &mut AgentState,
        _: Option<&str>,
    ) -> ToolOutcome {
        ToolOutcome::Result(state.messages.before().to_string())
    }
}

fn call(name: &str) -> ToolCall {
    ToolCall::new(name, name, json!({}))
}

#[tokio::test]
async fn an_agent_sees_the_newest_messages_and_every_instruction() {
    let bench = Bench::new().await;
    let instruction = Message::new(bench.conversation.id, Role::System, "Be brief.");
    let options = SendOptions::default();
    bench.engine.instruct(instruction, options).await.unwrap();
    change(&bench, |messages| {
        for number in 1..700 {
            messages.push(ChatMessage::new(Role::User, number.to_string()));
        }
    })
    .await;
    let agent = Arc::new(Watchful::default());
    let engine = TurnEngine::new(Arc::new(bench.storage.clone()), agent.clone());
    engine.send(bench.message("700")).await.unwrap();
    let seen = agent.0.lock().unwrap().clone();
    assert_eq!(seen.instructions, ["Be brief."]);
    let before = seen.messages.before();
    assert!(before > 0 && seen.messages.len() >= 73, "{before} before");
    assert_eq!(seen.messages[0].content, before.to_string());
    let results = seen.messages.iter().rev().take(2);
    let results: Vec<_> = results.map(|result| result.content.clone()).collect();
    assert_eq!(results, [before.to_string(), "0".to_owned()]);
    assert_eq!(seen.messages.total(), 704);
}
