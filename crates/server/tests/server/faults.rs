//! The server beside what fails below it.

use std::process::Command;

use tempfile::TempDir;

use crate::{
    crash::{new_chat, wait_for},
    process::{Server, agentkit},
};

#[test]
fn a_disk_that_is_full_shows_in_readyz_and_writes_go_on_once_it_has_room() {
    let directory = TempDir::new().unwrap();
    // A limit of files stands for the disk; it is to be an error of the write, not the server's end.
    let command = agentkit(directory.path());
    let program = command.get_program().to_owned();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", r#"trap '' XFSZ; exec "$0" "$@""#])
        .arg(program)
        .args(["--bind", "127.0.0.1:0"])
        .current_dir(directory.path())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    let server = Server::spawn(&mut shell);
    let limit = |bytes: &str| {
        let process = format!("--pid={}", server.process.id());
        let set = Command::new("prlimit")
            .args([process, format!("--fsize={bytes}:unlimited")])
            .status()
            .expect("prlimit, of util-linux");
        assert!(set.success());
    };
    let ready = || server.request("GET /readyz", "").0;
    let chat = new_chat(&server);
    let ask = || {
        server.request(
            &format!("POST /chats/{chat}/messages"),
            r#"{"content": "hi"}"#,
        )
    };
    assert_eq!((ready(), ask().0), (200, 200));
    limit("1");
    for (status, problem) in [server.request("POST /conversations", "{}"), ask()] {
        let kind = problem["type"].as_str().unwrap();
        assert_eq!(status, 503, "{problem}");
        assert!(kind.ends_with("storage-unavailable"), "{problem}");
    }
    wait_for(|| (ready() == 503).then_some(()));
    assert_eq!(server.request("GET /healthz", "").0, 200);
    assert_eq!(
        server.request(&format!("GET /conversations/{chat}"), "").0,
        200
    );
    limit("unlimited");
    wait_for(|| (ready() == 200).then_some(()));
    assert_eq!(ask().0, 200);
    new_chat(&server);
}
