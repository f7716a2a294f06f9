//! What is not kept goes, by the server itself and by the command, on both databases.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use crate::{
    crash::{Installation, new_chat, wait_for},
    process::{Server, text},
};

const POLICY: [(&str, &str); 2] = [
    ("AGENTKIT_CHECKPOINT_AGE", "1"),
    ("AGENTKIT_CHECKPOINTS_KEPT", "2"),
];

fn ask(server: &Server, chat: &str, said: &str) -> String {
    let body = json!({"content": said}).to_string();
    let (status, answer) = server.request(&format!("POST /chats/{chat}/messages"), &body);
    assert_eq!(status, 200, "{answer}");
    answer["content"].as_str().unwrap().to_owned()
}

/// What `agentkit prune` tells.
fn prune(installation: &Installation, arguments: &[&str]) -> Value {
    let mut command = installation.command("0", "1");
    let output = command.args(["prune", "--json"]).args(arguments);
    let output = output.envs(POLICY).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn old_checkpoints_go(installation: &Installation) {
    let server = installation.start("0");
    let chats = [(); 2].map(|()| new_chat(&server));
    for chat in &chats {
        ask(&server, chat, "My name is Ada.");
        ask(&server, chat, "What is 17 * 23?");
    }
    let counts = || chats.each_ref().map(|chat| server.history(chat).len());
    let before = counts();
    thread::sleep(Duration::from_millis(1_100));

    let told = prune(installation, &["--dry-run"]);
    assert_eq!(counts(), before);
    let gone = before.iter().sum::<usize>() - 4;
    assert_eq!(
        (&told["conversations"], &told["checkpoints"]),
        (&json!(0), &json!(gone))
    );
    assert!(told["bytes"].as_u64().unwrap() > 0);
    let mut done = prune(installation, &[]);
    done["dry_run"] = json!(true);
    assert_eq!(done, told);
    assert_eq!(counts(), [2, 2]);
    assert!(ask(&server, &chats[0], "What is my name?").contains("Ada"));
}

#[test]
fn old_checkpoints_go_by_command_on_sqlite() {
    old_checkpoints_go(&Installation::sqlite());
}

#[test]
fn old_checkpoints_go_by_command_on_postgres() {
    old_checkpoints_go(&Installation::postgres());
}

#[test]
fn a_server_deletes_by_itself_what_is_not_kept() {
    let installation = Installation::sqlite();
    // So that it leaves the sweep to the next.
    let mut command = installation.command("0", "1");
    let server = Server::spawn(command.env("AGENTKIT_CHECKPOINT_AGE", "forever"));
    let chat = new_chat(&server);
    ask(&server, &chat, "My name is Ada.");
    ask(&server, &chat, "What is 17 * 23?");
    drop(server);
    thread::sleep(Duration::from_millis(1_100));

    let mut command = installation.command("0", "1");
    let server = Server::spawn(command.envs(POLICY));
    wait_for(|| (server.history(&chat).len() == 2).then_some(()));
    assert!(ask(&server, &chat, "What is my name?").contains("Ada"));
}
