//! More than fits into a model, told to one that counts what it is told.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse, Response},
    routing::post,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use yai_agentkit_agents::{
    openai::{OpenAiAgent, OpenAiConfig},
    tools::Memory,
};
use yai_agentkit_core::{
    Conversation, Message, Role, Stores, checkpoint::CheckpointerExt, memory::MemoryStorage,
};
use yai_agentkit_engine::{
    TurnEngine, TurnLimits,
    agent::{AgentState, Tool, Toolbox},
};

use super::{KEY, Reply, strict};

const TOKENS: usize = 16_000;
/// Bytes of a page.
const PAGE: usize = 8_000;

/// A model that reads so many pages, one after the other, and then has read them; it makes summaries
/// unless it `fails` to.
#[derive(Clone)]
struct Reader {
    pages: usize,
    fails: bool,
    asked: Arc<Mutex<Vec<Json>>>,
}

async fn complete(State(reader): State<Reader>, body: String) -> Response {
    let body: Json = serde_json::from_str(&body).unwrap();
    reader.asked.lock().unwrap().push(body.clone());
    if let Some(reason) = strict::refusal("/v1/chat/completions", &body) {
        return Reply::error(400, "invalid_request_error", &reason).into_response();
    }
    let messages = body["messages"].as_array().unwrap();
    if body["tools"].is_null() {
        return match reader.fails {
            true => Reply::error(400, "invalid_request_error", "no").into_response(),
            false => Reply::text(&format!("{} pages", messages.len())).into_response(),
        };
    }
    let mut newest_first = messages.iter().rev().filter_map(|message| {
        let content = message["content"].as_str()?;
        content
            .strip_prefix("page ")?
            .split(' ')
            .next()?
            .parse::<usize>()
            .ok()
    });
    match newest_first.next().unwrap_or(0) {
        last if last == reader.pages => Reply::text("I have read it.").into_response(),
        last => {
            let arguments = json!({"number": last + 1}).to_string();
            Reply::tool_calls(&[("", "read", &arguments)]).into_response()
        }
    }
}

#[derive(Deserialize, JsonSchema)]
struct Page {
    number: usize,
}

/// What a turn over so many pages was told, step by step, and the state that it leaves.
async fn read(pages: usize, fails: bool, compacts: bool) -> (Vec<Json>, AgentState<Memory>) {
    let asked = Arc::default();
    let reader = Reader {
        pages,
        fails,
        asked,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = OpenAiConfig {
        base_url: format!("http://{}/v1", listener.local_addr().unwrap()),
        context_tokens: TOKENS,
        compacts,
        ..OpenAiConfig::new(KEY, "test-model")
    };
    let app = Router::new()
        .route("/v1/chat/completions", post(complete))
        .layer(DefaultBodyLimit::disable())
        .with_state(reader.clone());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });

    let page = |Page { number }, _: &mut AgentState<Memory>| {
        Ok(format!("page {number} {}", "x".repeat(PAGE)))
    };
    let tools = Toolbox::new([Tool::new("read", "Reads a page.", page).repeatable()]);
    let agent = OpenAiAgent::new(config).unwrap().with_toolbox(tools);
    let storage = MemoryStorage::default();
    let conversation = Conversation::titled("test");
    let conversation = storage.conversations().add(conversation).await.unwrap();
    let engine = TurnEngine::new(Arc::new(storage.clone()), Arc::new(agent));
    let engine = engine.with_limits(TurnLimits {
        max_steps: 1_000,
        ..TurnLimits::default()
    });
    let message = Message::new(conversation.id, Role::User, "Read the book.");
    let outcome = engine.send(message).await.unwrap();
    assert_eq!(outcome.answer().unwrap().content, "I have read it.");
    let state = storage
        .checkpointer()
        .latest(&conversation.thread_id())
        .await;
    let asked = reader.asked.lock().unwrap().clone();
    (asked, state.unwrap().expect("a state"))
}

fn is_summary(request: &Json) -> bool {
    request["tools"].is_null()
}

#[tokio::test]
async fn a_hundred_calls_over_200_000_tokens_fit_into_a_small_model_and_stay_as_they_are() {
    let (asked, state) = read(100, false, true).await;
    let summaries = asked.iter().filter(|request| is_summary(request)).count();
    assert!((10..=40).contains(&summaries), "{summaries}");
    for request in &asked {
        let bytes = request["messages"].to_string().len();
        assert!(bytes < TOKENS * 4 + 4_000, "{bytes}");
        if !is_summary(request) {
            let messages = request["messages"].as_array().unwrap();
            let question = json!({"role": "user", "content": "Read the book."});
            assert!(messages.contains(&question));
        }
    }
    let last = asked.last().unwrap()["messages"].to_string();
    assert!(
        last.contains("Summary of the conversation so far"),
        "{last}"
    );

    assert_eq!(state.messages.len(), 1 + 200 + 1);
    let results = state
        .messages
        .iter()
        .filter(|message| message.role == Role::Tool);
    assert!(
        results
            .map(|result| result.content.len())
            .all(|bytes| bytes > PAGE)
    );
    let summary = state.own.summary.expect("the record of a summary");
    assert!(
        summary.text.ends_with(" pages") && summary.covers > 150,
        "{summary:?}"
    );
}

#[tokio::test]
async fn a_model_that_makes_no_summary_is_told_what_fits() {
    let (asked, state) = read(12, true, true).await;
    assert!(asked.iter().any(is_summary) && state.own.summary.is_none());
    let (asked, state) = read(12, false, false).await;
    assert!(!asked.iter().any(is_summary) && state.own.summary.is_none());
    for request in &asked {
        let bytes = request["messages"].to_string().len();
        assert!(bytes < TOKENS * 4 + 4_000, "{bytes}");
    }
}
