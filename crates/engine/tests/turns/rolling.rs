//! A deploy in which the agent's state changes its shape, while turns run, wait and queue.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use tokio::sync::Semaphore;
use yai_agentkit_core::{
    Conversation, ConversationId, ListQuery, Message, Role, Stores, ThreadState, Turn, TurnStatus,
    error::BoxError, memory::MemoryStorage, turn::TurnFilter,
};
use yai_agentkit_engine::{
    OnBusy, SendOptions, TurnEngine, TurnError, TurnOutcome,
    agent::{Agent, AgentError, AgentState, Context, Step},
    test_kit::{limits, reply, send_with},
};

/// How many chats of each of three kinds, unless this variable says so.
const CHATS: usize = 30;
const VARIABLE: &str = "ROLLING_DEPLOY_CHATS";

/// Counts its steps: version 1 in a number, version 2 in a list of them.
struct Counter {
    version: u32,
    permits: Semaphore,
}

impl Counter {
    fn new(version: u32, permits: usize) -> Arc<Self> {
        let permits = Semaphore::new(permits);
        Arc::new(Self { version, permits })
    }

    fn count(&self, own: &mut Json) -> usize {
        match self.version {
            1 => {
                assert!(own.get("steps").is_none(), "{own} is newer");
                let counted = own["count"].as_u64().unwrap_or_default() + 1;
                *own = json!({ "count": counted });
                usize::try_from(counted).unwrap()
            }
            _ => {
                assert!(own.get("count").is_none(), "{own} was not migrated");
                let mut steps = own["steps"].as_array().cloned().unwrap_or_default();
                steps.push(json!(self.version));
                let counted = steps.len();
                *own = json!({ "steps": steps });
                counted
            }
        }
    }
}

#[async_trait]
impl Agent for Counter {
    type State = Json;

    async fn step(&self, _: &Context, state: &mut AgentState) -> Result<Step, AgentError> {
        let done = state.turn().len();
        let asks = state.turn()[0].content == "ask";
        if !asks && done > 1 {
            self.permits.acquire().await.unwrap().forget();
        }
        let counted = self.count(&mut state.own);
        Ok(match (asks, done) {
            (true, 1 | 3) => Step::Ask("Go on?".to_owned()),
            (false, 1 | 2) => Step::ToolCalls {
                content: "I think.".to_owned(),
                calls: Vec::new(),
            },
            _ => Step::Answer(counted.to_string()),
        })
    }

    fn state_version(&self) -> u32 {
        self.version
    }

    fn migrate(&self, version: u32, stored: Json) -> Result<Json, BoxError> {
        assert_eq!(version, 1);
        let count = stored["count"].as_u64().ok_or("there is no count")?;
        let steps = vec![json!(1); usize::try_from(count)?];
        Ok(json!({ "steps": steps }))
    }
}

struct Deploy {
    storage: MemoryStorage,
}

impl Deploy {
    fn engine(&self, agent: Arc<Counter>) -> TurnEngine {
        TurnEngine::new(Arc::new(self.storage.clone()), agent).with_limits(limits())
    }

    async fn chat(&self) -> ConversationId {
        let conversation = Conversation::titled("test");
        let conversation = self.storage.conversations().add(conversation).await;
        conversation.unwrap().id
    }

    async fn turns(&self, conversation: ConversationId) -> Vec<Turn> {
        let query = ListQuery::filtered(TurnFilter::default().of(conversation)).oldest_first();
        self.storage.turns().list(&query).await.unwrap().items
    }

    async fn own(&self, conversation: ConversationId) -> Json {
        let thread = self.storage.conversations().get(&conversation).await;
        let thread = thread.unwrap().unwrap().thread_id();
        let checkpointer = self.storage.checkpointer();
        let state = ThreadState::load(&*checkpointer, thread).await.unwrap();
        state.state::<AgentState>().unwrap().unwrap_or_default().own
    }

    /// Answers what the last turn but `queued` asks.
    async fn answer(
        &self,
        engine: &TurnEngine,
        chat: ConversationId,
    ) -> Result<TurnOutcome, TurnError> {
        let turns = self.turns(chat).await;
        let waiting = turns.iter().find(|turn| turn.status == TurnStatus::Waiting);
        let waiting = waiting.expect("a turn that waits");
        let interrupt = waiting.interrupt.as_ref().unwrap().id;
        reply(engine, waiting, interrupt, "yes").await
    }
}

fn message(chat: ConversationId, text: &str) -> Message {
    Message::new(chat, Role::User, text)
}

