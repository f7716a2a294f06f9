//! The client of the AG-UI protocol, from npm and with its checks, against the server.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use uuid::Uuid;
use yai_agentkit_core::Stores;
use yai_agentkit_engine::agent::Agents;

use crate::{
    clients::AGUI as CLIENT,
    crash::Installation,
    event_stream::parse,
    support::{Api, ScriptedAgent},
};

#[test]
fn a_client_s_state_and_messages_are_those_that_are_stored() {
    CLIENT.passes_offline("chat", "0");
}

#[test]
fn another_past_than_the_stored_one_is_refused_and_a_repetition_is_not() {
    CLIENT.passes_offline("past", "0");
}

#[test]
fn pictures_of_a_client_are_stored_and_shown_to_others() {
    CLIENT.passes_offline("parts", "0");
}

#[test]
fn a_client_that_knows_only_the_thread_connects_to_it() {
    CLIENT.passes_offline("connect", "0");
}

#[test]
fn of_a_long_chat_a_client_is_shown_the_newest_messages_and_goes_on() {
    CLIENT.passes_offline("long", "0");
}

#[test]
fn a_cancelled_run_finishes_as_such_with_its_steps_closed() {
    CLIENT.passes_offline("cancel", "300");
}

#[test]
fn a_client_goes_on_with_another_server_when_the_first_is_killed() {
    for installation in [Installation::sqlite, Installation::postgres] {
        CLIENT.survives_a_kill(&installation(), "kill", "1500");
    }
}

#[test]
fn what_a_killed_server_has_said_is_taken_back_where_another_says_it_anew() {
    CLIENT.survives_a_kill(&Installation::sqlite(), "kill_speaking", "3000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_interrupts_the_run_until_it_is_answered_or_cancelled() {
    CLIENT.passes_scripted("interrupt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_needs_approval_interrupts_the_run_and_is_approved_edited_or_rejected() {
    CLIENT.passes_scripted("approval").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_of_the_client_run_there_and_the_turn_goes_on_with_their_results() {
    CLIENT.passes_scripted("tools").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_has_changed_of_the_state_is_given_to_the_agent() {
    CLIENT.passes_scripted("state").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_says_why_and_the_next_one_succeeds() {
    CLIENT.passes_scripted("failure").await;
}

#[tokio::test]
async fn a_run_whose_events_are_gone_ends_as_its_turn_did() {
    let api = Api::new(ScriptedAgent::default());
    let ends = [
        ("hello", r#""outcome":{"type":"success"}"#),
        (
            "refuse",
            r#""type":"RUN_ERROR","message":"the model refused: no such model""#,
        ),
        ("ask", r#""outcome":{"type":"cancelled"}"#),
    ];
    for (content, end) in ends {
        let message = json!({"id": "1", "role": "user", "content": content});
        let run = json!({
            "threadId": content, "runId": "run", "protocolVersion": "1.0", "messages": [message],
        });
        run_of(&api, &run).await;
        if content == "ask" {
            let cancelled = api.post("/agui/cancel", json!({"threadId": content})).await;
            assert_eq!(cancelled.body["status"], "cancelled");
        }
        assert!(run_of(&api, &run).await.contains(end), "{content}");
        tokio::time::sleep(Duration::from_millis(2)).await;
        let forgotten = api.storage.turn_store().forget_events(Duration::ZERO).await;
        assert!(forgotten.unwrap() > 0);
        let again = run_of(&api, &run).await;
        assert!(again.contains(end) && !again.contains("STEP_"), "{again}");
        // A client before 1.0 refuses an outcome that it does not know.
        let mut earlier = run;
        earlier.as_object_mut().unwrap().remove("protocolVersion");
        let again = run_of(&api, &earlier).await;
        assert_eq!(again.contains(end), content != "ask", "{again}");
    }
}

#[tokio::test]
async fn a_thread_is_the_agent_s_that_was_named_when_it_was_first_used() {
    let (other, songs) = (ScriptedAgent::default(), ScriptedAgent::default());
    let agents = Agents::from(Arc::new(other.clone())).with("songs", Arc::new(songs.clone()));
    let api = Api::of_agents(agents);
    let run = async |path: &str, thread: &str| {
        let message = json!({"id": Uuid::new_v4(), "role": "user", "content": "hello"});
        let run = json!({"threadId": thread, "runId": Uuid::new_v4(), "messages": [message]});
        let answer = api.post(path, run).await;
        (answer.status.as_u16(), answer.body["type"].clone())
    };
    let turn = ScriptedAgent::SCRIPT.len();
    assert_eq!(run("/agui/songs", "one").await.0, 200);
    assert_eq!(run("/agui", "one").await.0, 200);
    assert_eq!((other.done().len(), songs.done().len()), (0, 2 * turn));
    assert_eq!(run("/agui", "two").await.0, 200);
    assert_eq!((other.done().len(), songs.done().len()), (turn, 2 * turn));
    let problem = |name: &str| json!(format!("urn:agentkit:problem:{name}"));
    assert_eq!(
        run("/agui/songs", "two").await,
        (409, problem("other-agent"))
    );
    assert_eq!(
        run("/agui/nobody", "three").await,
        (404, problem("not-found"))
    );
    let all = api.get("/conversations").await.body;
    assert_eq!(all["items"].as_array().unwrap().len(), 2);
    assert_eq!(all["items"][1]["metadata"]["agent"], "songs");
}

/// What the client of a run is sent.
async fn run_of(api: &Api, run: &Value) -> String {
    let request = Request::post("/agui").header("content-type", "application/json");
    let request = request.body(Body::from(run.to_string())).unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let stream = String::from_utf8(body.to_vec()).unwrap();
    // Each is what `openapi.json` says.
    assert!(!parse(&stream).is_empty());
    stream
}
