//! Streams of servers that are killed and stopped, and of many readers.

use std::time::Duration;

use serde_json::json;

use super::{QUESTION, find, text, turn_of};
use crate::{
    crash::Installation,
    event_stream::{Event, Reader},
    process::{Server, request},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_a_kill_cuts_off_is_told_anew_on_sqlite() {
    a_text_that_a_kill_cuts_off_is_told_anew(Installation::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_a_kill_cuts_off_is_told_anew_on_postgres() {
    a_text_that_a_kill_cuts_off_is_told_anew(Installation::postgres()).await;
}

async fn a_text_that_a_kill_cuts_off_is_told_anew(mut installation: Installation) {
    installation
        .variables
        .push(("AGENTKIT_LEASE", "0.3".to_owned()));
    let mut server = installation.start("3000");
    let chat = new_chat(&server);
    // Help is a long text, and takes one step.
    let mut reader = Reader::post(&server.address, &chat, "Sing!").await;
    let mut events = Vec::new();
    while text(&events).len() < 20 {
        events.push(reader.next().await.expect("the stream goes on"));
    }
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    while let Some(event) = reader.next().await {
        events.push(event);
    }

    let server = installation.start("0");
    let turn = turn_of(&events);
    let mut reader = Reader::get(&server.address, &chat, &turn, last_id(&events)).await;
    while let Some(event) = reader.next().await {
        events.push(event);
    }
    let custom = events.iter().filter(|event| event.data["type"] == "CUSTOM");
    let custom: Vec<_> = custom
        .map(|event| [&event.data["name"], &event.data["value"]])
        .collect();
    let void = json!({"messageId": find(&events, "TEXT_MESSAGE_START")["messageId"]});
    let expected = [
        [&json!("agentkit.discarded"), &void],
        [&json!("agentkit.resumed"), &json!({"attempt": 2})],
    ];
    assert_eq!(custom, expected);
    let answer = events.last().unwrap().data["result"]["content"].clone();
    assert_eq!(text(&events), answer);
    let mut all = Reader::get(&server.address, &chat, &turn, None).await;
    assert_eq!(all.rest().await, events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_ends_its_streams_and_the_next_goes_on() {
    let installation = Installation::sqlite();
    let server = installation.start("300");
    let chat = new_chat(&server);
    let mut reader = Reader::post(&server.address, &chat, QUESTION).await;
    let mut events = vec![reader.next().await.unwrap()];
    server.signal("-TERM");
    events.extend(reader.rest().await);
    assert_eq!(server.exit_code(), Some(0));

    let server = installation.start("0");
    let turn = turn_of(&events);
    let mut reader = Reader::get(&server.address, &chat, &turn, last_id(&events)).await;
    events.extend(reader.rest().await);
    assert_eq!(
        text(&events),
        events.last().unwrap().data["result"]["content"]
    );
    let mut all = Reader::get(&server.address, &chat, &turn, None).await;
    assert_eq!(all.rest().await, events);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_a_chat_goes_on_when_the_server_that_runs_a_turn_is_killed() {
    for installation in [Installation::sqlite(), Installation::postgres()] {
        let mut first = installation.start("1500");
        let second = installation.start("0");
        let chat = new_chat(&first);
        let mut reader = Reader::chat(&second.address, &chat, None).await;
        drop(Reader::post(&first.address, &chat, QUESTION).await);
        let mut events = reader.until("TOOL_CALL_END").await;
        first.process.kill().unwrap();
        first.process.wait().unwrap();
        events.extend(reader.until("RUN_FINISHED").await);
        assert_eq!(find(&events, "CUSTOM")["name"], "agentkit.resumed");
        // And with the next turn,
        drop(Reader::post(&second.address, &chat, "What is my name?").await);
        let next = reader.until("RUN_FINISHED").await;
        assert_eq!(next[0].data["type"], "RUN_STARTED");
        assert_ne!(turn_of(&next), turn_of(&events));
        events.extend(next);
        // as for one who comes later, behind any event.
        for (event, read) in events.iter().zip(1..) {
            let mut rest = Reader::chat(&second.address, &chat, Some(&event.id)).await;
            for event in &events[read..] {
                assert_eq!(rest.next().await.as_ref(), Some(event));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_readers_that_come_and_go_see_the_same_on_sqlite() {
    readers_that_come_and_go_see_the_same(&Installation::sqlite(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_readers_that_come_and_go_see_the_same_from_two_servers() {
    readers_that_come_and_go_see_the_same(&Installation::postgres(), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_behind_a_transaction_pooler_see_the_same() {
    let url = std::env::var("AGENTKIT_TEST_PGBOUNCER_URL");
    let mut installation = Installation::postgres();
    let pooled = url.expect("AGENTKIT_TEST_PGBOUNCER_URL is not set: run ./test");
    for (name, value) in &mut installation.variables {
        if *name == "DATABASE_URL" {
            value.clone_from(&pooled);
        }
    }
    readers_that_come_and_go_see_the_same(&installation, 2).await;
}

async fn readers_that_come_and_go_see_the_same(installation: &Installation, servers: usize) {
    let servers: Vec<Server> = (0..servers).map(|_| installation.start("400")).collect();
    let chat = new_chat(&servers[0]);
    let mut asking = Reader::post(&servers[0].address, &chat, QUESTION).await;
    let first = asking.next().await.unwrap();
    let turn = first.data["runId"].as_str().unwrap().to_owned();
    let readers = (0..200u64).map(|seed| {
        let addresses: Vec<_> = servers
            .iter()
            .map(|server| server.address.clone())
            .collect();
        let (chat, turn) = (chat.clone(), turn.clone());
        tokio::spawn(async move { come_and_go(&addresses, &chat, &turn, seed).await })
    });
    let readers: Vec<_> = readers.collect();
    let mut events = vec![first];
    events.extend(asking.rest().await);
    assert_eq!(events.last().unwrap().data["type"], "RUN_FINISHED");
    assert_eq!(
        text(&events),
        events.last().unwrap().data["result"]["content"]
    );
    let mut connections = 0;
    for reader in readers {
        let (seen, times) = reader.await.unwrap();
        assert_eq!(seen, events);
        connections += times;
    }
    println!(
        "200 readers, {connections} connections, {} events",
        events.len()
    );
    assert!(connections > 200, "nobody went away");
}

/// Reads a turn to its end, on connections that break after a few events, each to any server; some
/// read slowly. Returns the events, and how many connections it took.
async fn come_and_go(
    addresses: &[String],
    chat: &str,
    turn: &str,
    seed: u64,
) -> (Vec<Event>, usize) {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (mut events, mut connections) = (Vec::new(), 0);
    loop {
        let server = usize::try_from(random(addresses.len() as u64)).unwrap();
        connections += 1;
        let mut reader = Reader::get(&addresses[server], chat, turn, last_id(&events)).await;
        for _ in 0..random(12) {
            match reader.next().await {
                Some(event) => events.push(event),
                None => return (events, connections),
            }
            if random(10) == 0 {
                tokio::time::sleep(Duration::from_millis(random(100))).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_holds_little_memory() {
    const CHATS: usize = 20;
    const STREAMS: usize = 1_000;
    /// In KiB, of a debug build.
    const MOST: u64 = 64;
    let installation = Installation::sqlite();
    let server = installation.start("600000");
    let mut readers = Vec::new();
    let mut turns = Vec::new();
    for _ in 0..CHATS {
        let chat = new_chat(&server);
        let mut reader = Reader::post(&server.address, &chat, "hi").await;
        let turn = turn_of(&[reader.next().await.unwrap()]);
        turns.push((chat, turn));
        readers.push(reader);
    }
    let before = server.resident();
    while readers.len() < CHATS + STREAMS {
        let opening = turns.iter().map(async |(chat, turn)| {
            let mut reader = Reader::get(&server.address, chat, turn, None).await;
            // All that there is for now.
            for _ in 0..3 {
                reader.next().await.unwrap();
            }
            reader
        });
        readers.extend(futures::future::join_all(opening).await);
    }
    let a_stream = (server.resident() - before) / STREAMS as u64;
    assert!(a_stream <= MOST, "{a_stream} KiB a stream");
}

fn last_id(events: &[Event]) -> Option<&str> {
    events.last().map(|event| event.id.as_str())
}

fn new_chat(server: &Server) -> String {
    let chat = request(&server.address, "POST /conversations", "{}")
        .unwrap()
        .1;
    chat["id"].as_str().unwrap().to_owned()
}
