//! Several real servers on one database: what one leaves, by SIGKILL, SIGSTOP or SIGTERM, another
//! finishes, and nothing is lost or doubled.

use std::{
    io,
    net::{TcpListener, TcpStream},
    process::Command,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    crash::{Installation, checkpoints, new_chat, wait_for},
    http::request_with,
    process::{PATIENCE, Server},
};

const QUESTION: &str = "My name is Ada. What is 17 * 23?";
/// Milliseconds of a step that is to be cut short.
const STEP: &str = "1500";
/// Seconds.
const LEASE: &str = "1";

fn both(test: fn(&Installation)) {
    thread::scope(|scope| {
        for installation in [Installation::sqlite, Installation::postgres] {
            scope.spawn(move || test(&installation()));
        }
    });
}

/// Asks in a thread of its own; `None` where the server dies over it.
fn ask(server: &Server, chat: &str, key: &str) -> JoinHandle<Option<(u16, Value)>> {
    let (address, chat) = (server.address.clone(), chat.to_owned());
    let key = format!("idempotency-key: {key}\r\n");
    let body = json!({"content": QUESTION}).to_string();
    thread::spawn(move || {
        request_with(
            &address,
            PATIENCE,
            &format!("POST /chats/{chat}/messages"),
            &key,
            &body,
        )
    })
}

fn wait_for_checkpoints(server: &Server, chat: &str, count: usize) {
    wait_for(|| (checkpoints(server, chat).len() >= count).then_some(()));
}

fn items(server: &Server, path: &str) -> Vec<Value> {
    let (status, page) = server.request(&format!("GET {path}"), "");
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().unwrap().clone()
}

fn wait_for_turn(server: &Server, chat: &str, status: &str) -> Value {
    wait_for(|| {
        let turn = items(server, &format!("/chats/{chat}/turns")).remove(0);
        (turn["status"] == status).then_some(turn)
    })
}

/// One question, one answer, one line of checkpoints.
fn assert_answered_once(server: &Server, chat: &str) -> Value {
    let messages = items(server, &format!("/conversations/{chat}/messages"));
    let roles: Vec<_> = messages
        .iter()
        .map(|message| message["role"].as_str())
        .collect();
    assert_eq!(roles, [Some("user"), Some("assistant")]);
    let checkpoints = checkpoints(server, chat);
    assert_eq!(checkpoints.len(), 4);
    let is_line = checkpoints
        .windows(2)
        .all(|pair| pair[1].parent.as_ref() == Some(&pair[0].id));
    assert!(is_line, "{checkpoints:?}");
    messages[1].clone()
}

#[test]
fn a_killed_server_s_turn_is_finished_by_another_and_a_retry_there_gets_its_answer() {
    both(|installation| {
        let mut first = installation.start_with(STEP, LEASE);
        let second = installation.start_with("0", LEASE);
        let chat = new_chat(&first);
        let asked = ask(&first, &chat, "a key");
        wait_for_checkpoints(&second, &chat, 2);
        first.process.kill().unwrap();
        first.process.wait().unwrap();
        let killed = Instant::now();
        assert_eq!(asked.join().unwrap(), None);

        // At once: it follows the turn, which has an owner still.
        let (status, answer) = ask(&second, &chat, "a key").join().unwrap().unwrap();
        assert_eq!(status, 200, "{answer}");
        println!(
            "take-over with a lease of {LEASE} s: {:?}",
            killed.elapsed()
        );
        assert_eq!(assert_answered_once(&second, &chat), answer);
        let turn = wait_for_turn(&second, &chat, "completed");
        assert_eq!(turn["attempt"], 2);
        assert_eq!(turn["assistant_message_id"], answer["id"]);
    });
}

/// Longer than anybody would wait for here, in seconds.
const LONG_LEASE: &str = "600";

/// Puts an owner's end by the sign of its process, and not by its lease, to the proof.
fn assert_goes_on_after_a_kill(installation: &Installation, next: impl FnOnce() -> Server) {
    let mut first = installation.start_with(STEP, LONG_LEASE);
    let chat = new_chat(&first);
    let asked = ask(&first, &chat, "a key");
    wait_for_checkpoints(&first, &chat, 2);
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    let killed = Instant::now();
    assert_eq!(asked.join().unwrap(), None);
    let next = next();
    let turn = wait_for_turn(&next, &chat, "completed");
    let database = &installation.variables.first();
    println!(
        "from a kill to the answer, lease {LONG_LEASE} s, {database:?}: {:?}",
        killed.elapsed()
    );
    assert_eq!(turn["attempt"], 2);
    assert_answered_once(&next, &chat);
}

#[test]
fn a_killed_server_that_comes_back_waits_for_no_lease() {
    both(|installation| {
        let back = || installation.start_with("0", LONG_LEASE);
        assert_goes_on_after_a_kill(installation, back);
    });
}

#[test]
fn another_server_than_the_killed_one_waits_for_no_lease() {
    both(|installation| {
        let other = installation.start_with("0", LONG_LEASE);
        assert_goes_on_after_a_kill(installation, || other);
    });
}

#[test]
fn a_server_that_is_stopped_keeps_its_turns_until_their_lease_ends() {
    both(|installation| {
        let first = installation.start_with(STEP, LONG_LEASE);
        let second = installation.start_with("0", LONG_LEASE);
        let chat = new_chat(&first);
        let asked = ask(&first, &chat, "a key");
        wait_for_checkpoints(&second, &chat, 2);
        first.signal("-STOP");
        // For many looks of the other.
        thread::sleep(Duration::from_secs(4));
        first.signal("-CONT");
        let (status, answer) = asked.join().unwrap().unwrap();
        assert_eq!(status, 200, "{answer}");
        assert_eq!(wait_for_turn(&second, &chat, "completed")["attempt"], 1);
    });
}

