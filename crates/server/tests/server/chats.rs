use std::{sync::atomic::Ordering, time::Duration};

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::{Api, ScriptedAgent};

#[tokio::test]
async fn a_message_is_answered() {
    let api = Api::new(ScriptedAgent::default());
    let id = api.conversation().await;
    let path = format!("/chats/{id}/messages");
    let new = json!({"content": "hi", "role": "user", "metadata": {"from": "test"}});
    let answer = api.post(&path, new).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body["role"], "assistant");
    assert_eq!(answer.body["content"], "hi: result-a result-b result-c");
    assert_eq!(answer.body["conversation_id"], id);
    let fields: Vec<_> = answer.body.as_object().unwrap().keys().collect();
    let expected = [
        "content",
        "conversation_id",
        "created_at",
        "id",
        "metadata",
        "role",
    ];
    assert_eq!(fields, expected);

    let messages = api.get(&format!("/conversations/{id}/messages")).await;
    assert_eq!(
        messages.body["items"][0]["metadata"],
        json!({"from": "test"})
    );
    assert_eq!(messages.body["items"][1], answer.body);
}

#[tokio::test]
async fn a_system_message_is_stored_and_returned() {
    let api = Api::new(ScriptedAgent::default());
    let id = api.conversation().await;
    let path = format!("/chats/{id}/messages");
    let stored = api
        .post(&path, json!({"content": "Be brief.", "role": "system"}))
        .await;
    assert_eq!(stored.status, StatusCode::OK);
    assert_eq!(
        (&stored.body["role"], &stored.body["content"]),
        (&json!("system"), &json!("Be brief."))
    );
    assert_eq!(api.rows().await, (1, 1, 0, 1));
}

#[tokio::test]
async fn the_state_and_the_history_show_what_the_agent_knows() {
    let api = Api::new(ScriptedAgent::default());
    let id = api.conversation().await;
    let state = format!("/chats/{id}/state");
    let history = format!("/chats/{id}/history");
    assert_eq!(api.get(&state).await.problem(), "not-found");
    assert_eq!(api.get(&history).await.body, json!({"items": []}));

    api.post(&format!("/chats/{id}/messages"), json!({"content": "hi"}))
        .await;
    let latest = api.get(&state).await;
    assert_eq!(latest.status, StatusCode::OK);
    assert_eq!(latest.body["step"], 4);
    assert_eq!(latest.body["source"], "loop");
    assert_eq!(latest.body["values"]["facts"]["c"], "noted");
    assert_eq!(latest.body["values"]["messages"][0]["content"], "hi");
    assert_eq!(latest.body["values"]["answering"], Value::Null);
    assert_eq!(latest.body["pending_writes"], json!([]));

    let all = api.get(&history).await.body;
    let items = all["items"].as_array().unwrap();
    assert_eq!(items[0], latest.body);
    let steps: Vec<_> = items
        .iter()
        .map(|item| item["step"].as_i64().unwrap())
        .collect();
    assert_eq!(steps, [4, 3, 2, 1, 0, -1]);
    for (newer, older) in items.iter().zip(&items[1..]) {
        assert_eq!(newer["parent_checkpoint_id"], older["checkpoint_id"]);
    }

    let first = api.get(&format!("{history}?limit=3")).await.body;
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = api
        .get(&format!("{history}?limit=3&before={cursor}"))
        .await
        .body;
    assert_eq!(first["items"].as_array().unwrap()[..], items[..3]);
    assert_eq!(rest["items"].as_array().unwrap()[..], items[3..]);
    assert_eq!(rest.get("next_cursor"), None);
}

#[tokio::test]
async fn a_second_message_while_a_turn_runs_is_a_conflict() {
    let agent = ScriptedAgent::hanging_after(1);
    let api = Api::new(agent.clone());
    let path = format!("/chats/{}/messages", api.conversation().await);
    let (first, ()) = tokio::join!(api.post(&path, json!({"content": "hi"})), async {
        while agent.done().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = api.post(&path, json!({"content": "and?"})).await;
        assert_eq!(
            (second.status, second.problem()),
            (StatusCode::CONFLICT, "turn-running")
        );
        assert_eq!(api.rows().await, (1, 1, 1, 1));
        agent.permits.add_permits(100);
    });
    assert_eq!(first.status, StatusCode::OK);
}

#[tokio::test]
async fn an_agent_that_fails_is_a_problem_that_tells_no_secret() {
    let api = Api::new(ScriptedAgent::default());
    let path = format!("/chats/{}/messages", api.conversation().await);
    let refused = api.post(&path, json!({"content": "refuse"})).await;
    assert_eq!(
        (refused.status, refused.problem()),
        (StatusCode::BAD_GATEWAY, "agent-failed")
    );
    assert_eq!(refused.body["detail"], "the model refused: no such model");
    assert!(!refused.body.to_string().contains("secret"));
    let unavailable = api.post(&path, json!({"content": "unavailable"})).await;
    assert_eq!(unavailable.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(unavailable.problem(), "agent-unavailable");
    assert!(
        !unavailable.headers.contains_key("retry-after"),
        "it would be stored twice"
    );
    let crashed = api.post(&path, json!({"content": "panic"})).await;
    assert_eq!(
        (crashed.status, crashed.problem()),
        (StatusCode::BAD_GATEWAY, "agent-failed")
    );
    let answered = api.post(&path, json!({"content": "hi"})).await;
    assert_eq!(answered.status, StatusCode::OK);
}

#[tokio::test]
async fn a_storage_that_fails_is_a_problem_that_tells_no_sql() {
    let api = Api::new(ScriptedAgent::default());
    let path = format!("/chats/{}/messages", api.conversation().await);
    assert_eq!(api.get("/readyz").await.status, StatusCode::OK);
    api.storage.fails.store(true, Ordering::SeqCst);
    for answer in [
        api.post(&path, json!({"content": "hi"})).await,
        api.get("/readyz").await,
    ] {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.problem(), "storage-unavailable");
        assert!(answer.headers.contains_key("retry-after"));
        assert!(!answer.body.to_string().contains("SELECT"));
    }
    assert_eq!(api.get("/healthz").await.status, StatusCode::OK);
    api.storage.fails.store(false, Ordering::SeqCst);
    assert_eq!(api.get("/readyz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn no_turn_starts_during_a_shutdown() {
    let api = Api::new(ScriptedAgent::default());
    let path = format!("/chats/{}/messages", api.conversation().await);
    assert!(api.turns.shutdown(Duration::from_secs(1)).await);
    for answer in [
        api.post(&path, json!({"content": "hi"})).await,
        api.get("/readyz").await,
    ] {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.problem(), "shutting-down");
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert_eq!(api.rows().await, (1, 0, 0, 0));
}
