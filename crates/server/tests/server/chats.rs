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
        "is_chosen",
        "metadata",
        "parent_id",
        "parts",
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
    assert_eq!(latest.body["values"]["state"]["facts"]["c"], "noted");
    assert_eq!(latest.body["values"]["messages"][0]["content"], "hi");
    assert_eq!(latest.body["values"]["answering"], Value::Null);
    assert_eq!(latest.body["pending_writes"], json!([]));

    let all = api.get(&history).await.body;
    let items = all["items"].as_array().unwrap();
    let mut summary = latest.body.clone();
    summary.as_object_mut().unwrap().remove("values");
    summary.as_object_mut().unwrap().remove("pending_writes");
    assert_eq!(items[0], summary);
    assert_eq!(api.history(&id).await[0], latest.body);
    let unknown = api.get(&format!("{history}/nothing")).await;
    assert_eq!(unknown.problem(), "not-found");
    let nul = api.get(&format!("{history}/a%00")).await;
    assert_eq!(nul.invalid_field(), "checkpoint_id");
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
    api.storage.watch.fails.store(true, Ordering::SeqCst);
    // Longer than an answer of the storage counts.
    let outdated = || tokio::time::sleep(Duration::from_secs(1));
    outdated().await;
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
    api.storage.watch.fails.store(false, Ordering::SeqCst);
    outdated().await;
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

#[tokio::test]
async fn a_turn_is_listed_read_and_ended() {
    let api = Api::new(ScriptedAgent::default());
    let id = api.conversation().await;
    let question = json!({"content": "hi"});
    let answer = api.post(&format!("/chats/{id}/messages"), question).await;
    let turns = format!("/chats/{id}/turns");
    let listed = api.get(&turns).await;
    let turn = &listed.body["items"][0];
    assert_eq!(turn["status"], "completed");
    assert_eq!(turn["assistant_message_id"], answer.body["id"]);
    assert_eq!(
        (&turn["attempt"], &turn["error"]),
        (&json!(1), &Value::Null)
    );
    let path = format!("{turns}/{}", turn["id"].as_str().unwrap());
    assert_eq!(api.get(&path).await.body, *turn);
    let cancelled = api.post(&format!("{path}/cancel"), json!({})).await;
    assert_eq!(
        (cancelled.status, cancelled.problem()),
        (StatusCode::CONFLICT, "turn-ended")
    );

    let elsewhere = format!("/chats/{}/turns", api.conversation().await);
    assert_eq!(api.get(&elsewhere).await.body, json!({"items": []}));
    let foreign = format!("{elsewhere}/{}", turn["id"].as_str().unwrap());
    assert_eq!(api.get(&foreign).await.problem(), "not-found");
    assert_eq!(
        api.get(&format!("{turns}/abc")).await.invalid_field(),
        "turn_id"
    );
    assert_eq!(
        api.get(&format!("{turns}?limit=0")).await.invalid_field(),
        "limit"
    );
}

#[tokio::test]
async fn a_turn_that_asks_is_accepted_and_goes_on_with_the_answer() {
    let api = Api::new(ScriptedAgent::default());
    let id = api.conversation().await;
    let messages = format!("/chats/{id}/messages");
    let asks = api.post(&messages, json!({"content": "ask"})).await;
    assert_eq!(asks.status, StatusCode::ACCEPTED, "{}", asks.body);
    assert_eq!(asks.body["status"], "waiting");
    assert_eq!(asks.body["interrupt"]["question"], "Which one?");
    let busy = api.post(&messages, json!({"content": "hi"})).await;
    assert_eq!(
        (busy.status, busy.problem()),
        (StatusCode::CONFLICT, "turn-running")
    );

    let resume = format!(
        "/chats/{id}/turns/{}/resume",
        asks.body["id"].as_str().unwrap()
    );
    let stale = json!({"interrupt_id": id, "answer": "yes"});
    let stale = api.post(&resume, stale).await;
    assert_eq!(
        (stale.status, stale.problem()),
        (StatusCode::CONFLICT, "not-asked")
    );
    let answer = json!({"interrupt_id": asks.body["interrupt"]["id"], "answer": "the red one"});
    let answered = api.post(&resume, answer.clone()).await;
    assert_eq!(answered.status, StatusCode::OK);
    assert_eq!(answered.body["content"], "the red one");
    assert_eq!(api.post(&resume, answer).await.problem(), "not-asked");
}

#[tokio::test]
async fn a_message_says_what_becomes_of_it_where_the_chat_is_busy() {
    let api = Api::new(ScriptedAgent::default());
    let id = api.conversation().await;
    let messages = format!("/chats/{id}/messages");
    api.post(&messages, json!({"content": "ask"})).await;
    let new = json!({"content": "hi", "on_busy": "interrupt"});
    let answer = api.post(&messages, new).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let turns = api.get(&format!("/chats/{id}/turns")).await.body;
    let status = |index: usize| turns["items"][index]["status"].as_str().unwrap().to_owned();
    assert_eq!([status(1), status(0)], ["cancelled", "completed"]);
    let unknown = json!({"content": "hi", "on_busy": "wait"});
    assert_eq!(
        api.post(&messages, unknown).await.invalid_field(),
        "on_busy"
    );
}

#[tokio::test]
async fn a_request_with_a_key_may_be_repeated() {
    let api = Api::new(ScriptedAgent::default());
    let new = json!({"title": "Trip"});
    let first = api.post_keyed("/conversations", "key", new.clone()).await;
    assert_eq!(first.status, StatusCode::OK);
    let again = api.post_keyed("/conversations", "key", new).await;
    assert_eq!(
        (again.status, again.body),
        (StatusCode::OK, first.body.clone())
    );
    let other = json!({"title": "Another"});
    let differs = api.post_keyed("/conversations", "key", other).await;
    let refused = (StatusCode::UNPROCESSABLE_ENTITY, "key-reused");
    assert_eq!((differs.status, differs.problem()), refused);

    let path = format!("/chats/{}/messages", first.body["id"].as_str().unwrap());
    let answer = api.post_keyed(&path, "key", json!({"content": "hi"})).await;
    let again = api
        .post_keyed(&path, "key", json!({"content": "hi", "on_busy": "enqueue"}))
        .await;
    assert_eq!((again.status, again.body), (StatusCode::OK, answer.body));
    let differs = api.post_keyed(&path, "key", json!({"content": "ho"})).await;
    assert_eq!((differs.status, differs.problem()), refused);
    assert_eq!(api.rows().await, (1, 2, 1, 1));

    let long = "k".repeat(256);
    let refused = api.post_keyed(&path, &long, json!({"content": "hi"})).await;
    assert_eq!(refused.invalid_field(), "idempotency-key");
    // With a key it may come again although the message is stored.
    let unavailable = api
        .post_keyed(&path, "other", json!({"content": "unavailable"}))
        .await;
    assert_eq!(unavailable.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(unavailable.headers["retry-after"], "1");
}
