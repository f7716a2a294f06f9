//! What clients get wrong: every answer names the fault, and nothing is written.

use std::{convert::Infallible, sync::atomic::Ordering};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use serde_json::json;

use crate::support::{Api, BODY_LIMIT, ScriptedAgent};

fn api() -> Api {
    Api::new(ScriptedAgent::default())
}

#[tokio::test]
async fn bad_input_is_refused_by_field_and_nothing_is_written() {
    let api = api();
    let id = api.conversation().await;
    let before = api.get(&format!("/conversations/{id}")).await.body;
    let long = "x".repeat(256);
    let (create, change, send) = (
        (Method::POST, "/conversations".to_owned()),
        (Method::PATCH, format!("/conversations/{id}")),
        (Method::POST, format!("/chats/{id}/messages")),
    );
    for ((method, path), body, field) in [
        (&create, json!({"titel": "x"}).to_string(), "titel"),
        (&create, json!({"title": 1}).to_string(), "title"),
        (&create, json!({"title": long}).to_string(), "title"),
        (&create, json!({"title": "a\0b"}).to_string(), "title"),
        (
            &create,
            json!({"metadata": {"a": ["\0"]}}).to_string(),
            "metadata",
        ),
        (
            &create,
            r#"{"title": "a", "title": "b"}"#.to_owned(),
            "body",
        ),
        (&create, json!(["title", null]).to_string(), "body"),
        (&create, "{".to_owned(), "body"),
        (&create, "{} {}".to_owned(), "body"),
        (&create, String::new(), "body"),
        (&create, "[".repeat(1000), "body"),
        (&change, json!({"title": long}).to_string(), "title"),
        (&change, json!({"title": {}}).to_string(), "title"),
        (&change, json!({"metadata": "\0"}).to_string(), "metadata"),
        (&change, json!({"id": "x"}).to_string(), "id"),
        (&change, String::new(), "body"),
        (&send, json!({}).to_string(), "content"),
        (&send, json!({"content": ""}).to_string(), "content"),
        (&send, json!({"content": null}).to_string(), "content"),
        (&send, json!({"content": "a\0b"}).to_string(), "content"),
        (
            &send,
            json!({"content": "a", "role": "assistant"}).to_string(),
            "role",
        ),
        (
            &send,
            json!({"content": "a", "role": 1}).to_string(),
            "role",
        ),
        (
            &send,
            json!({"content": "a", "metadata": {"\0": 1}}).to_string(),
            "metadata",
        ),
        (
            &send,
            json!({"content": "a", "thread": 1}).to_string(),
            "thread",
        ),
        (&send, String::new(), "body"),
    ] {
        let refused = api.send(method.clone(), path, body.clone()).await;
        assert_eq!(refused.invalid_field(), field, "{method} {path} {body}");
    }
    assert_eq!(api.rows().await, (1, 0, 0, 0));
    assert_eq!(api.get(&format!("/conversations/{id}")).await.body, before);
}

#[tokio::test]
async fn a_title_may_have_255_characters_of_any_script() {
    let api = api();
    let title = "记".repeat(255);
    let created = api.post("/conversations", json!({"title": title})).await;
    assert_eq!(created.body["title"], title);
}

