//! What was erased is in no file of the database, and does not come back.

use std::thread;

use serde_json::{Value, json};
use yai_agentkit_core::{
    Stores,
    store::{ItemKey, MemoryStoreExt, NewItem},
};

use crate::{
    crash::wait_for,
    files::Files,
    http::request_with,
    owners::{called_by, three},
    process::{PATIENCE, Server},
    support::{Api, ScriptedAgent},
};

/// Nowhere else.
const WORD: &str = "Brombeerdickicht";
/// Of somebody else.
const OTHER: &str = "Haselnussstrauch";

/// The headers of an owner's request.
fn of(owner: &str, key: &str) -> String {
    format!("agentkit-owner: {owner}\r\nidempotency-key: {key}\r\n")
}

fn send(server: &Server, head: &str, headers: &str, body: &Value) -> (u16, Value) {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    // An answer without a body is none of JSON.
    let answer = request_with(&server.address, PATIENCE, head, headers, &body);
    answer.unwrap_or((204, Value::Null))
}

/// A new chat in which the word was said wherever one can say something. The first message is the
/// word's, what follows is not.
fn plant(server: &Server, word: &str) -> String {
    plant_as(server, word, "")
}

/// The same by somebody who sends these headers too.
fn plant_as(server: &Server, word: &str, headers: &str) -> String {
    let owner = format!("{word}-owner");
    let of = |owner: &str, key: &str| of(owner, key) + headers;
    let new = json!({"title": word, "metadata": {"note": word}});
    let (_, chat) = send(server, "POST /conversations", &of(&owner, word), &new);
    let chat = chat["id"].as_str().unwrap().to_owned();
    for said in [format!("My name is {word}."), "What is my name?".to_owned()] {
        let head = format!("POST /chats/{chat}/messages");
        let body = json!({"content": said, "metadata": {"note": word}});
        let (status, answer) = send(server, &head, &of(&owner, &said), &body);
        assert_eq!(status, 200, "{answer}");
    }
    let item = json!({"namespace": ["notes"], "key": word, "value": {"note": word}});
    send(server, "PUT /store/items", &of(&owner, word), &item);
    chat
}

/// Sends a message to a chat, and returns when its turn has recorded something; then what is to be
/// waited for.
fn begin_turn(server: &Server, chat: &str, said: String) -> thread::JoinHandle<u16> {
    begin_turn_as(server, chat, said, "")
}

/// The same by somebody who sends these headers too.
fn begin_turn_as(
    server: &Server,
    chat: &str,
    said: String,
    headers: &str,
) -> thread::JoinHandle<u16> {
    let history = format!("GET /chats/{chat}/history");
    let recorded = || {
        let (_, page) = send(server, &history, headers, &Value::Null);
        page["items"].as_array().unwrap().len()
    };
    let headers = headers.to_owned();
    let before = recorded();
    let head = format!("POST /chats/{chat}/messages");
    // It goes on for seconds.
    let questions = (11..21).map(|number| format!(" What is {number} * 23?"));
    let said = said + &questions.collect::<String>();
    let (address, body) = (server.address.clone(), json!({"content": said}).to_string());
    let turn = thread::spawn(move || {
        let answer = request_with(&address, PATIENCE, &head, &headers, &body);
        answer.map_or(0, |(status, _)| status)
    });
    wait_for(|| (recorded() > before).then_some(()));
    turn
}

