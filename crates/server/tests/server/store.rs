//! Items over HTTP, as LangGraph's own client sends them.

use std::{path::Path, process::Command};

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    owners::three,
    process::Server,
    support::{Answer, Api, ScriptedAgent},
};

async fn put(api: &Api, namespace: &[&str], key: &str, value: Value) {
    let item = json!({"namespace": namespace, "key": key, "value": value});
    let answer = send(api, Method::PUT, &item).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.body);
}

async fn send(api: &Api, method: Method, body: &Value) -> Answer {
    api.send(method, "/store/items", body.to_string()).await
}

async fn found(api: &Api, search: Value) -> Vec<String> {
    let answer = api.post("/store/items/search", search).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let items = answer.body["items"].as_array().unwrap().iter();
    items
        .map(|item| item["key"].as_str().unwrap().to_owned())
        .collect()
}

async fn namespaces(api: &Api, body: Value) -> Value {
    let answer = api.post("/store/namespaces", body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.body["namespaces"].clone()
}

#[tokio::test]
async fn items_are_found_by_words_by_a_vector_and_by_both() {
    let api = Api::new(ScriptedAgent::default());
    for (key, text, vector) in [
        ("rye", "rye bread", [1.0, 0.0]),
        ("tea", "green tea", [0.0, 1.0]),
        ("both", "bread with tea", [0.8, 0.2]),
    ] {
        let item = json!({
            "namespace": ["notes"], "key": key, "value": {"text": text},
            "vectors": [{"field": "text", "vector": vector}],
        });
        assert_eq!(
            send(&api, Method::PUT, &item).await.status,
            StatusCode::NO_CONTENT
        );
    }
    let search = |asked: Value| {
        let mut search = json!({"namespace_prefix": ["notes"]});
        search
            .as_object_mut()
            .unwrap()
            .extend(asked.as_object().unwrap().clone());
        search
    };
    let words = found(&api, search(json!({"query": "rye"}))).await;
    assert_eq!(words, ["rye"]);
    let near = found(&api, search(json!({"vector": [1.0, 0.0], "limit": 2}))).await;
    assert_eq!(near, ["rye", "both"]);
    let fused = found(
        &api,
        search(json!({"query": "bread", "vector": [1.0, 0.0]})),
    )
    .await;
    assert_eq!(fused, ["rye", "both", "tea"]);
    let filter = json!({"filter": {"text": {"$gt": "c"}}, "offset": 1});
    assert_eq!(found(&api, search(filter)).await, ["rye"]);
}

#[tokio::test]
async fn what_no_store_takes_is_refused_by_its_field() {
    let api = Api::new(ScriptedAgent::default());
    let item = json!({"namespace": ["a"], "key": "k", "value": {}});
    for (field, wrong, expected) in [
        ("namespace", json!(["a.b"]), "namespace"),
        ("namespace", json!([]), "namespace"),
        ("key", json!("\u{0}"), "key"),
        ("value", json!([1]), "value"),
        ("ttl", json!(-1), "ttl"),
        ("vectors", json!([{"field": "f", "vector": []}]), "vector"),
        ("unknown", json!(1), "unknown"),
    ] {
        let mut item = item.clone();
        item[field] = wrong;
        let answer = send(&api, Method::PUT, &item).await;
        assert_eq!(answer.invalid_field(), expected);
    }
    for (path, body, field) in [
        (
            "/store/items/search",
            json!({"namespace_prefix": [], "limit": 101}),
            "limit",
        ),
        (
            "/store/items/search",
            json!({"namespace_prefix": ["."]}),
            "namespace",
        ),
        ("/store/namespaces", json!({"limit": 0}), "limit"),
    ] {
        assert_eq!(api.post(path, body).await.invalid_field(), field);
    }
    assert_eq!(namespaces(&api, json!({})).await, json!([]));
}

#[tokio::test]
async fn an_owner_has_items_of_its_own() {
    let [ada, bob, all] = three();
    for (api, text) in [(&ada, "of ada"), (&bob, "of bob"), (&all, "of all")] {
        put(api, &["notes", "old"], "key", json!({"text": text})).await;
    }
    for (api, text) in [(&ada, "of ada"), (&bob, "of bob"), (&all, "of all")] {
        let item = api
            .get("/store/items?namespace=notes.old&key=key")
            .await
            .body;
        assert_eq!(item["value"]["text"], text);
        assert_eq!(item["namespace"], json!(["notes", "old"]));
    }
    let everything = json!({"namespace_prefix": []});
    assert_eq!(found(&ada, everything.clone()).await.len(), 1);
    assert_eq!(found(&all, everything).await.len(), 3);
    for (body, expected) in [
        (json!({}), json!([["notes", "old"]])),
        (json!({"max_depth": 1}), json!([["notes"]])),
        (json!({"suffix": ["*", "old"]}), json!([["notes", "old"]])),
        // What comes before one's own is no part of it.
        (json!({"suffix": ["*", "notes", "old"]}), json!([])),
        (json!({"prefix": ["owners"]}), json!([])),
    ] {
        assert_eq!(namespaces(&ada, body.clone()).await, expected, "{body}");
    }
    let place = json!({"namespace": ["notes", "old"], "key": "key"});
    assert_eq!(
        send(&ada, Method::DELETE, &place).await.status,
        StatusCode::NO_CONTENT
    );
    let gone = ada.get("/store/items?namespace=notes.old&key=key").await;
    assert_eq!((gone.status, gone.body), (StatusCode::OK, Value::Null));
    assert_eq!(found(&bob, json!({"namespace_prefix": []})).await, ["key"]);
}

/// The store's client of `langgraph-sdk` in Python.
#[test]
fn langgraphs_client_works_with_the_server() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let python = std::env::var("AGENTKIT_TEST_PYTHON");
    let python = python.expect("AGENTKIT_TEST_PYTHON is not set: run ./test");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server/langgraph_store.py");
    let url = format!("http://{}", server.address);
    let output = Command::new(python).arg(script).arg(url).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "all is well\n");
}
