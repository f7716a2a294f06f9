//! Turns over several engines: leases, deadlines, queues. Each engine stands for a server of its own
//! on one storage.

mod keys;
mod questions;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, Semaphore};
use yai_agentkit_core::{
    CheckpointQuery, Conversation, Error, ListQuery, Message, MessageId, Role, Storage, Stores,
    Turn, TurnStatus, memory::MemoryStorage, turn::InterruptId,
};
use yai_agentkit_engine::{
    OnBusy, RequestKey, SendOptions, TurnEngine, TurnError, TurnLimits, TurnOutcome,
    agent::{
        Agent, AgentError, AgentState, Context, Step, ToolCall, ToolOutcome, ToolTraits, Tools,
    },
    test_kit::{Call, ScriptedAgent, Watch, Watched, answered, limits, reply, said, send_with},
};

const LONG: Duration = Duration::from_secs(3600);

/// Engines on one storage.
struct Servers {
    storage: MemoryStorage,
    conversation: Conversation,
}

impl Servers {
    async fn new() -> Self {
        let storage = MemoryStorage::default();
        let conversation = Conversation::titled("test");
        let conversations = storage.conversations();
        conversations.add(conversation.clone()).await.unwrap();
        Self {
            storage,
            conversation,
        }
    }

    /// One whose leases last.
    fn engine(&self, agent: &ScriptedAgent) -> TurnEngine {
        self.engine_with(
            agent,
            TurnLimits {
                lease: LONG,
                ..limits()
            },
        )
    }

    fn engine_with(&self, agent: &ScriptedAgent, limits: TurnLimits) -> TurnEngine {
        let storage = Arc::new(self.storage.clone());
        TurnEngine::new(storage, Arc::new(agent.clone())).with_limits(limits)
    }

    fn message(&self, content: &str) -> Message {
        Message::new(self.conversation.id, Role::User, content)
    }

    /// Sends in a task of its own.
    fn send(
        &self,
        engine: &TurnEngine,
        content: &str,
        options: SendOptions,
    ) -> tokio::task::JoinHandle<Result<Message, TurnError>> {
        let (engine, message) = (engine.clone(), self.message(content));
        tokio::spawn(async move { answered(send_with(&engine, message, options)).await })
    }

    async fn turns(&self) -> Vec<Turn> {
        let query = ListQuery::default().oldest_first();
        self.storage.turns().list(&query).await.unwrap().items
    }

    async fn statuses(&self) -> Vec<TurnStatus> {
        self.turns().await.iter().map(|turn| turn.status).collect()
    }

    async fn said(&self) -> Vec<String> {
        said(&self.storage, &self.conversation).await
    }

    /// Every checkpoint has the one before for its parent.
    async fn is_one_line(&self) -> bool {
        let query = CheckpointQuery::of(self.conversation.thread_id());
        let newest_first = self.storage.checkpointer().list(&query).await.unwrap();
        newest_first
            .windows(2)
            .all(|pair| pair[0].parent.as_ref() == Some(&pair[1].checkpoint.id))
    }
}

fn keyed(key: &str, request: &str) -> SendOptions {
    SendOptions {
        key: Some(RequestKey {
            key: key.to_owned(),
            request: request.as_bytes().to_vec(),
        }),
        ..SendOptions::default()
    }
}

fn on_busy(on_busy: OnBusy) -> SendOptions {
    SendOptions {
        on_busy: Some(on_busy),
        ..SendOptions::default()
    }
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    waited.expect("the condition comes true");
}

async fn until_done(agent: &ScriptedAgent, calls: usize) {
    until(async || agent.done().len() >= calls && agent.permits.available_permits() == 0).await;
}

async fn asked(servers: &Servers) -> (Turn, InterruptId) {
    let turn = servers.turns().await.remove(0);
    assert_eq!(turn.status, TurnStatus::Waiting);
    let id = turn.interrupt.as_ref().unwrap().id;
    (turn, id)
}

#[tokio::test]
async fn a_turn_with_a_lease_is_nobody_elses() {
    let servers = Servers::new().await;
    let agent = ScriptedAgent::hanging_after(1);
    let (first, second) = (servers.engine(&agent), servers.engine(&agent));
    let running = servers.send(&first, "hi", SendOptions::default());
    until_done(&agent, 1).await;
    let refused = second.send(servers.message("and?")).await;
    assert!(matches!(refused, Err(TurnError::Busy(_))), "{refused:?}");
    second.settle_all().await.unwrap();
    assert_eq!(servers.statuses().await, [TurnStatus::Running]);
    agent.permits.add_permits(100);
    running.await.unwrap().unwrap();
    assert_eq!(agent.done(), ScriptedAgent::SCRIPT);
}

