//! Clients that ask for much and read nothing of it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    crash::{new_chat, wait_for},
    process::{Server, agentkit},
};

/// The state of the chat: as large as that of a few thousand turns.
const MESSAGES: usize = 4;
const MESSAGE: usize = 900_000;

const CLIENTS: usize = 8;

/// What as many more of them may cost, in KiB. An answer has 3.4 MiB, and had them for each client, in
/// part twice.
const MOST: u64 = 24 * 1024;

#[test]
fn clients_that_read_nothing_cost_bounded_memory_whatever_they_ask_for() {
    let directory = TempDir::new().unwrap();
    let mut command = agentkit(directory.path());
    command.args(["--bind", "127.0.0.1:0"]);
    // They are not to go away meanwhile.
    let server = Server::spawn(
        command
            .env("AGENTKIT_WRITE_TIMEOUT", "3600")
            .env("RUST_LOG", "warn"),
    );
    let chat = new_chat(&server);
    for number in 0..MESSAGES {
        let body = json!({"role": "system", "content": (number % 10).to_string().repeat(MESSAGE)});
        let path = format!("POST /chats/{chat}/messages");
        assert_eq!(server.request(&path, &body.to_string()).0, 200);
    }
    let (status, _) = server.request(
        &format!("POST /chats/{chat}/messages"),
        r#"{"content": "hi"}"#,
    );
    assert_eq!(status, 200);
    let (_, history) = server.request(&format!("GET /chats/{chat}/history?limit=100"), "");
    let id = |item: Option<&Value>| item.unwrap()["checkpoint_id"].as_str().unwrap().to_owned();
    let items = history["items"].as_array().unwrap();
    let (newest, oldest) = (id(items.first()), id(items.last()));
    let state = format!("/chats/{chat}/state");
    let paths = [
        format!("/conversations/{chat}/messages?limit=1000"),
        format!("/chats/{chat}/history?limit=100"),
        state.clone(),
        format!("/chats/{chat}/history/{newest}"),
        format!("/chats/{chat}/diff?from={oldest}&to={newest}"),
    ];
    for path in paths {
        let wait = || {
            let asked: Vec<_> = (0..CLIENTS).map(|_| ask(&server, &path)).collect();
            asked.into_iter().map(begun).collect::<Vec<_>>()
        };
        // The memory in which answers are made is kept for the next.
        let first = wait();
        let before = server.resident();
        let more = wait();
        let cost = || server.resident().saturating_sub(before);
        println!("{path}: {} KiB", cost());
        wait_for(|| (cost() <= MOST).then_some(()));
        assert_eq!(server.request("GET /healthz", "").0, 200);
        drop((first, more));
    }
    let (status, whole) = server.request(&format!("GET {state}"), "");
    assert_eq!(status, 200);
    assert!(whole.to_string().len() > MESSAGES * MESSAGE);
}

fn ask(server: &Server, path: &str) -> TcpStream {
    let mut connection = TcpStream::connect(&server.address).unwrap();
    let timeout = Duration::from_secs(60);
    connection.set_read_timeout(Some(timeout)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    connection
}

/// Its answer has begun. Nothing more of it is read.
fn begun(mut connection: TcpStream) -> TcpStream {
    let mut status = [0; 12];
    connection.read_exact(&mut status).unwrap();
    assert_eq!(status, *b"HTTP/1.1 200");
    connection
}
