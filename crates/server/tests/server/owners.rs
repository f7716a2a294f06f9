//! Owners: nobody sees or changes what is another's, on whichever route.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    http::{Method, Request, StatusCode},
};
use serde_json::{Value, json};
use tower::ServiceExt;
use yai_agentkit_core::access::Scope;
use yai_agentkit_engine::agent::Agents;
use yai_agentkit_server::http::Caller;

use crate::support::{Answer, Api, ScriptedAgent};

/// The same server, called by somebody who may do all, in the conversations of `owner`.
pub(crate) fn called_by(api: &Api, owner: Option<&str>) -> Api {
    let caller = Caller::new(owner.unwrap_or("all"), Scope::Admin);
    let caller = caller.with_owner(owner.map(str::to_owned));
    Api {
        router: api.router.clone().layer(Extension(caller)),
        storage: api.storage.clone(),
        turns: api.turns.clone(),
    }
}

pub(crate) fn three() -> [Api; 3] {
    let agents = Agents::from(Arc::new(ScriptedAgent::default()));
    let api = Api::of_agents(agents.with("other", Arc::new(ScriptedAgent::default())));
    [Some("ada"), Some("bob"), None].map(|owner| called_by(&api, owner))
}

async fn listed(api: &Api) -> Vec<Value> {
    let page = api.get("/conversations").await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.body);
    let items = page.body["items"].as_array().unwrap().iter();
    items.map(|item| item["id"].clone()).collect()
}

/// What there is of one person.
pub(crate) struct Belongings {
    pub(crate) chat: String,
    pub(crate) answer: String,
    pub(crate) turn: String,
    pub(crate) checkpoint: String,
}

impl Belongings {
    /// That of nobody.
    pub(crate) fn none() -> Self {
        let id = || uuid::Uuid::now_v7().to_string();
        Self {
            chat: id(),
            answer: id(),
            turn: id(),
            checkpoint: id(),
        }
    }

    pub(crate) async fn of(api: &Api) -> Self {
        let chat = api.conversation().await;
        let path = format!("/chats/{chat}/messages");
        let sent = api.post(&path, json!({"content": "hi"})).await;
        assert_eq!(sent.status, StatusCode::OK);
        let turns = api.get(&format!("/chats/{chat}/turns")).await.body;
        let history = api.get(&format!("/chats/{chat}/history")).await.body;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            answer: text(&sent.body["id"]),
            turn: text(&turns["items"][0]["id"]),
            checkpoint: text(&history["items"][0]["checkpoint_id"]),
            chat,
        }
    }

    /// The path of a chat's resource.
    pub(crate) fn path(&self, of: &str) -> String {
        of.replace("{id}", &self.chat)
    }

    /// A request of an operation that names all that it can of these.
    pub(crate) fn request(&self, method: &str, path: &str, operation: &Value) -> Request<Body> {
        let named = [
            ("{id}", &self.chat),
            ("{chat_id}", &self.chat),
            ("{turn_id}", &self.turn),
            ("{message_id}", &self.answer),
            ("{checkpoint_id}", &self.checkpoint),
            ("{owner}", &"ada".to_owned()),
            ("{agent}", &"other".to_owned()),
        ];
        let mut path = path.to_owned();
        for (name, value) in named {
            path = path.replace(name, value);
        }
        assert!(
            !path.contains('{'),
            "{path} names what this test does not know"
        );
        let id = operation["operationId"].as_str().unwrap();
        if id == "diff_states" {
            path += &format!("?from={0}&to={0}", self.checkpoint);
        }
        let body = match operation.get("requestBody") {
            Some(_) => self.body(id).to_string(),
            None => String::new(),
        };
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        request.body(body.into()).unwrap()
    }

    fn body(&self, operation: &str) -> Value {
        let said = json!([{"id": "m", "role": "user", "content": "hello"}]);
        match operation {
            "run_agent" | "run_named_agent" | "connect_agent" => {
                json!({"threadId": self.chat, "runId": "run", "messages": said})
            }
            "cancel_agent" => json!({"threadId": self.chat}),
            "fork_chat" => json!({}),
            "regenerate" | "choose_branch" => json!({"message_id": self.answer}),
            "import_messages" => json!({"messages": [{"role": "user", "content": "hello"}]}),
            "send_message" => json!({"content": "hello"}),
            "resume_turn" => {
                json!({"interrupt_id": uuid::Uuid::nil(), "answer": "yes"})
            }
            "update_conversation" => json!({"title": "Mine"}),
            other => panic!("this test does not know the body of {other}"),
        }
    }
}

