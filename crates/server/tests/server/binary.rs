//! The `agentkit` binary, as an operator runs it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Server, agentkit, run, text};

#[test]
fn the_server_is_ready_when_it_says_where_it_listens() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    assert_eq!(server.request("GET /healthz", "").0, 200);
    let (status, body) = server.request("GET /readyz", "");
    assert_eq!((status, &body["status"]), (200, &"ready".into()));
    assert_eq!(
        server.request("GET /openapi.json", "").1["openapi"],
        "3.1.0"
    );
}

#[test]
fn the_line_that_the_server_prints_works_as_printed() {
    let directory = TempDir::new().unwrap();
    let mut server = Server::start(directory.path());
    let tried = Command::new("sh")
        .args(["-c", &server.line_to_try()])
        .output()
        .unwrap();
    assert!(tried.status.success(), "{}", text(&tried.stderr));
    let answers: Vec<Value> = text(&tried.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 2);
    assert!(
        answers.iter().all(|answer| answer["role"] == "assistant"),
        "{answers:?}"
    );
    assert!(
        answers[1]["content"].as_str().unwrap().contains("Ada"),
        "{answers:?}"
    );
    let conversation = answers[0]["conversation_id"].as_str().unwrap();
    let path = format!("GET /conversations/{conversation}/messages");
    let messages = server.request(&path, "").1;
    assert_eq!(messages["items"].as_array().unwrap().len(), 4);
}

#[test]
fn what_was_said_is_there_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let conversation = server.request("POST /conversations", "{}").1;
    let id = conversation["id"].as_str().unwrap();
    let send = format!("POST /chats/{id}/messages");
    assert_eq!(
        server.request(&send, r#"{"content":"My name is Ada."}"#).0,
        200
    );
    let read = format!("GET /conversations/{id}/messages");
    let before = server.request(&read, "");
    server.signal("-TERM");
    assert_eq!(server.exit_code(), Some(0));

    let server = Server::start(directory.path());
    assert_eq!(server.request(&read, ""), before);
    let state = server.request(&format!("GET /chats/{id}/state"), "").1;
    assert_eq!(state["values"]["messages"][0]["content"], "My name is Ada.");
}

#[test]
fn a_turn_that_a_shutdown_cuts_short_is_answered_after_the_restart() {
    let directory = TempDir::new().unwrap();
    let mut slow = agentkit(directory.path());
    slow.args(["--bind", "127.0.0.1:0"])
        .env("AGENTKIT_STEP_DELAY", "300");
    let server = Server::spawn(&mut slow);
    let id = server.request("POST /conversations", "{}").1["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let read = format!("GET /conversations/{id}/messages");
    let messages = |server: &Server| {
        server.request(&read, "").1["items"]
            .as_array()
            .unwrap()
            .clone()
    };
    let (status, problem) = std::thread::scope(|scope| {
        let send = format!("POST /chats/{id}/messages");
        let body = r#"{"content":"What is 17 * 23?"}"#;
        let turn = scope.spawn(|| server.request(&{ send }, body));
        while messages(&server).is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        server.signal("-TERM");
        turn.join().unwrap()
    });
    assert_eq!(
        (status, &problem["type"]),
        (503, &"urn:agentkit:problem:turn-unfinished".into())
    );
    assert_eq!(server.exit_code(), Some(0));

    let server = Server::start(directory.path());
    let deadline = Instant::now() + Duration::from_secs(60);
    while messages(&server).len() < 2 {
        assert!(Instant::now() < deadline, "no answer after the restart");
        std::thread::sleep(Duration::from_millis(10));
    }
    let messages = messages(&server);
    assert_eq!(messages.len(), 2);
    assert!(
        messages[1]["content"].as_str().unwrap().contains("391"),
        "{messages:?}"
    );
}

#[test]
fn the_server_stops_in_order_at_either_signal() {
    for signal in ["-TERM", "-INT"] {
        let directory = TempDir::new().unwrap();
        let server = Server::start(directory.path());
        // A connection that asks nothing must not hold it up.
        let idle = TcpStream::connect(&server.address).unwrap();
        server.signal(signal);
        assert_eq!(server.exit_code(), Some(0), "{signal}");
        drop(idle);
    }
}

#[test]
fn the_log_goes_to_stderr_one_json_object_a_line_if_so_set() {
    let directory = TempDir::new().unwrap();
    let mut command = agentkit(directory.path());
    command.args(["serve", "--bind", "127.0.0.1:0", "--log-format", "json"]);
    let mut server = Server::spawn(command.stderr(Stdio::piped()));
    server.request("GET /healthz", "");
    server.signal("-TERM");
    let mut log = String::new();
    let mut stderr = server.process.stderr.take().unwrap();
    stderr.read_to_string(&mut log).unwrap();
    assert_eq!(server.exit_code(), Some(0));
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let answered = lines
        .iter()
        .find(|line| line["message"] == "answered")
        .unwrap();
    assert_eq!(answered["span"]["path"], "/healthz");
    assert!(answered["span"]["request_id"].is_string());
}

#[test]
fn a_wrong_setting_exits_with_2_and_names_the_variable() {
    let directory = TempDir::new().unwrap();
    for (name, value) in [
        ("AGENTKIT_BIND", "nowhere"),
        ("AGENTKIT_AGENT", "nobody"),
        ("AGENTKIT_CONFIG", "missing.toml"),
        ("RUST_LOG", "a=b=c"),
    ] {
        let output = agentkit(directory.path())
            .env(name, value)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}");
        let error = text(&output.stderr);
        assert!(error.starts_with(&format!("error: {name}: ")), "{error}");
        assert!(error.contains(value) && output.stdout.is_empty());
    }
}

