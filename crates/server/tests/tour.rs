//! The README's tour runs as printed, in both languages, and prints what the README says.
//!
//! Only what would disturb its neighbours is changed: the port, the database's address, and who
//! builds the binary. An `…` of the README stands for anything, ids and times for any others.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

/// What a reader may leave out: they need a model, or a key.
const NEEDS_A_MODEL: &str = "OPENAI_MODEL";

/// Waits for the server that was just started, in place of hoping for a fast machine. The other
/// pauses of the tour are what it is about.
const SLEEP: &str = r#"
sleep() {
    for _ in $(seq 600); do
        if ! kill -0 "${server:-0}" 2>/dev/null || curl -sf -o /dev/null "http://$ADDRESS/healthz"; then break; fi
        command sleep 0.1
    done
    command sleep "$1"
}
"#;

#[test]
fn the_tour_of_the_readme_prints_what_it_says() {
    run_tour("README.md", "## See it go on", 4);
    run_tour("README.md", "## Five minutes", 9);
}

#[test]
fn the_tour_of_the_chinese_readme_prints_what_it_says() {
    run_tour("README.zh-CN.md", "## 看它继续", 4);
    run_tour("README.zh-CN.md", "## 五分钟", 9);
}

fn run_tour(file: &str, heading: &str, least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = fs::read_to_string(root.join(file)).expect("the README");
    let steps = steps(section(&readme, heading));
    assert!(
        steps.len() >= least,
        "{file}: the tour has {} steps",
        steps.len()
    );

    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(directory.path().join("target/release")).expect("a directory");
    let binary = directory.path().join("target/release/agentkit");
    symlink(env!("CARGO_BIN_EXE_agentkit"), binary).expect("a link");
    let address = free_address();
    let database = TourDatabase::create();

    let mut script = format!("ADDRESS={address}\nexport AGENTKIT_BIND=$ADDRESS\n{SLEEP}");
    for (number, step) in steps.iter().enumerate() {
        let commands = step.commands.replace("127.0.0.1:8080", &address);
        let commands = commands.replace(
            "postgresql://postgres@localhost:5432/agentkit",
            &database.url,
        );
        let commands = commands.replace("cargo build --release", "true");
        script.push_str(&format!("echo '=== {number}'\n{commands}\n"));
    }
    let output = Command::new("bash")
        .args(["-c", &format!("exec 2>&1\n{script}")])
        .current_dir(directory.path())
        .env_remove("DATABASE_URL")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .expect("bash");
    let printed = String::from_utf8_lossy(&output.stdout).replace(&address, "127.0.0.1:8080");
    for (number, step) in steps.iter().enumerate() {
        let begin = format!("=== {number}\n");
        let of_step = printed.split_once(&begin).map_or("", |(_, rest)| rest);
        let of_step = of_step.split("\n=== ").next().unwrap_or_default();
        if let Err(missing) = has_in_order(of_step, &step.output) {
            panic!(
                "{file} says that\n{}\nprints\n{missing}\nIt printed\n{of_step}",
                step.commands
            );
        }
    }
    database.drop();
}

/// A block of commands, and the text that the README shows behind it.
struct Step {
    commands: String,
    output: String,
}

fn section<'a>(readme: &'a str, heading: &str) -> &'a str {
    let (_, rest) = readme.split_once(heading).expect("the heading of the tour");
    rest.split_once("\n## ")
        .map_or(rest, |(section, _)| section)
}

fn steps(section: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut blocks = section.split("\n```");
    blocks.next();
    while let (Some(block), Some(_between)) = (blocks.next(), blocks.next()) {
        let (language, text) = block.split_once('\n').expect("a block");
        match language {
            "sh" if !text.contains(NEEDS_A_MODEL) => steps.push(Step {
                commands: text.to_owned(),
                output: String::new(),
            }),
            "sh" => {}
            "text" => steps.last_mut().expect("commands").output.push_str(text),
            other => panic!("the tour has a block of `{other}`"),
        }
    }
    steps
}

/// Whether `printed` has the pieces of `shown` between its `…` in order; the first that is missing.
fn has_in_order(printed: &str, shown: &str) -> Result<(), String> {
    let printed = without_volatile(printed);
    let mut rest = printed.as_str();
    let shown = without_volatile(shown);
    for piece in shown.split('…').flat_map(str::lines) {
        let piece = piece.trim();
        match rest.find(piece) {
            Some(found) => rest = &rest[found + piece.len()..],
            None => return Err(piece.to_owned()),
        }
    }
    Ok(())
}

/// Ids, times and runs of white space are another every time.
fn without_volatile(text: &str) -> String {
    let id = regex::Regex::new(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|01[0-9a-f]{2}…")
        .expect("a pattern");
    let time = regex::Regex::new(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)?").expect("a pattern");
    let colour = regex::Regex::new("\u{1b}\\[[0-9;]*m").expect("a pattern");
    let text = colour.replace_all(text, "");
    time.replace_all(&id.replace_all(&text, "…"), "…")
        .into_owned()
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// The database of which the README says that it must exist.
struct TourDatabase {
    server: String,
    name: String,
    url: String,
}

impl TourDatabase {
    fn create() -> Self {
        let server = std::env::var("AGENTKIT_TEST_POSTGRES_URL").expect(
            "AGENTKIT_TEST_POSTGRES_URL names a PostgreSQL server; ./test starts one and sets it",
        );
        let name = format!("tour_{}", uuid::Uuid::new_v4().simple());
        let (before, _) = server.rsplit_once('/').expect("a URL with a database");
        let url = format!("{before}/{name}");
        let database = Self { server, name, url };
        database.administer("CREATE");
        database
    }

    fn drop(self) {
        self.administer("DROP");
    }

    fn administer(&self, verb: &str) {
        let statement = format!("{verb} DATABASE {}", self.name);
        let psql = Command::new("psql")
            .args([&self.server, "--quiet", "--command", &statement])
            .output()
            .expect("psql");
        assert!(
            psql.status.success(),
            "{}",
            String::from_utf8_lossy(&psql.stderr)
        );
    }
}
