use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request},
};
use tokio::runtime::{self, Runtime};
use tower::ServiceExt;
use yai_agentkit_core::{Conversation, Storage, memory::MemoryStorage};
use yai_agentkit_engine::{TurnEngine, test_kit::ScriptedAgent};
use yai_agentkit_server::http::{self, App, host::Access};

const BODY_LIMIT: usize = 4096;

/// The server that is asked, one a thread.
struct Target {
    runtime: Runtime,
    router: Router,
    /// What can be asked for.
    paths: Vec<(Method, String)>,
}

thread_local! {
    static TARGET: Target = {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (router, paths) = runtime.block_on(server());
        Target { runtime, router, paths }
    };
}

/// Requests: the first byte is the place in `server`, then come, a line each, the query, the
/// headers `If-Match`, `Idempotency-Key` and `Last-Event-ID`, and the body.
pub fn requests(input: &[u8]) {
    TARGET.with(|target| {
        if let Some(request) = request(input, &target.paths) {
            let answered = is_answered(target.router.clone(), request);
            target.runtime.block_on(answered);
        }
    });
}

/// Over a storage in memory that has one conversation, and what can be asked for.
async fn server() -> (Router, Vec<(Method, String)>) {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let chat = Conversation::titled("fuzz");
    let chat = storage.conversations().add(chat).await.unwrap().id;
    let turns = TurnEngine::new(Arc::clone(&storage), Arc::new(ScriptedAgent::default()));
    let paths = [
        (Method::GET, "/conversations".to_owned()),
        (Method::POST, "/conversations".to_owned()),
        (Method::GET, format!("/conversations/{chat}")),
        (Method::PATCH, format!("/conversations/{chat}")),
        (Method::GET, format!("/conversations/{chat}/messages")),
        (Method::POST, format!("/chats/{chat}/messages")),
        (Method::GET, format!("/chats/{chat}/state")),
        (Method::GET, format!("/chats/{chat}/history")),
        (Method::GET, format!("/chats/{chat}/diff")),
        (Method::POST, format!("/chats/{chat}/fork")),
        (Method::GET, format!("/chats/{chat}/turns")),
        (Method::GET, format!("/chats/{chat}/turns/{chat}/events")),
        (Method::POST, format!("/chats/{chat}/turns/{chat}/resume")),
    ];
    let router = http::router(
        App {
            storage,
            turns: turns.into(),
        },
        Access::default(),
        BODY_LIMIT,
    );
    (router, paths.to_vec())
}

/// `None` where no client could send it.
fn request(input: &[u8], paths: &[(Method, String)]) -> Option<Request<Body>> {
    let (place, input) = input.split_first()?;
    let (method, path) = &paths[usize::from(*place) % paths.len()];
    let mut lines = input.splitn(5, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let query = String::from_utf8_lossy(line());
    let request = Request::builder()
        .method(method)
        .uri(format!("{path}?{query}"))
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("if-match", line())
        .header("idempotency-key", line())
        .header("last-event-id", line());
    request.body(Body::from(line().to_vec())).ok()
}

/// Nothing that a client sends is the server's fault, and what is wrong with it is said as a problem.
async fn is_answered(router: Router, request: Request<Body>) {
    let asked = format!("{request:?}");
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    assert!(!status.is_server_error(), "{status} for {asked}");
    if status.is_client_error() {
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json",
            "{asked}"
        );
    }
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    if status.is_client_error() {
        serde_json::from_slice::<serde_json::Value>(&body).unwrap();
    }
}
