//! For tests: a scripted agent, and a storage that can fail.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;
use yai_agentkit_core::{
    ChannelValue, CheckpointKey, CheckpointQuery, CheckpointSelector, CheckpointTuple,
    Checkpointer, Conversation, ConversationId, Error, Fence, InterruptId, ListQuery, Message,
    NewCheckpoint, NewWrites, Outcome, OwnerId, Page, PruneStrategy, PutOptions, Repository,
    Result, Role, Storage, Stores, Thread, ThreadId, Turn, TurnId, TurnStore, UnitOfWork,
    access::ApiKey,
    checkpoint::{DeltaChannelHistory, ThreadCursor},
    conversation::MessageFilter,
    memory::MemoryStorage,
    turn::{
        Announcements, EventBatch, IdempotencyKey, LatestBatches, TurnBegin, TurnChange,
        TurnLedger, TurnStep,
    },
};

use crate::{
    SendOptions, TurnEngine, TurnError, TurnLimits, TurnOutcome,
    agent::{
        Agent, AgentError, AgentState, ChatMessage, Context, Step, ToolCall, ToolOutcome,
        ToolTraits, Tools,
    },
};

/// Keeps the turns of `engine` out of a conversation until dropped, as one that looks at it does.
pub fn claim(
    engine: &TurnEngine,
    conversation: ConversationId,
) -> Result<impl Drop + use<>, TurnError> {
    engine.claim(conversation)
}

/// Asks for two tools, then for one more, then answers with what the user said and the results.
/// With `client` it asks for the tools of the client. Users can
/// make it misbehave: `refuse`, `unavailable`, `panic`, `tool panic`, `forever`, `nul`.
#[derive(Clone)]
pub struct ScriptedAgent {
    /// What it has done, over all clones.
    pub done: Arc<Mutex<Vec<String>>>,
    /// How many calls it still answers; further ones hang.
    pub permits: Arc<Semaphore>,
}

impl Default for ScriptedAgent {
    fn default() -> Self {
        Self::hanging_after(Semaphore::MAX_PERMITS)
    }
}

impl ScriptedAgent {
    /// What it does in a turn.
    pub const SCRIPT: [&str; 6] = ["step 0", "tool a", "tool b", "step 1", "tool c", "step 2"];

    /// An agent that hangs after so many calls.
    pub fn hanging_after(calls: usize) -> Self {
        Self {
            done: Arc::default(),
            permits: Arc::new(Semaphore::new(calls)),
        }
    }

    /// What it has done, over all clones.
    pub fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }

    async fn record(&self, what: String) {
        let permit = self.permits.acquire().await.expect("never closed");
        permit.forget();
        self.done.lock().unwrap().push(what);
    }
}

/// An engine's limits: five steps, and a lease that ends at once, as after a while.
pub fn limits() -> TurnLimits {
    TurnLimits {
        max_steps: 5,
        lease: Duration::ZERO,
        ..TurnLimits::default()
    }
}

/// The results of the tools, of messages that come newest first.
fn results(of_turn: &[&ChatMessage]) -> String {
    let results = of_turn
        .iter()
        .rev()
        .filter(|message| message.role == Role::Tool);
    let results: Vec<_> = results.map(|result| result.content.as_str()).collect();
    results.join(" ")
}

fn tools(calls: &[(&str, &str)]) -> Step {
    Step::ToolCalls {
        content: String::new(),
        calls: calls.iter().map(|(id, name)| call(id, name)).collect(),
    }
}

fn call(id: &str, name: &str) -> ToolCall {
    ToolCall::new(id, name, json!({}))
}

/// What the [`ScriptedAgent`] keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    /// By the id of a call, that it ran.
    pub facts: BTreeMap<String, String>,
}

#[async_trait]
impl Agent for ScriptedAgent {
    type State = Noted;

