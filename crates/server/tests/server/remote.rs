//! An agent in another language, named in `agentkit.toml`: the example, as a program.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;

use crate::process::{Server, agentkit, request, text};

const SECRET: &str = "the secret";

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/remote_agent")
}

/// A program that ends with the test.
struct Program(Child);

impl Program {
    fn start(port: u16) -> Self {
        let python = std::env::var("AGENTKIT_TEST_PYTHON");
        let mut command = Command::new(python.expect("AGENTKIT_TEST_PYTHON is set by ./test"));
        command
            .args(["-m", "uvicorn", "agent:app", "--log-level", "error"])
            .args(["--port", &port.to_string()])
            .current_dir(example())
            .env("AGENT_SECRET", SECRET);
        Self(command.spawn().unwrap())
    }

    fn listening(port: u16) -> Self {
        let program = Self::start(port);
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return program;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("the agent does not listen");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn settings(port: u16) -> String {
    let settings = fs::read_to_string(example().join("agentkit.toml")).unwrap();
    settings.replace("9000", &port.to_string())
}

#[test]
fn in_the_terminal_a_call_is_approved_changed_and_refused_with_a_reason() {
    let directory = TempDir::new().unwrap();
    let port = free_port();
    fs::write(directory.path().join("agentkit.toml"), settings(port)).unwrap();
    let agent = Program::listening(port);
    let mut chat = agentkit(directory.path());
    let chat = chat.arg("chat").env("AGENT_SECRET", SECRET);
    let chat = chat.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut chat = chat.spawn().unwrap();
    let said = "gold\nreject: too dear\ncoffee\n\
                {\"approved\": true, \"arguments\": {\"article\": \"milk\"}}\ntea\napprove\n";
    let mut stdin = chat.stdin.take().unwrap();
    stdin.write_all(said.as_bytes()).unwrap();
    drop(stdin);
    let output = chat.wait_with_output().unwrap();
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}");
    let mut rest = shown.as_str();
    for expected in [
        "gold",
        "Error: a person has refused this call. too dear You have bought 0.",
        "coffee",
        r#"[A person has changed the arguments to {"article":"milk"}.]"#,
        "Paid for milk. You have bought 1.",
        "tea",
        "Paid for tea. You have bought 2.",
    ] {
        let Some((_, after)) = rest.split_once(expected) else {
            panic!("`{expected}` is not in `{rest}` of `{shown}`");
        };
        rest = after;
    }
    drop(agent);
}

#[test]
fn an_agent_of_the_settings_that_is_killed_in_a_turn_goes_on_with_it_once_it_is_back() {
    let directory = TempDir::new().unwrap();
    let port = free_port();
    let settings = settings(port) + "patience = 300\n";
    fs::write(directory.path().join("agentkit.toml"), settings).unwrap();

    let mut agent = Program::listening(port);
    let mut command = agentkit(directory.path());
    command.args(["--bind", "127.0.0.1:0"]);
    command.env("AGENT_SECRET", SECRET).stderr(Stdio::piped());
    let mut server = Server::spawn(&mut command);
    let log = BufReader::new(server.process.stderr.take().unwrap());

    let named = json!({"metadata": {"agent": "shop"}}).to_string();
    let (_, conversation) = server.request("POST /conversations", &named);
    let chat = conversation["id"].as_str().unwrap();
    let message = json!({"content": "tea"}).to_string();
    let (status, turn) = server.request(&format!("POST /chats/{chat}/messages"), &message);
    assert_eq!(status, 202, "{turn}");
    drop(agent);

    let id = turn["id"].as_str().unwrap();
    let approval = json!({"interrupt_id": turn["interrupt"]["id"], "answer": "approve"});
    let resume = format!("POST /chats/{chat}/turns/{id}/resume");
    let address = server.address.clone();
    let resumed = thread::spawn(move || request(&address, &resume, &approval.to_string()));
    let mut lines = log.lines().map(Result::unwrap);
    let asked_again = lines.find(|line| line.contains("another program is asked again"));
    assert!(asked_again.is_some());
    thread::spawn(move || lines.for_each(drop));

    agent = Program::start(port);
    let (status, answer) = resumed.join().unwrap().expect("an answer");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["content"], "Paid for tea. You have bought 1.");
    drop(agent);
}