#[tokio::test]
async fn bad_parameters_are_refused_by_name() {
    let api = api();
    let id = api.conversation().await;
    for (path, field) in [
        ("/conversations?limit=0", "limit"),
        ("/conversations?limit=1001", "limit"),
        ("/conversations?limit=-1", "limit"),
        ("/conversations?limit=ten", "limit"),
        ("/conversations?limit=1&limit=2", "query"),
        ("/conversations?offset=-1", "offset"),
        ("/conversations?offset=99999999999", "offset"),
        ("/conversations?cursor=abc", "cursor"),
        (&format!("/conversations?offset=1&cursor={id}"), "cursor"),
        ("/conversations?page=2", "page"),
        ("/conversations/abc", "id"),
        ("/conversations/%ff", "path"),
        ("/conversations/abc/messages", "id"),
        (&format!("/conversations/{id}/messages?limit=0"), "limit"),
        (&format!("/conversations/{id}/messages?order=up"), "order"),
        (&format!("/conversations/{id}/messages?cursor=x"), "cursor"),
        (&format!("/conversations/{id}/messages?offset=1"), "offset"),
        ("/chats/abc/state", "chat_id"),
        ("/chats/abc/history", "chat_id"),
        (&format!("/chats/{id}/history?limit=101"), "limit"),
        (&format!("/chats/{id}/history?after=x"), "after"),
    ] {
        assert_eq!(api.get(path).await.invalid_field(), field, "{path}");
    }
    let refused = api
        .post("/chats/abc/messages", json!({"content": "hi"}))
        .await;
    assert_eq!(refused.invalid_field(), "chat_id");
    assert_eq!(api.delete("/conversations/abc").await.invalid_field(), "id");
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let api = api();
    let id = "01900000-0000-7000-8000-000000000000";
    for path in [
        format!("/conversations/{id}"),
        format!("/conversations/{id}/messages"),
        format!("/chats/{id}/state"),
        format!("/chats/{id}/history"),
        "/".to_owned(),
        "/nowhere".to_owned(),
        "/conversations/".to_owned(),
        "/docs/nothing".to_owned(),
    ] {
        let answer = api.get(&path).await;
        assert_eq!(
            (answer.status, answer.problem()),
            (StatusCode::NOT_FOUND, "not-found"),
            "{path}"
        );
    }
    let path = format!("/conversations/{id}");
    assert_eq!(
        api.patch(&path, json!({"title": "x"})).await.problem(),
        "not-found"
    );
    assert_eq!(api.delete(&path).await.problem(), "not-found");
    let send = api
        .post(&format!("/chats/{id}/messages"), json!({"content": "hi"}))
        .await;
    assert_eq!(
        (send.status, send.problem()),
        (StatusCode::NOT_FOUND, "not-found")
    );
    assert_eq!(api.rows().await, (0, 0, 0, 0));
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let answer = api().delete("/conversations").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.problem(), "method-not-allowed");
    let allowed = answer.headers["allow"].to_str().unwrap();
    assert!(
        allowed.contains("GET") && allowed.contains("POST"),
        "{allowed}"
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let api = api();
    let body = |length| {
        let frame = json!({"metadata": ""}).to_string().len();
        json!({"metadata": "x".repeat(length - frame)}).to_string()
    };
    let fits = api
        .send(Method::POST, "/conversations", body(BODY_LIMIT))
        .await;
    assert_eq!(fits.status, StatusCode::OK);
    let too_large = api
        .send(Method::POST, "/conversations", body(BODY_LIMIT + 1))
        .await;
    assert_eq!(too_large.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(too_large.problem(), "too-large");
    assert_eq!(api.rows().await, (1, 0, 0, 0));
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused() {
    let api = api();
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
    ] {
        let mut request = Request::post("/conversations");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let refused = api.request(request.body(Body::from("{}")).unwrap()).await;
        assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(refused.problem(), "unsupported-media-type");
    }
    let request = Request::post("/conversations")
        .header("content-type", "application/json; charset=utf-8")
        .body(Body::from("{}"));
    assert_eq!(api.request(request.unwrap()).await.status, StatusCode::OK);
    assert_eq!(api.rows().await, (1, 0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_not_waited_for() {
    let api = api();
    let endless = Body::from_stream(futures::stream::pending::<Result<&str, Infallible>>());
    let late = api.send(Method::POST, "/conversations", endless).await;
    assert_eq!(
        (late.status, late.problem()),
        (StatusCode::REQUEST_TIMEOUT, "timeout")
    );
    assert_eq!(api.rows().await, (0, 0, 0, 0));
}

#[tokio::test]
async fn a_bug_in_the_server_is_a_problem_that_tells_nothing_of_it() {
    let api = api();
    api.storage.watch.panics.store(true, Ordering::SeqCst);
    let failed = api.get("/readyz").await;
    assert_eq!(
        (failed.status, failed.problem()),
        (StatusCode::INTERNAL_SERVER_ERROR, "internal")
    );
    assert!(!failed.body.to_string().contains("secret"));
}

#[tokio::test]
async fn a_request_keeps_the_id_that_its_client_gave_it() {
    let api = api();
    let request = Request::get("/nowhere").header("x-request-id", "from-the-proxy");
    let answer = api.request(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.problem(), "not-found");
    assert_eq!(answer.body["request_id"], "from-the-proxy");
}

#[tokio::test]
async fn the_document_describes_every_route_with_its_problems() {
    let document = api().get("/openapi.json").await.body;
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations.push(format!("{method} {path}"));
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status.as_str() >= "400" {
                    let schema = &response["content"]["application/problem+json"]["schema"];
                    assert_eq!(
                        schema["$ref"], "#/components/schemas/Problem",
                        "{path} {status}"
                    );
                }
            }
            assert!(operation["responses"]["500"].is_object());
        }
    }
    let expected = [
        "post /agui",
        "post /agui/cancel",
        "post /agui/connect",
        "post /agui/{agent}",
        "put /chats/{chat_id}/branch",
        "get /chats/{chat_id}/diff",
        "get /chats/{chat_id}/events",
        "get /chats/{chat_id}/export",
        "post /chats/{chat_id}/fork",
        "get /chats/{chat_id}/history",
        "get /chats/{chat_id}/history/{checkpoint_id}",
        "post /chats/{chat_id}/messages",
        "post /chats/{chat_id}/messages:import",
        "post /chats/{chat_id}/regenerate",
        "get /chats/{chat_id}/state",
        "get /chats/{chat_id}/turns",
        "get /chats/{chat_id}/turns/{turn_id}",
        "post /chats/{chat_id}/turns/{turn_id}/cancel",
        "get /chats/{chat_id}/turns/{turn_id}/events",
        "post /chats/{chat_id}/turns/{turn_id}/resume",
        "get /conversations",
        "post /conversations",
        "get /conversations/{id}",
        "delete /conversations/{id}",
        "patch /conversations/{id}",
        "get /conversations/{id}/messages",
        "get /healthz",
        "get /readyz",
        "get /threads",
        "get /store/items",
        "put /store/items",
        "delete /store/items",
        "post /store/items/search",
        "post /store/namespaces",
        "get /audit",
        "delete /owners/{owner}",
        "post /chats/{chat_id}/messages/{message_id}/redact",
    ];
    operations.sort_by_key(|operation| operation.split(' ').nth(1).map(str::to_owned));
    assert_eq!(operations.len(), expected.len());
    for operation in expected {
        assert!(
            operations.iter().any(|found| found == operation),
            "{operation} in {operations:?}"
        );
    }
    let fields = document["components"]["schemas"]["NewMessage"]["required"].clone();
    assert_eq!(fields, json!(["content"]));
}

#[tokio::test]
async fn the_page_to_try_it_needs_no_other_site() {
    let api = api();
    for file in [
        "",
        "index.css",
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "swagger-initializer.js",
    ] {
        let request = Request::get(format!("/docs/{file}"))
            .body(Body::empty())
            .unwrap();
        let answer = api.request(request).await;
        assert_eq!(answer.status, StatusCode::OK, "{file}");
    }
}

/// Whoever writes a client reads the file; `UPDATE_OPENAPI=1` writes it.
#[tokio::test]
async fn the_document_in_the_repository_is_the_one_that_is_served() {
    let document = api().get("/openapi.json").await.body;
    let served = serde_json::to_string_pretty(&document).unwrap() + "\n";
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(file, &served).unwrap();
    }
    let kept = std::fs::read_to_string(file).expect("openapi.json");
    assert!(
        kept == served,
        "openapi.json is not what the server serves: UPDATE_OPENAPI=1 writes it"
    );
}
