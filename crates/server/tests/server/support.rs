//! The router without a socket.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use yai_agentkit_engine::{
    TurnEngine,
    agent::{Agent, Agents},
    test_kit::{FailingStorage, limits},
};
use yai_agentkit_server::http::{self, App, host::Access};

pub(crate) use yai_agentkit_engine::test_kit::ScriptedAgent;

/// The body limit of the router in tests.
pub(crate) const BODY_LIMIT: usize = 4096;

/// The router over a storage in memory.
pub(crate) struct Api {
    pub(crate) router: Router,
    pub(crate) storage: FailingStorage,
    pub(crate) turns: TurnEngine,
}

/// A response, its body read as JSON where there is one.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Api {
    pub(crate) fn new(agent: ScriptedAgent) -> Self {
        Self::of(agent)
    }

    /// Called `localhost` by requests that do not say what they call it.
    pub(crate) fn of(agent: impl Agent + 'static) -> Self {
        Self::of_agents(Arc::new(agent))
    }

    /// As [`of`](Self::of).
    pub(crate) fn of_agents(agents: impl Into<Agents>) -> Self {
        let api = Self::over(agents, Access::default());
        let name = |mut request: Request<Body>| async {
            let localhost = HeaderValue::from_static("localhost");
            request.headers_mut().entry("host").or_insert(localhost);
            request
        };
        Self {
            router: api.router.layer(axum::middleware::map_request(name)),
            ..api
        }
    }

    pub(crate) fn with_access(agent: impl Agent + 'static, access: Access) -> Self {
        Self::over(Arc::new(agent), access)
    }

    fn over(agents: impl Into<Agents>, access: Access) -> Self {
        let storage = FailingStorage::default();
        let turns = TurnEngine::new(Arc::new(storage.clone()), agents)
            .with_limits(limits())
            .with_search(true);
        let app = App {
            storage: Arc::new(storage.clone()),
            turns: Arc::new(turns.clone()),
        };
        Self {
            router: http::router(app, access, BODY_LIMIT),
            storage,
            turns,
        }
    }

    pub(crate) async fn request(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.request(Request::delete(path).body(Body::empty()).unwrap())
            .await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PATCH, path, body.to_string()).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(body.into())
            .unwrap();
        self.request(request).await
    }

    /// With an `Idempotency-Key`.
    pub(crate) async fn post_keyed(&self, path: &str, key: &str, body: Value) -> Answer {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(body.to_string().into())
            .unwrap();
        self.request(request).await
    }

    /// The checkpoints of a chat with their values, newest first.
    pub(crate) async fn history(&self, chat: &str) -> Vec<Value> {
        let path = format!("/chats/{chat}/history");
        let page = self.get(&format!("{path}?limit=100")).await.body;
        let mut checkpoints = Vec::new();
        for item in page["items"].as_array().unwrap() {
            let id = item["checkpoint_id"].as_str().unwrap();
            checkpoints.push(self.get(&format!("{path}/{id}")).await.body);
        }
        checkpoints
    }

    /// Creates a conversation and returns its id.
    pub(crate) async fn conversation(&self) -> String {
        let answer = self.post("/conversations", json!({})).await;
        answer.body["id"].as_str().unwrap().to_owned()
    }

    /// How many conversations, messages, turns and threads are stored.
    pub(crate) async fn rows(&self) -> (u64, u64, u64, usize) {
        let storage = &self.storage.inner;
        (
            storage
                .conversations()
                .count(&Default::default())
                .await
                .unwrap(),
            storage.messages().count(&Default::default()).await.unwrap(),
            storage.turns().count(&Default::default()).await.unwrap(),
            storage
                .checkpointer()
                .threads(100, None)
                .await
                .unwrap()
                .items
                .len(),
        )
    }
}

impl Answer {
    /// Checks that this is a problem, and returns its name.
    pub(crate) fn problem(&self) -> &str {
        assert_eq!(
            self.headers["content-type"], "application/problem+json",
            "{}",
            self.body
        );
        assert_eq!(self.body["status"], self.status.as_u16());
        assert_eq!(
            self.body["request_id"],
            self.headers["x-request-id"].to_str().unwrap()
        );
        assert!(self.body["title"].is_string() && self.body["detail"].is_string());
        let name = self.body["type"].as_str().unwrap();
        name.strip_prefix("urn:agentkit:problem:").unwrap()
    }

    /// Checks that this is a 400 for bad input, and returns the field at fault.
    pub(crate) fn invalid_field(&self) -> &str {
        assert_eq!(self.problem(), "invalid-input");
        assert_eq!(self.status, StatusCode::BAD_REQUEST, "{}", self.body);
        self.body["field"].as_str().unwrap()
    }
}
