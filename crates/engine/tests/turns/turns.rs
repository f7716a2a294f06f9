use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::json;
use yai_agentkit_core::{
    CheckpointQuery, CheckpointTuple, Conversation, Error, ListQuery, Message, MessageId, Role,
    Stores, Turn, TurnStatus, checkpoint::CheckpointerExt,
};
use yai_agentkit_engine::{
    SendOptions, TurnEngine, TurnError, TurnOutcome,
    agent::{AgentError, AgentState},
    test_kit::{FailingStorage, ScriptedAgent, answered, limits, said},
};

const ANSWER: &str = "assistant: hi: result-a result-b result-c";

pub(super) struct Bench {
    pub(super) storage: FailingStorage,
    pub(super) agent: ScriptedAgent,
    pub(super) engine: TurnEngine,
    pub(super) conversation: Conversation,
}

impl Bench {
    pub(super) async fn new() -> Self {
        Self::with(FailingStorage::default(), ScriptedAgent::default()).await
    }

    pub(super) async fn with(storage: FailingStorage, agent: ScriptedAgent) -> Self {
        let conversation = Conversation::titled("test");
        storage
            .conversations()
            .add(conversation.clone())
            .await
            .unwrap();
        Self {
            engine: engine(&storage, &agent),
            storage,
            agent,
            conversation,
        }
    }

    pub(super) fn message(&self, content: &str) -> Message {
        Message::new(self.conversation.id, Role::User, content)
    }

    pub(super) async fn send(&self, content: &str) -> Result<Message, TurnError> {
        answered(self.engine.send(self.message(content))).await
    }

    pub(super) async fn said(&self) -> Vec<String> {
        said(&*self.storage.inner, &self.conversation).await
    }

    async fn turns(&self) -> Vec<Turn> {
        let query = ListQuery::default().oldest_first();
        self.storage.inner.turns().list(&query).await.unwrap().items
    }

    async fn statuses(&self) -> Vec<TurnStatus> {
        self.turns().await.iter().map(|turn| turn.status).collect()
    }

    pub(super) async fn state(&self) -> AgentState {
        let thread = self.conversation.thread_id();
        let latest = self.storage.checkpointer().latest(&thread).await.unwrap();
        latest.unwrap_or_default()
    }

    /// Oldest first.
    async fn checkpoints(&self) -> Vec<CheckpointTuple> {
        let query = CheckpointQuery::of(self.conversation.thread_id());
        let mut checkpoints = self.storage.checkpointer().list(&query).await.unwrap();
        checkpoints.reverse();
        checkpoints
    }
}

pub(super) fn engine(storage: &FailingStorage, agent: &ScriptedAgent) -> TurnEngine {
    TurnEngine::new(Arc::new(storage.clone()), Arc::new(agent.clone())).with_limits(limits())
}

/// Waits until the agent has done `calls` calls and hangs in the next.
pub(super) async fn until_hanging(agent: &ScriptedAgent, calls: usize) {
    while agent.done().len() < calls || agent.permits.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    // The checkpoint of the last call is stored before the next call begins.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_turn_stores_the_question_every_step_and_the_answer() {
    let bench = Bench::new().await;
    let question = bench.message("hi");
    let answer = answered(bench.engine.send(question.clone())).await.unwrap();

    assert_eq!(answer.id, question.id.answer());
    assert_eq!(bench.said().await, ["user: hi", ANSWER]);
    assert_eq!(bench.statuses().await, [TurnStatus::Completed]);
    assert_eq!(bench.agent.done(), ScriptedAgent::SCRIPT);

    let checkpoints = bench.checkpoints().await;
    let steps: Vec<_> = checkpoints
        .iter()
        .map(|tuple| tuple.metadata.step().unwrap())
        .collect();
    assert_eq!(steps, [-1, 0, 1, 2, 3, 4]);
    assert_eq!(checkpoints[0].metadata.0["source"], "input");
    assert!(
        checkpoints[1..]
            .iter()
            .all(|tuple| tuple.metadata.0["source"] == "loop")
    );
    let turn = bench.turns().await[0].id.to_string();
    assert!(
        checkpoints
            .iter()
            .all(|tuple| tuple.metadata.run_id() == Some(turn.as_str()))
    );

    let state = bench.state().await;
    assert_eq!(state.answering, None);
    assert_eq!(state.messages.last().unwrap().content, answer.content);
    assert_eq!(state.own["facts"].as_object().unwrap().len(), 3);
}

