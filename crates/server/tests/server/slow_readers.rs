//! Clients that ask for much and read nothing of it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    crash::{new_chat, wait_for},
    process::{Server, agentkit},
};

/// The state of the chat: as large as that of a few thousand turns.
const MESSAGES: usize = 4;
const MESSAGE: usize = 900_000;

const CLIENTS: usize = 8;

/// A message that buffers of sockets do not take, and as many clients as there is no room for.
const LONG: usize = 6_400_000;
const MANY: usize = 14;

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
        instruct(&server, &chat, &number.to_string().repeat(MESSAGE));
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
    let requests = [
        get(&format!("/conversations/{chat}/messages?limit=1000")),
        get(&format!("/chats/{chat}/history?limit=100")),
        get(&state),
        get(&format!("/chats/{chat}/history/{newest}")),
        get(&format!("/chats/{chat}/diff?from={oldest}&to={newest}")),
        agui_connect(&chat),
    ];
    for request in requests {
        let wait = || {
            let asked: Vec<_> = (0..CLIENTS).map(|_| ask(&server, &request)).collect();
            asked.into_iter().map(begun).collect::<Vec<_>>()
        };
        // The memory in which answers are made is kept for the next.
        let first = wait();
        let before = server.resident();
        let more = wait();
        let cost = || server.resident().saturating_sub(before);
        println!("{}: {} KiB", request.lines().next().unwrap(), cost());
        wait_for(|| (cost() <= MOST).then_some(()));
        assert_eq!(server.request("GET /healthz", "").0, 200);
        drop((first, more));
    }
    let (status, whole) = server.request(&format!("GET {state}"), "");
    assert_eq!(status, 200);
    assert!(whole.to_string().len() > MESSAGES * MESSAGE);
}

#[test]
fn clients_that_read_nothing_of_a_run_cost_bounded_memory() {
    let directory = TempDir::new().unwrap();
    let server = patient(&directory);
    let chat = new_chat(&server);
    instruct(&server, &chat, &"x".repeat(LONG));
    let body = r#"{"content": "hi"}"#;
    let length = body.len();
    let message = format!(
        "POST /chats/{chat}/messages HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let _running = begun(ask(&server, &message));
    let wait = || {
        let asked: Vec<_> = (0..MANY)
            .map(|_| ask(&server, &agui_connect(&chat)))
            .collect();
        asked.into_iter().map(begun).collect::<Vec<_>>()
    };
    let first = wait();
    let before = server.resident();
    let more = wait();
    let cost = || server.resident().saturating_sub(before);
    println!("{MANY} clients of a run: {} KiB", cost());
    wait_for(|| (cost() <= MOST).then_some(()));
    drop((first, more));
}

#[test]
fn clients_that_read_nothing_of_as_many_chats_find_room_for_64_mib() {
    let directory = TempDir::new().unwrap();
    let server = patient(&directory);
    let chats: Vec<_> = (0..MANY).map(|_| new_chat(&server)).collect();
    for (number, chat) in chats.iter().enumerate() {
        instruct(&server, chat, &format!("{number:02}").repeat(LONG / 2));
    }
    // The memory in which answers are made is kept for the next.
    drop(begun(ask(&server, &agui_connect(&chats[0]))));
    let before = server.resident();
    let answered = chats.iter().map(|chat| {
        let mut connection = ask(&server, &agui_connect(chat));
        (status(&mut connection), connection)
    });
    let answered: Vec<_> = answered.collect();
    let count = |wanted| {
        answered
            .iter()
            .filter(|(status, _)| status == wanted)
            .count()
    };
    let (answers, refusals) = (count("200"), count("503"));
    assert_eq!(answers, (64 << 20) / LONG);
    assert_eq!(answers + refusals, MANY);
    let cost = || server.resident().saturating_sub(before);
    println!("{answers} answers: {} KiB", cost());
    wait_for(|| (cost() <= 64 * 1024 + 2 * MOST).then_some(()));
    drop(answered);
    let read = |chat: &String| status(&mut ask(&server, &agui_connect(chat)));
    wait_for(|| (read(chats.last().unwrap()) == "200").then_some(()));
}

/// A server whose clients may read nothing for long, and whose turns take long.
fn patient(directory: &TempDir) -> Server {
    let mut command = agentkit(directory.path());
    command.args(["--bind", "127.0.0.1:0"]);
    let settings = [
        ("AGENTKIT_WRITE_TIMEOUT", "3600"),
        ("AGENTKIT_STEP_DELAY", "3600000"),
        ("AGENTKIT_BODY_LIMIT", "8388608"),
        ("RUST_LOG", "warn"),
    ];
    Server::spawn(command.envs(settings))
}

fn instruct(server: &Server, chat: &str, content: &str) {
    let body = json!({"role": "system", "content": content});
    let path = format!("POST /chats/{chat}/messages");
    assert_eq!(server.request(&path, &body.to_string()).0, 200);
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

/// A client of AG-UI that knows no more than the chat.
fn agui_connect(chat: &str) -> String {
    let run = Uuid::new_v4();
    let body = json!({"threadId": chat, "runId": run, "messages": []}).to_string();
    let length = body.len();
    format!(
        "POST /agui/connect HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

fn ask(server: &Server, request: &str) -> TcpStream {
    let mut connection = TcpStream::connect(&server.address).unwrap();
    let timeout = Duration::from_secs(60);
    connection.set_read_timeout(Some(timeout)).unwrap();
    connection.write_all(request.as_bytes()).unwrap();
    connection
}

/// Its answer has begun. Nothing more of it is read.
fn begun(mut connection: TcpStream) -> TcpStream {
    assert_eq!(status(&mut connection), "200");
    connection
}

fn status(connection: &mut TcpStream) -> String {
    let mut status = [0; 12];
    connection.read_exact(&mut status).unwrap();
    let status = str::from_utf8(&status).unwrap();
    status.strip_prefix("HTTP/1.1 ").unwrap().to_owned()
}
