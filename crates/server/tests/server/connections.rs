//! Connections that misbehave, on real sockets.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Server, agentkit, request, text};

/// How long anything may take that must happen.
const SOON: Duration = Duration::from_secs(60);

fn server(directory: &TempDir, settings: &[(&str, &str)]) -> Server {
    let mut command = agentkit(directory.path());
    Server::spawn(
        command
            .args(["--bind", "127.0.0.1:0"])
            .envs(settings.iter().copied()),
    )
}

fn connect(server: &Server) -> TcpStream {
    let connection = TcpStream::connect(&server.address).unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    connection
}

/// Whether the server has ended the connection; else it sends nothing for as long as it may take.
fn is_ended(connection: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match connection.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// What the server sends until it ends the connection.
fn exchange(server: &Server, request: &str) -> String {
    let mut connection = connect(server);
    connection.write_all(request.as_bytes()).unwrap();
    let mut answers = String::new();
    connection.read_to_string(&mut answers).unwrap();
    answers
}

fn is_healthy(server: &Server) -> bool {
    request(&server.address, "GET /healthz", "").is_some_and(|(status, _)| status == 200)
}

#[test]
fn more_half_open_connections_than_open_files_do_not_stop_the_server() {
    let directory = TempDir::new().unwrap();
    let agentkit = agentkit(directory.path());
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 256; exec \"$0\" --bind 127.0.0.1:0"]);
    shell
        .arg(agentkit.get_program())
        .current_dir(directory.path());
    shell.env_clear().envs(
        agentkit
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let server = Server::spawn(&mut shell);
    let half_open: Vec<_> = (0..400)
        .map(|_| {
            let mut connection = connect(&server);
            connection
                .write_all(b"GET /healthz HTTP/1.1\r\nhost: loc")
                .unwrap();
            connection
        })
        .collect();
    assert!(is_healthy(&server));
    let (status, _) = server.request("POST /conversations", "{}");
    assert_eq!(status, 200);
    drop(half_open);
}

#[test]
fn a_head_that_does_not_arrive_in_time_ends_its_connection() {
    let directory = TempDir::new().unwrap();
    let server = server(&directory, &[("AGENTKIT_HEADER_TIMEOUT", "0.2")]);
    assert!(is_ended(&mut connect(&server)));
    let mut slow = connect(&server);
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: loc")
        .unwrap();
    assert!(is_ended(&mut slow));
    assert!(is_healthy(&server));
}

