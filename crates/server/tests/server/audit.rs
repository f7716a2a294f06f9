//! What was done that can't be undone is told, on both databases.

use serde_json::{Value, json};
use yai_agentkit_core::access::owner_id;

use crate::{
    crash::Installation,
    http::request_with,
    process::{PATIENCE, Server, text},
};

fn run(installation: &Installation, arguments: &[&str]) -> String {
    let mut command = installation.command("0", "1");
    let output = command.args(arguments).output().unwrap();
    let error = text(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    text(&output.stdout)
}

fn key(installation: &Installation, arguments: &[&str]) -> (String, String) {
    let create = ["keys", "create", "audited", "--json"];
    let created = run(installation, &[&create[..], arguments].concat());
    let created: Value = serde_json::from_str(&created).unwrap();
    let text = |field: &str| created[field].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

fn send(server: &Server, head: &str, key: &str, body: &Value) -> (u16, Value) {
    let header = format!("authorization: Bearer {key}\r\n");
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let answer = request_with(&server.address, PATIENCE, head, &header, &body);
    answer.unwrap_or((204, Value::Null))
}

fn who_did_what_is_told(installation: &Installation) {
    let (admin, all) = key(installation, &["--scope", "admin"]);
    let (ada, own) = key(installation, &["--owner", "ada"]);
    let server = installation.start("0");
    let said = json!({"messages": [{"role": "user", "content": "a secret word"}]});
    let (_, chat) = send(&server, "POST /conversations", &own, &said);
    let chat = chat["id"].as_str().unwrap();
    // It comes in pieces, as which nobody reads it here.
    let export = format!("GET /chats/{chat}/export");
    send(&server, &export, &own, &Value::Null);
    let messages = format!("GET /conversations/{chat}/messages");
    let (_, messages) = send(&server, &messages, &own, &Value::Null);
    let message = messages["items"][0]["id"].as_str().unwrap();
    let redact = format!("POST /chats/{chat}/messages/{message}/redact");
    assert_eq!(send(&server, &redact, &all, &Value::Null).0, 200);
    let import = format!("POST /chats/{chat}/messages:import");
    assert_eq!(send(&server, &import, &own, &said).0, 200);
    let delete = format!("DELETE /conversations/{chat}");
    assert_eq!(send(&server, &delete, &own, &Value::Null).0, 204);
    assert_eq!(
        send(&server, "DELETE /owners/ada", &all, &Value::Null).0,
        200
    );
    run(installation, &["prune"]);
    run(installation, &["keys", "revoke", &ada]);

    let (ada_id, no_one) = (json!(owner_id("ada")), Value::Null);
    let expected = [
        (json!("command"), &no_one, "key.revoked", ada.as_str()),
        (json!("command"), &no_one, "pruned", "0 conversations"),
        (
            json!(admin),
            &no_one,
            "owner.erased",
            ada_id.as_str().unwrap(),
        ),
        (json!(ada), &ada_id, "conversation.deleted", chat),
        (json!(ada), &ada_id, "imported", chat),
        (json!(admin), &no_one, "message.redacted", message),
        (json!(ada), &ada_id, "exported", chat),
        (json!(ada), &ada_id, "imported", chat),
        (json!("command"), &no_one, "key.created", &ada),
        (json!("command"), &no_one, "key.created", &admin),
    ];
    let mut told = Vec::new();
    let mut path = "GET /audit?limit=4".to_owned();
    loop {
        let (status, page) = send(&server, &path, &all, &Value::Null);
        assert_eq!(status, 200, "{page}");
        told.extend(page["items"].as_array().unwrap().clone());
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("GET /audit?limit=4&cursor={cursor}");
    }
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (told, (who, owner, action, subject)) in told.iter().zip(expected) {
        let shown = [
            &told["who"],
            &told["owner"],
            &told["action"],
            &told["subject"],
        ];
        assert_eq!(shown, [&who, owner, &json!(action), &json!(subject)]);
        assert!(told["at"].is_string());
        assert!(!told.to_string().contains("secret"), "{told}");
    }
    let listed = run(installation, &["audit", "--json", "--owner", "ada"]);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    // Who may not do all may not see what others do; a revoked key sees nothing.
    let (_, writes) = key(installation, &[]);
    assert_eq!(send(&server, "GET /audit", &writes, &Value::Null).0, 403);
    assert_eq!(send(&server, "GET /audit", &own, &Value::Null).0, 401);
}

#[test]
fn who_did_what_is_told_on_sqlite() {
    who_did_what_is_told(&Installation::sqlite());
}

#[test]
fn who_did_what_is_told_on_postgres() {
    who_did_what_is_told(&Installation::postgres());
}
