//! Turns that are watched: what they tell, to whom, and what happens to those who come and go.

mod processes;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use yai_agentkit_core::{ListQuery, Stores, TurnId, turn::TurnFilter};
use yai_agentkit_engine::agent::{Agent, AgentError, AgentState, Context, Step};

use crate::{
    event_stream::{Event, parse},
    support::{Api, ScriptedAgent},
};

/// Several requests at once, so that the answer comes in many parts.
const QUESTION: &str = "My name is Ada. I live in Paris. What is 17 * 23? What is my name?";

#[tokio::test]
async fn a_turn_tells_all_that_happens_in_it() {
    let api = Api::new(ScriptedAgent::default());
    let chat = api.conversation().await;
    let events = ask(&api, &chat, "hi").await;
    let expected = [
        "RUN_STARTED",
        "STATE_SNAPSHOT",
        "STEP_STARTED agent",
        "TOOL_CALL_START a",
        "TOOL_CALL_ARGS a",
        "TOOL_CALL_END a",
        "TOOL_CALL_START b",
        "TOOL_CALL_ARGS b",
        "TOOL_CALL_END b",
        "STEP_FINISHED agent",
        "STEP_STARTED tools",
        "TOOL_CALL_RESULT a",
        "TOOL_CALL_RESULT b",
        "STATE_DELTA",
        "STEP_FINISHED tools",
        "STEP_STARTED agent",
        "TOOL_CALL_START c",
        "TOOL_CALL_ARGS c",
        "TOOL_CALL_END c",
        "STEP_FINISHED agent",
        "STEP_STARTED tools",
        "TOOL_CALL_RESULT c",
        "STATE_DELTA",
        "STEP_FINISHED tools",
        "STEP_STARTED agent",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "STEP_FINISHED agent",
        "RUN_FINISHED",
    ];
    assert_eq!(outline(&events), expected);
    assert!(events.is_sorted_by(|one, next| place(one) < place(next)));
    assert_eq!(text(&events), "hi: result-a result-b result-c");

    let turn = turn_of(&events);
    let messages = api.get(&format!("/conversations/{chat}/messages")).await;
    let answer = &messages.body["items"][1];
    let last = &events.last().unwrap().data;
    assert_eq!(&last["result"], answer);
    assert_eq!(last["outcome"], json!({"type": "success"}));
    assert_eq!(last["threadId"], chat);
    assert_eq!(last["runId"], turn);
    let result = find(&events, "TOOL_CALL_RESULT");
    assert_eq!(
        (&result["content"], &result["role"]),
        (&json!("result-a"), &json!("tool"))
    );
}

#[tokio::test]
async fn the_state_that_a_client_has_is_what_the_agent_remembers() {
    let api = Api::new(ScriptedAgent::default());
    let chat = api.conversation().await;
    let facts_before = [json!({}), json!({"a": "noted", "b": "noted", "c": "noted"})];
    for (question, facts) in ["one", "two"].iter().zip(facts_before) {
        let events = ask(&api, &chat, question).await;
        let mut state = Value::Null;
        for event in &events {
            match event.data["type"].as_str() {
                Some("STATE_SNAPSHOT") => {
                    state.clone_from(&event.data["snapshot"]);
                    assert_eq!(state["facts"], facts);
                }
                Some("STATE_DELTA") => {
                    let delta =
                        serde_json::from_value::<json_patch::Patch>(event.data["delta"].clone());
                    json_patch::patch(&mut state, &delta.unwrap()).unwrap();
                }
                _ => {}
            }
        }
        let known = api.get(&format!("/chats/{chat}/state")).await;
        assert_eq!(state, known.body["values"]["state"]);
    }
}

#[tokio::test]
async fn a_stream_is_picked_up_behind_any_event() {
    let api = Api::new(ScriptedAgent::default());
    let chat = api.conversation().await;
    let events = ask(&api, &chat, "hi").await;
    let path = format!("/chats/{chat}/turns/{}/events", turn_of(&events));
    assert_eq!(watch(&api, &path, None).await.unwrap(), events);
    for (event, next) in events.iter().zip(1..) {
        let rest = watch(&api, &path, Some(&event.id)).await;
        let expected = &events[next..];
        // Who has the last event need not come back.
        let expected = (!expected.is_empty())
            .then_some(expected)
            .ok_or(StatusCode::NO_CONTENT);
        assert_eq!(rest.as_deref(), expected.as_ref().copied());
    }
    let behind = watch(&api, &path, Some("4000000000-0")).await;
    assert_eq!(behind, Err(StatusCode::NO_CONTENT));
}