#[tokio::test]
async fn an_owner_that_wakes_after_its_lease_writes_nothing_and_returns_the_others_answer() {
    let servers = Servers::new().await;
    let asleep = ScriptedAgent::hanging_after(1);
    let first = servers.engine_with(&asleep, limits());
    let running = servers.send(&first, "hi", SendOptions::default());
    until_done(&asleep, 1).await;

    let awake = ScriptedAgent::default();
    let second = servers.engine(&awake);
    second.settle_all().await.unwrap();
    assert_eq!(servers.statuses().await, [TurnStatus::Completed]);
    let answered = servers.said().await;
    let turn = servers.turns().await.remove(0);
    assert_eq!(turn.attempt, 2);

    asleep.permits.add_permits(100);
    let answer = running.await.unwrap().unwrap();
    assert_eq!(Some(answer.id), turn.assistant_message_id);
    assert_eq!(servers.said().await, answered);
    assert_eq!(servers.turns().await, [turn]);
    assert!(servers.is_one_line().await);
}

/// Waits before it reads a state until it may go on.
#[derive(Clone)]
struct Slowly {
    has_come: Arc<Notify>,
    may_go_on: Arc<Semaphore>,
}

impl Default for Slowly {
    fn default() -> Self {
        Self {
            has_come: Arc::default(),
            may_go_on: Arc::new(Semaphore::new(0)),
        }
    }
}

impl Watch for Slowly {
    type Unit = ();

    async fn cross<T: Send>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        if (call.part, call.name) == ("checkpoints", "get") {
            self.has_come.notify_one();
            let _permit = self.may_go_on.acquire().await;
        }
        work.await
    }

    fn open_unit(&self) {}
}

#[tokio::test]
async fn no_turn_begins_on_the_state_of_one_that_asks_which_began_just_now() {
    let servers = Servers::new().await;
    let agent = ScriptedAgent::default();
    let fast = servers.engine(&agent);
    // The slow one has read that no turn is under way, and not yet the state.
    let slowly = Slowly::default();
    let storage = Watched::new(Arc::new(servers.storage.clone()), slowly.clone());
    let slow = TurnEngine::new(Arc::new(storage), Arc::new(agent.clone()));
    let refused = servers.send(&slow, "hi", SendOptions::default());
    slowly.has_come.notified().await;
    let asks = fast.send(servers.message("ask")).await;
    assert!(matches!(asks, Ok(TurnOutcome::Waiting(_))), "{asks:?}");
    slowly.may_go_on.add_permits(Semaphore::MAX_PERMITS);
    let refused = refused.await.unwrap();
    assert!(matches!(refused, Err(TurnError::Busy(_))), "{refused:?}");

    let (turn, id) = asked(&servers).await;
    let answer = answered(reply(&slow, &turn, id, "yes"));
    assert_eq!(answer.await.unwrap().content, "yes");
    assert!(servers.is_one_line().await);
}

#[tokio::test]
async fn a_turn_that_is_cut_short_again_and_again_fails_with_its_reason() {
    let servers = Servers::new().await;
    let max_attempts = limits().max_attempts;
    let hanging = ScriptedAgent::hanging_after(0);
    let first = servers.engine_with(&hanging, limits());
    let mut lost = vec![servers.send(&first, "hi", SendOptions::default())];
    for attempt in 1..=max_attempts {
        until(async || {
            servers
                .turns()
                .await
                .iter()
                .any(|turn| turn.attempt == attempt)
        })
        .await;
        let engine = servers.engine_with(&hanging, limits());
        let conversation = servers.conversation.id;
        if attempt < max_attempts {
            lost.push(tokio::spawn(async move {
                let resumed = engine.settle(conversation).await;
                resumed.map(|outcome| outcome.unwrap().answer().unwrap())
            }));
        } else {
            let failed = engine.settle(conversation).await;
            assert!(
                matches!(failed, Err(TurnError::TooManyAttempts(_))),
                "{failed:?}"
            );
        }
    }
    let turn = servers.turns().await.remove(0);
    assert_eq!(turn.status, TurnStatus::Failed);
    assert_eq!(
        turn.error.as_deref(),
        Some("the turn was cut short 5 times")
    );
    hanging.permits.add_permits(100);
    for task in lost {
        assert!(task.await.unwrap().is_err());
    }
    assert_eq!(servers.said().await, ["user: hi"]);
}

