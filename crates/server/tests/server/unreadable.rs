//! Rows that another program has written or damaged: whatever they say, the server answers in words,
//! goes on with the chats beside, and deletes the one that they belong to.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use yai_agentkit_core::{ConversationId, Storage};
use yai_agentkit_persistence::{Database, DatabaseConfig};

use crate::{
    crash::{Installation, new_chat, wait_for},
    http::request_with,
    process::{PATIENCE, Server},
};

/// What is set, of the rows of one chat. `{deep}` is JSON that no parser reads, `{garbage}` bytes
/// that are no MessagePack.
const POISONS: &[(&str, &str)] = &[
    ("agent_conversations", "metadata_ = {deep}"),
    ("agent_conversations", "metadata_ = '3'"),
    ("agent_messages", "metadata_ = {deep}"),
    ("agent_messages", "role = 'wizard'"),
    ("agent_messages", "role = ''"),
    ("agent_turns", "interrupt = {deep}"),
    ("agent_turns", "interrupt = '{\"a\": 1}'"),
    ("agent_turns", "attempt = -1"),
    ("agent_turns", "epoch = -7"),
    ("agent_turns", "status = 'dreaming'"),
    ("agent_turns", "lease_ms = -5"),
    ("agent_turn_events", "events = {deep}"),
    ("agent_turn_events", "events = '{\"a\": 1}'"),
    (
        "agent_turn_events",
        "events = '[{\"type\": \"UNHEARD_OF\"}]'",
    ),
    ("checkpoints", "checkpoint = {deep}"),
    ("checkpoints", "checkpoint = '[]'"),
    ("checkpoints", "checkpoint = '{\"v\": 900}'"),
    ("checkpoints", "metadata = {deep}"),
    ("checkpoints", "metadata = '[]'"),
    ("checkpoint_blobs", "blob = {garbage}"),
    ("checkpoint_blobs", "type = 'wizard'"),
    ("checkpoint_blobs", "type = 'json', blob = {deep_bytes}"),
];

struct Case {
    is_postgres: bool,
    database: Database,
}

impl Case {
    async fn new(installation: &Installation) -> Self {
        let variable = |wanted: &str| {
            let mut variables = installation.variables.iter();
            let found = variables.find(|(name, _)| *name == wanted);
            found.map(|(_, value)| value.clone())
        };
        let url = variable("DATABASE_URL");
        let is_postgres = url.is_some();
        let file = installation.directory.path().join("test.db");
        let url = url.unwrap_or_else(|| format!("sqlite:{}", file.display()));
        let mut config = DatabaseConfig::new(url).unwrap();
        if let Some(schema) = variable("DB_SCHEMA") {
            config = config.schema(schema).unwrap();
        }
        let database = Database::connect(&config).await.unwrap();
        Self {
            is_postgres,
            database,
        }
    }

    async fn set(&self, table: &str, what: &str, chat: &str) {
        let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
        let bytes = |hex: String| match self.is_postgres {
            true => format!("'\\x{hex}'"),
            false => format!("x'{hex}'"),
        };
        let hex: String = deep.bytes().map(|byte| format!("{byte:02x}")).collect();
        let what = what
            .replace("{deep_bytes}", &bytes(hex))
            .replace("{deep}", &format!("'{deep}'"))
            .replace("{garbage}", &bytes("c1c1c1".to_owned()));
        let column = match table {
            "agent_conversations" => "id",
            "agent_messages" | "agent_turns" | "agent_turn_events" => "conversation_id",
            _ => "thread_id",
        };
        let id = |id: &str| match self.is_postgres {
            true => format!("'{id}'"),
            false => format!("x'{}'", id.replace('-', "")),
        };
        let id = match column {
            "thread_id" => format!(
                "'{}'",
                self.database
                    .thread_of(conversation(chat))
                    .await
                    .unwrap()
                    .unwrap()
            ),
            _ => id(chat),
        };
        let script = format!("UPDATE {table} SET {what} WHERE {column} = {id}");
        self.database.execute_script(&script).await.unwrap();
    }
}

fn conversation(chat: &str) -> ConversationId {
    ConversationId(chat.parse().unwrap())
}

/// Within a time in which nobody loses patience, and in words.
#[track_caller]
fn answers(server: &Server, poison: &str, head: &str, body: &str) -> (u16, Value) {
    let started = Instant::now();
    let accept = "accept: application/json\r\n";
    let answer = request_with(&server.address, PATIENCE, head, accept, body);
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{poison}: {head}"
    );
    let (status, body) = answer.unwrap_or((200, Value::Null));
    let kind = body["type"].as_str().unwrap_or_default();
    assert!(
        !kind.ends_with(":internal"),
        "{poison}: {head}: {status} {body}"
    );
    if status >= 500 {
        assert!(
            body["detail"]
                .as_str()
                .is_some_and(|detail| detail.len() > 20),
            "{body}"
        );
    }
    (status, body)
}

fn turn_of(server: &Server, chat: &str) -> String {
    let (_, turns) = server.request(&format!("GET /chats/{chat}/turns"), "");
    turns["items"][0]["id"].as_str().unwrap().to_owned()
}

