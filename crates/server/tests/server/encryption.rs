//! A server whose database is encrypted: what is said in it is in no file.

use serde_json::{Value, json};

use crate::{
    crash::{new_chat, wait_for},
    files::Files,
    http::request_with,
    process::{PATIENCE, Server},
};

/// Nowhere else.
const WORD: &str = "Brombeerdickicht";

fn say(server: &Server, chat: &str, said: &str) -> (u16, Value) {
    let body = json!({"content": said, "metadata": {"note": WORD}});
    server.request(&format!("POST /chats/{chat}/messages"), &body.to_string())
}

fn messages(server: &Server, chat: &str) -> Vec<Value> {
    let path = format!("GET /conversations/{chat}/messages");
    let messages = server.request(&path, "").1["items"].clone();
    messages.as_array().unwrap().clone()
}

async fn what_is_said_is_in_no_file(mut files: Files) {
    let variables = &mut files.installation.variables;
    variables.push(("DB_ENCRYPTION_KEY", "env:MASTER_KEY".to_owned()));
    variables.push(("MASTER_KEY", "07".repeat(32)));
    let server = files.installation.start("300");
    let chat = new_chat(&server);
    let new = json!({"title": WORD, "metadata": {"note": WORD}}).to_string();
    let (status, titled) = server.request("POST /conversations", &new);
    assert_eq!((status, &titled["title"]), (200, &json!(WORD)));
    assert_eq!(say(&server, &chat, &format!("My name is {WORD}.")).0, 200);
    let item = json!({"namespace": ["notes"], "key": "note", "value": {"note": WORD}});
    let put = "PUT /store/items";
    let stored = request_with(&server.address, PATIENCE, put, "", &item.to_string());
    assert_eq!(stored, None, "it has no content");

    // Cut short, and finished by the next server.
    let (address, path) = (
        server.address.clone(),
        format!("POST /chats/{chat}/messages"),
    );
    let said = json!({"content": format!("My dog is {WORD}. What is 17 * 23?")});
    let late = std::thread::spawn(move || {
        request_with(&address, PATIENCE, &path, "", &said.to_string());
    });
    let before = server.history(&chat).len();
    wait_for(|| (server.history(&chat).len() > before).then_some(()));
    drop(server);
    late.join().unwrap();
    let server = files.installation.start("0");
    wait_for(|| (messages(&server, &chat).len() == 4).then_some(()));
    let before = messages(&server, &chat);
    assert!(
        before[3]["content"].to_string().contains("391"),
        "{before:?}"
    );

    // Another key, beside the server.
    let rotated: Value =
        serde_json::from_str(&files.run(&["encryption", "rotate", "--json"])).unwrap();
    assert_eq!(rotated["key"], 2);
    assert!(rotated["rows"].as_u64() > Some(20), "{rotated}");
    assert_eq!(messages(&server, &chat), before);
    let (status, answer) = say(&server, &chat, "What is my name?");
    assert_eq!(status, 200);
    assert!(answer["content"].to_string().contains(WORD), "{answer}");
    let (_, found) = server.request(
        &format!("GET /conversations/{}", titled["id"].as_str().unwrap()),
        "",
    );
    assert_eq!(found["metadata"], json!({"note": WORD}));
    let (status, refused) = server.request("GET /conversations?text=name", "");
    assert_eq!(status, 400, "{refused}");
    drop(server);
    assert_eq!(files.with(WORD), Vec::<String>::new());
    assert!(!files.with("xchacha20").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_a_server_is_in_no_file_of_sqlite() {
    what_is_said_is_in_no_file(Files::of_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_a_server_is_in_no_file_of_postgres() {
    what_is_said_is_in_no_file(Files::of_postgres().await).await;
}

#[test]
fn a_key_that_is_wrong_ends_a_server_with_a_line_that_names_the_setting() {
    let mut files = Files::of_sqlite();
    let variables = &mut files.installation.variables;
    variables.push(("DB_ENCRYPTION_KEY", "env:MASTER_KEY".to_owned()));
    variables.push(("MASTER_KEY", "07".repeat(32)));
    files.run(&["migrate"]);
    files.run(&["conversations"]);
    for (key, expected) in [
        ("08".repeat(32), "names another master key"),
        ("08".repeat(31), "names a key that is not 32 bytes"),
    ] {
        files.installation.variables[1].1 = key.clone();
        let mut command = files.installation.command("0", "1");
        let output = command.arg("conversations").output().unwrap();
        let error = crate::process::text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(
            error.contains("DB_ENCRYPTION_KEY") && error.contains(expected),
            "{error}"
        );
        assert!(!error.contains(&key));
    }
}
