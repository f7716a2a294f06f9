//! Histories that are imported and exported.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use uuid::Uuid;

use crate::support::{Api, ScriptedAgent};

async fn export(api: &Api, chat: &str) -> Value {
    let answer = api.get(&format!("/chats/{chat}/export")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.body
}

async fn import(api: &Api, chat: &str, messages: Value) -> (StatusCode, Value) {
    let path = format!("/chats/{chat}/messages:import");
    let answer = api.post(&path, json!({ "messages": messages })).await;
    (answer.status, answer.body)
}

async fn say(api: &Api, chat: &str, message: Value) {
    let answer = api.post(&format!("/chats/{chat}/messages"), message).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
}

/// The contents of the chosen branch.
async fn chosen(api: &Api, chat: &str) -> Vec<String> {
    let page = api.get(&format!("/conversations/{chat}/messages")).await;
    contents(&page.body["items"])
}

/// What the agent knows to have been said.
async fn known(api: &Api, chat: &str) -> Value {
    let state = api.get(&format!("/chats/{chat}/state")).await.body;
    state["values"]["messages"].clone()
}

fn contents(messages: &Value) -> Vec<String> {
    let messages = messages.as_array().unwrap().iter();
    let contents = messages.map(|message| message["content"].as_str().unwrap().to_owned());
    contents.collect()
}

fn id_of(answer: &Value) -> String {
    answer["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_exported_chat_is_imported_equal_with_its_branches() {
    let api = Api::new(ScriptedAgent::default());
    let new = json!({"title": "A trip", "metadata": {"customer": 7}});
    let chat = id_of(&api.post("/conversations", new).await.body);
    for message in ["one", "two"] {
        say(
            &api,
            &chat,
            json!({"content": message, "metadata": {"n": 1}}),
        )
        .await;
    }
    let messages = export(&api, &chat).await["messages"].clone();
    say(
        &api,
        &chat,
        json!({"content": "two!", "replaces": messages[2]["id"]}),
    )
    .await;

    let exported = export(&api, &chat).await;
    assert_eq!(
        (
            &exported["title"],
            exported["messages"].as_array().unwrap().len()
        ),
        (&json!("A trip"), 6)
    );
    let copy = api.post("/conversations", exported.clone()).await;
    assert_eq!(copy.status, StatusCode::OK, "{}", copy.body);
    let copy = id_of(&copy.body);
    assert_eq!(export(&api, &copy).await, exported);
    assert_eq!(chosen(&api, &copy).await, chosen(&api, &chat).await);

    // The agent knows what was said, on each branch.
    let said = |known: Value| -> Vec<String> {
        let known = known.as_array().unwrap().iter();
        let users = known.filter(|message| message["role"] == "user");
        users
            .map(|message| message["content"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(said(known(&api, &copy).await), ["one", "two!"]);
    let other = json!({"message_id": messages[3]["id"]});
    let path = format!("/chats/{copy}/branch");
    let choice = api.send(axum::http::Method::PUT, &path, other.to_string());
    assert_eq!(choice.await.status, StatusCode::NO_CONTENT);
    say(&api, &copy, json!({"content": "three"})).await;
    assert_eq!(said(known(&api, &copy).await), ["one", "two", "three"]);
}

#[tokio::test]
async fn an_agent_goes_on_from_a_history_with_tools_that_another_one_has_made() {
    let api = Api::new(ScriptedAgent::default());
    let chat = api.conversation().await;
    let call = json!({"type": "tool_call", "id": "c", "name": "add", "arguments": {"a": 1}});
    let result = json!({"type": "tool_result", "call_id": "c", "content": "2"});
    let history = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1 + 1?", "created_at": "2020-01-02T03:04:05Z"},
        {"role": "assistant", "parts": [call]},
        {"role": "tool", "parts": [result]},
        {"role": "assistant", "content": "2"},
    ]);
    let (status, body) = import(&api, &chat, history).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    say(&api, &chat, json!({"content": "hello"})).await;
    let known = known(&api, &chat).await;
    assert_eq!(known[2]["tool_calls"][0]["arguments"], json!({"a": 1}));
    assert_eq!(
        (&known[3]["tool_call_id"], &known[3]["content"]),
        (&json!("c"), &json!("2"))
    );
    assert_eq!(known[5]["content"], "hello");
    let exported = export(&api, &chat).await["messages"].clone();
    assert_eq!(exported[4]["id"], body["last_message_id"]);
    assert_eq!(exported[1]["created_at"], "2020-01-02T03:04:05Z");
    assert_eq!(exported[5]["parent_id"], exported[4]["id"]);
    assert_eq!(exported[0]["parent_id"], Value::Null);
    assert_eq!(
        chosen(&api, &chat).await[..5],
        ["Be brief.", "What is 1 + 1?", "", "2", "2"]
    );
}

#[tokio::test]
async fn a_history_begins_a_branch_behind_the_message_that_it_names() {
    let api = Api::new(ScriptedAgent::default());
    let chat = api.conversation().await;
    for message in ["one", "two"] {
        say(&api, &chat, json!({"content": message})).await;
    }
    let first = export(&api, &chat).await["messages"][1].clone();
    let aside = json!([
        {"role": "user", "content": "aside", "parent_id": first["id"], "is_chosen": false},
    ]);
    assert_eq!(import(&api, &chat, aside).await.0, StatusCode::OK);
    assert_eq!(chosen(&api, &chat).await.len(), 4);

    let other = json!([
        {"role": "user", "content": "other", "parent_id": first["id"]},
        {"role": "assistant", "content": "indeed"},
    ]);
    assert_eq!(import(&api, &chat, other).await.0, StatusCode::OK);
    let now = chosen(&api, &chat).await;
    assert_eq!(
        (now.len(), &now[2..]),
        (4, &["other".to_owned(), "indeed".to_owned()][..])
    );
    say(&api, &chat, json!({"content": "three"})).await;
    let known = contents(&known(&api, &chat).await);
    assert!(known.contains(&"indeed".to_owned()) && !known.contains(&"two".to_owned()));
}

#[tokio::test]
async fn an_import_happens_once_for_its_key_and_whole_or_not_at_all() {
    let api = Api::new(ScriptedAgent::default());
    let chat = api.conversation().await;
    let path = format!("/chats/{chat}/messages:import");
    let history = json!({"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}]});
    let first = api.post_keyed(&path, "key", history.clone()).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.body);
    assert_eq!(api.post_keyed(&path, "key", history).await.body, first.body);
    let another = json!({"messages": [{"role": "user", "content": "two"}]});
    let reused = api.post_keyed(&path, "key", another).await.status;
    assert_eq!(reused, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(chosen(&api, &chat).await, ["one", "1"]);

    let before = export(&api, &chat).await;
    let (id, nobody) = (Uuid::new_v4(), Uuid::new_v4());
    let taken = &before["messages"][0]["id"];
    let good = json!({"role": "user", "content": "good"});
    let bad = [
        (
            json!([good, {"role": "user", "content": "x", "id": taken}]),
            StatusCode::CONFLICT,
        ),
        (
            json!([good, {"role": "user", "content": "x", "parent_id": nobody}]),
            StatusCode::NOT_FOUND,
        ),
        (
            json!([{"role": "user", "content": "x", "parent_id": id}, {"role": "user", "content": "y", "id": id}]),
            StatusCode::BAD_REQUEST,
        ),
        (
            json!([{"role": "user", "content": "x", "id": id}, {"role": "user", "content": "y", "id": id}]),
            StatusCode::BAD_REQUEST,
        ),
        (json!([good, {"role": "user"}]), StatusCode::BAD_REQUEST),
        (
            json!([good, {"role": "user", "content": "a\u{0}b"}]),
            StatusCode::BAD_REQUEST,
        ),
        (json!([]), StatusCode::BAD_REQUEST),
    ];
    for (messages, status) in bad {
        let (refused, body) = import(&api, &chat, messages).await;
        assert_eq!(refused, status, "{body}");
    }
    assert_eq!(export(&api, &chat).await, before);
    let (_, body) = import(&api, &chat, json!([good, {"role": "user"}])).await;
    assert!(body.to_string().contains("messages[1].content"), "{body}");

    let asks = api
        .post(
            &format!("/chats/{chat}/messages"),
            json!({"content": "ask"}),
        )
        .await;
    assert_eq!(asks.status, StatusCode::ACCEPTED);
    assert_eq!(
        import(&api, &chat, json!([good])).await.0,
        StatusCode::CONFLICT
    );
}

#[tokio::test]
async fn a_conversation_with_its_history_is_created_once_or_not_at_all() {
    let api = Api::new(ScriptedAgent::default());
    let new = json!({"title": "t", "messages": [{"role": "user", "content": "one"}]});
    let first = api.post_keyed("/conversations", "key", new.clone()).await;
    assert_eq!(
        api.post_keyed("/conversations", "key", new).await.body,
        first.body
    );
    assert_eq!(chosen(&api, &id_of(&first.body)).await, ["one"]);
    let broken =
        json!({"messages": [{"role": "user", "content": "x", "parent_id": Uuid::new_v4()}]});
    assert_eq!(
        api.post("/conversations", broken).await.status,
        StatusCode::NOT_FOUND
    );
    let all = api.get("/conversations").await.body;
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn people_read_an_export_as_markdown() {
    let api = Api::new(ScriptedAgent::default());
    let call = json!({"type": "tool_call", "id": "c", "name": "add", "arguments": {"a": "```"}});
    let picture =
        json!({"type": "image", "source": {"type": "url", "url": "https://example.com/1.png"}});
    let id = Uuid::new_v4();
    let new = json!({"title": "Sums", "messages": [
        {"role": "user", "id": id, "created_at": "2020-01-02T03:04:05Z", "parts": [{"type": "text", "text": "Look:"}, picture]},
        {"role": "assistant", "parts": [call], "is_chosen": false},
        {"role": "assistant", "content": "I see.", "parent_id": id},
    ]});
    let chat = id_of(&api.post("/conversations", new).await.body);
    let request = Request::get(format!("/chats/{chat}/export?format=markdown"));
    let response = api
        .router
        .clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(
        response.headers()["content-type"],
        "text/markdown; charset=utf-8"
    );
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let begin = "# Sums\n\n## user · 2020-01-02 03:04:05 UTC\n\nLook:\n\n![image](https://example.com/1.png)\n";
    assert!(text.starts_with(begin), "{text}");
    let branch = format!(
        "on another branch, behind {id}*\n\nCall `c` of `add`:\n\n````\n{{\n  \"a\": \"```\"\n}}\n````\n"
    );
    assert!(text.contains(&branch), "{text}");
    assert!(text.ends_with("\n\nI see.\n"), "{text}");
}

#[tokio::test]
async fn messages_of_openai_and_langchain_are_imported_and_exported() {
    let api = Api::new(ScriptedAgent::default());
    let call = json!({"id": "1", "type": "function", "function": {"name": "add", "arguments": "{\"a\":1}"}});
    let openai = json!([
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is 1 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "3"},
        {"role": "assistant", "content": "3"},
    ]);
    let chat = id_of(&api.post("/conversations", json!({})).await.body);
    let path = format!("/chats/{chat}/messages:import?format=openai");
    let stored = api.post(&path, json!({"messages": openai})).await;
    assert_eq!(stored.status, StatusCode::OK, "{}", stored.body);
    let exported = async |chat: &str, format: &str| {
        let export = format!("/chats/{chat}/export?format={format}");
        api.get(&export).await.body["messages"].clone()
    };
    assert_eq!(exported(&chat, "openai").await, openai);
    // By way of LangChain.
    let langchain = exported(&chat, "langchain").await;
    assert_eq!(
        langchain[1],
        json!({"type": "human", "data": {"content": "What is 1 + 2?"}})
    );
    let other = id_of(&api.post("/conversations", json!({})).await.body);
    let path = format!("/chats/{other}/messages:import?format=langchain");
    api.post(&path, json!({"messages": langchain})).await;
    assert_eq!(exported(&other, "openai").await, openai);
    let unknown = json!({"messages": [{"type": "human", "content": [{"type": "smell"}]}]});
    let refused = api.post(&path, unknown).await;
    assert_eq!(
        (refused.problem(), &refused.body["field"]),
        ("invalid-input", &json!("messages[0]"))
    );
}
