use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    process,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// That a step or a tool call begins.
pub(crate) const WORKS: &str = "works";

/// A file in which the agents of all servers write down what they do, a line each: outside of what
/// is tested, and whole when a server is killed.
pub(crate) struct Ledger(File);

/// What an agent has done.
pub(crate) struct Entry {
    /// Since 1970.
    pub(crate) at: Duration,
    /// Of the server.
    pub(crate) process: u32,
    /// [`WORKS`], or the name of a tool that has taken effect.
    pub(crate) what: String,
    /// The id of the tool call; of a step, the token of its message.
    pub(crate) id: String,
}

impl Ledger {
    pub(crate) fn open(path: impl AsRef<Path>) -> Self {
        let file = OpenOptions::new().append(true).create(true).open(path);
        Self(file.expect("the ledger"))
    }

    pub(crate) fn write(&self, what: &str, id: &str) {
        let line = format!(
            "{} {} {what} {id}\n",
            since_1970().as_micros(),
            process::id()
        );
        let written = (&self.0)
            .write(line.as_bytes())
            .expect("the ledger takes it");
        assert_eq!(written, line.len(), "an entry is written as a whole");
    }

    pub(crate) fn read(path: &Path) -> Vec<Entry> {
        let text = std::fs::read_to_string(path).expect("the ledger");
        let entry = |line: &str| {
            let mut words = line.split(' ');
            let mut word = || words.next().expect("four words").to_owned();
            Entry {
                at: Duration::from_micros(word().parse().expect("a time")),
                process: word().parse().expect("a process"),
                what: word(),
                id: word(),
            }
        };
        text.lines().map(entry).collect()
    }
}

pub(crate) fn since_1970() -> Duration {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.expect("a clock after 1970")
}
