//! The server beside what fails below it.

use std::{
    fs::File,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    crash::{new_chat, wait_for},
    process::{Server, agentkit, text},
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

/// A database of its own on a small disk, both removed when dropped. The disk must be one that the
/// server of the tests sees: it takes the rights of root to make it.
struct SmallDisk {
    directory: TempDir,
    name: String,
    url: String,
}

impl SmallDisk {
    fn new() -> Self {
        let url = std::env::var("AGENTKIT_TEST_POSTGRES_URL");
        let url = url.expect("AGENTKIT_TEST_POSTGRES_URL is not set: run ./test");
        let name = format!("small_{}", uuid::Uuid::new_v4().simple());
        let disk = Self {
            directory: TempDir::new().unwrap(),
            name,
            url,
        };
        let place = disk.directory.path();
        run("mount", &["-t", "tmpfs", "-o", "size=48m", "tmpfs"], place);
        let data = disk.sql("SHOW data_directory");
        run("chown", &[&format!("--reference={data}")], place);
        run("chmod", &["700"], place);
        let name = &disk.name;
        disk.sql(&format!(
            "CREATE TABLESPACE {name} LOCATION '{}'",
            place.display()
        ));
        disk.sql(&format!("CREATE DATABASE {name} TABLESPACE {name}"));
        disk
    }

    fn sql(&self, statement: &str) -> String {
        let psql = Command::new("psql")
            .args([&*self.url, "-XAtqc", statement])
            .output()
            .expect("psql");
        assert!(psql.status.success(), "{}", text(&psql.stderr));
        text(&psql.stdout).trim().to_owned()
    }

    fn database(&self) -> String {
        let (server, _) = self.url.rsplit_once('/').unwrap();
        format!("{server}/{}", self.name)
    }

    fn filler(&self) -> PathBuf {
        self.directory.path().join("filler")
    }

    fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.sql(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
        self.sql(&format!("DROP TABLESPACE {}", self.name));
        run("umount", &[], self.directory.path());
    }
}

fn run(program: &str, arguments: &[&str], place: &Path) {
    let done = Command::new(program).args(arguments).arg(place).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{program}: {}", text(&done.stderr));
}

#[test]
fn a_disk_of_postgres_that_is_full_shows_in_readyz_and_writes_go_on_once_it_has_room() {
    let disk = SmallDisk::new();
    let directory = TempDir::new().unwrap();
    let mut command = agentkit(directory.path());
    command.args(["--bind", "127.0.0.1:0"]);
    let server = Server::spawn(command.env("DATABASE_URL", disk.database()));
    let ready = || server.request("GET /readyz", "").0;
    let chat = new_chat(&server);
    let ask = |words: &str| {
        let body = serde_json::json!({"content": words}).to_string();
        server.request(&format!("POST /chats/{chat}/messages"), &body)
    };
    assert_eq!((ready(), ask("hi").0), (200, 200));
    disk.fill();
    wait_for(|| (ready() == 503).then_some(()));
    // More than there is room for in the pages that are there.
    let unlike: String = (0..100_000).map(|number| number.to_string()).collect();
    let (status, problem) = ask(&unlike);
    assert_eq!(status, 503, "{problem}");
    let kind = problem["type"].as_str().unwrap();
    assert!(kind.ends_with("storage-unavailable"), "{problem}");
    assert_eq!(server.request("GET /healthz", "").0, 200);
    let read = server.request(&format!("GET /conversations/{chat}"), "");
    assert_eq!(read.0, 200);
    std::fs::remove_file(disk.filler()).unwrap();
    wait_for(|| (ready() == 200).then_some(()));
    assert_eq!(ask(&unlike).0, 200);
    drop(server);
}

#[test]
fn a_database_that_is_down_is_one_line_soon() {
    let directory = TempDir::new().unwrap();
    // Nobody listens there once it is dropped.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let nobody = format!("postgresql://agent:hunter2@{}/agents", free.unwrap());
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!(
        "postgresql://agent:hunter2@{}/agents",
        silent.local_addr().unwrap()
    );
    for url in [nobody, silent] {
        for arguments in [
            &["--bind", "127.0.0.1:0"] as &[&str],
            &["threads"],
            &["migrate"],
        ] {
            let started = Instant::now();
            let mut command = agentkit(directory.path());
            let output = command
                .args(arguments)
                .env("DATABASE_URL", &url)
                .output()
                .unwrap();
            // Four, on a machine that has nothing else to do.
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{:?}",
                started.elapsed()
            );
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert_eq!(
                (said.lines().count(), text(&output.stdout)),
                (1, String::new()),
                "{said}"
            );
            assert!(
                said.contains("does it run") && said.contains("DATABASE_URL"),
                "{said}"
            );
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}

#[test]
fn calculations_without_end_hold_up_nobody() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let chat = new_chat(&server);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let question = "What is 9^9^9 + 1? ".repeat(16);
            let body = serde_json::json!({"content": question}).to_string();
            server.request(&format!("POST /chats/{chat}/messages"), &body)
        });
        let mut slowest = Duration::ZERO;
        while !asking.is_finished() {
            let started = Instant::now();
            assert_eq!(server.request("GET /healthz", "").0, 200);
            slowest = slowest.max(started.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        // It was ten.
        assert!(slowest < Duration::from_secs(3), "{slowest:?}");
        let (status, answer) = asking.join().unwrap();
        assert_eq!(status, 200);
        let answer = answer["content"].as_str().unwrap();
        assert!(answer.contains("takes too long"), "{answer}");
    });
}
