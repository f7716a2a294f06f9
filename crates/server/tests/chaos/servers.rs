//! The processes of a run: servers, and a PostgreSQL that may crash.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::{
    PATIENCE,
    agent::{LEDGER, PROGRAM},
    program::Program,
    rolling::VERSION,
    variable,
};

/// How long a server may be silent until another takes its turns over.
pub(crate) fn lease() -> Duration {
    Duration::from_secs(variable("CHAOS_LEASE").unwrap_or(1))
}

/// Servers with the agent of the test on one database.
pub(crate) struct Servers {
    directory: PathBuf,
    url: String,
    pub(crate) program: Program,
    slots: Vec<Mutex<Slot>>,
}

#[derive(Default)]
struct Slot {
    process: Option<Child>,
    /// Once it listens.
    address: Arc<Mutex<Option<String>>>,
}

impl Servers {
    /// Logs and the ledger go to `directory`.
    pub(crate) fn start(count: usize, url: &str, directory: &Path) -> Self {
        let servers = Self {
            directory: directory.to_owned(),
            url: url.to_owned(),
            program: Program::start(&directory.join("ledger")),
            slots: (0..count).map(|_| Mutex::default()).collect(),
        };
        for server in 0..count {
            servers.start_one(server);
        }
        servers
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.directory.join("ledger")
    }

    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    /// `None` while it does not listen.
    pub(crate) fn address(&self, server: usize) -> Option<String> {
        let slot = self.slots[server].lock().unwrap();
        slot.address.lock().unwrap().clone()
    }

    pub(crate) fn start_one(&self, server: usize) {
        self.start_version(server, 1);
    }

    /// With the state of the counter in this version.
    pub(crate) fn start_version(&self, server: usize, version: u32) {
        let log = self.directory.join(format!("server-{server}.log"));
        let log = OpenOptions::new().append(true).create(true).open(log);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .current_dir(&self.directory)
            .env_clear()
            .env(LEDGER, self.ledger())
            .env(VERSION, version.to_string())
            .env(PROGRAM, self.program.port.to_string())
            .env(
                "AGENTKIT_TEST_PYTHON",
                variable::<String>("AGENTKIT_TEST_PYTHON").unwrap(),
            )
            .env("DATABASE_URL", &self.url)
            .env("DB_MAX_CONNECTIONS", "20")
            .env("DB_QUERY_TIMEOUT", "5")
            // PostgreSQL is killed too.
            .env("DB_START_TIMEOUT", "30")
            .env("AGENTKIT_BIND", "127.0.0.1:0")
            .env("AGENTKIT_LEASE", lease().as_secs().to_string())
            // Every turn is to be answered, however often it is cut short.
            .env("AGENTKIT_MAX_ATTEMPTS", "1000000")
            .env("RUST_LOG", "warn,yai_agentkit_engine=info")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.unwrap())
            .spawn()
            .expect("to start a server");
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let address = Arc::<Mutex<Option<String>>>::default();
        let listens = Arc::clone(&address);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listens on http://") {
                    let found = rest.split(',').next().map(str::to_owned);
                    *listens.lock().unwrap() = found;
                }
            }
        });
        *self.slots[server].lock().unwrap() = Slot {
            process: Some(process),
            address,
        };
    }

    /// Returns its process id.
    pub(crate) fn kill(&self, server: usize) -> u32 {
        let mut slot = self.slots[server].lock().unwrap();
        let mut process = std::mem::take(&mut *slot).process.expect("it runs");
        let ended = process.try_wait().unwrap();
        assert!(ended.is_none(), "server {server} has ended: {ended:?}");
        process.kill().unwrap();
        process.wait().unwrap();
        process.id()
    }

    pub(crate) fn signal(&self, server: usize, name: &str) {
        let slot = self.slots[server].lock().unwrap();
        signal(slot.process.as_ref().expect("it runs"), name);
    }

    /// Asks all to stop; each must do so in peace.
    pub(crate) fn stop(&self) {
        for server in 0..self.count() {
            self.signal(server, "-TERM");
        }
        for server in 0..self.count() {
            self.wait(server);
        }
    }

    /// Asks one to stop, and waits until it has.
    pub(crate) fn stop_one(&self, server: usize) {
        self.signal(server, "-TERM");
        self.wait(server);
    }

    fn wait(&self, server: usize) {
        let slot = std::mem::take(&mut *self.slots[server].lock().unwrap());
        let mut process = slot.process.expect("it runs");
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match process.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => panic!("server {server} does not stop"),
                None => thread::sleep(Duration::from_millis(10)),
            }
        };
        assert!(status.success(), "server {server} has ended: {status}");
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for slot in &mut self.slots {
            let slot = slot
                .get_mut()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            if let Some(process) = &mut slot.process {
                drop(process.kill());
                drop(process.wait());
            }
        }
    }
}

fn signal(process: &Child, name: &str) {
    let id = process.id().to_string();
    let sent = Command::new("kill").args([name, &id]).status().unwrap();
    assert!(sent.success(), "kill {name} {id}: {sent}");
}

/// A PostgreSQL of its own, gone when dropped: `postgres.sh` has it.
pub(crate) struct Postgres {
    script: Child,
    commands: Option<ChildStdin>,
    done: BufReader<ChildStdout>,
    pub(crate) url: String,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos/postgres.sh");
        let mut script = Command::new(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("to start PostgreSQL");
        let mut done = BufReader::new(script.stdout.take().unwrap());
        let mut url = String::new();
        done.read_line(&mut url).unwrap();
        assert!(url.starts_with("postgresql:"), "PostgreSQL does not start");
        Self {
            commands: script.stdin.take(),
            script,
            done,
            url: url.trim().to_owned(),
        }
    }

    pub(crate) fn run(&mut self, command: &str) {
        let commands = self.commands.as_mut().expect("open until dropped");
        writeln!(commands, "{command}").unwrap();
        let mut line = String::new();
        self.done.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "PostgreSQL: `{command}` failed");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.commands.take());
        drop(self.script.wait());
    }
}