    async fn step(&self, _: &Context, state: &mut AgentState<Noted>) -> Result<Step, AgentError> {
        let is_of_turn = |message: &&ChatMessage| !is_user(message);
        let newest_first = || state.messages.iter().rev().map(Arc::as_ref);
        let question = newest_first().find(is_user).unwrap();
        let of_turn: Vec<_> = newest_first().take_while(is_of_turn).collect();
        let step = of_turn
            .iter()
            .filter(|message| message.role == Role::Assistant)
            .count();
        self.record(format!("step {step}")).await;
        match (question.content.as_str(), step) {
            ("refuse", _) => Err(AgentError::Refused {
                reason: "no such model".to_owned(),
                source: Some("secret-key-in-cause".into()),
            }),
            ("unavailable", _) => Err(AgentError::Unavailable {
                reason: "too many requests".to_owned(),
                source: None,
            }),
            ("panic", _) => panic!("a bug in the agent"),
            ("nul", _) => Ok(Step::Answer("a\0b".to_owned())),
            ("once", 0) => Ok(tools(&[("a", "once"), ("b", "note")])),
            ("tool asks", 0) => Ok(tools(&[("a", "once"), ("asks", "once")])),
            ("client", 0) if !state.client.tools.is_empty() => {
                let own = call("own", "note");
                let tools = state.client.tools.iter();
                let calls = tools.map(|tool| call(&format!("client-{}", tool.name), &tool.name));
                Ok(Step::ToolCalls {
                    content: "Look:".to_owned(),
                    calls: calls.chain([own]).collect(),
                })
            }
            ("client", 1) => {
                let context = state.client.context.iter();
                let context: String = context.map(|known| known.value.as_str()).collect();
                let forwarded = &state.client.forwarded;
                let results = results(&of_turn);
                Ok(Step::Answer(format!("{results} {context} {forwarded}")))
            }
            ("ask", 0) => Ok(Step::Ask("Which one?".to_owned())),
            ("pay", 0) => Ok(tools(&[("pay", "pay"), ("b", "note")])),
            ("once" | "tool asks" | "ask" | "pay", 1) => Ok(Step::Answer(results(&of_turn))),
            ("forever", _) => Ok(decision(&["again"])),
            (_, 0) => Ok(decision(&["a", "b"])),
            (_, 1) => Ok(decision(&["c"])),
            (said, _) => Ok(Step::Answer(format!("{said}: {}", results(&of_turn)))),
        }
    }

    fn tools(&self) -> &dyn Tools<Noted> {
        self
    }
}

#[async_trait]
impl Tools<Noted> for ScriptedAgent {
    fn traits(&self, call: &ToolCall) -> ToolTraits {
        ToolTraits {
            is_repeatable: call.name == "note",
            needs_approval: call.name == "pay",
            reads_all_messages: false,
        }
    }

    async fn run(
        &self,
        _: &Context,
        call: &ToolCall,
        state: &mut AgentState<Noted>,
        answer: Option<&str>,
    ) -> ToolOutcome {
        self.record(format!("tool {}", call.id)).await;
        if call.id == "asks" && answer.is_none() {
            return ToolOutcome::Ask("Really?".to_owned());
        }
        let is_bug = |said: &str| said == "tool panic" && call.id == "b";
        if state
            .messages
            .iter()
            .any(|message| is_bug(&message.content))
        {
            state.own.facts.clear();
            panic!("a bug in a tool");
        }
        state.own.facts.insert(call.id.clone(), "noted".to_owned());
        let arguments = call
            .arguments
            .as_object()
            .filter(|fields| !fields.is_empty());
        let answer = answer.map(|answer| format!(" ({answer})"));
        let answer = answer.or(arguments.map(|_| call.arguments.to_string()));
        ToolOutcome::Result(format!("result-{}{}", call.id, answer.unwrap_or_default()))
    }
}

fn is_user(message: &&ChatMessage) -> bool {
    message.role == Role::User
}

fn decision(ids: &[&str]) -> Step {
    Step::ToolCalls {
        content: String::new(),
        calls: ids.iter().map(|id| call(id, "note")).collect(),
    }
}

/// A storage whose units of work, checkpoints and pings fail while told so.
#[derive(Clone, Default)]
pub struct FailingStorage {
    /// What works.
    pub inner: MemoryStorage,
    /// Whether it fails.
    pub fails: Arc<AtomicBool>,
    /// Whether pings panic.
    pub panics: Arc<AtomicBool>,
    /// How often a part of it was asked for.
    pub calls: Arc<AtomicU64>,
    /// Bytes of the values of checkpoints that were read, and written.
    pub bytes: (Arc<AtomicU64>, Arc<AtomicU64>),
    /// Happens once before somebody reads checkpoints.
    pub before_checkpoints: Arc<Mutex<Option<Happening>>>,
}

