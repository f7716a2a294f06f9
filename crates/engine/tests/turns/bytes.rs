//! What a turn of many and long results leaves in a database, against what is new in it.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use yai_agentkit_core::{Conversation, Message, Role, Storage, ThreadState};
use yai_agentkit_engine::{
    SendOptions, TurnEngine, TurnEvent, TurnLimits,
    agent::{
        Agent, AgentError, AgentState, Context, Step, ToolCall, ToolOutcome, ToolTraits, Tools,
    },
    test_kit::answered,
};
use yai_agentkit_persistence::{Database, DatabaseConfig};

const CALLS: usize = 100;
/// Of each result.
const LENGTH: usize = 8000;
/// Tenths of what is new that may be kept.
const BOUND: u64 = 22;

/// Reads page after page.
struct Reader;

#[async_trait]
impl Agent for Reader {
    type State = ();

    async fn step(&self, _: &Context, state: &mut AgentState<()>) -> Result<Step, AgentError> {
        let read = state.turn().len() / 2;
        if read == CALLS {
            return Ok(Step::Answer("done".to_owned()));
        }
        let call = ToolCall::new(format!("call_{read}"), "read", json!({ "page": read }));
        Ok(Step::calls([call]))
    }

    fn tools(&self) -> &dyn Tools<()> {
        self
    }
}

#[async_trait]
impl Tools<()> for Reader {
    fn traits(&self, _: &ToolCall) -> ToolTraits {
        ToolTraits::repeatable()
    }

    async fn run(
        &self,
        _: &Context,
        call: &ToolCall,
        _: &mut AgentState<()>,
        _: Option<&str>,
    ) -> ToolOutcome {
        ToolOutcome::Result(page(call.arguments["page"].as_u64().unwrap()))
    }
}

/// Text that no database compresses well.
fn page(number: u64) -> String {
    let mut random = fastrand::Rng::with_seed(number);
    (0..LENGTH).map(|_| random.alphanumeric()).collect()
}

async fn read(database: &Database) {
    let storage: Arc<dyn Storage> = Arc::new(database.clone());
    let conversation = Conversation::titled("test");
    storage
        .conversations()
        .add(conversation.clone())
        .await
        .unwrap();
    let limits = TurnLimits {
        max_steps: CALLS + 1,
        ..TurnLimits::default()
    };
    let engine = TurnEngine::new(storage.clone(), Arc::new(Reader)).with_limits(limits);
    let message = Message::new(conversation.id, Role::User, "Read it all.");
    let handle = engine.start(message, SendOptions::default()).await.unwrap();
    let events = handle.events();
    answered(handle.outcome()).await.unwrap();

    let checkpointer = storage.checkpointer();
    let thread = ThreadState::load(&*checkpointer, conversation.thread_id());
    let state: AgentState = thread.await.unwrap().state().unwrap().unwrap();
    let results = state.messages.iter().filter(|said| said.role == Role::Tool);
    for (result, number) in results.zip(0..) {
        assert_eq!(result.content, page(number));
    }
    assert_eq!(state.messages.len(), 2 * CALLS + 2);
    let mut told = Vec::new();
    let mut events = std::pin::pin!(events);
    while let Some(batch) = events.next().await {
        for event in batch.unwrap().events {
            if let TurnEvent::ToolReturned { result, .. } = event {
                told.push(result);
            }
        }
    }
    assert!(told.into_iter().eq((0..CALLS as u64).map(page)));
}

/// What is new: the results.
const NEW: u64 = (CALLS * LENGTH) as u64;

#[tokio::test]
async fn a_turn_of_100_long_results_is_kept_without_copies_of_them_on_sqlite() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("agentkit.db");
    let config = DatabaseConfig::new(format!("sqlite:{}", file.display())).unwrap();
    let database = Database::connect(&config).await.unwrap();
    read(&database).await;
    database.close().await;
    let kept = file.metadata().unwrap().len();
    println!("{kept} bytes kept of {NEW} new ones");
    assert!(kept * 10 < NEW * BOUND, "{kept} bytes");
}

#[tokio::test]
async fn a_turn_of_100_long_results_is_kept_without_copies_of_them_on_postgresql() {
    const SIZE: &str = "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r'";
    let url = std::env::var("AGENTKIT_TEST_POSTGRES_URL");
    let url = url.expect("AGENTKIT_TEST_POSTGRES_URL is not set: run ./test");
    let schema = format!("bytes_{}", uuid::Uuid::new_v4().simple());
    let config = DatabaseConfig::new(&url).unwrap().schema(&schema).unwrap();
    let database = Database::connect(&config).await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let mut size = async || {
        let size = sqlx::query_scalar::<_, i64>(SIZE).bind(&schema);
        size.fetch_one(&mut connection)
            .await
            .unwrap()
            .unsigned_abs()
    };
    let empty = size().await;
    read(&database).await;
    database.close().await;
    let kept = size().await - empty;
    println!("{kept} bytes kept of {NEW} new ones");
    assert!(kept * 10 < NEW * BOUND, "{kept} bytes");
    let drop = format!("DROP SCHEMA {schema} CASCADE");
    sqlx::raw_sql(AssertSqlSafe(drop))
        .execute(&mut connection)
        .await
        .unwrap();
}
