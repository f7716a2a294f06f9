//! Turns that a SIGKILL cuts short, between any two of their steps, on both databases.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Server, agentkit, text};

/// Two requests at once: a decision, two tools, the answer.
const QUESTION: &str = "My name is Ada. What is 17 * 23?";
/// With the checkpoint of the question.
const CHECKPOINTS: usize = 4;
/// How long a step takes where it is to be interrupted.
const STEP: &str = "1500";

/// A database that outlives its servers.
pub(crate) struct Installation {
    pub(crate) directory: TempDir,
    pub(crate) variables: Vec<(&'static str, String)>,
}

impl Installation {
    pub(crate) fn sqlite() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            variables: Vec::new(),
        }
    }

    /// A schema of its own, which goes with the server of `./test`.
    pub(crate) fn postgres() -> Self {
        let url = std::env::var("AGENTKIT_TEST_POSTGRES_URL");
        let url = url.expect("AGENTKIT_TEST_POSTGRES_URL is not set: run ./test");
        let schema = format!("crash_{}", uuid::Uuid::new_v4().simple());
        Self {
            variables: vec![("DATABASE_URL", url), ("DB_SCHEMA", schema)],
            ..Self::sqlite()
        }
    }

    pub(crate) fn start(&self, step_delay: &str) -> Server {
        self.start_with(step_delay, "0.5")
    }

    /// With a lease of so many seconds.
    pub(crate) fn start_with(&self, step_delay: &str, lease: &str) -> Server {
        Server::spawn(&mut self.command(step_delay, lease))
    }

    pub(crate) fn command(&self, step_delay: &str, lease: &str) -> Command {
        let mut command: Command = agentkit(self.directory.path());
        command
            .args(["--bind", "127.0.0.1:0"])
            .env("AGENTKIT_STEP_DELAY", step_delay)
            .env("AGENTKIT_LEASE", lease)
            .env("RUST_LOG", "warn")
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

#[test]
fn a_turn_on_sqlite_survives_a_kill_between_any_two_steps() {
    survives_a_kill_between_any_two_steps(Installation::sqlite);
}

#[test]
fn a_turn_on_postgres_survives_a_kill_between_any_two_steps() {
    survives_a_kill_between_any_two_steps(Installation::postgres);
}

fn survives_a_kill_between_any_two_steps(installation: fn() -> Installation) {
    let undisturbed = {
        let installation = installation();
        let server = installation.start("0");
        let chat = new_chat(&server);
        assert_eq!(ask(&server.address, &chat, QUESTION).0, 200);
        Outcome::read(&server, &chat)
    };
    assert_eq!(undisturbed.checkpoints.len(), CHECKPOINTS);
    std::thread::scope(|scope| {
        for recorded in 1..CHECKPOINTS {
            let undisturbed = &undisturbed;
            scope.spawn(move || {
                survives_a_kill_after(recorded, &installation(), undisturbed);
            });
        }
    });
}

/// Kills the server once `recorded` checkpoints are stored and the next step is under way.
fn survives_a_kill_after(recorded: usize, installation: &Installation, undisturbed: &Outcome) {
    let mut server = installation.start(STEP);
    let chat = new_chat(&server);
    let before = std::thread::scope(|scope| {
        let (address, chat) = (server.address.clone(), &chat);
        let answer = scope.spawn(move || try_ask(&address, chat, QUESTION));
        let before = wait_for(|| {
            let checkpoints = checkpoints(&server, chat);
            (checkpoints.len() == recorded).then_some(checkpoints)
        });
        server.process.kill().unwrap();
        server.process.wait().unwrap();
        assert_eq!(
            answer.join().unwrap(),
            None,
            "the turn was over before the kill"
        );
        before
    });

    let server = installation.start("0");
    // Half of the turns are finished by the start alone, half when the chat is used at once.
    let next = recorded.is_multiple_of(2).then(|| {
        let ask = || {
            let (status, answer) = ask(&server.address, &chat, "What is my name?");
            assert!(matches!(status, 200 | 409), "{status}: {answer}");
            (status == 200).then_some(answer)
        };
        wait_for(ask)
    });
    let outcome = wait_for(|| {
        let outcome = Outcome::read(&server, &chat);
        (outcome.messages.len() == if next.is_some() { 4 } else { 2 }).then_some(outcome)
    });

    if let Some(answer) = next {
        assert_eq!(answer["content"], "Your name is Ada.");
    }
    assert_eq!(outcome.messages[..2], undisturbed.messages[..]);
    let turn = &outcome.checkpoints[..CHECKPOINTS];
    assert_eq!(
        turn[..recorded],
        before[..],
        "a recorded step is gone or came twice"
    );
    let values = |checkpoints: &[Checkpoint]| -> Vec<_> {
        checkpoints
            .iter()
            .map(|checkpoint| checkpoint.said.clone())
            .collect()
    };
    assert_eq!(values(turn), values(&undisturbed.checkpoints));
    let one_line = outcome
        .checkpoints
        .windows(2)
        .all(|pair| pair[1].parent.as_ref() == Some(&pair[0].id));
    assert!(one_line, "the thread has forked: {:?}", outcome.checkpoints);
}

/// What a client sees of a chat.
#[derive(Debug)]
struct Outcome {
    /// Role and content, oldest first.
    messages: Vec<(String, String)>,
    checkpoints: Vec<Checkpoint>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Checkpoint {
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
    /// The agent's messages, tool calls and results included.
    said: Value,
}

impl Outcome {
    fn read(server: &Server, chat: &str) -> Self {
        let (_, page) = server.request(&format!("GET /conversations/{chat}/messages"), "");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let items = page["items"].as_array().unwrap().iter();
        Self {
            messages: items
                .map(|item| (text(&item["role"]), text(&item["content"])))
                .collect(),
            checkpoints: checkpoints(server, chat),
        }
    }
}

/// Oldest first.
pub(crate) fn checkpoints(server: &Server, chat: &str) -> Vec<Checkpoint> {
    let history = server.history(chat);
    let oldest_first = history.iter().rev();
    oldest_first
        .map(|item| Checkpoint {
            id: item["checkpoint_id"].as_str().unwrap().to_owned(),
            parent: item["parent_checkpoint_id"].as_str().map(str::to_owned),
            said: item["values"]["messages"].clone(),
        })
        .collect()
}

pub(crate) fn new_chat(server: &Server) -> String {
    let (_, conversation) = server.request("POST /conversations", "{}");
    conversation["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_chat_in_the_terminal_says_that_it_waits_for_another_process() {
    let installation = Installation::sqlite();
    let server = installation.start(STEP);
    let chat = new_chat(&server);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ask(&server.address, &chat, QUESTION));
        wait_for(|| (!server.history(&chat).is_empty()).then_some(()));
        let mut command = installation.command("0", "0.5");
        command.args(["chat", "--conversation", &chat, "What is 2 + 3?"]);
        let second = command.output().unwrap();
        let (out, error) = (text(&second.stdout), text(&second.stderr));
        let waits = "Another process works on a turn here: waiting for it, or its lease.";
        assert!(second.status.success() && error.contains(waits), "{error}");
        assert_eq!(out, "2 + 3 = 5.\n");
        assert_eq!(first.join().unwrap().0, 200);
    });
}

fn ask(address: &str, chat: &str, content: &str) -> (u16, Value) {
    try_ask(address, chat, content).expect("an answer")
}

/// `None` where the server dies over it.
fn try_ask(address: &str, chat: &str, content: &str) -> Option<(u16, Value)> {
    let body = json!({"content": content}).to_string();
    crate::process::request(address, &format!("POST /chats/{chat}/messages"), &body)
}

pub(crate) fn wait_for<T>(attempt: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::sleep(Duration::from_millis(10));
    }
}