async fn every_row_may_be_unreadable(installation: Installation) {
    let server = installation.start_with("0", "0.5");
    let case = Case::new(&installation).await;
    let message = r#"{"content": "My name is Ada. What is 17 * 23?"}"#;
    let beside = new_chat(&server);
    for was_running in [false, true] {
        for (table, what) in POISONS {
            let poison = &format!("{table} {what} {was_running}");
            let chat = new_chat(&server);
            let (status, answer) = server.request(&format!("POST /chats/{chat}/messages"), message);
            assert_eq!(status, 200, "{answer}");
            let turn = turn_of(&server, &chat);
            if was_running {
                // Left by a server that is gone.
                let mut left = "status = 'running', lease_ms = 1, lease_owner = id".to_owned();
                left += ", assistant_message_id = NULL";
                case.set("agent_turns", &left, &chat).await;
            }
            case.set(table, what, &chat).await;
            for path in [
                "GET /conversations".to_owned(),
                format!("GET /conversations/{chat}"),
                format!("GET /conversations/{chat}/messages"),
                format!("GET /chats/{chat}/turns"),
                format!("GET /chats/{chat}/turns/{turn}"),
                format!("GET /chats/{chat}/state"),
                format!("GET /chats/{chat}/history"),
            ] {
                answers(&server, poison, &path, "");
            }
            if !was_running {
                let events = format!("GET /chats/{chat}/turns/{turn}/events");
                answers(&server, poison, &events, "");
            }
            answers(
                &server,
                poison,
                &format!("POST /chats/{chat}/messages"),
                message,
            );
            answers(
                &server,
                poison,
                &format!("PATCH /conversations/{chat}"),
                r#"{"title": "t"}"#,
            );
            answers(&server, poison, &format!("POST /chats/{chat}/fork"), "{}");
            answers(
                &server,
                poison,
                &format!("POST /chats/{chat}/turns/{turn}/cancel"),
                "",
            );
            // The chats beside go on meanwhile.
            let (status, answer) =
                server.request(&format!("POST /chats/{beside}/messages"), message);
            assert_eq!(status, 200, "{poison}: {answer}");
            // Not before a turn that is tried again has come to its end.
            let deleted = wait_for(|| {
                let status = delete(&server, &chat);
                (!was_running || status != 409).then_some(status)
            });
            assert!((200..300).contains(&deleted), "{poison}: {deleted}");
            assert_eq!(
                server.request(&format!("GET /conversations/{chat}"), "").0,
                404
            );
        }
    }
    assert_eq!(server.request("GET /conversations", "").0, 200);
    assert_eq!(server.request("GET /readyz", "").0, 200);
}

/// The answer has no body.
fn delete(server: &Server, chat: &str) -> u16 {
    let url = format!("http://{}/conversations/{chat}", server.address);
    let status = Command::new("curl")
        .args([
            "--silent",
            "--request",
            "DELETE",
            "--header",
            "host: localhost",
        ])
        .args(["--output", "/dev/null", "--write-out", "%{http_code}", &url])
        .output()
        .unwrap();
    String::from_utf8(status.stdout).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_of_unreadable_rows_on_sqlite_is_answered_in_words_and_deleted() {
    every_row_may_be_unreadable(Installation::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_of_unreadable_rows_on_postgres_is_answered_in_words_and_deleted() {
    every_row_may_be_unreadable(Installation::postgres()).await;
}

/// A turn whose state can't be read is tried so often as its limit says, and ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_can_not_be_read_fails_after_its_attempts_and_keeps_no_other_waiting() {
    for installation in [Installation::sqlite(), Installation::postgres()] {
        let case = {
            let server = installation.start_with("0", "0.5");
            let case = Case::new(&installation).await;
            let message = r#"{"content": "hi"}"#;
            let chats: Vec<_> = (0..3).map(|_| new_chat(&server)).collect();
            for chat in &chats {
                server.request(&format!("POST /chats/{chat}/messages"), message);
            }
            (case, chats)
        };
        let (case, chats) = case;
        let left =
            "status = 'running', lease_ms = 1, lease_owner = id, assistant_message_id = NULL";
        for chat in &chats {
            case.set("agent_turns", left, chat).await;
        }
        // The oldest can't even be read as a turn.
        case.set("agent_turns", "interrupt = {deep}", &chats[0])
            .await;
        case.set("checkpoints", "checkpoint = {deep}", &chats[1])
            .await;
        let server = installation.start_with("0", "0.5");
        let turn = |chat: &str| {
            let (status, turns) = server.request(&format!("GET /chats/{chat}/turns"), "");
            (status == 200).then(|| turns["items"][0].clone())
        };
        wait_for(|| (turn(&chats[0])?["status"] == "failed").then_some(()));
        wait_for(|| (turn(&chats[2])?["status"] == "completed").then_some(()));
        wait_for(|| (turn(&chats[1])?["status"] == "failed").then_some(()));
        let attempts = turn(&chats[1]).unwrap()["attempt"].as_u64().unwrap();
        assert!(attempts <= 10, "{attempts}");
        for chat in &chats {
            assert!((200..300).contains(&delete(&server, chat)));
        }
    }
}