/// What happens.
pub type Happening = Box<dyn FnOnce() + Send>;

impl FailingStorage {
    fn part(&self) -> &MemoryStorage {
        self.calls.fetch_add(1, Ordering::SeqCst);
        &self.inner
    }

    fn check(&self, operation: &'static str) -> Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::unavailable(
                operation,
                Outcome::NotDone,
                "SELECT secret FROM table",
            ));
        }
        Ok(())
    }

    /// A checkpoint is written, or is not.
    fn write(&self, new: &NewCheckpoint) -> Result<()> {
        self.check("put checkpoint")?;
        let values = new.checkpoint.channel_values.values();
        let written = values.map(size).sum();
        self.bytes.1.fetch_add(written, Ordering::SeqCst);
        Ok(())
    }
}

impl Stores for FailingStorage {
    fn conversations(&self) -> Arc<dyn Repository<Conversation>> {
        self.part().conversations()
    }

    fn messages(&self) -> Arc<dyn Repository<Message>> {
        self.part().messages()
    }

    fn turns(&self) -> Arc<dyn Repository<Turn>> {
        self.part().turns()
    }

    fn turn_store(&self) -> Arc<dyn TurnStore> {
        Arc::new(FailingTurns {
            storage: self.clone(),
            inner: self.part().turn_store(),
        })
    }

    fn turn_ledger(&self) -> Arc<dyn TurnLedger> {
        self.part().turn_ledger()
    }

    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>> {
        self.part().idempotency_keys()
    }

    fn api_keys(&self) -> Arc<dyn Repository<ApiKey>> {
        self.part().api_keys()
    }

    fn checkpointer(&self) -> Arc<dyn Checkpointer> {
        let happening = self.before_checkpoints.lock().unwrap().take();
        if let Some(happening) = happening {
            happening();
        }
        Arc::new(FailingCheckpointer {
            storage: self.clone(),
            inner: self.part().checkpointer(),
        })
    }
}

#[async_trait]
impl Storage for FailingStorage {
    async fn begin(&self) -> Result<Box<dyn UnitOfWork>> {
        self.check("begin")?;
        self.part().begin().await
    }

    async fn ping(&self) -> Result<()> {
        assert!(!self.panics.load(Ordering::SeqCst), "secret panic");
        self.check("ping")
    }
}

/// The turns of a [`FailingStorage`], whose checkpoints fail while it is told so.
struct FailingTurns {
    storage: FailingStorage,
    inner: Arc<dyn TurnStore>,
}

#[async_trait]
impl TurnStore for FailingTurns {
    async fn begin(&self, begin: TurnBegin) -> Result<Turn> {
        self.storage.write(&begin.checkpoint)?;
        self.inner.begin(begin).await
    }

    async fn step(&self, step: TurnStep) -> Result<()> {
        self.storage.write(&step.checkpoint)?;
        self.inner.step(step).await
    }

    async fn change(&self, change: TurnChange) -> Result<Turn> {
        if let Some((checkpoint, _)) = &change.checkpoint {
            self.storage.write(checkpoint)?;
        }
        self.inner.change(change).await
    }

    async fn take(&self, seen: &Turn, owner: OwnerId, lease: Duration) -> Result<Option<Turn>> {
        self.inner.take(seen, owner, lease).await
    }

    async fn renew(&self, owner: OwnerId) -> Result<Vec<ConversationId>> {
        self.inner.renew(owner).await
    }

    async fn due(&self, limit: u64) -> Result<Vec<Turn>> {
        self.inner.due(limit).await
    }

    async fn append(&self, batch: EventBatch) -> Result<()> {
        self.inner.append(batch).await
    }

    async fn events(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
        after: u64,
        limit: u64,
    ) -> Result<Vec<EventBatch>> {
        let events = self.inner.events(conversation_id, turn_id, after, limit);
        events.await
    }

    async fn latest_events(&self, turns: &[(ConversationId, TurnId)]) -> Result<LatestBatches> {
        self.inner.latest_events(turns).await
    }

    async fn forget_events(&self, age: Duration) -> Result<u64> {
        self.inner.forget_events(age).await
    }

    async fn forget_keys(&self, age: Duration) -> Result<u64> {
        self.inner.forget_keys(age).await
    }

