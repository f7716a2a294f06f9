//! Remote agents: the protocol against a local endpoint, and the examples as programs.

use std::{
    collections::VecDeque,
    env,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::StreamExt;
use serde_json::{Value as Json, json};
use tokio::net::{TcpListener, TcpStream};
use yai_agentkit_agents::remote::{RemoteAgent, RemoteConfig, SIGNATURE, signature};
use yai_agentkit_core::{Conversation, Message, Role, Stores, Turn, memory::MemoryStorage};
use yai_agentkit_engine::{TurnEngine, TurnError, TurnEvent, TurnOutcome};

const SECRET: &str = "the secret";

/// What the endpoint answers; with a status of 0 it breaks the connection.
type Reply = (u16, &'static str);

/// Answers what it is told to, and keeps what it was asked.
#[derive(Clone, Default)]
struct Endpoint {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    asked: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Endpoint {
    /// A chat with a remote agent that gives these answers, one after the other.
    async fn chat(replies: &[Reply]) -> (Self, Chat) {
        let endpoint = Self::default();
        endpoint.replies.lock().unwrap().extend(replies);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let app = Router::new()
            .route("/", post(reply))
            .with_state(endpoint.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (endpoint, Chat::with(&url).await)
    }

    fn bodies(&self) -> Vec<Json> {
        let asked = self.asked.lock().unwrap();
        let bodies = asked
            .iter()
            .map(|(_, body)| serde_json::from_slice(body).unwrap());
        bodies.collect()
    }

    fn keys(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let key = |(headers, _): &(HeaderMap, Bytes)| {
            headers["idempotency-key"].to_str().unwrap().to_owned()
        };
        asked.iter().map(key).collect()
    }
}

async fn reply(State(endpoint): State<Endpoint>, headers: HeaderMap, body: Bytes) -> Response {
    endpoint.asked.lock().unwrap().push((headers, body));
    let reply = endpoint.replies.lock().unwrap().pop_front();
    let (status, body) = reply.expect("an answer is left");
    if status == 0 {
        let broken = async {
            // What was said before goes out first.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Err(std::io::Error::other("broken"))
        };
        let said = futures::stream::iter([Ok(Bytes::from(body))]);
        let broken = said.chain(futures::stream::once(broken));
        return axum::body::Body::from_stream(broken).into_response();
    }
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

struct Chat {
    storage: MemoryStorage,
    engine: TurnEngine,
    conversation: Conversation,
}

impl Chat {
    async fn with(url: &str) -> Self {
        let storage = MemoryStorage::default();
        let conversation = Conversation::titled("test");
        let agent = RemoteAgent::new(RemoteConfig {
            secret: Some(SECRET.to_owned()),
            ..RemoteConfig::new(url.parse().unwrap())
        });
        Self {
            engine: TurnEngine::new(Arc::new(storage.clone()), Arc::new(agent.unwrap())),
            conversation: storage.conversations().add(conversation).await.unwrap(),
            storage,
        }
    }

    async fn send(&self, text: &str) -> Result<TurnOutcome, TurnError> {
        let message = Message::new(self.conversation.id, Role::User, text);
        self.engine.send(message).await
    }

    async fn answer(&self, text: &str) -> String {
        let outcome = self.send(text).await.unwrap();
        outcome.answer().expect("an answer").content
    }

    async fn reply(&self, turn: &Turn, answer: &str) -> TurnOutcome {
        let interrupt = turn.interrupt.as_ref().expect("a question").id;
        let conversation = self.conversation.id;
        let resumed = self
            .engine
            .resume(conversation, turn.id, interrupt, answer.to_owned());
        resumed.await.unwrap().outcome().await.unwrap()
    }

    /// All that was said in the turn, taken back or not.
    async fn said(&self) -> String {
        let all = yai_agentkit_core::ListQuery::default();
        let turn = self
            .storage
            .turns()
            .list(&all)
            .await
            .unwrap()
            .items
            .remove(0);
        let turns = self.storage.turn_store();
        let batches = turns
            .events(self.conversation.id, turn.id, 0, 1000)
            .await
            .unwrap();
        let messages = self.storage.messages();
        let answer = messages
            .get(&self.conversation.id.key(turn.answer_id()))
            .await;
        let answer = answer.unwrap();
        let events = batches.into_iter().flat_map(|batch| batch.events);
        let events = TurnEvent::read(events.collect(), answer.as_ref());
        let said = events.into_iter().filter_map(|event| match event {
            TurnEvent::TextSaid { delta, .. } => Some(delta),
            _ => None,
        });
        said.collect()
    }
}

#[tokio::test]
async fn a_turn_is_driven_step_by_step_with_its_state_and_each_request_is_signed() {
    let (endpoint, chat) = Endpoint::chat(&[
        (
            200,
            r#"{"content": "I look.", "tool_calls": [{"id": "a", "name": "look", "arguments": {"at": 1},
                "traits": {"is_repeatable": true}}, {"name": "buy"}], "state": {"seen": []}}"#,
        ),
        (200, r#"{"result": "seen", "patch": [{"op": "add", "path": "/seen/-", "value": 1}]}"#),
        (200, r#"{"result": "seen", "patch": [{"op": "add", "path": "/seen/-", "value": 1}]}"#),
        (200, "{\"delta\": \"It \"}\n{\"delta\": \"is\"}\n{\"answer\": \"It is done.\"}\n"),
    ])
    .await;
    assert_eq!(chat.answer("go").await, "It is done.");
    let bodies = endpoint.bodies();
    let kinds: Vec<_> = bodies
        .iter()
        .map(|body| body["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["step", "tool", "tool", "step"]);
    assert_eq!(bodies[0]["messages"][0]["content"], "go");
    assert_eq!(bodies[0]["conversation_id"], json!(chat.conversation.id));
    assert_eq!(bodies[3]["state"], json!({"seen": [1, 1]}));
    assert_eq!(bodies[3]["messages"].as_array().unwrap().len(), 4);
    assert_eq!(chat.said().await, "I look.It is done.");
    for (headers, body) in &*endpoint.asked.lock().unwrap() {
        let signed = headers[SIGNATURE].to_str().unwrap();
        let seconds = signed[2..].split_once(',').unwrap().0.parse().unwrap();
        assert_eq!(signed, signature(SECRET, seconds, body));
    }
    // By another program: printf '1.{}' | openssl dgst -sha256 -hmac key
    assert_eq!(
        signature("key", 1, b"{}"),
        "t=1,v1=1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224"
    );
}

#[tokio::test]
async fn a_step_is_asked_for_again_by_its_key_until_it_comes_whole() {
    let (endpoint, chat) = Endpoint::chat(&[
        (503, "starting"),
        (0, "{\"delta\": \"It is\"}\n{\"ans"),
        (
            200,
            "{\"delta\": \"It\"}\n{\"delta\": \" is done.\"}\n{\"answ",
        ),
        (200, "{\"delta\": \"It is\"}\n{\"answer\": \"It is done.\"}"),
    ])
    .await;
    assert_eq!(chat.answer("hi").await, "It is done.");
    let keys = endpoint.keys();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(keys.len(), 4);
    assert_eq!(chat.said().await, "It is done.");
}

#[tokio::test]
async fn a_tool_that_may_have_taken_effect_is_not_asked_for_again_and_one_that_is_repeatable_is() {
    const BUY: &str = r#"{"tool_calls": [{"id": "buy", "name": "buy"}]}"#;
    const LOOK: &str =
        r#"{"tool_calls": [{"id": "a", "name": "look", "traits": {"is_repeatable": true}}]}"#;
    let done = (200, r#"{"answer": "done"}"#);
    for broken in [
        (0, "{\"res"),
        (503, "overloaded"),
        (200, "{\"result\": \"bo"),
    ] {
        let (endpoint, chat) = Endpoint::chat(&[(200, BUY), broken, done]).await;
        assert_eq!(chat.answer("buy").await, "done");
        let result = endpoint.bodies()[2]["messages"][2]["content"].to_string();
        assert!(
            result.contains("whether the tool has taken effect is not known"),
            "{result}"
        );
        assert_eq!(endpoint.keys().len(), 3);
    }
    let (endpoint, chat) = Endpoint::chat(&[
        (200, LOOK),
        (503, "overloaded"),
        (200, r#"{"result": "seen"}"#),
        done,
    ])
    .await;
    assert_eq!(chat.answer("look").await, "done");
    let keys = endpoint.keys();
    assert_eq!(keys[1], keys[2]);
    assert_eq!(endpoint.bodies()[3]["messages"][2]["content"], "seen");
}

#[tokio::test]
async fn nonsense_fails_the_turn_with_a_reason() {
    for (reply, reason) in [
        ((200, "{}"), "its step has not one of"),
        (
            (200, r#"{"answer": "a", "ask": "b"}"#),
            "its step has not one of",
        ),
        ((200, "<html>"), "its answer is no step"),
        (
            (200, r#"{"answer": "a", "state": [1]}"#),
            "its state is no object",
        ),
        (
            (
                200,
                r#"{"answer": "a", "patch": [{"op": "remove", "path": "/b"}]}"#,
            ),
            "its patch does not fit",
        ),
        ((401, "who are you?"), "401 Unauthorized: who are you?"),
    ] {
        let (endpoint, chat) = Endpoint::chat(&[reply]).await;
        let failed = chat.send("hi").await.unwrap_err().to_string();
        assert!(failed.contains(reason), "{failed}");
        assert_eq!(endpoint.keys().len(), 1);
    }
}

/// A program that is ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/remote_agent")
        .join(name)
}

async fn start(port: u16, mut command: Command) -> Program {
    let command = command
        .env("AGENT_SECRET", SECRET)
        .env("PORT", port.to_string());
    let program = Program(
        command
            .stdout(Stdio::null())
            .spawn()
            .expect("the program starts"),
    );
    for _ in 0..600 {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return program;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the program does not listen");
}

/// Buys tea, of which a person approves after the program has died and was started again.
async fn buy(program: impl Fn(u16) -> Command) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let chat = Chat::with(&format!("http://127.0.0.1:{port}/")).await;
    let running = start(port, program(port)).await;
    let outcome = chat.send("tea").await.unwrap();
    let TurnOutcome::Waiting(turn) = outcome else {
        panic!("{outcome:?}");
    };
    let proposed = turn.interrupt.as_ref().unwrap().proposed.as_ref().unwrap();
    assert_eq!(proposed.arguments, json!({"article": "tea"}));
    drop(running);

    let _running = start(port, program(port)).await;
    let answer = chat.reply(&turn, "approve").await.answer().unwrap().content;
    assert_eq!(answer, "Paid for tea. You have bought 1.");

    let unsigned = reqwest::Client::new().post(format!("http://127.0.0.1:{port}/"));
    let unsigned = unsigned
        .header(SIGNATURE, signature("another", 1, b"{}"))
        .body("{}");
    assert_eq!(unsigned.send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn the_example_in_python_answers_and_forgets_nothing_when_it_dies() {
    let python = env::var("AGENTKIT_TEST_PYTHON").expect("AGENTKIT_TEST_PYTHON is set by ./test");
    buy(|port| {
        let mut command = Command::new(&python);
        command.args([
            "-m",
            "uvicorn",
            "agent:app",
            "--log-level",
            "error",
            "--port",
        ]);
        command.arg(port.to_string()).current_dir(example(""));
        command
    })
    .await;
}

#[tokio::test]
async fn the_example_in_javascript_answers_and_forgets_nothing_when_it_dies() {
    buy(|_| {
        let mut command = Command::new("node");
        command.arg(example("agent.mjs"));
        command
    })
    .await;
}