#[test]
fn a_connection_that_asks_nothing_more_ends_after_its_time() {
    let directory = TempDir::new().unwrap();
    let server = server(&directory, &[("AGENTKIT_IDLE_TIMEOUT", "0.2")]);
    let answers = exchange(&server, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(answers.starts_with("HTTP/1.1 200 OK"), "{answers}");
}

#[test]
fn where_all_connections_are_at_work_another_is_told_so_at_once() {
    let directory = TempDir::new().unwrap();
    let mut command = agentkit(directory.path());
    command
        .args(["--bind", "127.0.0.1:0"])
        .stderr(Stdio::piped());
    command.env("AGENTKIT_MAX_CONNECTIONS", "1");
    command.env("AGENTKIT_STEP_DELAY", "3600000");
    let mut server = Server::spawn(&mut command);
    let conversation = server.request("POST /conversations", "{}").1;
    let body = r#"{"content":"What is 17 * 23?"}"#;
    let turn = format!(
        "POST /chats/{}/messages HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        conversation["id"].as_str().unwrap(),
        body.len()
    );
    let deadline = Instant::now() + SOON;
    // The connection before may still be about to end.
    let working = loop {
        let mut working = connect(&server);
        let mut first = [0; 12];
        let answered = working
            .write_all(turn.as_bytes())
            .and_then(|()| working.read_exact(&mut first));
        if answered.is_ok() && &first == b"HTTP/1.1 200" {
            break working;
        }
        assert!(
            Instant::now() < deadline,
            "who was answered keeps the place"
        );
    };
    for _ in 0..3 {
        let (status, problem) = server.request("GET /healthz", "");
        assert_eq!(status, 503);
        assert_eq!(problem["type"], "urn:agentkit:problem:too-many-connections");
    }
    drop(working);
    let deadline = Instant::now() + SOON;
    while !is_healthy(&server) {
        assert!(Instant::now() < deadline, "who hung up keeps the place");
    }
    server.process.kill().unwrap();
    let mut log = Vec::new();
    server
        .process
        .stderr
        .take()
        .unwrap()
        .read_to_end(&mut log)
        .unwrap();
    let log = text(&log);
    assert_eq!(
        log.matches("all connections are in use").count(),
        1,
        "{log}"
    );
}

#[test]
fn an_idle_connection_makes_room_for_another() {
    let directory = TempDir::new().unwrap();
    let server = server(&directory, &[("AGENTKIT_MAX_CONNECTIONS", "1")]);
    let mut idle = connect(&server);
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut first = [0; 8];
    idle.read_exact(&mut first).unwrap();
    assert!(is_healthy(&server));
    assert!(is_ended(&mut idle));
}

#[test]
fn a_client_that_never_reads_is_left() {
    let directory = TempDir::new().unwrap();
    let settings = [
        ("AGENTKIT_MAX_CONNECTIONS", "1"),
        ("AGENTKIT_WRITE_TIMEOUT", "0.5"),
    ];
    let server = server(&directory, &settings);
    let mut deaf = connect(&server);
    deaf.set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    // Until the buffers of both sides are full.
    let ask = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(100);
    while deaf.write_all(ask.as_bytes()).is_ok() {}
    let deadline = Instant::now() + SOON;
    while !is_healthy(&server) {
        assert!(Instant::now() < deadline, "it keeps its place");
    }
}

#[test]
fn a_body_with_two_lengths_is_refused() {
    let directory = TempDir::new().unwrap();
    let server = server(&directory, &[]);
    let post =
        "POST /conversations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    let body = "\r\n2\r\n{}\r\n0\r\n\r\n";
    let answer = exchange(&server, &format!("{post}{chunked}{body}"));
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let ping = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let sized = format!("{post}content-length: 2\r\n\r\n{{}}");
    for both in [
        format!("{post}{chunked}content-length: 2\r\n{body}"),
        format!("{post}Content-Length: 12\r\n{chunked}{body}"),
        format!("{sized}{ping}{post}content-length: 2\r\n{chunked}{body}"),
    ] {
        let answers = exchange(&server, &both);
        let last = &answers[answers.rfind("HTTP/1.1").unwrap()..];
        assert!(last.starts_with("HTTP/1.1 400 Bad Request"), "{answers}");
        let problem: Value = serde_json::from_str(last.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(problem["field"], "transfer-encoding");
    }
}

#[test]
fn a_head_without_end_is_refused() {
    let directory = TempDir::new().unwrap();
    let server = server(&directory, &[]);
    let mut connection = connect(&server);
    let head = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n";
    connection.write_all(head.as_bytes()).unwrap();
    let line = format!("x: {}\r\n", "y".repeat(1000));
    let mut lines = 0;
    while connection.write_all(line.as_bytes()).is_ok() {
        lines += 1;
        assert!(lines < 100_000, "the server reads on");
    }
    assert!(is_healthy(&server));
}

#[test]
fn bodies_that_do_not_end_cost_bounded_memory_and_keep_no_small_one_waiting() {
    const CLIENTS: usize = 100;
    const BYTES: usize = 1_000_000;
    let directory = TempDir::new().unwrap();
    let server = server(&directory, &[]);
    let before = server.resident();
    let head = format!(
        "POST /conversations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        BYTES + 1
    );
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut connection = connect(&server);
            connection.write_all(head.as_bytes()).unwrap();
            // The server may answer before it has all.
            let sent = connection.write_all(&vec![b' '; BYTES]);
            (connection, sent.is_ok())
        })
        .collect();
    let (status, _) = server.request("POST /conversations", "{}");
    assert_eq!(status, 200);
    let cost = server.resident().saturating_sub(before);
    println!("{CLIENTS} bodies: {cost} KiB");
    assert!(cost < (64 + 32) * 1024, "{cost} KiB");
    // Which ones find no room is a matter of who is read first; the others get no answer yet.
    let deadline = Instant::now() + SOON;
    let mut is_refused = |(connection, _): &mut (TcpStream, bool)| {
        connection.set_nonblocking(true).unwrap();
        let mut answer = [0; 12];
        // One that is refused while it sends may lose the answer.
        connection.read_exact(&mut answer).is_ok() && answer == *b"HTTP/1.1 503"
    };
    while !clients.iter_mut().any(&mut is_refused) {
        assert!(Instant::now() < deadline, "there was room for all");
        thread::sleep(Duration::from_millis(20));
    }
    drop(clients);
    let large = format!("{{\"title\": \"t\"{}}}", " ".repeat(BYTES));
    let deadline = Instant::now() + SOON;
    while server.request("POST /conversations", &large).0 != 200 {
        assert!(Instant::now() < deadline, "who has gone keeps its place");
    }
}