/// Those that name no conversation, or are for everybody. Items are told apart in `store`.
const OF_NOBODY: [&str; 11] = [
    "put_item",
    "get_item",
    "delete_item",
    "search_items",
    "list_namespaces",
    "list_conversations",
    "create_conversation",
    "list_threads",
    "healthz",
    "readyz",
    // What was done for the owner: see `audit`.
    "list_audit",
];

/// Every operation that names what somebody has, those that delete last.
pub(crate) async fn operations(api: &Api) -> Vec<(String, String, Value)> {
    let document = api.get("/openapi.json").await.body;
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, item)| {
        let item = item.as_object().unwrap().iter();
        item.map(|(method, operation)| (method.to_uppercase(), path.clone(), operation.clone()))
    });
    let mut operations: Vec<_> = operations
        .filter(|(.., operation)| !OF_NOBODY.contains(&operation["operationId"].as_str().unwrap()))
        .collect();
    operations.sort_by_key(|(method, ..)| method == "DELETE");
    assert!(operations.len() >= 17, "{operations:?}");
    operations
}

#[tokio::test]
async fn on_every_route_what_is_another_owners_is_not_found() {
    let [ada, bob, all] = three();
    let belongings = Belongings::of(&ada).await;
    let before = (all.rows().await, listed(&all).await);
    let operations = operations(&all).await;
    for (method, path, operation) in &operations {
        let answer = bob
            .request(belongings.request(method, path, operation))
            .await;
        assert_eq!(
            answer.status,
            StatusCode::NOT_FOUND,
            "{method} {path}: {}",
            answer.body
        );
        assert_eq!(answer.problem(), "not-found");
    }
    assert_eq!((all.rows().await, listed(&all).await), before);
    // The same requests find what is one's own.
    for (method, path, operation) in &operations {
        let request = belongings.request(method, path, operation);
        // Some have no end.
        let answer = ada.router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let refused = [401, 403, 404, 405];
        assert!(
            !refused.contains(&status.as_u16()),
            "{method} {path}: {status}"
        );
    }
}

#[tokio::test]
async fn a_list_has_ones_own_conversations_only() {
    let [ada, bob, all] = three();
    let own = ada.conversation().await;
    let of_all = all.conversation().await;
    assert_eq!(listed(&ada).await, [own.as_str()]);
    assert_eq!(listed(&bob).await, Vec::<Value>::new());
    assert_eq!(listed(&all).await, [of_all.as_str(), own.as_str()]);
    let forked = ada
        .post(&format!("/chats/{own}/fork"), json!({}))
        .await
        .body;
    assert_eq!(forked["owner"], "ada");
    assert_eq!(listed(&ada).await, [forked["id"].as_str().unwrap(), &own]);
}

#[tokio::test]
async fn a_thread_of_one_name_is_another_for_each_owner() {
    let api = three();
    let said = json!([{"id": "m", "role": "user", "content": "hello"}]);
    let input = json!({"threadId": "main", "runId": "run", "messages": said});
    for one in &api {
        let answer = one.post("/agui", input.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
    let [ada, bob, all] = &api;
    let (ada, bob) = (listed(ada).await, listed(bob).await);
    assert_eq!((ada.len(), bob.len()), (1, 1));
    assert_ne!(ada, bob);
    assert_eq!(listed(all).await.len(), 3);
}

async fn list_for(api: &Api, owner: &[u8]) -> Answer {
    let request = Request::builder().method(Method::GET).uri("/conversations");
    let request = request.header("agentkit-owner", owner);
    api.request(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn who_may_act_for_all_may_act_for_one_and_nobody_for_another() {
    let [ada, _, all] = three();
    let own = ada.conversation().await;
    for (owner, found) in [("ada", 1), ("bob", 0), ("Ada Löwe", 0)] {
        let page = list_for(&all, owner.as_bytes()).await;
        assert_eq!(
            page.body["items"].as_array().unwrap().len(),
            found,
            "{owner}"
        );
    }
    assert_eq!(list_for(&ada, b"ada").await.body["items"][0]["id"], own);
    let other = list_for(&ada, b"bob").await;
    assert_eq!(other.status, StatusCode::FORBIDDEN);
    assert_eq!(other.problem(), "forbidden");
    for nobody in [&b""[..], b"\xff"] {
        assert_eq!(
            list_for(&all, nobody).await.invalid_field(),
            "agentkit-owner"
        );
    }
}
