//! The `agentkit` binary as a process.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::http::request_with;

/// More than a request takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// `agentkit`, with a directory and nothing of this process's environment.
pub(crate) fn agentkit(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentkit"));
    command.current_dir(directory).env_clear().env(
        "DATABASE_URL",
        format!("sqlite:{}", directory.join("test.db").display()),
    );
    command
}

pub(crate) fn run(directory: &Path, arguments: &[&str]) -> Output {
    agentkit(directory).args(arguments).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A server on a free port, killed when dropped.
pub(crate) struct Server {
    pub(crate) process: Child,
    stdout: BufReader<ChildStdout>,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(directory: &Path) -> Self {
        Self::spawn(agentkit(directory).args(["--bind", "127.0.0.1:0"]))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let (_, rest) = line
            .split_once("://")
            .expect("the server says where it listens");
        let address = rest.split([',', ' ', '/']).next().unwrap().to_owned();
        Self {
            process,
            stdout,
            address,
        }
    }

    /// The line that the server prints to be tried.
    pub(crate) fn line_to_try(&mut self) -> String {
        let lines = self.stdout.by_ref().lines().map(Result::unwrap);
        let mut lines = lines.skip_while(|line| !line.contains("curl"));
        lines.next().unwrap()
    }

    /// The status and the body of the answer.
    pub(crate) fn request(&self, head: &str, body: &str) -> (u16, Value) {
        request(&self.address, head, body).expect("an answer")
    }

    /// The checkpoints of a chat with their values, newest first.
    pub(crate) fn history(&self, chat: &str) -> Vec<Value> {
        let path = format!("GET /chats/{chat}/history");
        let (_, page) = self.request(&path, "");
        let items = page["items"].as_array().unwrap().iter();
        items
            .map(|item| {
                let id = item["checkpoint_id"].as_str().unwrap();
                self.request(&format!("{path}/{id}"), "").1
            })
            .collect()
    }

    /// The memory that it has, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().split_whitespace().next().unwrap();
        number.parse().unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// The exit code, which must come within a minute.
    pub(crate) fn exit_code(mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.process.try_wait().unwrap() {
                Some(status) => return status.code(),
                None if Instant::now() > deadline => panic!("the server does not stop"),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }
}

/// The status and the body, or `None` where the server goes away.
pub(crate) fn request(address: &str, head: &str, body: &str) -> Option<(u16, Value)> {
    request_with(address, PATIENCE, head, "", body)
}