#[tokio::test]
async fn a_chat_is_watched_from_now_on_over_questions_and_turns_until_the_server_stops() {
    let api = Api::new(ScriptedAgent::default());
    let chat = api.conversation().await;
    ask(&api, &chat, "hi").await;
    let request = Request::get(format!("/chats/{chat}/events"));
    let request = request.body(Body::empty()).unwrap();
    let watched = api.router.clone().oneshot(request).await.unwrap();
    let mut body = watched.into_body();

    let asked = ask(&api, &chat, "ask").await;
    let turn = turn_of(&asked);
    let interrupt = &asked.last().unwrap().data["outcome"]["interrupts"][0]["id"];
    let answer = json!({"interrupt_id": interrupt, "answer": "red"});
    let path = format!("/chats/{chat}/turns/{turn}/resume");
    assert_eq!(api.post(&path, answer).await.status, StatusCode::OK);
    let last = ask(&api, &chat, "hello").await;

    let runs = |events: &[Event], kind: &str| -> Vec<String> {
        let runs = events.iter().filter(|event| event.data["type"] == kind);
        let runs = runs.map(|event| event.data["runId"].as_str().unwrap().to_owned());
        runs.collect()
    };
    let mut text = String::new();
    while runs(&parse(&text), "RUN_FINISHED").len() < 3 {
        let frame = body.frame().await.expect("the stream goes on").unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    let events = parse(&text);
    assert_eq!(
        runs(&events, "RUN_STARTED"),
        [turn.clone(), turn, turn_of(&last)]
    );
    let data = |events: &[Event]| -> Vec<Value> {
        events.iter().map(|event| event.data.clone()).collect()
    };
    assert_eq!(data(&events[events.len() - last.len()..]), data(&last));
    api.turns.stop();
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn what_cannot_be_watched_is_a_problem() {
    let api = Api::new(ScriptedAgent::default());
    let (chat, other) = (api.conversation().await, api.conversation().await);
    let events = ask(&api, &chat, "hi").await;
    let turn = turn_of(&events);
    let foreign = api
        .get(&format!("/chats/{other}/turns/{turn}/events"))
        .await;
    assert_eq!(foreign.problem(), "not-found");
    let unknown = api.get(&format!("/chats/{chat}/turns/{chat}/events")).await;
    assert_eq!(unknown.problem(), "not-found");
    assert_eq!(
        api.get(&format!("/chats/{turn}/events")).await.problem(),
        "not-found"
    );
    let (path, foreign) = (format!("/chats/{other}/events"), format!("{turn}.1-0"));
    let of_other = watch(&api, &path, Some(&foreign));
    assert_eq!(of_other.await, Err(StatusCode::NOT_FOUND));
    let path = format!("/chats/{chat}/turns/{turn}/events");
    for id in ["", "x", "1", "1-", "-1", "1-2-3", "1-x", "99999999999-1"] {
        let request = Request::get(&path).header("last-event-id", id);
        let refused = api.request(request.body(Body::empty()).unwrap()).await;
        assert_eq!(refused.invalid_field(), "last-event-id", "{id}");
    }
}

#[tokio::test]
async fn an_answer_to_a_question_streams_what_comes_of_it() {
    let api = Api::new(ScriptedAgent::default());
    let chat = api.conversation().await;
    let asked = ask(&api, &chat, "ask").await;
    let last = &asked.last().unwrap().data;
    assert_eq!(last["outcome"]["type"], "interrupt");
    let interrupt = last["outcome"]["interrupts"][0]["id"].clone();

    let turn = format!("/chats/{chat}/turns/{}", turn_of(&asked));
    let answer = |interrupt: &Value| {
        let body = json!({"interrupt_id": interrupt, "answer": "the red one"}).to_string();
        let request = streaming(Request::post(format!("{turn}/resume")));
        request.body(body.into()).unwrap()
    };
    let stale = api.request(answer(&json!(chat))).await;
    assert_eq!(stale.problem(), "not-asked");
    let response = api.router.clone().oneshot(answer(&interrupt)).await;
    let events = collect(response.unwrap()).await.unwrap();
    let begin = ["RUN_STARTED", "STATE_SNAPSHOT", "STEP_STARTED tools"];
    assert_eq!(outline(&events)[..3], begin);
    assert_eq!(text(&events), "the red one");
    let all = watch(&api, &format!("{turn}/events"), None).await.unwrap();
    assert_eq!(all, [asked, events].concat());
    let again = api.request(answer(&interrupt)).await;
    assert_eq!(again.problem(), "not-asked");
}

#[tokio::test]
async fn a_message_that_is_refused_is_a_problem_and_no_stream() {
    let api = Api::new(ScriptedAgent::hanging_after(0));
    let chat = api.conversation().await;
    let path = format!("/chats/{chat}/messages");
    let empty = api.request(post(&path, "", None)).await;
    assert_eq!(empty.invalid_field(), "content");
    let (api, path) = (Arc::new(api), Arc::new(path));
    let running = {
        let (api, path) = (Arc::clone(&api), Arc::clone(&path));
        tokio::spawn(async move { api.request(post(&path, "hi", None)).await })
    };
    until(async || api.rows().await.2 == 1).await;
    let busy = api.request(post(&path, "hi", None)).await;
    assert_eq!(
        (busy.status, busy.problem()),
        (StatusCode::CONFLICT, "turn-running")
    );
    running.abort();
}

#[tokio::test]
async fn a_turn_that_fails_tells_why() {
    let api = Api::new(ScriptedAgent::default());
    let chat = api.conversation().await;
    for (question, code, message) in [
        ("refuse", "agent-failed", "the model refused: no such model"),
        (
            "unavailable",
            "agent-unavailable",
            "the model is unavailable: too many requests",
        ),
        ("panic", "agent-failed", "the agent crashed"),
    ] {
        let events = ask(&api, &chat, question).await;
        let expected = [
            "RUN_STARTED",
            "STATE_SNAPSHOT",
            "STEP_STARTED agent",
            "STEP_FINISHED agent",
            "RUN_ERROR",
        ];
        assert_eq!(outline(&events), expected);
        let error = &events.last().unwrap().data;
        assert_eq!(
            (&error["code"], &error["message"]),
            (&json!(code), &json!(message))
        );
    }
}

#[tokio::test]
async fn a_turn_that_asks_a_person_goes_on_in_the_same_stream() {
    let api = Api::new(ScriptedAgent::default());
    let chat = api.conversation().await;
    let events = ask(&api, &chat, "ask").await;
    let asked = &events.last().unwrap().data;
    assert_eq!(
        (&asked["type"], &asked["outcome"]["type"]),
        (&json!("RUN_FINISHED"), &json!("interrupt"))
    );
    let question = &asked["outcome"]["interrupts"][0];
    assert_eq!(question["message"], "Which one?");
    let turn = turn_of(&events);
    let answer = json!({"interrupt_id": question["id"], "answer": "the red one"});
    let resumed = api
        .post(&format!("/chats/{chat}/turns/{turn}/resume"), answer)
        .await;
    assert_eq!(resumed.status, StatusCode::OK, "{}", resumed.body);

    let path = format!("/chats/{chat}/turns/{turn}/events");
    let rest = watch(&api, &path, Some(&events.last().unwrap().id))
        .await
        .unwrap();
    let begin = ["RUN_STARTED", "STATE_SNAPSHOT", "STEP_STARTED tools"];
    assert_eq!(outline(&rest)[..3], begin);
    assert_eq!(rest.last().unwrap().data["result"], resumed.body);
    let all = watch(&api, &path, None).await.unwrap();
    assert_eq!(all, [events, rest].concat());
}

#[tokio::test]
async fn a_cancelled_turn_ends_its_streams() {
    let api = Arc::new(Api::new(ScriptedAgent::hanging_after(0)));
    let chat = api.conversation().await;
    let watching = {
        let (api, chat) = (Arc::clone(&api), chat.clone());
        tokio::spawn(async move { ask(&api, &chat, "hi").await })
    };
    let turn = running_turn(&api).await;
    let cancelled = api
        .post(&format!("/chats/{chat}/turns/{turn}/cancel"), json!({}))
        .await;
    assert_eq!(cancelled.status, StatusCode::OK, "{}", cancelled.body);
    let events = watching.await.unwrap();
    let expected = [
        "RUN_STARTED",
        "STATE_SNAPSHOT",
        "STEP_STARTED agent",
        "STEP_FINISHED agent",
        "RUN_FINISHED",
    ];
    assert_eq!(outline(&events), expected);
    assert_eq!(events[4].data["outcome"], json!({"type": "cancelled"}));
}

#[tokio::test]
async fn a_turn_that_is_cancelled_while_nobody_works_on_it_ends_its_streams() {
    let agent = ScriptedAgent::default();
    let permits = Arc::clone(&agent.permits);
    let api = Arc::new(Api::new(agent));
    let chat = api.conversation().await;
    let asked = ask(&api, &chat, "ask").await;
    permits.forget_permits(permits.available_permits());
    let cancel = async |turn: &str| {
        let path = format!("/chats/{chat}/turns/{turn}");
        let cancelled = api.post(&format!("{path}/cancel"), json!({})).await;
        assert_eq!(cancelled.status, StatusCode::OK, "{}", cancelled.body);
        watch(&api, &format!("{path}/events"), None).await.unwrap()
    };
    let cancelled = cancel(&turn_of(&asked)).await;
    assert_eq!(cancelled[..asked.len()], asked);
    let rest = ["RUN_STARTED", "TOOL_CALL_RESULT ask_1", "RUN_FINISHED"];
    assert_eq!(outline(&cancelled[asked.len()..]), rest);

    let send = |content: &'static str| {
        let (api, chat) = (Arc::clone(&api), chat.clone());
        tokio::spawn(async move {
            let body = json!({"content": content, "on_busy": "enqueue"});
            let path = format!("/chats/{chat}/messages");
            api.post(&path, body).await
        })
    };
    let running = send("one");
    until(async || api.rows().await.2 == 2).await;
    let queued = send("two");
    until(async || api.rows().await.2 == 3).await;
    let cancelled = cancel(&last_turn(&api).await.to_string()).await;
    assert_eq!(outline(&cancelled), ["RUN_STARTED", "RUN_FINISHED"]);
    assert_eq!(queued.await.unwrap().problem(), "turn-cancelled");
    running.abort();
}

#[tokio::test]
async fn a_queued_turn_is_watched_before_it_begins() {
    let agent = ScriptedAgent::hanging_after(0);
    let permits = Arc::clone(&agent.permits);
    let api = Arc::new(Api::new(agent));
    let chat = api.conversation().await;
    let sent = |content: &'static str| {
        let (api, chat) = (Arc::clone(&api), chat.clone());
        tokio::spawn(async move {
            let body = json!({"content": content, "on_busy": "enqueue"});
            let request = streaming(Request::post(format!("/chats/{chat}/messages")));
            let response = api
                .router
                .clone()
                .oneshot(request.body(Body::from(body.to_string())).unwrap());
            collect(response.await.unwrap()).await.unwrap()
        })
    };
    let first = sent("one");
    until(async || api.rows().await.2 == 1).await;
    let second = sent("two");
    until(async || api.rows().await.2 == 2).await;
    permits.add_permits(100);
    assert_eq!(
        text(&first.await.unwrap()),
        "one: result-a result-b result-c"
    );
    assert_eq!(
        text(&second.await.unwrap()),
        "two: result-a result-b result-c"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_the_turn() {
    let agent = ScriptedAgent::hanging_after(1);
    let permits = Arc::clone(&agent.permits);
    let api = Api::new(agent);
    let chat = api.conversation().await;
    let path = format!("/chats/{chat}/messages");
    let mut response = api
        .router
        .clone()
        .oneshot(post(&path, "hi", None))
        .await
        .unwrap();
    assert!(response.body_mut().frame().await.unwrap().is_ok());
    drop(response);
    permits.add_permits(100);
    until(async || api.rows().await.1 == 2).await;
    let turn = last_turn(&api).await;
    let path = format!("/chats/{chat}/turns/{turn}/events");
    let events = watch(&api, &path, None).await.unwrap();
    assert_eq!(events.last().unwrap().data["type"], "RUN_FINISHED");
}

#[tokio::test]
async fn who_reads_nothing_holds_nobody_up() {
    let agent = ScriptedAgent::hanging_after(1);
    let permits = Arc::clone(&agent.permits);
    let api = Api::new(agent);
    let chat = api.conversation().await;
    let path = format!("/chats/{chat}/messages");
    let slow = api
        .router
        .clone()
        .oneshot(post(&path, "hi", None))
        .await
        .unwrap();
    permits.add_permits(100);
    let turn = last_turn(&api).await;
    let path = format!("/chats/{chat}/turns/{turn}/events");
    let events = watch(&api, &path, None).await.unwrap();
    assert_eq!(events.last().unwrap().data["type"], "RUN_FINISHED");
    assert_eq!(collect(slow).await.unwrap(), events);
}

#[tokio::test]
async fn a_stream_ends_with_its_conversation() {
    let agent = ScriptedAgent::default();
    let api = Api::new(agent);
    let chat = api.conversation().await;
    let events = ask(&api, &chat, "ask").await;
    let path = format!("/chats/{chat}/turns/{}/events", turn_of(&events));
    let deleted = api.delete(&format!("/conversations/{chat}")).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    assert_eq!(watch(&api, &path, None).await, Err(StatusCode::NOT_FOUND));
}

#[tokio::test]
async fn events_that_are_not_kept_any_more_are_gone() {
    let api = Api::new(ScriptedAgent::default());
    let chat = api.conversation().await;
    let events = ask(&api, &chat, "hi").await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let deleted = api.storage.turn_store().forget_events(Duration::ZERO).await;
    assert!(deleted.unwrap() > 0);
    let path = format!("/chats/{chat}/turns/{}/events", turn_of(&events));
    let gone = api.get(&path).await;
    assert_eq!(
        (gone.status, gone.problem()),
        (StatusCode::GONE, "events-gone")
    );
}

/// Says `0` before it answers `1`.
struct Orator(&'static str, &'static str);

#[async_trait]
impl Agent for Orator {
    type State = ();

    async fn step(&self, context: &Context, _: &mut AgentState<()>) -> Result<Step, AgentError> {
        for part in self.0.split_inclusive(' ') {
            context.say(part).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        Ok(Step::Answer(self.1.to_owned()))
    }
}

#[tokio::test]
async fn what_an_agent_says_in_parts_is_told_in_parts() {
    let api = Api::of(Orator("Good day, ", "Good day, Ada.\0"));
    let chat = api.conversation().await;
    let events = ask(&api, &chat, "hi").await;
    let parts = events
        .iter()
        .filter(|event| event.data["type"] == "TEXT_MESSAGE_CONTENT");
    let parts: Vec<_> = parts.map(|event| event.data["delta"].clone()).collect();
    assert_eq!(parts, ["Good ", "day, ", "Ada.\u{fffd}"]);
    assert_eq!(text(&events), "Good day, Ada.\u{fffd}");
}

#[tokio::test]
async fn what_an_agent_takes_back_is_void() {
    let api = Api::of(Orator("Good day, ", "Hello."));
    let chat = api.conversation().await;
    let events = ask(&api, &chat, "hi").await;
    assert_eq!(text(&events), "Hello.");
    let starts = events
        .iter()
        .filter(|event| event.data["type"] == "TEXT_MESSAGE_START");
    assert_eq!(starts.count(), 2);
}

fn streaming(request: axum::http::request::Builder) -> axum::http::request::Builder {
    request
        .header("content-type", "application/json")
        .header("accept", "text/event-stream")
}

fn post(path: &str, content: &str, last_event_id: Option<&str>) -> Request<Body> {
    let mut request = streaming(Request::post(path));
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let body = json!({ "content": content }).to_string();
    request.body(body.into()).unwrap()
}

/// Sends a message, and collects the events of its turn.
async fn ask(api: &Api, chat: &str, content: &str) -> Vec<Event> {
    let path = format!("/chats/{chat}/messages");
    let response = api.router.clone().oneshot(post(&path, content, None)).await;
    collect(response.unwrap()).await.unwrap()
}

/// The events at `path`, or the status where there are none.
async fn watch(
    api: &Api,
    path: &str,
    last_event_id: Option<&str>,
) -> Result<Vec<Event>, StatusCode> {
    let mut request = Request::get(path);
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let request = request.body(Body::empty()).unwrap();
    collect(api.router.clone().oneshot(request).await.unwrap()).await
}

async fn collect(response: axum::response::Response) -> Result<Vec<Event>, StatusCode> {
    if response.status() != StatusCode::OK {
        return Err(response.status());
    }
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let events = parse(std::str::from_utf8(&body).unwrap());
    if events[0].data["type"] == "RUN_STARTED" {
        check_protocol(&events);
    }
    Ok(events)
}

/// What AG-UI's own client refuses: runs within runs, and what is begun and not ended, or ended and
/// not begun.
fn check_protocol(events: &[Event]) {
    let mut open: Vec<(&str, &Value)> = Vec::new();
    for event in events {
        let data = &event.data;
        let kind = data["type"].as_str().unwrap();
        let (kind, phase) = kind.rsplit_once('_').unwrap_or((kind, ""));
        let name = match kind {
            "RUN" => &data["runId"],
            "STEP" => &data["stepName"],
            "TEXT_MESSAGE" => &data["messageId"],
            "TOOL_CALL" => &data["toolCallId"],
            _ => &Value::Null,
        };
        let is_open = open.contains(&(kind, name));
        match (kind, phase) {
            ("RUN", "STARTED") => {
                assert!(open.is_empty(), "{open:?} at {event:?}");
                open.push((kind, name));
            }
            ("RUN", _) => {
                let last = open.pop().map(|(kind, _)| kind);
                assert!(
                    last == Some("RUN") && open.is_empty(),
                    "{open:?} at {event:?}"
                );
            }
            (_, "STARTED" | "START") => {
                assert!(!is_open && !open.is_empty(), "{open:?} at {event:?}");
                open.push((kind, name));
            }
            (_, "FINISHED" | "END") => {
                assert!(is_open, "{open:?} at {event:?}");
                open.retain(|entry| *entry != (kind, name));
            }
            (_, "CONTENT" | "ARGS") => assert!(is_open, "{open:?} at {event:?}"),
            _ => assert!(!open.is_empty(), "no run at {event:?}"),
        }
    }
}

/// Waits for what happens in other tasks.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    waited.expect("it does not happen");
}

async fn last_turn(api: &Api) -> TurnId {
    let turns = api.storage.turns();
    let query = ListQuery::filtered(TurnFilter::default());
    turns.list(&query).await.unwrap().items[0].id
}

async fn running_turn(api: &Api) -> TurnId {
    until(async || api.rows().await.2 == 1).await;
    last_turn(api).await
}

fn turn_of(events: &[Event]) -> String {
    events[0].data["runId"].as_str().unwrap().to_owned()
}

fn place(event: &Event) -> (u64, u64) {
    let (sequence, index) = event.id.split_once('-').unwrap();
    (sequence.parse().unwrap(), index.parse().unwrap())
}

fn find<'a>(events: &'a [Event], kind: &str) -> &'a Value {
    let found = events.iter().find(|event| event.data["type"] == kind);
    &found
        .unwrap_or_else(|| panic!("no {kind} in {:?}", outline(events)))
        .data
}

/// The types, with what they are about.
fn outline(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| {
        let data = &event.data;
        let about = data["stepName"].as_str().or(data["toolCallId"].as_str());
        let kind = data["type"].as_str().unwrap();
        about.map_or_else(|| kind.to_owned(), |about| format!("{kind} {about}"))
    };
    events.iter().map(line).collect()
}

/// What was said in all, without what is void.
fn text(events: &[Event]) -> String {
    let void: Vec<&Value> = events
        .iter()
        .filter(|event| event.data["name"] == "agentkit.discarded")
        .map(|event| &event.data["value"]["messageId"])
        .collect();
    let contents = events
        .iter()
        .filter(|event| event.data["type"] == "TEXT_MESSAGE_CONTENT");
    let counts = contents.filter(|event| !void.contains(&&event.data["messageId"]));
    counts
        .map(|event| event.data["delta"].as_str().unwrap())
        .collect()
}