#[test]
fn a_server_that_was_stopped_past_its_lease_writes_nothing_when_it_wakes() {
    both(|installation| {
        let first = installation.start_with(STEP, LEASE);
        let second = installation.start_with("0", LEASE);
        let chat = new_chat(&first);
        let asked = ask(&first, &chat, "a key");
        wait_for_checkpoints(&second, &chat, 2);
        first.signal("-STOP");
        wait_for_turn(&second, &chat, "completed");
        let answer = assert_answered_once(&second, &chat);
        first.signal("-CONT");
        // Its client gets what the other server has answered.
        assert_eq!(asked.join().unwrap(), Some((200, answer.clone())));
        assert_eq!(assert_answered_once(&second, &chat), answer);
        assert_eq!(wait_for_turn(&first, &chat, "completed")["attempt"], 2);
    });
}

#[test]
fn a_server_that_is_asked_to_stop_gives_its_turns_back() {
    both(|installation| {
        let first = installation.start_with(STEP, LONG_LEASE);
        let second = installation.start_with("0", LEASE);
        let chat = new_chat(&first);
        let asked = ask(&first, &chat, "a key");
        wait_for_checkpoints(&second, &chat, 2);
        first.signal("-TERM");
        let (status, problem) = asked.join().unwrap().unwrap();
        assert_eq!(status, 503, "{problem}");
        assert_eq!(first.exit_code(), Some(0));
        let turn = wait_for_turn(&second, &chat, "completed");
        assert_eq!(turn["attempt"], 1);
        let answer = assert_answered_once(&second, &chat);
        let repeated = ask(&second, &chat, "a key").join().unwrap();
        assert_eq!(repeated, Some((200, answer)));
    });
}

#[test]
fn a_chat_that_was_deleted_stays_so_when_a_stopped_server_wakes() {
    both(|installation| {
        let first = installation.start_with(STEP, "40");
        let second = installation.start_with("0", LEASE);
        let chat = new_chat(&first);
        let asked = ask(&first, &chat, "a key");
        wait_for_checkpoints(&second, &chat, 2);
        first.signal("-STOP");
        let turn = items(&second, &format!("/chats/{chat}/turns")).remove(0);
        let delete = format!("DELETE /conversations/{chat}");
        assert_eq!(second.request(&delete, "").0, 409);
        let turn = turn["id"].as_str().unwrap();
        let cancel = format!("POST /chats/{chat}/turns/{turn}/cancel");
        let (status, cancelled) = second.request(&cancel, "");
        assert_eq!((status, &cancelled["status"]), (200, &json!("cancelled")));
        let thread = second.request(&format!("GET /conversations/{chat}"), "").1;
        let thread = thread["checkpoint_thread_id"].as_str().unwrap().to_owned();
        // Its answer has no body to read.
        let deleted = crate::process::request(&second.address, &delete, "");
        assert_eq!(deleted, None);
        first.signal("-CONT");
        let (status, problem) = asked.join().unwrap().unwrap();
        assert_eq!(status, 404, "{problem}");
        assert_eq!(
            second.request(&format!("GET /chats/{chat}/turns"), "").0,
            404
        );
        let mut threads: Command = installation.command("0", LEASE);
        let threads = threads.arg("threads").output().unwrap();
        let threads = String::from_utf8(threads.stdout).unwrap();
        assert!(!threads.contains(&thread), "{threads}");
    });
}

/// 100 times, the title through one server beside the metadata through another.
#[test]
fn of_changes_to_one_conversation_at_once_none_is_lost() {
    both(|installation| {
        let servers = [installation.start("0"), installation.start("0")];
        let chat = new_chat(&servers[0]);
        let change = format!("PATCH /conversations/{chat}");
        let mut lost = 0;
        for round in 0..100 {
            let title = json!({"title": round.to_string()}).to_string();
            let metadata = json!({"metadata": round}).to_string();
            thread::scope(|scope| {
                for (server, body) in servers.iter().zip([title, metadata]) {
                    let change = &change;
                    scope.spawn(move || assert_eq!(server.request(change, &body).0, 200));
                }
            });
            let (_, stored) = servers[0].request(&format!("GET /conversations/{chat}"), "");
            lost += usize::from(stored["title"] != json!(round.to_string()));
            lost += usize::from(stored["metadata"] != round);
        }
        assert_eq!(lost, 0, "of 200 acknowledged changes");
    });
}

/// It is stopped for longer than it would look for the database, just when it connects.
#[test]
fn who_sleeps_while_it_looks_for_the_database_finds_it_on_waking() {
    let installation = Installation::postgres();
    let url = &installation.variables[0].1;
    let (before, place) = url.rsplit_once('@').unwrap();
    let (host, database) = place.split_once('/').unwrap();
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = between.local_addr().unwrap();
    let url = format!("{before}@{address}/{database}?sslmode=disable");
    let mut command = installation.command("0", LEASE);
    command
        .env("DATABASE_URL", url)
        .env("DB_START_TIMEOUT", "1");
    let mut process = command.arg("migrate").spawn().unwrap();
    let signal = |name: &str| {
        let signal = [name, &process.id().to_string()];
        let sent = Command::new("kill").args(signal).status().unwrap();
        assert!(sent.success());
    };
    let (held, _) = between.accept().unwrap();
    signal("-STOP");
    thread::sleep(Duration::from_secs(2));
    let host = host.to_owned();
    thread::spawn(move || {
        let later = between.incoming().map(Result::unwrap);
        for client in [held].into_iter().chain(later) {
            let server = TcpStream::connect(&host).unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                thread::spawn(move || io::copy(&mut from, &mut to));
            }
        }
    });
    signal("-CONT");
    assert!(process.wait().unwrap().success());
}