/// Runs a turn in a runtime of its own and kills that runtime once the agent has done `calls`
/// calls, as SIGKILL ends a process.
fn kill_after(calls: usize) -> (FailingStorage, Conversation, ScriptedAgent) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let (storage, agent) = (
        FailingStorage::default(),
        ScriptedAgent::hanging_after(calls),
    );
    let conversation = runtime.block_on(async {
        let bench = Bench::with(storage.clone(), agent.clone()).await;
        let message = bench.message("hi");
        let engine = bench.engine.clone();
        tokio::spawn(async move { answered(engine.send(message)).await });
        until_hanging(&agent, calls).await;
        bench.conversation
    });
    drop(runtime);
    (storage, conversation, agent)
}

#[test]
fn a_turn_killed_after_any_step_is_finished_at_the_next_start() {
    for calls in 0..ScriptedAgent::SCRIPT.len() {
        let (storage, conversation, killed) = kill_after(calls);
        let agent = ScriptedAgent::default();
        let engine = engine(&storage, &agent);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            assert_eq!(said(&storage, &conversation).await, ["user: hi"]);
            engine.settle_all().await.unwrap();
            assert_eq!(said(&storage, &conversation).await, ["user: hi", ANSWER]);
            engine.settle_all().await.unwrap();
            assert_eq!(said(&storage, &conversation).await, ["user: hi", ANSWER]);
        });
        // No step that was recorded has run again.
        assert_eq!(
            [killed.done(), agent.done()].concat(),
            ScriptedAgent::SCRIPT
        );
    }
}

#[test]
fn a_turn_killed_after_any_step_is_finished_before_the_next_message() {
    for calls in 0..ScriptedAgent::SCRIPT.len() {
        let (storage, conversation, killed) = kill_after(calls);
        let agent = ScriptedAgent::default();
        let engine = engine(&storage, &agent);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let next = Message::new(conversation.id, Role::User, "hi");
            answered(engine.send(next)).await.unwrap();
            let expected = ["user: hi", ANSWER, "user: hi", ANSWER];
            assert_eq!(said(&storage, &conversation).await, expected);
        });
        let done = [killed.done(), agent.done()].concat();
        assert_eq!(
            done,
            [ScriptedAgent::SCRIPT, ScriptedAgent::SCRIPT].concat()
        );
    }
}

#[tokio::test]
async fn many_unfinished_turns_are_all_finished_at_a_start() {
    let storage = FailingStorage::default();
    let hanging = ScriptedAgent::hanging_after(0);
    let before = engine(&storage, &hanging);
    for _ in 0..150 {
        let conversation = Conversation::titled("one of many");
        storage
            .conversations()
            .add(conversation.clone())
            .await
            .unwrap();
        let message = Message::new(conversation.id, Role::User, "hi");
        let engine = before.clone();
        tokio::spawn(async move { answered(engine.send(message)).await });
    }
    while storage.turns().count(&Default::default()).await.unwrap() < 150 {
        tokio::task::yield_now().await;
    }
    engine(&storage, &ScriptedAgent::default())
        .settle_all()
        .await
        .unwrap();
    let turns = storage
        .turns()
        .list(&ListQuery::default().limit(1000))
        .await
        .unwrap();
    assert!(
        turns
            .items
            .iter()
            .all(|turn| turn.status == TurnStatus::Completed)
    );
    assert_eq!(
        storage.messages().count(&Default::default()).await.unwrap(),
        300
    );
}