    async fn announce(&self, latest: &LatestBatches) -> Result<()> {
        self.inner.announce(latest).await
    }

    async fn announcements(&self) -> Result<Option<Box<dyn Announcements>>> {
        self.inner.announcements().await
    }
}

/// The checkpointer of a [`FailingStorage`], whose puts fail while it is told so.
struct FailingCheckpointer {
    storage: FailingStorage,
    inner: Arc<dyn Checkpointer>,
}

#[async_trait]
impl Checkpointer for FailingCheckpointer {
    async fn get(&self, selector: &CheckpointSelector) -> Result<Option<CheckpointTuple>> {
        let found = self.inner.get(selector).await?;
        let values = found
            .iter()
            .flat_map(|tuple| tuple.checkpoint.channel_values.values());
        let read = values.map(size).sum();
        self.storage.bytes.0.fetch_add(read, Ordering::SeqCst);
        Ok(found)
    }

    async fn list(&self, query: &CheckpointQuery) -> Result<Vec<CheckpointTuple>> {
        self.inner.list(query).await
    }

    async fn put(&self, checkpoint: NewCheckpoint, options: PutOptions) -> Result<CheckpointKey> {
        self.storage.write(&checkpoint)?;
        self.inner.put(checkpoint, options).await
    }

    async fn put_writes(&self, writes: NewWrites, fence: Option<Fence>) -> Result<()> {
        self.inner.put_writes(writes, fence).await
    }

    async fn raise_epoch(&self, thread_id: &ThreadId, epoch: u64) -> Result<()> {
        self.inner.raise_epoch(thread_id, epoch).await
    }

    async fn delete_thread(&self, thread_id: &ThreadId) -> Result<()> {
        self.inner.delete_thread(thread_id).await
    }

    async fn delete_for_runs(&self, run_ids: &[String]) -> Result<()> {
        self.inner.delete_for_runs(run_ids).await
    }

    async fn copy_thread(&self, source: &ThreadId, target: &ThreadId) -> Result<()> {
        self.inner.copy_thread(source, target).await
    }

    async fn prune(&self, thread_ids: &[ThreadId], strategy: PruneStrategy) -> Result<()> {
        self.inner.prune(thread_ids, strategy).await
    }

    async fn delta_channel_history(
        &self,
        selector: &CheckpointSelector,
        channels: &[String],
    ) -> Result<BTreeMap<String, DeltaChannelHistory>> {
        self.inner.delta_channel_history(selector, channels).await
    }

    async fn threads(
        &self,
        limit: u64,
        after: Option<&ThreadCursor>,
    ) -> Result<Page<Thread, ThreadCursor>> {
        self.inner.threads(limit, after).await
    }
}

/// Bytes of a value.
fn size(value: &ChannelValue) -> u64 {
    match value {
        ChannelValue::Inline(json) => json.to_string().len() as u64,
        ChannelValue::Stored(value) | ChannelValue::DeltaSnapshot(value) => {
            value.bytes().len() as u64
        }
    }
}

/// The answer of a turn that asks nobody.
pub async fn answered(
    outcome: impl Future<Output = Result<TurnOutcome, TurnError>>,
) -> Result<Message, TurnError> {
    let outcome = outcome.await?;
    Ok(outcome.answer().expect("an answer, and no question"))
}

/// Starts a turn, and waits for its outcome.
pub async fn send_with(
    engine: &TurnEngine,
    message: Message,
    options: SendOptions,
) -> Result<TurnOutcome, TurnError> {
    engine.start(message, options).await?.outcome().await
}

/// Answers what a turn asks, and waits for its outcome.
pub async fn reply(
    engine: &TurnEngine,
    turn: &Turn,
    interrupt: InterruptId,
    answer: &str,
) -> Result<TurnOutcome, TurnError> {
    let resumed = engine.resume(turn.conversation_id, turn.id, interrupt, answer.to_owned());
    resumed.await?.outcome().await
}

/// The roles and contents of a conversation, oldest first.
pub async fn said(storage: &dyn Storage, conversation: &Conversation) -> Vec<String> {
    let query = ListQuery::filtered(MessageFilter::of(conversation.id)).oldest_first();
    let page = storage.messages().list(&query).await.unwrap();
    let lines = page
        .items
        .iter()
        .map(|message| format!("{}: {}", message.role, message.content));
    lines.collect()
}