#[tokio::test]
async fn a_rolling_deploy_with_another_shape_of_the_state_strands_no_turn() {
    let deploy = Deploy {
        storage: MemoryStorage::default(),
    };
    let chats = std::env::var(VARIABLE).map_or(CHATS, |chats| chats.parse().unwrap());
    let (slow, old) = (Counter::new(1, 0), Counter::new(1, 0));
    let leaving = deploy.engine(Arc::clone(&slow));
    let [mut waiting, mut queued, mut running] = [const { Vec::new() }; 3];
    let mut tasks = Vec::new();
    for _ in 0..chats {
        for list in [&mut waiting, &mut queued] {
            let chat = deploy.chat().await;
            list.push(chat);
            let asked = leaving.send(message(chat, "ask")).await.unwrap();
            assert!(matches!(asked, TurnOutcome::Waiting(_)));
        }
        let options = SendOptions {
            on_busy: Some(OnBusy::Enqueue),
            ..SendOptions::default()
        };
        let next = message(queued[queued.len() - 1], "go");
        drop(leaving.start(next, options).await.unwrap());
        let chat = deploy.chat().await;
        running.push(chat);
        let engine = leaving.clone();
        tasks.push(tokio::spawn(async move {
            send_with(&engine, message(chat, "go"), SendOptions::default()).await
        }));
    }
    for chat in &running {
        while deploy.own(*chat).await["count"] != json!(1) {
            tokio::task::yield_now().await;
        }
    }

    // Half of the turns in flight are given back at a checkpoint, the others are cut off.
    leaving.stop();
    slow.permits.add_permits(chats / 2);
    while tasks.iter().filter(|task| task.is_finished()).count() < chats / 2 {
        tokio::task::yield_now().await;
    }
    for task in tasks {
        task.abort();
        drop(task.await);
    }
    drop(leaving);

    let new = deploy.engine(Counter::new(2, usize::MAX >> 4));
    let staying = deploy.engine(Arc::clone(&old));
    new.settle_all().await.unwrap();
    for chat in waiting.iter().chain(&queued) {
        let asks = deploy.answer(&new, *chat).await.unwrap();
        assert!(matches!(asks, TurnOutcome::Waiting(_)));
    }
    // The other server of before meets states that it does not know, and leaves all as it is.
    for chat in waiting.iter().chain(&queued) {
        let before = (deploy.turns(*chat).await, deploy.own(*chat).await);
        let refused = deploy.answer(&staying, *chat).await;
        let newer = |error: &TurnError| {
            let versions = TurnError::NewerState {
                stored: 2,
                known: 1,
            };
            assert_eq!(error.to_string(), versions.to_string());
            matches!(error, TurnError::NewerState { .. })
        };
        assert!(refused.is_err_and(|error| newer(&error)));
        assert!(
            staying
                .send(message(*chat, "go"))
                .await
                .is_err_and(|error| newer(&error))
        );
        let after = (deploy.turns(*chat).await, deploy.own(*chat).await);
        assert_eq!(before, after);
    }
    staying.settle_all().await.unwrap();
    for chat in waiting.iter().chain(&queued) {
        let done = deploy.answer(&new, *chat).await.unwrap();
        assert_eq!(done.answer().unwrap().content, "3");
    }
    new.settle_all().await.unwrap();
    for chat in waiting.iter().chain(&queued).chain(&running) {
        for turn in deploy.turns(*chat).await {
            assert_eq!(turn.status, TurnStatus::Completed, "{turn:?}");
        }
    }
    for (chats, steps) in [(waiting, 3), (queued, 6), (running, 3)] {
        for chat in chats {
            let own = deploy.own(chat).await;
            assert_eq!(own["steps"].as_array().unwrap().len(), steps, "{own}");
        }
    }
}

#[tokio::test]
async fn states_are_migrated_at_once_and_told_of_before() {
    let deploy = Deploy {
        storage: MemoryStorage::default(),
    };
    let [idle, waiting, broken, _fresh] = [
        deploy.chat().await,
        deploy.chat().await,
        deploy.chat().await,
        deploy.chat().await,
    ];
    let old = deploy.engine(Counter::new(1, 10));
    for (chat, text) in [(idle, "go"), (waiting, "ask"), (broken, "go")] {
        drop(old.send(message(chat, text)).await.unwrap());
    }
    let checkpointer = deploy.storage.checkpointer();
    let state = AgentState::<Json> {
        own: json!({"number": 3}),
        ..AgentState::default()
    };
    let thread = yai_agentkit_core::ThreadId::from(broken.to_string());
    let saved =
        yai_agentkit_core::checkpoint::CheckpointerExt::save(&*checkpointer, &thread, &state);
    saved.await.unwrap();

    let new = deploy.engine(Counter::new(2, 10));
    let told = new.migrate_states(true).await.unwrap();
    assert_eq!(
        (told.current, told.migrated, told.later, told.newer),
        (1, 2, 0, 0)
    );
    let [(failed, reason)] = &told.failed[..] else {
        panic!("{told:?}");
    };
    assert_eq!((*failed, reason.as_str()), (broken, "there is no count"));
    assert_eq!(deploy.own(idle).await, json!({"count": 3}));
    let refused = new.send(message(broken, "go")).await;
    assert!(
        matches!(refused, Err(TurnError::NotMigrated(_))),
        "{refused:?}"
    );

    let done = new.migrate_states(false).await.unwrap();
    assert_eq!(
        (done.current, done.migrated, done.later, done.newer),
        (1, 1, 1, 0)
    );
    assert_eq!(done.failed, told.failed);
    assert_eq!(deploy.own(idle).await, json!({"steps": [1, 1, 1]}));
    assert_eq!(deploy.own(waiting).await, json!({"count": 1}));
    let again = new.migrate_states(false).await.unwrap();
    assert_eq!(
        (again.current, again.migrated, again.later, again.newer),
        (2, 0, 1, 0)
    );
    let before = deploy
        .engine(Counter::new(1, 10))
        .migrate_states(true)
        .await;
    assert_eq!(before.unwrap().newer, 1);
    deploy.answer(&new, waiting).await.unwrap();
    assert_eq!(deploy.own(waiting).await, json!({"steps": [1, 2]}));
}
