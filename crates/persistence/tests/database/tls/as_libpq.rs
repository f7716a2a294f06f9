//! Each `sslmode` with each kind of certificate, beside libpq.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use yai_agentkit_persistence::Database;

use crate::{
    fixture::{config, texts},
    support::environment,
};

/// A process that answers each line by a line.
struct Script {
    child: Child,
    lines: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Script {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            lines: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "the script has ended");
        answer.trim().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.lines.as_mut().unwrap(), "{line}").unwrap();
        self.answer()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It ends with its input.
        self.lines = None;
        let _ = self.child.wait();
    }
}

fn file(name: &str) -> String {
    format!("{}/tests/database/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

const MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// The certificate that the server shows, and what is given as `sslrootcert`.
const CERTIFICATES: &[(&str, &[&str])] = &[
    ("good", &["", "ca", "other", "both", "good", "middle"]),
    ("address", &["ca"]),
    ("address-as-name", &["ca"]),
    ("wrong-host", &["", "ca"]),
    ("other-authority", &["", "ca", "both"]),
    ("common-name", &["ca"]),
    ("common-name-beside-address", &["ca"]),
    ("for-clients", &["ca"]),
    ("by-middle", &["", "ca", "middle", "other"]),
    (
        "self-signed",
        &["", "self-signed", "ca", "self-signed-no-authority"],
    ),
    (
        "self-signed-no-authority",
        &["self-signed-no-authority", "self-signed"],
    ),
    ("version-1", &["", "ca", "other"]),
    ("version-1-expired", &["", "ca"]),
    ("version-1-other-authority", &["ca"]),
    (
        "version-1-self-signed",
        &["", "version-1-self-signed", "ca"],
    ),
];

#[tokio::test]
async fn each_sslmode_does_with_each_certificate_what_libpq_does() {
    let mut postgres = Script::start(&mut Command::new(file("postgres.sh")));
    let started = postgres.answer();
    let (directory, port) = started.split_once(' ').unwrap();
    let mut libpq = Script::start(
        Command::new(environment("AGENTKIT_TEST_PYTHON"))
            .arg(file("libpq.py"))
            .env("HOME", directory),
    );
    let mut table = Vec::new();
    for (certificate, roots) in CERTIFICATES {
        assert_eq!(postgres.ask(&format!("show {certificate}")), "done");
        for root in *roots {
            for host in ["localhost", "127.0.0.1"] {
                for mode in MODES {
                    // That nothing is named to verify by is refused before, and as in libpq.
                    if root.is_empty() && mode.starts_with("verify") {
                        continue;
                    }
                    let mut text = format!("host={host} port={port} user=postgres sslmode={mode}");
                    if !root.is_empty() {
                        text += &format!(" sslrootcert={directory}/{root}.crt");
                    }
                    table.push((format!("{certificate} {text}"), text.clone()));
                }
            }
        }
        compare(&mut libpq, directory, port, std::mem::take(&mut table)).await;
    }
    for user in ["plain", "encrypted"] {
        let mode = |mode: &&str| {
            format!("host=localhost port={port} user={user} dbname=postgres sslmode={mode}")
        };
        table.extend(MODES[..4].iter().map(mode).map(|text| (text.clone(), text)));
    }
    compare(&mut libpq, directory, port, table).await;
}

async fn compare(libpq: &mut Script, directory: &str, port: &str, table: Vec<(String, String)>) {
    for (what, text) in table {
        let theirs = libpq.ask(&text);
        let ours = verdict(&text, directory, port).await;
        let word = |verdict: &str| verdict.split(' ').next().unwrap().to_owned();
        assert_eq!(
            word(&ours),
            word(&theirs),
            "{what}\nours: {ours}\nlibpq: {theirs}"
        );
    }
}

async fn verdict(text: &str, directory: &str, port: &str) -> String {
    match Database::connect(&config(text)).await {
        Err(error) => format!("refused {error}"),
        Ok(database) => {
            let socket =
                format!("postgresql://postgres@localhost:{port}/postgres?host={directory}");
            let encrypted =
                "SELECT bool_and(ssl)::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                WHERE application_name = 'agentkit'";
            let encrypted = texts(&socket, encrypted).await;
            database.close().await;
            if encrypted == ["true"] {
                "encrypted"
            } else {
                "plain"
            }
            .to_owned()
        }
    }
}
