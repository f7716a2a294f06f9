//! Agents behind AG-UI: one of LangGraph by its own adapter, and the protocol against a local endpoint.

use std::{
    env,
    path::Path,
    process::{Child, Command},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::post};
use serde_json::{Value as Json, json};
use tokio::net::{TcpListener, TcpStream};
use yai_agentkit_agents::{
    agui::{AguiAgent, AguiState},
    remote::RemoteConfig,
};
use yai_agentkit_core::{
    Conversation, Message, Role, Stores, Turn, checkpoint::CheckpointerExt, memory::MemoryStorage,
};
use yai_agentkit_engine::{
    ClientInput, ClientTool, TurnEngine, TurnOutcome,
    agent::{Agent, AgentState, ChatMessage, Context, Step, ToolCall},
};

fn agent(port: u16) -> AguiAgent {
    let url = format!("http://127.0.0.1:{port}/").parse().unwrap();
    AguiAgent::new(RemoteConfig {
        secret: Some("the token".to_owned()),
        patience: Duration::from_secs(60),
        ..RemoteConfig::new(url)
    })
    .unwrap()
}

/// The graph as a program, which ends with the test.
struct Program(Child);

impl Program {
    async fn start(port: u16) -> Self {
        let python = env::var("AGENTKIT_TEST_PYTHON");
        let mut command = Command::new(python.expect("AGENTKIT_TEST_PYTHON is set by ./test"));
        command
            .args(["-m", "uvicorn", "agent:app", "--log-level", "error"])
            .args(["--port", &port.to_string()])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agui"));
        let program = Self(command.spawn().unwrap());
        for _ in 0..1200 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return program;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the graph does not listen");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Chat {
    storage: MemoryStorage,
    engine: TurnEngine,
    conversation: Conversation,
}

impl Chat {
    async fn with(port: u16) -> Self {
        let storage = MemoryStorage::default();
        let conversation = Conversation::titled("test");
        Self {
            engine: TurnEngine::new(Arc::new(storage.clone()), Arc::new(agent(port))),
            conversation: storage.conversations().add(conversation).await.unwrap(),
            storage,
        }
    }

    async fn send(&self, text: &str) -> TurnOutcome {
        let message = Message::new(self.conversation.id, Role::User, text);
        self.engine.send(message).await.unwrap()
    }

    async fn answer(&self, text: &str) -> String {
        let outcome = self.send(text).await;
        outcome.answer().expect("an answer").content
    }

