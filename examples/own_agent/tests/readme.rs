//! The example's README as printed, but for the port and who builds the program.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

/// Waits for the server that was just started, in place of hoping for a fast machine.
const SLEEP: &str = r#"
sleep() {
    for _ in $(seq 600); do
        if curl -sf -o /dev/null "http://$AGENTKIT_BIND/healthz"; then return; fi
        command sleep 0.1
    done
}
"#;

/// The one block of this language.
fn block<'a>(readme: &'a str, language: &str) -> &'a str {
    let (_, block) = readme
        .split_once(&format!("```{language}\n"))
        .expect("the block");
    block.split_once("```").expect("its end").0
}

#[test]
fn the_readme_works_as_printed_over_a_kill() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let program = env!("CARGO_BIN_EXE_own-agent");
    let commands = block(&readme, "sh")
        .replace("127.0.0.1:8080", &address)
        .replace("cargo run --release -p own-agent", program);
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .args(["-c", &format!("exec 2>&1\n{SLEEP}\n{commands}")])
        .current_dir(directory.path())
        .env("AGENTKIT_BIND", &address)
        .env_remove("DATABASE_URL")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    for line in block(&readme, "text").lines() {
        assert!(printed.contains(line), "{line}\nis not in\n{printed}");
    }
    assert_eq!(printed.matches("heard: tea").count(), 1, "{printed}");
}