#[tokio::test]
async fn a_turn_that_takes_too_long_fails() {
    let servers = Servers::new().await;
    let hanging = ScriptedAgent::hanging_after(1);
    let short = TurnLimits {
        deadline: Duration::from_millis(50),
        lease: LONG,
        ..limits()
    };
    let engine = servers.engine_with(&hanging, short);
    let late = engine.send(servers.message("hi")).await;
    assert!(matches!(late, Err(TurnError::TooLong(_))), "{late:?}");
    assert_eq!(servers.statuses().await, [TurnStatus::Failed]);
    hanging.permits.add_permits(100);
    servers
        .engine(&hanging)
        .send(servers.message("hi"))
        .await
        .unwrap();
}

/// Its tools never end; it counts those that have begun, and those that go on.
#[derive(Clone, Default)]
struct Endless {
    begun: Arc<AtomicUsize>,
    going_on: Arc<()>,
    /// Whether they keep their thread.
    blocks: bool,
}

#[async_trait::async_trait]
impl Agent for Endless {
    type State = ();

    async fn step(&self, _: &Context, _: &mut AgentState<()>) -> Result<Step, AgentError> {
        let call = |number: usize| {
            ToolCall::new(format!("call {number}"), "endless", serde_json::json!({}))
        };
        Ok(Step::ToolCalls {
            content: String::new(),
            calls: (0..500).map(call).collect(),
        })
    }

    fn tools(&self) -> &dyn Tools<()> {
        self
    }
}

#[async_trait::async_trait]
impl Tools<()> for Endless {
    fn traits(&self, _: &ToolCall) -> ToolTraits {
        ToolTraits::repeatable()
    }

    async fn run(
        &self,
        _: &Context,
        _: &ToolCall,
        _: &mut AgentState<()>,
        _: Option<&str>,
    ) -> ToolOutcome {
        let _goes_on = Arc::clone(&self.going_on);
        self.begun.fetch_add(1, Ordering::SeqCst);
        if self.blocks {
            std::thread::sleep(Duration::from_secs(5));
        }
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 20)]
async fn a_deadline_ends_a_turn_within_its_tools_and_the_tools_with_it() {
    for blocks in [false, true] {
        let servers = Servers::new().await;
        let agent = Endless {
            blocks,
            ..Endless::default()
        };
        let short = TurnLimits {
            deadline: Duration::from_millis(200),
            lease: LONG,
            ..limits()
        };
        let storage = Arc::new(servers.storage.clone());
        let engine = TurnEngine::new(storage, Arc::new(agent.clone())).with_limits(short);
        let started = std::time::Instant::now();
        let late = engine.send(servers.message("hi")).await;
        assert!(matches!(late, Err(TurnError::TooLong(_))), "{late:?}");
        // Before those that keep their threads are done.
        assert!(!blocks || started.elapsed() < Duration::from_secs(5));
        assert_eq!(servers.statuses().await, [TurnStatus::Failed]);
        drop(engine);
        // Ours alone.
        until(async || Arc::strong_count(&agent.going_on) == 1).await;
        let begun = agent.begun.load(Ordering::SeqCst);
        assert!((1..=limits().tools_at_once).contains(&begun), "{begun}");
    }
}

#[tokio::test]
async fn queued_messages_are_answered_in_order_whichever_server_took_them() {
    let servers = Servers::new().await;
    let agent = ScriptedAgent::hanging_after(1);
    let (first, second) = (servers.engine(&agent), servers.engine(&agent));
    let mut running = vec![servers.send(&first, "one", SendOptions::default())];
    until_done(&agent, 1).await;
    for (count, (engine, content)) in [(&second, "two"), (&first, "three")]
        .into_iter()
        .enumerate()
    {
        running.push(servers.send(engine, content, on_busy(OnBusy::Enqueue)));
        until(async || servers.turns().await.len() == count + 2).await;
    }
    let waiting = [TurnStatus::Running, TurnStatus::Queued, TurnStatus::Queued];
    assert_eq!(servers.statuses().await, waiting);
    agent.permits.add_permits(1000);
    for (task, content) in running.into_iter().zip(["one", "two", "three"]) {
        let answer = task.await.unwrap().unwrap();
        assert!(answer.content.starts_with(content), "{}", answer.content);
    }
    assert_eq!(servers.statuses().await, [TurnStatus::Completed; 3]);
    let done = [ScriptedAgent::SCRIPT; 3].concat();
    assert_eq!(agent.done(), done);
    // Each stands before its answer, though all were there before the first.
    let questions = servers.said().await.into_iter().step_by(2);
    let expected = ["one", "two", "three"].map(|content| format!("user: {content}"));
    assert!(questions.eq(expected));
    assert!(servers.is_one_line().await);
}

