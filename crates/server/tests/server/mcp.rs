//! A model and a server of MCP, named in `agentkit.toml`, and an AgentKit that is killed again and again.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::State, routing::post};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Server, agentkit};

const CALLS: usize = 100;
/// Bytes that each call is to say, which the server says again.
const BYTES: usize = 4_000;

/// A model that calls `echo` so often, each time with the next number. It tells of every tenth call,
/// and answers then once it is asked for it again.
#[derive(Clone)]
struct Model {
    told: Arc<Mutex<(usize, mpsc::Sender<usize>)>>,
}

async fn complete(State(model): State<Model>, Json(request): Json<Value>) -> Json<Value> {
    let answer = |message: Value, reason: &str| {
        Json(json!({"choices": [{"message": message, "finish_reason": reason}]}))
    };
    if request["tools"].is_null() {
        return answer(json!({"content": "They count."}), "stop");
    }
    let messages = request["messages"].as_array().unwrap();
    let counted = messages.iter().rev().find_map(|message| {
        let content = message["content"].as_str()?;
        let (number, _) = content.strip_prefix("Echo: ")?.split_once(' ')?;
        number.parse::<usize>().ok()
    });
    let counted = counted.unwrap_or(0);
    let is_new_tenth = {
        let mut told = model.told.lock().unwrap();
        let is_new = counted > told.0 && counted.is_multiple_of(10);
        if is_new {
            told.0 = counted;
            told.1.send(counted).unwrap();
        }
        is_new
    };
    if is_new_tenth && counted < CALLS {
        // Who has asked is killed meanwhile.
        std::future::pending::<()>().await;
    }
    if counted == CALLS {
        return answer(json!({"content": "Counted."}), "stop");
    }
    let said = format!("{} {}", counted + 1, "x".repeat(BYTES));
    let arguments = json!({"message": said}).to_string();
    let function = json!({"name": "every__echo", "arguments": arguments});
    let calls =
        json!([{"id": format!("call_{counted}"), "type": "function", "function": function}]);
    answer(json!({"content": null, "tool_calls": calls}), "tool_calls")
}

/// The bytes of the database of a directory.
fn stored(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let files = files.filter(|file| file.file_name().to_string_lossy().starts_with("test.db"));
    files.map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn a_turn_of_a_hundred_calls_by_mcp_survives_a_kill_at_every_tenth() {
    let modules = std::env::var("AGENTKIT_TEST_NODE_MODULES");
    let modules = modules.expect("AGENTKIT_TEST_NODE_MODULES is set by ./test");
    let (sender, tenths) = mpsc::channel();
    let told = Arc::new(Mutex::new((0, sender)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listener.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let app = Router::new()
        .route("/v1/chat/completions", post(complete))
        .with_state(Model { told });
    runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });

    let directory = TempDir::new().unwrap();
    let settings = format!(
        "agent = 'openai'
        max_steps = 1000
        max_attempts = 100
        [openai]
        base_url = '{base_url}'
        context_tokens = 20000
        [mcp.every]
        command = ['node', '{modules}/@modelcontextprotocol/server-everything/dist/index.js']
        tools = ['echo']"
    );
    fs::write(directory.path().join("agentkit.toml"), settings).unwrap();
    let start = || {
        let mut command = agentkit(directory.path());
        command.args(["--bind", "127.0.0.1:0", "--log", "warn"]);
        command.env("PATH", std::env::var_os("PATH").unwrap());
        Server::spawn(&mut command)
    };
    let mut server = start();
    let (_, conversation) = server.request("POST /conversations", "{}");
    let chat = conversation["id"].as_str().unwrap().to_owned();
    let address = server.address.clone();
    let send = format!("POST /chats/{chat}/messages");
    let message = json!({"content": "Count to 100."}).to_string();
    let sent = thread::spawn(move || crate::process::request(&address, &send, &message));

    let mut kills = 0;
    loop {
        let counted = tenths
            .recv_timeout(Duration::from_secs(120))
            .expect("the turn goes on");
        if counted == CALLS {
            break;
        }
        server.signal("-KILL");
        server = start();
        kills += 1;
    }
    assert_eq!((kills, sent.join().unwrap()), (9, None));
    let read = format!("GET /conversations/{chat}/messages");
    let deadline = Instant::now() + Duration::from_secs(60);
    let answer = loop {
        let (_, messages) = server.request(&read, "");
        if let Some(answer) = messages["items"].get(1) {
            break answer.clone();
        }
        assert!(Instant::now() < deadline, "no answer");
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(answer["content"], "Counted.");

    let (_, state) = server.request(&format!("GET /chats/{chat}/state"), "");
    let messages = state["values"]["messages"].as_array().unwrap();
    let results = messages.iter().filter(|message| message["role"] == "tool");
    let numbers = results.map(|result| {
        let content = result["content"].as_str().unwrap();
        assert_eq!(content.len(), content.find('x').unwrap() + BYTES);
        content["Echo: ".len()..content.find('x').unwrap()]
            .trim()
            .parse()
            .unwrap()
    });
    assert_eq!(
        numbers.collect::<Vec<usize>>(),
        (1..=CALLS).collect::<Vec<_>>()
    );
    assert!(
        state["values"]["state"]["summary"]["covers"].as_u64() > Some(100),
        "{state}"
    );
    server.signal("-TERM");
    assert_eq!(server.exit_code(), Some(0));
    let new = 2 * CALLS * BYTES;
    println!(
        "{} bytes stored for {new} new ones",
        stored(directory.path())
    );
}
