//! `agentkit chat` and the lists with a server in place of the database.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::{
    binary::conversation,
    process::{Server, agentkit, run, text},
    support::{Api, ScriptedAgent},
};

/// `agentkit` beside a database of its own, which it must not make.
struct Client {
    directory: TempDir,
    server: String,
}

impl Client {
    fn of(server: &Server) -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            server: format!("http://{}", server.address),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = agentkit(self.directory.path());
        command.args(arguments).args(["--server", &self.server]);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let left = std::fs::read_dir(self.directory.path()).unwrap().count();
        assert!(left == 0 || std::thread::panicking(), "{left} files");
    }
}

/// A server whose turns take this long, and whose leases a second.
fn slow(directory: &Path, bind: &str, milliseconds: &str) -> Server {
    let mut command = agentkit(directory);
    command
        .args(["--bind", bind, "--lease", "1"])
        .env("AGENTKIT_STEP_DELAY", milliseconds);
    Server::spawn(&mut command)
}

/// All that a program can tell apart.
fn seen(output: &Output) -> (Option<i32>, String, String) {
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    (output.status.code(), out, error)
}

#[test]
fn a_server_in_place_of_the_database_shows_the_same() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let client = Client::of(&server);
    let first = client.run(&["chat", "My name is Ada."]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert_eq!(text(&first.stdout).lines().count(), 1);
    let id = conversation(&first);
    let mut chat = client
        .command(&["chat", "--conversation", &id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = chat.stdin.take().unwrap();
    let lines = "What is my name?\n\nWhat is 2 + 3?\n";
    stdin.write_all(lines.as_bytes()).unwrap();
    drop(stdin);
    let answers = chat.wait_with_output().unwrap();
    assert_eq!(answers.status.code(), Some(0));
    let answers = text(&answers.stdout);
    assert!(answers.lines().next().unwrap().contains("Ada"), "{answers}");
    assert!(answers.lines().last().unwrap().contains('5'), "{answers}");
    assert!(client.run(&["chat", "hello"]).status.success());
    assert_eq!(
        text(&client.run(&["messages", &id]).stdout).lines().count(),
        6
    );

    let unknown = "01900000-0000-7000-8000-000000000000";
    for arguments in [
        vec!["conversations"],
        vec!["conversations", "--search", "2 what"],
        vec!["messages", &id],
        vec!["turns", &id],
        vec!["threads"],
        vec!["messages", unknown],
        vec!["turns", unknown],
        vec!["chat", "--conversation", unknown, "hi"],
        vec!["messages", "abc"],
    ] {
        let mut ways = vec![arguments.clone()];
        if arguments[0] != "chat" {
            ways.push([&arguments[..], &["--json"]].concat());
            ways.push([&arguments[..], &["--limit", "1"]].concat());
            ways.push([&arguments[..], &["--limit", "2000"]].concat());
        }
        for arguments in ways {
            // What was said is in its index a moment later; this takes it in at once.
            let expected = seen(&run(directory.path(), &arguments));
            assert_eq!(seen(&client.run(&arguments)), expected, "{arguments:?}");
        }
    }
    for (arguments, count) in [
        (vec!["conversations"], 2),
        (vec!["messages", &id], 6),
        (vec!["turns", &id], 3),
        (vec!["threads"], 2),
    ] {
        let (mut after, mut lines) = (Vec::new(), 0);
        loop {
            let page = [&arguments[..], &["--limit", "1", "--json"], &after].concat();
            let page = client.run(&page);
            lines += text(&page.stdout).lines().count();
            let error = text(&page.stderr);
            let Some((_, cursor)) = error.split_once("--after ") else {
                break;
            };
            after = vec!["--after", cursor.trim().to_owned().leak()];
            assert!(lines < count, "{arguments:?} has no end");
        }
        assert_eq!(lines, count, "{arguments:?}");
        let wrong = client.run(&[&arguments[..], &["--after=abc"]].concat());
        assert_eq!(wrong.status.code(), Some(2), "{arguments:?}");
        let error = text(&wrong.stderr);
        assert!(
            error.starts_with("error: --after: is no place in this list"),
            "{error}"
        );
    }
}

#[test]
fn a_chat_with_a_server_goes_on_where_the_server_is_killed() {
    let directory = TempDir::new().unwrap();
    let server = slow(directory.path(), "127.0.0.1:0", "1500");
    let (client, address) = (Client::of(&server), server.address.clone());
    let mut chat = client.command(&["chat", "What is 2 + 3?"]);
    let mut chat = chat
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut error = BufReader::new(chat.stderr.take().unwrap());
    let mut line = String::new();
    error.read_line(&mut line).unwrap();
    let id = line.split([' ', ';']).nth(1).unwrap().to_owned();
    let turns = || text(&client.run(&["turns", &id]).stdout);
    assert!((0..1000).any(|_| turns().contains("running")), "no turn");
    server.signal("-KILL");
    server.exit_code();
    line.clear();
    error.read_line(&mut line).unwrap();
    assert_eq!(line, "The server went away: waiting for it.\n");
    let _server = slow(directory.path(), &address, "0");
    let mut said = String::new();
    let mut out = chat.stdout.take().unwrap();
    out.read_to_string(&mut said).unwrap();
    assert_eq!(chat.wait().unwrap().code(), Some(0), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains('5'), "{said}");
    assert_eq!(
        text(&client.run(&["messages", &id]).stdout).lines().count(),
        2
    );
}

#[test]
fn an_interrupt_cancels_the_turn_on_the_server() {
    let directory = TempDir::new().unwrap();
    let server = slow(directory.path(), "127.0.0.1:0", "60000");
    let client = Client::of(&server);
    let mut chat = client.command(&["chat", "What is 2 + 3?"]);
    let mut chat = chat.stderr(Stdio::piped()).spawn().unwrap();
    let mut error = BufReader::new(chat.stderr.take().unwrap());
    let mut line = String::new();
    error.read_line(&mut line).unwrap();
    let id = line.split([' ', ';']).nth(1).unwrap().to_owned();
    let turns = || text(&client.run(&["turns", &id]).stdout);
    assert!((0..1000).any(|_| turns().contains("running")), "no turn");
    let process = chat.id().to_string();
    let sent = Command::new("kill").args(["-INT", &process]).status();
    assert!(sent.unwrap().success());
    assert_eq!(chat.wait().unwrap().code(), Some(1));
    line.clear();
    error.read_to_string(&mut line).unwrap();
    assert!(line.contains("cancelled"), "{line}");
    assert!(turns().contains("cancelled"), "{}", turns());
}

#[test]
fn a_key_is_shown_to_the_server_and_what_is_wrong_is_said() {
    let directory = TempDir::new().unwrap();
    let key = |arguments: &[&str]| {
        let made = run(
            directory.path(),
            &[&["keys", "create"], arguments, &["--json"]].concat(),
        );
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        made["key"].as_str().unwrap().to_owned()
    };
    let (all, adas) = (key(&["all"]), key(&["ada", "--owner", "ada"]));
    let server = Server::start(directory.path());
    let client = Client::of(&server);
    let by = |key: &str, arguments: &[&str]| {
        let mut command = client.command(arguments);
        command.env("AGENTKIT_API_KEY", key).output().unwrap()
    };
    let without = client.run(&["conversations"]);
    assert_eq!(without.status.code(), Some(1));
    assert!(text(&without.stderr).contains("AGENTKIT_API_KEY"));
    assert_eq!(
        by("agk_nonsense", &["conversations"]).status.code(),
        Some(1)
    );
    for key in [&all, &adas] {
        assert!(by(key, &["chat", "My name is Ada."]).status.success());
    }
    for (key, count) in [(&all, 2), (&adas, 1)] {
        let listed = text(&by(key, &["conversations"]).stdout);
        assert_eq!(listed.lines().count(), count, "{listed}");
    }
    assert_eq!(text(&by(&all, &["threads"]).stdout).lines().count(), 2);
    let refused = by(&adas, &["threads"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("a key for all"),
        "{refused:?}"
    );

    let other = client.run(&["fork", "01900000-0000-7000-8000-000000000000"]);
    assert_eq!(other.status.code(), Some(2));
    let error = text(&other.stderr);
    assert!(
        error.starts_with("error: --server: is for `chat`"),
        "{error}"
    );
    drop(server);
    let gone = client.run(&["conversations"]);
    assert_eq!(gone.status.code(), Some(1));
    let error = text(&gone.stderr);
    assert!(
        error.contains(&client.server) && error.contains("can't be reached"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_the_agent_is_asked_and_answered_in_the_terminal() {
    let api = Api::new(ScriptedAgent::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { axum::serve(listener, api.router).await });
    let chat = tokio::task::spawn_blocking(move || {
        let directory = TempDir::new().unwrap();
        let mut command = agentkit(directory.path());
        command.args(["chat", "--server", &server]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut chat = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut says = chat.stdin.take().unwrap();
        says.write_all(b"ask\nthe red one\n").unwrap();
        drop(says);
        chat.wait_with_output().unwrap()
    });
    let (code, out, error) = seen(&chat.await.unwrap());
    assert_eq!(code, Some(0), "{error}");
    let asks = "The agent asks; answer with what you say next:";
    assert!(error.contains(asks), "{error}");
    assert!(out.starts_with("Which one?\n"), "{out}");
    assert!(out.contains("the red one"), "{out}");
    serving.abort();
}