#[tokio::test]
async fn a_queued_message_is_answered_although_its_server_is_gone() {
    let servers = Servers::new().await;
    let agent = ScriptedAgent::hanging_after(1);
    let (first, second) = (servers.engine(&agent), servers.engine(&agent));
    let running = servers.send(&first, "one", SendOptions::default());
    until_done(&agent, 1).await;
    let queued = servers.send(&second, "two", on_busy(OnBusy::Enqueue));
    until(async || servers.turns().await.len() == 2).await;
    second.stop();
    agent.permits.add_permits(1000);
    running.await.unwrap().unwrap();
    let gone = queued.await.unwrap();
    assert!(matches!(gone, Err(TurnError::Stopped)), "{gone:?}");
    first.settle_all().await.unwrap();
    assert_eq!(servers.said().await.len(), 4);
}

#[tokio::test]
async fn a_message_that_interrupts_cancels_the_turn_wherever_it_runs() {
    let servers = Servers::new().await;
    let hanging = ScriptedAgent::hanging_after(2);
    let first = servers.engine(&hanging);
    let running = servers.send(&first, "one", SendOptions::default());
    until_done(&hanging, 2).await;
    let second = servers.engine(&ScriptedAgent::default());
    let answer = servers
        .send(&second, "two", on_busy(OnBusy::Interrupt))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.content.starts_with("two"));
    assert_eq!(
        servers.statuses().await,
        [TurnStatus::Cancelled, TurnStatus::Completed]
    );
    hanging.permits.add_permits(100);
    let cancelled = running.await.unwrap();
    assert!(
        matches!(cancelled, Err(TurnError::Cancelled)),
        "{cancelled:?}"
    );
    assert_eq!(servers.said().await.len(), 3);
    assert!(servers.is_one_line().await);
}

#[tokio::test]
async fn a_cancelled_turn_stays_so() {
    let servers = Servers::new().await;
    let hanging = ScriptedAgent::hanging_after(0);
    let engine = servers.engine(&hanging);
    let conversation = servers.conversation.id;
    let running = servers.send(&engine, "one", SendOptions::default());
    until(async || servers.turns().await.len() == 1).await;
    let turn = servers.turns().await.remove(0).id;
    let cancelled = engine.cancel(conversation, turn).await.unwrap();
    assert_eq!(cancelled.status, TurnStatus::Cancelled);
    // The decision of the agent is not waited for.
    let outcome = running.await.unwrap();
    assert!(matches!(outcome, Err(TurnError::Cancelled)), "{outcome:?}");
    let again = engine.cancel(conversation, turn).await;
    assert!(matches!(again, Err(TurnError::Ended)), "{again:?}");
}

#[tokio::test]
async fn a_late_write_of_a_turn_does_not_bring_a_deleted_chat_back() {
    let servers = Servers::new().await;
    let hanging = ScriptedAgent::hanging_after(2);
    let running = servers.send(&servers.engine(&hanging), "hi", SendOptions::default());
    until_done(&hanging, 2).await;
    let unit = servers.storage.begin().await.unwrap();
    unit.conversations()
        .delete(&servers.conversation.id)
        .await
        .unwrap();
    let thread = servers.conversation.thread_id();
    unit.checkpointer().delete_thread(&thread).await.unwrap();
    unit.commit().await.unwrap();
    hanging.permits.add_permits(100);
    let late = running.await.unwrap();
    assert!(
        matches!(late, Err(TurnError::Storage(Error::NotFound { .. }))),
        "{late:?}"
    );
    assert!(servers.said().await.is_empty());
    let threads = servers
        .storage
        .checkpointer()
        .threads(10, None)
        .await
        .unwrap();
    assert!(threads.items.is_empty());
}

#[tokio::test]
async fn a_thread_that_somebody_else_has_raised_does_not_keep_a_chat_from_going_on() {
    let servers = Servers::new().await;
    let engine = servers.engine(&ScriptedAgent::default());
    engine.send(servers.message("hi")).await.unwrap();
    let thread = servers.conversation.thread_id();
    servers
        .storage
        .checkpointer()
        .raise_epoch(&thread, 1000)
        .await
        .unwrap();
    engine.send(servers.message("hi")).await.unwrap();
    assert_eq!(servers.turns().await[1].epoch, 1001);
    assert!(servers.is_one_line().await);
}

#[tokio::test]
async fn an_unknown_turn_is_not_found() {
    let servers = Servers::new().await;
    let engine = servers.engine(&ScriptedAgent::default());
    let elsewhere = Turn::new(servers.conversation.id, MessageId::new());
    let conversation = servers.conversation.id;
    for outcome in [
        engine.turn(conversation, elsewhere.id).await,
        engine.cancel(conversation, elsewhere.id).await,
    ] {
        assert!(
            matches!(outcome, Err(TurnError::Storage(Error::NotFound { .. }))),
            "{outcome:?}"
        );
    }
}