#[test]
fn an_address_in_use_is_named() {
    let directory = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(directory.path(), &["--bind", &address]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(
        error.contains("--bind") && error.contains(&address),
        "{error}"
    );
}

#[test]
fn a_variable_that_is_no_setting_is_a_warning_with_the_nearest_name() {
    let directory = TempDir::new().unwrap();
    let output = agentkit(directory.path())
        .env("AGENTKIT_MAX_STEP", "3")
        .args(["migrate", "status"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let expected = "AGENTKIT_MAX_STEP is no setting; did you mean AGENTKIT_MAX_STEPS?";
    assert!(text(&output.stderr).contains(expected), "{output:?}");
}

#[test]
fn the_help_names_every_command_and_variable() {
    let directory = TempDir::new().unwrap();
    let output = run(directory.path(), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for expected in [
        "serve",
        "chat",
        "migrate",
        "conversations",
        "messages",
        "turns",
        "threads",
        "history",
        "show",
        "Examples:",
    ] {
        assert!(help.contains(expected), "{expected}");
    }
    for setting in yai_agentkit_server::settings::all_settings() {
        assert!(help.contains(setting.variable), "{}", setting.variable);
    }
    assert_eq!(
        run(directory.path(), &["no-such-command"]).status.code(),
        Some(2)
    );
}

/// The conversation that `agentkit chat` has begun, as it says.
pub(crate) fn conversation(output: &Output) -> String {
    let error = text(&output.stderr);
    let id = error
        .lines()
        .find_map(|line| line.strip_prefix("Conversation "));
    id.unwrap().split(';').next().unwrap().to_owned()
}

#[test]
fn a_chat_in_the_terminal_goes_on_where_it_was() {
    let directory = TempDir::new().unwrap();
    let first = run(directory.path(), &["chat", "My name is Ada."]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert_eq!(text(&first.stdout).lines().count(), 1);
    let id = conversation(&first);

    let mut interactive = agentkit(directory.path())
        .args(["chat", "--conversation", &id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = interactive.stdin.take().unwrap();
    stdin
        .write_all(b"What is my name?\n\nThank you.\n")
        .unwrap();
    drop(stdin);
    let output = interactive.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let answers = text(&output.stdout);
    assert!(answers.lines().count() >= 2, "{answers}");
    assert!(answers.lines().next().unwrap().contains("Ada"), "{answers}");

    let unknown = "01900000-0000-7000-8000-000000000000";
    let output = run(directory.path(), &["chat", "--conversation", unknown, "hi"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        format!("error: conversation {unknown} does not exist\n")
    );
    let output = run(directory.path(), &["chat", "--conversation", "abc", "hi"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn an_interrupt_in_the_terminal_cancels_the_turn() {
    let directory = TempDir::new().unwrap();
    let mut chat = agentkit(directory.path());
    chat.args(["chat", "What is 2 + 3?"])
        .env("AGENTKIT_STEP_DELAY", "60000");
    let mut chat = chat.stderr(Stdio::piped()).spawn().unwrap();
    let mut error = BufReader::new(chat.stderr.take().unwrap());
    let mut line = String::new();
    error.read_line(&mut line).unwrap();
    let id = line.split([' ', ';']).nth(1).unwrap().to_owned();
    let turns = || text(&run(directory.path(), &["turns", &id]).stdout);
    assert!((0..1000).any(|_| turns().contains("running")), "no turn");
    let process = chat.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &process])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(chat.wait().unwrap().code(), Some(1));
    line.clear();
    error.read_to_string(&mut line).unwrap();
    assert!(line.contains("cancelled"), "{line}");
    assert!(turns().contains("cancelled"), "{}", turns());
}

#[test]
fn what_is_stored_is_listed_page_by_page_for_people_and_for_machines() {
    let directory = TempDir::new().unwrap();
    let first = run(directory.path(), &["chat", "My name is Ada."]);
    let id = conversation(&first);
    let said = ["chat", "--conversation", &id, "What is 2 + 3?"];
    assert!(run(directory.path(), &said).status.success());
    assert!(run(directory.path(), &["chat", "hello"]).status.success());
    for (command, count) in [
        (vec!["conversations"], 2),
        (vec!["messages", &id], 4),
        (vec!["turns", &id], 2),
        (vec!["threads"], 2),
    ] {
        let whole = run(directory.path(), &command);
        let whole = text(&whole.stdout);
        assert_eq!(whole.lines().count(), count, "{whole}");
        let json = text(&run(directory.path(), &[&command[..], &["--json"][..]].concat()).stdout);
        let rows: Vec<Value> = json
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(rows.len(), count);
        // A page after the other is the same.
        let (mut pages, mut after) = (String::new(), Vec::new());
        loop {
            let page = [&command[..], &["--limit", "1"][..], &after[..]].concat();
            let page = run(directory.path(), &page);
            pages.push_str(&text(&page.stdout));
            let error = text(&page.stderr);
            let Some((_, cursor)) = error.trim_end().split_once("--after ") else {
                break;
            };
            after = vec!["--after", cursor.to_owned().leak()];
        }
        let cells =
            |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        assert_eq!(cells(&pages), cells(&whole));
    }
    let found = run(
        directory.path(),
        &["conversations", "--search", "3? what", "--json"],
    );
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(found["id"], *id);
    let messages = text(&run(directory.path(), &["messages", &id]).stdout);
    assert!(
        messages
            .lines()
            .next()
            .unwrap()
            .ends_with("user       My name is Ada."),
        "{messages}"
    );
    let turns = text(&run(directory.path(), &["turns", &id]).stdout);
    assert!(turns.contains("completed  1"), "{turns}");
    for (command, code) in [
        (["messages", "01900000-0000-7000-8000-000000000000"], 1),
        (["turns", "01900000-0000-7000-8000-000000000000"], 1),
        (["messages", "abc"], 2),
        (["conversations", "--after=abc"], 2),
        (["threads", "--after=abc"], 2),
    ] {
        let output = run(directory.path(), &command);
        assert_eq!(output.status.code(), Some(code), "{command:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

#[test]
fn checkpoints_are_shown_to_people_and_to_machines() {
    let directory = TempDir::new().unwrap();
    assert_eq!(
        run(directory.path(), &["chat", "My name is Ada."])
            .status
            .code(),
        Some(0)
    );
    let threads = run(directory.path(), &["threads", "--json"]);
    let thread: Value = serde_json::from_slice(&threads.stdout).unwrap();
    let thread = thread["thread_id"].as_str().unwrap();
    assert!(text(&run(directory.path(), &["threads"]).stdout).starts_with(thread));

    let history = text(&run(directory.path(), &["history", thread, "--json"]).stdout);
    let checkpoints: Vec<Value> = history
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let first = checkpoints.last().unwrap();
    assert_eq!(
        (&first["step"], &first["source"]),
        (&(-1).into(), &"input".into())
    );
    let lines = text(&run(directory.path(), &["history", thread, "--namespace", ""]).stdout);
    assert_eq!(lines.lines().count(), checkpoints.len());
    let none = run(
        directory.path(),
        &["history", thread, "--namespace", "other"],
    );
    assert!(none.status.success() && none.stdout.is_empty());

    let latest = run(directory.path(), &["show", thread, "--json"]);
    let latest: Value = serde_json::from_slice(&latest.stdout).unwrap();
    assert_eq!(latest["checkpoint_id"], checkpoints[0]["checkpoint_id"]);
    assert_eq!(latest["metadata"], checkpoints[0]["metadata"]);
    assert_eq!(checkpoints[0].get("values"), None);
    let shown = text(&run(directory.path(), &["show", thread]).stdout);
    assert!(
        shown.contains("\"content\": \"My name is Ada.\""),
        "{shown}"
    );
    let id = first["checkpoint_id"].as_str().unwrap();
    let shown = run(directory.path(), &["show", thread, id, "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["checkpoint_id"], first["checkpoint_id"]);
    assert!(shown["values"].is_object());
    for command in [&["show"][..], &["history"][..], &["history", "--json"][..]] {
        let missing = run(
            directory.path(),
            &[command, &["no-such-thread"][..]].concat(),
        );
        assert_eq!(missing.status.code(), Some(1), "{command:?}");
    }
    let missing = run(directory.path(), &["show", "no-such-thread"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("no-such-thread"));
}

#[test]
fn a_schema_is_migrated_once() {
    let directory = TempDir::new().unwrap();
    let status = || text(&run(directory.path(), &["migrate", "status"]).stdout);
    assert!(status().lines().all(|line| line.starts_with("pending")) && !status().is_empty());
    let sql = text(&run(directory.path(), &["migrate", "--dry-run"]).stdout);
    assert!(sql.contains("CREATE TABLE"), "{sql}");
    assert!(status().lines().all(|line| line.starts_with("pending")));
    let migrated = text(&run(directory.path(), &["migrate"]).stdout);
    assert_eq!(migrated.lines().count(), status().lines().count());
    assert!(status().lines().all(|line| line.starts_with("applied")));
    assert_eq!(
        text(&run(directory.path(), &["migrate"]).stdout),
        "the schema is up to date\n"
    );
}

#[test]
fn shells_complete_the_commands_and_man_has_a_page_of_each() {
    let directory = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let printed = run(directory.path(), &["completions", shell]);
        assert!(printed.status.success(), "{}", text(&printed.stderr));
        assert!(text(&printed.stdout).contains("conversations"), "{shell}");
    }
    let pages = directory.path().join("man");
    let written = run(directory.path(), &["man", "man"]);
    assert!(written.status.success(), "{}", text(&written.stderr));
    for command in ["agentkit", "agentkit-chat", "agentkit-keys-create"] {
        let page = std::fs::read_to_string(pages.join(format!("{command}.1")));
        assert!(page.unwrap().starts_with(".ie"), "{command}");
    }
    // Neither asks for a database.
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
}

/// What a terminal shows of a command.
fn on_terminal(directory: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let python =
        std::env::var("AGENTKIT_TEST_PYTHON").expect("AGENTKIT_TEST_PYTHON is set by ./test");
    let script = "import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let command = agentkit(directory);
    let mut terminal = Command::new(python);
    terminal.args(["-c", script]).arg(command.get_program());
    terminal.args(arguments).current_dir(directory).env_clear();
    let own = command.get_envs();
    terminal.envs(own.filter_map(|(name, value)| Some((name, value?))));
    let output = terminal
        .env("TERM", "xterm")
        .envs(variables.iter().copied());
    let output = output.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_terminal_has_headings_and_colours_unless_no_color_is_set() {
    let directory = TempDir::new().unwrap();
    let chat = ["chat", "What is 2 + 3?"];
    let coloured = on_terminal(directory.path(), &[], &chat);
    let call = r#"→ calculate {"expression":"2 + 3"}"#;
    assert!(
        coloured.contains(&format!("\x1b[2m{call}\x1b[0m")),
        "{coloured}"
    );
    let plain = [("NO_COLOR", "1")];
    let shown = on_terminal(directory.path(), &plain, &chat);
    assert!(shown.contains(call) && !shown.contains('\x1b'), "{shown}");

    for command in ["conversations", "threads"] {
        let coloured = on_terminal(directory.path(), &[], &[command]);
        assert!(coloured.starts_with("\x1b[1m"), "{coloured}");
        let shown = on_terminal(directory.path(), &plain, &[command]);
        assert_eq!(shown.lines().count(), 3, "{shown}");
        assert!(!shown.contains('\x1b'), "{shown}");
        let rows = text(&run(directory.path(), &[command]).stdout);
        assert_eq!(rows.lines().count(), 2, "{rows}");
    }
}

#[test]
fn a_terminal_edits_lines_brings_them_back_and_cancels_a_turn() {
    let directory = TempDir::new().unwrap();
    let python =
        std::env::var("AGENTKIT_TEST_PYTHON").expect("AGENTKIT_TEST_PYTHON is set by ./test");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/terminal.py");
    let program = agentkit(directory.path());
    let mut terminal = Command::new(python);
    terminal.arg(script).arg(program.get_program());
    terminal.current_dir(directory.path()).env_clear();
    let terminal = terminal
        .env("TERM", "xterm")
        .env("AGENTKIT_STEP_DELAY", "1000");
    let output = terminal.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}
