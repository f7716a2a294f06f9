//! What stands apart of messages: each long text once in its chat, none that nobody names, none missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use regex::Regex;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, SqliteConnection};
use tokio::time::sleep;
use yai_agentkit_core::{ConversationId, MessageId, Stores};
use yai_agentkit_persistence::{Database, DatabaseConfig};

use crate::{
    crash::Installation,
    process::{request, text},
};

/// The rows of a database, as text: the conversation first.
struct Rows<'a>(&'a Installation);

impl Rows<'_> {
    fn variable(&self, name: &str) -> Option<&str> {
        let mut variables = self.0.variables.iter();
        let found = variables.find(|(own, _)| *own == name);
        found.map(|(_, value)| value.as_str())
    }

    fn url(&self) -> String {
        let file = || self.0.directory.path().join("test.db");
        let url = self.variable("DATABASE_URL").map(str::to_owned);
        url.unwrap_or_else(|| format!("sqlite:{}", file().display()))
    }

    async fn of(&self, table: &str, column: &str) -> Vec<(String, String)> {
        let Some(schema) = self.variable("DB_SCHEMA") else {
            let mut connection = SqliteConnection::connect(&self.url()).await.unwrap();
            let rows = format!(
                "SELECT lower(hex(conversation_id)), {column} FROM {table} WHERE {column} <> ''"
            );
            let rows = sqlx::query_as(sqlx::AssertSqlSafe(rows));
            return rows.fetch_all(&mut connection).await.unwrap();
        };
        let mut connection = PgConnection::connect(&self.url()).await.unwrap();
        let rows = format!(
            "SELECT replace(conversation_id::text, '-', ''), {column}::text FROM {schema}.{table}
             WHERE {column}::text <> ''"
        );
        let rows = sqlx::query_as(sqlx::AssertSqlSafe(rows));
        rows.fetch_all(&mut connection).await.unwrap()
    }

    /// How many long texts each chat has. They are those that its messages name.
    async fn stored(&self) -> BTreeMap<String, usize> {
        let place = Regex::new("@sha256:([0-9a-f]{64}) ").unwrap();
        let mut named = BTreeSet::new();
        for (chat, parts) in self.of("agent_messages", "parts").await {
            let hashes = place.captures_iter(&parts).map(|found| found[1].to_owned());
            named.extend(hashes.map(|hash| (chat.clone(), hash)));
        }
        let stored = self.of("agent_parts", "hash").await;
        assert_eq!(
            stored.len(),
            named.len(),
            "one is left over, or missing, or there twice"
        );
        assert_eq!(stored.into_iter().collect::<BTreeSet<_>>(), named);
        let mut counts = BTreeMap::new();
        for (chat, _) in named {
            *counts.entry(chat).or_default() += 1;
        }
        counts
    }
}

/// Long, and another for each letter.
fn picture(letter: &str) -> Value {
    let source = json!({"type": "data", "media_type": "image/png", "data": letter.repeat(40_000)});
    json!({"type": "image", "source": source})
}

async fn each_long_part_is_stored_once_while_somebody_names_it(installation: Installation) {
    let rows = Rows(&installation);
    let server = installation.start("0");
    let ask = |head: String, body: Value| {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        // A deletion is answered by nothing.
        let answer = request(&server.address, &head, &body);
        let (status, answer) = answer.unwrap_or((204, Value::Null));
        assert!(status < 300, "{head}: {status} {answer}");
        answer
    };
    let run = |arguments: &[&str]| {
        let mut command = installation.command("0", "1");
        command
            .env("AGENTKIT_CHECKPOINT_AGE", "1")
            .env("AGENTKIT_CHECKPOINTS_KEPT", "1");
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let id = |answer: &Value| answer["id"].as_str().unwrap().to_owned();
    let counts = async |chats: &[(&str, usize)]| {
        let expected = chats.iter().filter(|(_, count)| *count > 0);
        let expected: BTreeMap<_, _> = expected
            .map(|(chat, count)| (chat.replace('-', ""), *count))
            .collect();
        assert_eq!(rows.stored().await, expected);
    };
    let chat = id(&ask("POST /conversations".to_owned(), json!({})));
    let say = |letters: &[&str], replaces: &Value| {
        let mut parts = vec![json!({"type": "text", "text": "My name is Ada."})];
        parts.extend(letters.iter().map(|letter| picture(letter)));
        let message = json!({"parts": parts, "replaces": replaces});
        ask(format!("POST /chats/{chat}/messages"), message)
    };
    let said = || {
        let page = ask(format!("GET /conversations/{chat}/messages"), Value::Null);
        page["items"].as_array().unwrap().clone()
    };
    // The same again, in one message and in two.
    say(&["A", "A"], &Value::Null);
    say(&["A", "B"], &Value::Null);
    counts(&[(&chat, 2)]).await;
    // Another branch, where the one before stays.
    let first = said()[0]["id"].clone();
    let second = said()[2].clone();
    say(&["A", "C"], &second["id"]);
    counts(&[(&chat, 3)]).await;
    // A fork has its own, of the branch that is chosen.
    let fork = id(&ask(format!("POST /chats/{chat}/fork"), json!({})));
    counts(&[(&chat, 3), (&fork, 2)]).await;
    // So has a history that is imported.
    let told = said().into_iter().map(|message| {
        let fields = ["role", "content", "parts"];
        let fields = fields.map(|name| (name.to_owned(), message[name].clone()));
        Value::Object(fields.into_iter().collect())
    });
    let copy = json!({"messages": told.collect::<Vec<_>>()});
    let copy = id(&ask("POST /conversations".to_owned(), copy));
    counts(&[(&chat, 3), (&fork, 2), (&copy, 2)]).await;

    sleep(Duration::from_millis(1100)).await;
    let pruned = run(&["prune", "--json"]);
    let pruned: Value = serde_json::from_str(&pruned).unwrap();
    assert_ne!(pruned["checkpoints"], 0);
    counts(&[(&chat, 3), (&fork, 2), (&copy, 2)]).await;

    // What is redacted takes along what nobody else names.
    let redact = |message: &Value| {
        let message = message.as_str().unwrap();
        ask(
            format!("POST /chats/{chat}/messages/{message}/redact"),
            Value::Null,
        )
    };
    redact(&first);
    counts(&[(&chat, 3), (&fork, 2), (&copy, 2)]).await;
    redact(&second["id"]);
    counts(&[(&chat, 2), (&fork, 2), (&copy, 2)]).await;
    ask(format!("DELETE /conversations/{fork}"), Value::Null);
    counts(&[(&chat, 2), (&copy, 2)]).await;
    run(&["erase", &copy]);
    counts(&[(&chat, 2)]).await;
    // An application's own call.
    let third = said()[2]["id"].clone();
    drop(server);
    let mut config = DatabaseConfig::new(rows.url()).unwrap();
    if let Some(schema) = rows.variable("DB_SCHEMA") {
        config = config.schema(schema).unwrap();
    }
    let database = Database::connect(&config).await.unwrap();
    let (of, third): (ConversationId, MessageId) = (
        chat.parse().unwrap(),
        third.as_str().unwrap().parse().unwrap(),
    );
    assert!(database.messages().delete(&of.key(third)).await.unwrap());
    counts(&[]).await;
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_long_part_is_stored_once_on_sqlite_while_somebody_names_it() {
    each_long_part_is_stored_once_while_somebody_names_it(Installation::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_long_part_is_stored_once_on_postgres_while_somebody_names_it() {
    each_long_part_is_stored_once_while_somebody_names_it(Installation::postgres()).await;
}