#[tokio::test]
async fn a_second_message_while_a_turn_runs_is_refused_and_not_stored() {
    let agent = ScriptedAgent::hanging_after(2);
    let bench = Bench::with(FailingStorage::default(), agent.clone()).await;
    let first = tokio::spawn({
        let (engine, message) = (bench.engine.clone(), bench.message("hi"));
        async move { answered(engine.send(message)).await }
    });
    until_hanging(&agent, 2).await;
    assert!(
        matches!(bench.send("hi").await, Err(TurnError::Busy(id)) if id == bench.conversation.id)
    );
    let resumed = bench.engine.settle(bench.conversation.id).await;
    assert!(matches!(resumed, Err(TurnError::Busy(_))));

    agent.permits.add_permits(100);
    first.await.unwrap().unwrap();
    assert_eq!(bench.said().await, ["user: hi", ANSWER]);
    bench.send("hi").await.unwrap();
    assert_eq!(bench.said().await.len(), 4);
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_stop_the_turn() {
    let agent = ScriptedAgent::hanging_after(1);
    let bench = Bench::with(FailingStorage::default(), agent.clone()).await;
    let caller = tokio::spawn({
        let (engine, message) = (bench.engine.clone(), bench.message("hi"));
        async move { answered(engine.send(message)).await }
    });
    until_hanging(&agent, 1).await;
    caller.abort();
    agent.permits.add_permits(100);
    while bench.statuses().await != [TurnStatus::Completed] {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.said().await, ["user: hi", ANSWER]);
}

#[tokio::test]
async fn a_turn_whose_agent_fails_has_failed_and_the_next_starts_clean() {
    let bench = Bench::new().await;
    let refused = bench.send("refuse").await.unwrap_err();
    assert!(matches!(
        refused,
        TurnError::Agent(AgentError::Refused { .. })
    ));
    let unavailable = bench.send("unavailable").await.unwrap_err();
    assert!(matches!(
        unavailable,
        TurnError::Agent(AgentError::Unavailable { .. })
    ));
    let crashed = bench.send("panic").await.unwrap_err();
    assert!(matches!(crashed, TurnError::AgentCrashed));
    let endless = bench.send("forever").await.unwrap_err();
    assert!(matches!(endless, TurnError::TooManySteps(5)));
    assert_eq!(bench.state().await.answering, None);
    bench.send("hi").await.unwrap();

    let errors: Vec<_> = bench
        .turns()
        .await
        .into_iter()
        .map(|turn| turn.error)
        .collect();
    let expected = [
        Some("the model refused: no such model"),
        Some("the model is unavailable: too many requests"),
        Some("the agent crashed"),
        Some("the agent found no answer in 5 steps"),
        None,
    ];
    assert_eq!(errors, expected.map(|error| error.map(str::to_owned)));
    let failed = [
        "user: refuse",
        "user: unavailable",
        "user: panic",
        "user: forever",
    ];
    assert_eq!(
        bench.said().await,
        [&failed[..], &["user: hi", ANSWER]].concat()
    );
}

#[tokio::test]
async fn a_tool_that_panics_is_a_result_for_the_agent_and_changes_nothing() {
    let bench = Bench::new().await;
    let answer = bench.send("tool panic").await.unwrap();
    assert_eq!(
        answer.content,
        "tool panic: result-a the tool crashed result-c"
    );
    let own = bench.state().await.own;
    assert_eq!(own, json!({"facts": {"a": "noted", "c": "noted"}}));
}

#[tokio::test]
async fn a_storage_that_fails_leaves_the_turn_to_be_finished() {
    let agent = ScriptedAgent::hanging_after(5);
    let bench = Bench::with(FailingStorage::default(), agent.clone()).await;
    let first = tokio::spawn({
        let (engine, message) = (bench.engine.clone(), bench.message("hi"));
        async move { answered(engine.send(message)).await }
    });
    until_hanging(&agent, 5).await;
    bench.storage.watch.fails.store(true, Ordering::SeqCst);
    agent.permits.add_permits(1);
    let failed = first.await.unwrap().unwrap_err();
    assert!(matches!(
        failed,
        TurnError::Storage(Error::Unavailable { .. })
    ));
    assert_eq!(bench.statuses().await, [TurnStatus::Running]);

    bench.storage.watch.fails.store(false, Ordering::SeqCst);
    agent.permits.add_permits(100);
    bench.send("hi").await.unwrap();
    assert_eq!(bench.said().await, ["user: hi", ANSWER, "user: hi", ANSWER]);
    assert_eq!(bench.statuses().await, [TurnStatus::Completed; 2]);
}

#[tokio::test]
async fn a_shutdown_stops_turns_at_their_next_checkpoint() {
    let agent = ScriptedAgent::hanging_after(2);
    let bench = Bench::with(FailingStorage::default(), agent.clone()).await;
    let running = tokio::spawn({
        let (engine, message) = (bench.engine.clone(), bench.message("hi"));
        async move { answered(engine.send(message)).await }
    });
    until_hanging(&agent, 2).await;
    assert!(!bench.engine.shutdown(Duration::from_millis(10)).await);
    assert!(matches!(
        bench.send("hi").await,
        Err(TurnError::ShuttingDown)
    ));

    agent.permits.add_permits(100);
    assert!(bench.engine.shutdown(Duration::from_secs(10)).await);
    assert!(matches!(running.await.unwrap(), Err(TurnError::Stopped)));
    assert_eq!(agent.done(), ScriptedAgent::SCRIPT[..3]);
    assert_eq!(bench.checkpoints().await.len(), 3);
    assert_eq!(bench.statuses().await, [TurnStatus::Running]);

    engine(&bench.storage, &agent).settle_all().await.unwrap();
    assert_eq!(bench.said().await, ["user: hi", ANSWER]);
    assert_eq!(agent.done(), ScriptedAgent::SCRIPT);
}

#[tokio::test]
async fn a_message_that_waits_for_an_unfinished_turn_at_a_shutdown_is_not_stored() {
    let agent = ScriptedAgent::hanging_after(1);
    let bench = Bench::with(FailingStorage::default(), agent.clone()).await;
    let unfinished = bench.message("hi");
    let before = tokio::spawn({
        let engine = bench.engine.clone();
        async move { answered(engine.send(unfinished)).await }
    });
    until_hanging(&agent, 1).await;
    assert!(!bench.engine.shutdown(Duration::ZERO).await);
    agent.permits.add_permits(2);
    assert!(matches!(before.await.unwrap(), Err(TurnError::Stopped)));

    let engine = engine(&bench.storage, &agent);
    let next = tokio::spawn({
        let (engine, message) = (engine.clone(), bench.message("and?"));
        async move { answered(engine.send(message)).await }
    });
    until_hanging(&agent, 3).await;
    assert!(!engine.shutdown(Duration::ZERO).await);
    agent.permits.add_permits(100);
    assert!(matches!(next.await.unwrap(), Err(TurnError::ShuttingDown)));
    assert_eq!(bench.said().await, ["user: hi"]);
}

#[tokio::test]
async fn a_system_message_is_kept_for_the_agent_without_a_turn() {
    let bench = Bench::new().await;
    let instruction = Message::new(bench.conversation.id, Role::System, "Be brief.");
    let stored = bench
        .engine
        .instruct(instruction.clone(), SendOptions::default())
        .await
        .unwrap();
    let message = |message: &Message| (message.id, message.content.clone());
    assert_eq!(message(&stored), message(&instruction));
    assert!(bench.turns().await.is_empty() && bench.agent.done().is_empty());
    let state = bench.state().await;
    assert_eq!(state.messages[0].role, Role::System);
    assert_eq!(state.messages[0].content, "Be brief.");
    bench.send("hi").await.unwrap();
    assert_eq!(
        bench.said().await,
        ["system: Be brief.", "user: hi", ANSWER]
    );
}

#[tokio::test]
async fn what_is_not_a_message_to_an_agent_is_refused_and_not_stored() {
    let bench = Bench::new().await;
    let unknown = Message::new(Conversation::titled("gone").id, Role::User, "hi");
    let not_found = answered(bench.engine.send(unknown)).await;
    assert!(matches!(
        not_found,
        Err(TurnError::Storage(Error::NotFound { .. }))
    ));
    for (role, content, at_fault) in [
        (Role::User, "", "content"),
        (Role::User, "a\0b", "content"),
        (Role::Assistant, "hi", "role"),
        (Role::Tool, "hi", "role"),
    ] {
        let message = Message::new(bench.conversation.id, role, content);
        match answered(bench.engine.send(message)).await {
            Err(TurnError::Storage(Error::InvalidInput { field, .. })) => {
                assert_eq!(field, at_fault);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(bench.said().await.is_empty() && bench.turns().await.is_empty());
    assert!(bench.checkpoints().await.is_empty());
}

#[tokio::test]
async fn an_answer_that_postgres_could_not_store_is_mended() {
    let bench = Bench::new().await;
    assert_eq!(bench.send("nul").await.unwrap().content, "a\u{fffd}b");
}

/// A running turn whose thread knows nothing of it.
async fn orphaned_turn(bench: &Bench) -> MessageId {
    let question = bench
        .storage
        .messages()
        .add(bench.message("hi"))
        .await
        .unwrap();
    let turn = Turn::new(bench.conversation.id, question.id);
    bench.storage.turns().add(turn).await.unwrap();
    question.id
}

#[tokio::test]
async fn a_turn_whose_answer_is_stored_is_not_answered_again() {
    let bench = Bench::new().await;
    let question = orphaned_turn(&bench).await;
    let mut answer = Message::new(bench.conversation.id, Role::Assistant, "hello");
    answer.id = question.answer();
    bench.storage.messages().add(answer.clone()).await.unwrap();
    let resumed = bench.engine.settle(bench.conversation.id).await.unwrap();
    assert_eq!(resumed, Some(TurnOutcome::Answered(answer)));
    assert_eq!(bench.statuses().await, [TurnStatus::Completed]);
    assert!(bench.agent.done().is_empty());
}

#[tokio::test]
async fn a_turn_whose_checkpoints_are_gone_fails_and_the_chat_goes_on() {
    let bench = Bench::new().await;
    orphaned_turn(&bench).await;
    bench.send("hi").await.unwrap();
    assert_eq!(
        bench.statuses().await,
        [TurnStatus::Failed, TurnStatus::Completed]
    );
    assert_eq!(bench.said().await, ["user: hi", "user: hi", ANSWER]);
}