async fn an_erased_owner_is_in_no_file(files: Files) {
    let owner = format!("{WORD}-owner");
    let server = files.installation.start("300");
    let chat = plant(&server, WORD);
    plant(&server, OTHER);
    assert!(!files.with(WORD).is_empty());

    files.run(&["keys", "create", WORD, "--owner", &owner]);
    let key = files.run(&["keys", "create", "all", "--scope", "admin"]);
    let would = files.run(&["erase", "--owner", &owner, "--dry-run", "--json"]);
    let would: Value = serde_json::from_str(&would).unwrap();
    let expected = json!({"conversations": 1, "items": 1, "keys": 1});
    let mut dry = expected.clone();
    dry["dry_run"] = json!(true);
    assert_eq!(would, dry);
    let key = format!("authorization: Bearer {}\r\n", key.trim());
    // Nothing that takes its time comes between its beginning and the erasure.
    let said = format!("My dog is {WORD}. What is 17 * 23?");
    let late = begin_turn_as(&server, &chat, said, &key);
    let erase = format!("DELETE /owners/{owner}");
    assert_eq!(send(&server, &erase, &key, &Value::Null), (200, expected));
    let nothing = json!({"conversations": 0, "items": 0, "keys": 0});
    assert_eq!(send(&server, &erase, &key, &Value::Null), (200, nothing));
    // The turn goes on, and comes to nothing.
    assert_ne!(late.join().unwrap(), 200);

    let (_, left) = send(&server, "GET /conversations", &key, &Value::Null);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    drop(server);
    files.overwrite().await;
    assert_eq!(files.with(WORD), Vec::<String>::new());
    assert!(!files.with(OTHER).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_owner_is_in_no_file_of_sqlite() {
    an_erased_owner_is_in_no_file(Files::of_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_owner_is_in_no_file_of_postgres() {
    an_erased_owner_is_in_no_file(Files::of_postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_tenant_is_in_no_file_and_the_others_stay() {
    let files = Files::of_tenants().await;
    let key = |tenant: &str, name: &str| {
        let create = [
            "keys", "create", name, "--scope", "admin", "--tenant", tenant,
        ];
        let key = files.run(&create);
        format!("authorization: Bearer {}\r\n", key.trim())
    };
    let (acme, bob) = (key("acme", WORD), key("bob", OTHER));
    let server = files.installation.start("300");
    let chat = plant_as(&server, WORD, &acme);
    plant_as(&server, OTHER, &bob);
    // Of a program beside us, in no conversation.
    let saver = format!(
        "SET search_path = tenants; SET agentkit.tenant = 'acme';
INSERT INTO threads (thread_id, updated_at) VALUES ('{WORD}', now());
INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint) VALUES ('{WORD}', '1', '{{\"v\": 4}}');
INSERT INTO checkpoint_blobs (thread_id, channel, version, type, blob)
VALUES ('{WORD}', 'c', '1', 'null', '{WORD}')"
    );
    files.execute(&saver).await;
    assert!(!files.with(WORD).is_empty());
    let would = files.run(&["erase", "--tenant", "acme", "--dry-run"]);
    assert_eq!(
        would,
        "1 conversations, 1 items and 1 keys would be erased\n"
    );

    let said = format!("My dog is {WORD}. What is 17 * 23?");
    let late = begin_turn_as(&server, &chat, said, &acme);
    let erased = files.run(&["erase", "--tenant", "acme"]);
    assert_eq!(erased, "1 conversations, 1 items and 1 keys are erased\n");
    let again = files.run(&["erase", "--tenant", "acme"]);
    assert_eq!(again, "0 conversations, 0 items and 0 keys are erased\n");
    // The turn goes on, and comes to nothing; the key lets nobody in.
    assert_ne!(late.join().unwrap(), 200);
    assert_eq!(
        send(&server, "GET /conversations", &acme, &Value::Null).0,
        401
    );
    let (_, left) = send(&server, "GET /conversations", &bob, &Value::Null);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    drop(server);
    files.overwrite().await;
    assert_eq!(files.with(WORD), Vec::<String>::new());
    assert!(!files.with(OTHER).is_empty());
}

#[test]
fn a_conversation_is_erased_by_command_also_while_a_turn_runs() {
    let files = Files::of_sqlite();
    let server = files.installation.start("300");
    let chat = plant(&server, WORD);
    let late = begin_turn(&server, &chat, "What is 17 * 23?".to_owned());
    let erased = files.run(&["erase", &chat]);
    assert_eq!(erased, "1 conversations, 0 items and 0 keys are erased\n");
    assert_ne!(late.join().unwrap(), 200);
    let (status, _) = server.request(&format!("GET /conversations/{chat}"), "");
    assert_eq!(status, 404);
}

#[tokio::test]
async fn what_agents_remember_of_an_owner_goes_with_the_owner() {
    let [ada, bob, all] = three();
    let store = all.storage.memory_store();
    let put = async |labels: &[&str]| {
        let key = ItemKey::new(labels.iter().copied(), "name");
        let item = NewItem::new(key.clone(), &json!({"value": 1})).unwrap();
        store.put(item).await.unwrap();
        key
    };
    let gone = [
        put(&["memories", "ada"]).await,
        put(&["owners", "ada", "notes"]).await,
    ];
    let kept = [
        put(&["memories"]).await,
        put(&["memories", "adam"]).await,
        put(&["owners", "bob", "ada"]).await,
    ];
    ada.conversation().await;
    let refused = bob.delete("/owners/ada").await;
    assert_eq!(refused.problem(), "not-found");
    let erased = ada.delete("/owners/ada").await.body;
    assert_eq!(erased, json!({"conversations": 1, "items": 2, "keys": 0}));
    for key in gone {
        assert_eq!(store.get(key).await.unwrap(), None);
    }
    for key in kept {
        assert!(store.get(key).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn who_erases_an_owner_may_do_all() {
    let api = Api::new(ScriptedAgent::default());
    let all = called_by(&api, None);
    let erased = all.delete("/owners/nobody").await;
    assert_eq!(erased.body["conversations"], 0);
    let long = "x".repeat(256);
    assert_eq!(
        all.delete(&format!("/owners/{long}")).await.invalid_field(),
        "owner"
    );
}

/// A message, what was said before and after, and one that is long enough to be stored apart.
async fn a_redacted_message_is_in_no_file(files: Files) {
    let server = files.installation.start("0");
    let (_, chat) = send(&server, "POST /conversations", "", &json!({}));
    let chat = chat["id"].as_str().unwrap().to_owned();
    let say = |said: &str| {
        let head = format!("POST /chats/{chat}/messages");
        let body = json!({"content": said, "metadata": {"note": said}});
        let (status, answer) = send(&server, &head, "", &body);
        assert_eq!(status, 200, "{answer}");
        answer["content"].as_str().unwrap().to_owned()
    };
    say("My name is Ada.");
    say(&format!("What is 17 * 23? {WORD} \"it\" is."));
    say(&format!(
        "What is 17 + 23? {}",
        format!("{WORD} ").repeat(200)
    ));
    for number in 1..10 {
        say(&format!("What is {number} + 1?"));
    }
    let path = format!("GET /conversations/{chat}/messages");
    let before = server.request(&path, "").1["items"].clone();
    let before = before.as_array().unwrap();
    assert!(!files.with(WORD).is_empty());
    let found = || {
        server
            .request(&format!("GET /conversations?text={WORD}"), "")
            .1
    };
    wait_for(|| (found()["items"] != json!([])).then_some(()));

    let has_it = |message: &&Value| message.to_string().contains(WORD);
    let said: Vec<_> = before.iter().filter(has_it).collect();
    let [short, long] = said[..] else {
        panic!("{said:?}")
    };
    let [short, long] = [short, long].map(|message| message["id"].as_str().unwrap());
    let redact = format!("POST /chats/{chat}/messages/{short}/redact");
    let (status, redacted) = send(&server, &redact, "", &Value::Null);
    assert_eq!((status, &redacted["content"]), (200, &json!("[redacted]")));
    let told = files.run(&["redact", &chat, long]);
    assert_eq!(told, format!("message {long} is redacted\n"));

    let after = server.request(&path, "").1["items"].clone();
    for (before, after) in before.iter().zip(after.as_array().unwrap()) {
        let mut expected = before.clone();
        if has_it(&before) {
            expected["content"] = json!("[redacted]");
            expected["metadata"] = Value::Null;
        }
        assert_eq!(*after, expected);
    }
    assert_eq!(found()["items"], json!([]));
    for checkpoint in server.history(&chat) {
        let values = &checkpoint["values"];
        assert!(values["messages"].is_array(), "{checkpoint}");
    }
    // The agent goes on with what it knows besides.
    assert!(say("What is my name?").contains("Ada"));
    drop(server);
    files.overwrite().await;
    assert_eq!(files.with(WORD), Vec::<String>::new());
    assert!(!files.with("17 * 23 = 391").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redacted_message_is_in_no_file_of_sqlite() {
    a_redacted_message_is_in_no_file(Files::of_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redacted_message_is_in_no_file_of_postgres() {
    a_redacted_message_is_in_no_file(Files::of_postgres().await).await;
}