    async fn reply(&self, turn: &Turn, answer: &str) -> String {
        let interrupt = turn.interrupt.as_ref().expect("a question").id;
        let conversation = self.conversation.id;
        let resumed = self
            .engine
            .resume(conversation, turn.id, interrupt, answer.to_owned());
        let outcome = resumed.await.unwrap().outcome().await.unwrap();
        outcome.answer().expect("an answer").content
    }
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn a_graph_of_langgraph_answers_asks_and_is_told_of_the_chat_when_it_was_killed() {
    let port = free_port().await;
    let program = Program::start(port).await;
    let chat = Chat::with(port).await;
    assert_eq!(chat.answer("hello").await, "I was told ['hello'] ");
    // A tool of its own is its own affair.
    let looked = chat.answer("look").await;
    assert!(looked.contains("'look', 'a tree'"), "{looked}");

    let TurnOutcome::Waiting(turn) = chat.send("ask").await else {
        panic!("it asks");
    };
    assert_eq!(turn.interrupt.as_ref().unwrap().question, "Which one?");
    let answer = chat.reply(&turn, "the red one").await;
    assert!(answer.contains("'answered the red one'"), "{answer}");

    drop(program);
    let again = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Program::start(port).await
    };
    let (answer, _program) = tokio::join!(chat.answer("and now?"), again);
    assert_eq!(answer, "I was told ['hello', 'look', 'ask', 'and now?'] ");
    let (checkpointer, thread) = (chat.storage.checkpointer(), chat.conversation.thread_id());
    let state = checkpointer.latest(&thread).await.unwrap();
    let state: AgentState<AguiState> = state.expect("a state");
    assert_eq!(state.own.state["runs"], 5);
    assert!(state.own.state.get("messages").is_none());
}

/// What an endpoint that gives these events once makes of a state, and what it is asked with.
async fn step(events: &[Json], state: &mut AgentState<AguiState>) -> (Result<Step, String>, Json) {
    let stream: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    let asked = Arc::new(Mutex::new(Json::Null));
    let kept = asked.clone();
    let answer = move |body: String| async move {
        *kept.lock().unwrap() = serde_json::from_str(&body).unwrap();
        ([(CONTENT_TYPE, "text/event-stream")], stream).into_response()
    };
    let app: Router = Router::new().route("/", post(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let step = agent(port).step(&Context::detached(), state).await;
    let asked = asked.lock().unwrap().clone();
    (step.map_err(|error| error.to_string()), asked)
}

fn said(role: Role, text: &str) -> ChatMessage {
    ChatMessage::new(role, text)
}

#[tokio::test]
async fn a_run_becomes_a_step_and_the_next_one_is_told_of_its_calls() {
    let finished = json!({"type": "RUN_FINISHED", "threadId": "t", "runId": "r"});
    let mut state = AgentState {
        messages: vec![said(Role::User, "pick")].into(),
        client: Arc::new(ClientInput {
            tools: vec![ClientTool {
                name: "pick".to_owned(),
                ..ClientTool::default()
            }],
            state: json!({"state": {"picked": -1}}),
            ..ClientInput::default()
        }),
        ..AgentState::default()
    };
    let calls = [
        json!({"type": "STATE_SNAPSHOT", "snapshot": {"picked": 0, "messages": []}}),
        json!({"type": "STATE_DELTA", "delta": [{"op": "replace", "path": "/picked", "value": 1}]}),
        json!({"type": "TEXT_MESSAGE_CHUNK", "messageId": "m1", "delta": "I pick"}),
        json!({"type": "TOOL_CALL_START", "toolCallId": "own", "toolCallName": "look", "parentMessageId": "m1"}),
        json!({"type": "TOOL_CALL_RESULT", "toolCallId": "own", "messageId": "m2", "content": "seen"}),
        json!({"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "pick", "parentMessageId": "m3"}),
        json!({"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": "{\"colour\":"}),
        json!({"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": "\"red\"}"}),
        json!({"type": "SOMETHING_NEW", "of": "a later day"}),
        finished.clone(),
    ];
    let (decided, asked) = step(&calls, &mut state).await;
    let call = ToolCall::new("c1", "pick", json!({"colour": "red"}));
    let expected = Step::ToolCalls {
        content: "I pick".to_owned(),
        calls: vec![call.clone()],
    };
    assert_eq!(decided.unwrap(), expected);
    // What the client has changed is taken over, once.
    assert_eq!(asked["state"], json!({"picked": -1}));
    assert_eq!(asked["tools"][0]["name"], "pick");
    assert_eq!(
        asked["messages"],
        json!([{"id": "0", "role": "user", "content": "pick"}])
    );
    assert_eq!(state.own.state, json!({"picked": 1}));

    state.messages.push(ChatMessage {
        tool_calls: vec![call],
        ..said(Role::Assistant, "I pick")
    });
    state.messages.push(ChatMessage {
        tool_call_id: Some("c1".to_owned()),
        ..said(Role::Tool, "picked")
    });
    let texts = [
        json!({"type": "TEXT_MESSAGE_CONTENT", "messageId": "m4", "delta": "Done"}),
        json!({"type": "TEXT_MESSAGE_CONTENT", "messageId": "m4", "delta": "."}),
        json!({"type": "TEXT_MESSAGE_CONTENT", "messageId": "m5", "delta": "Bye."}),
        finished,
    ];
    let (decided, asked) = step(&texts, &mut state).await;
    assert_eq!(decided.unwrap(), Step::Answer("Done.\n\nBye.".to_owned()));
    assert_eq!(asked["messages"][1]["id"], "m3");
    assert_eq!(asked["messages"][1]["toolCalls"][0]["id"], "c1");
    assert_eq!(asked["messages"][2]["toolCallId"], "c1");
    assert_eq!(asked["state"], json!({"picked": 1}));
}

#[tokio::test]
async fn a_run_that_fails_or_says_nothing_says_so() {
    let failed = json!({"type": "RUN_ERROR", "message": "no model"});
    let finished = json!({"type": "RUN_FINISHED", "threadId": "t", "runId": "r"});
    for (event, reason) in [
        (failed, "no model"),
        (finished, "its run has no text"),
        (json!({"no": "event"}), "its event is none"),
    ] {
        let mut state = AgentState {
            messages: vec![said(Role::User, "hello")].into(),
            ..AgentState::default()
        };
        let (decided, _) = step(&[event], &mut state).await;
        let failure = decided.unwrap_err();
        assert!(failure.contains(reason), "{failure}");
    }
}
