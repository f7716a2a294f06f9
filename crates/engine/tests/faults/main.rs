//! Turns whose server stops at each of its boundaries in order: before and behind every call of the
//! storage, every decision of the agent and every effect of a tool. Another server goes on, and
//! nothing is lost or doubled.
//!
//! A server is a [`Process`] with an engine, a runtime and connections of its own. Where it crashes,
//! all of that is dropped; on SQLite and PostgreSQL it is a real process, which aborts. Where it only
//! sleeps, it wakes when the other one is done.

mod agent;
mod case;
mod process;

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use libtest_mimic::{Arguments, Trial};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use yai_agentkit_core::{Message, Storage, memory::MemoryStorage};
use yai_agentkit_persistence::{Database, DatabaseConfig};

use agent::{Person, Script};
use case::{Case, Outcome};
use process::{Boundary, Moment, Process, Stop};

/// What this executable does where it is started as a server.
const ORDERS: &str = "AGENTKIT_TEST_ORDERS";

/// A turn has at least so many boundaries; with fewer, the test does not cross what it is to cross.
const BOUNDARIES: usize = 15;

/// Calls that every turn here makes.
const CALLS: [(&str, &str); 7] = [
    ("agent", "step"),
    ("tool", "charge"),
    ("tool", "look"),
    ("turn store", "begin"),
    ("turn store", "step"),
    ("turn store", "change"),
    ("checkpoints", "put writes"),
];

/// Of the pairs of boundaries at which two servers crash, one of so many is tried, unless this
/// variable names another number: 1 for all.
const EVERY: &str = "AGENTKIT_TEST_EVERY_PAIR";

/// How many turns are tried at once: processes that start, and databases that connect, are waited
/// for.
const THREADS: usize = 8;

/// How long a turn may take that is not stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// `SIGABRT`.
const ABORTED: i32 = 6;

fn main() -> ExitCode {
    if let Ok(orders) = std::env::var(ORDERS) {
        serve(&serde_json::from_str(&orders).unwrap());
        return ExitCode::SUCCESS;
    }
    let places: [fn() -> Place; 3] = [Place::memory, Place::sqlite, Place::postgres];
    let mut trials = Vec::new();
    for (name, place) in ["memory", "sqlite", "postgres"].into_iter().zip(places) {
        for script in [Script::Tools, Script::Questions, Script::Approval] {
            let mut add = |test: &str, run: fn(&Place, Script)| {
                let test = format!("{name}::{}::{test}", script.words());
                trials.push(Trial::test(test, move || {
                    run(&place(), script);
                    Ok(())
                }));
            };
            add("survives_a_crash_at_every_boundary", crashes);
            // Who sleeps on SQLite may have locked the database, which has one server only.
            if name != "sqlite" {
                add("goes_on_while_its_server_sleeps_at_any_boundary", sleeps);
            }
            if name == "memory" {
                add(
                    "survives_a_crash_of_the_server_that_took_it_over",
                    crashes_twice,
                );
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn crashes(place: &Place, script: Script) {
    let undisturbed = place.undisturbed(script, Person::Looks);
    let stops = undisturbed.stops();
    at_once(&stops, |number, stop| {
        let _context = Context(format!("after a crash at {stop:?}"));
        let place = place.fresh();
        let case = place.begin(script, Person::Looks);
        assert!(place.crash(&case, *stop));
        place.recover(&case, Rescue::of(number), &undisturbed);
    });
    println!(
        "{place}, {script:?}: {} crashes at {undisturbed}",
        stops.len()
    );
}

fn crashes_twice(place: &Place, script: Script) {
    let undisturbed = place.undisturbed(script, Person::Looks);
    let every = std::env::var(EVERY).map_or(97, |every| every.parse().unwrap());
    // Who takes over has some boundaries more.
    let stops = stops(undisturbed.crossed.len() + 10);
    let pairs = stops
        .iter()
        .flat_map(|one| stops.iter().map(move |other| (one, other)));
    let pairs: Vec<_> = pairs.step_by(every).collect();
    let crashed_twice = AtomicUsize::new(0);
    at_once(&pairs, |number, (first, second)| {
        let _context = Context(format!("after crashes at {first:?} and {second:?}"));
        let place = place.fresh();
        let case = place.begin(script, Person::Looks);
        // The second has less to do, the later the first one was.
        if place.crash(&case, **first) && place.crash(&case, **second) {
            crashed_twice.fetch_add(1, Ordering::SeqCst);
        }
        place.recover(&case, Rescue::of(number), &undisturbed);
    });
    let crashed_twice = crashed_twice.into_inner();
    assert!(
        crashed_twice > pairs.len() / 4,
        "{crashed_twice} of {}",
        pairs.len()
    );
    println!("{place}, {script:?}: {crashed_twice} times two crashes, at {undisturbed}");
}

fn sleeps(place: &Place, script: Script) {
    let undisturbed = place.undisturbed(script, Person::Believes);
    // Who sleeps in a transaction loses it to the database's time limit: that is as a crash.
    let mut stops = undisturbed.stops();
    stops.retain(|stop| !undisturbed.crossed[stop.boundary - 1].is_in_unit(stop.moment));
    let sleeps = stops.len();
    assert!(sleeps >= BOUNDARIES, "{sleeps} sleeps");
    at_once(&stops, |number, stop| {
        let _context = Context(format!("after a sleep at {stop:?}"));
        let place = place.fresh();
        let case = place.begin(script, Person::Believes);
        let runtime = runtime();
        let process = Process::new(Some(*stop));
        let engine = case.engine(runtime.block_on(place.database.open()), &process);
        let mut work = Box::pin(in_time(case.converse(&engine)));
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = process.stopped() => {}
                answer = &mut work => panic!("it did not sleep before {answer:?}"),
            }
        });
        let (answer, left) = place.recover(&case, Rescue::of(number), &undisturbed);
        process.wake();
        assert_eq!(runtime.block_on(work), answer);
        let after = place.runtime.block_on(case.everything(&*place.storage));
        assert_eq!(after, left, "who woke has written something");
    });
    println!("{place}, {script:?}: {sleeps} sleeps outside of units of work, at {undisturbed}");
}

/// Does the work of each item, some at a time.
fn at_once<T: Sync>(items: &[T], work: impl Fn(usize, &T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let number = next.fetch_add(1, Ordering::SeqCst)
                    && let Some(item) = items.get(number)
                {
                    work(number, item);
                }
            });
        }
    });
}

fn stops(boundaries: usize) -> Vec<Stop> {
    let stops = (1..=boundaries).flat_map(|boundary| {
        let stop = move |moment| Stop { boundary, moment };
        Moment::BOTH.map(stop)
    });
    stops.collect()
}

/// Who goes on with a turn.
#[derive(Clone, Copy, PartialEq)]
enum Rescue {
    /// A server by itself.
    Server,
    /// One that the client asks again.
    Client,
}

impl Rescue {
    fn of(number: usize) -> Self {
        if number.is_multiple_of(2) {
            Self::Server
        } else {
            Self::Client
        }
    }
}

/// A database, as servers find it that live through all tests, and a directory for ledgers.
#[derive(Clone)]
struct Place {
    database: Location,
    storage: Arc<dyn Storage>,
    runtime: Arc<Runtime>,
    directory: Arc<TempDir>,
}

#[derive(Clone, Serialize, Deserialize)]
enum Location {
    #[serde(skip)]
    Memory(MemoryStorage),
    Database {
        url: String,
        schema: Option<String>,
    },
}

/// What became of a turn without a fault, and which boundaries it has.
struct Undisturbed {
    outcome: Outcome,
    crossed: Vec<Boundary>,
}

impl Place {
    fn memory() -> Self {
        let memory = MemoryStorage::default();
        Self::of(Location::Memory(memory), TempDir::new().unwrap())
    }

    fn sqlite() -> Self {
        let directory = TempDir::new().unwrap();
        let url = format!("sqlite:{}", directory.path().join("agentkit.db").display());
        Self::of(Location::Database { url, schema: None }, directory)
    }

    /// A schema of its own, which goes with the server of `./test`.
    fn postgres() -> Self {
        let url = std::env::var("AGENTKIT_TEST_POSTGRES_URL");
        let url = url.expect("AGENTKIT_TEST_POSTGRES_URL is not set: run ./test");
        let schema = Some(format!("faults_{}", uuid::Uuid::new_v4().simple()));
        Self::of(Location::Database { url, schema }, TempDir::new().unwrap())
    }

    fn of(database: Location, directory: TempDir) -> Self {
        let runtime = Runtime::new().unwrap();
        Self {
            storage: runtime.block_on(database.open()),
            database,
            runtime: Arc::new(runtime),
            directory: Arc::new(directory),
        }
    }

    /// The same database, or a new memory.
    fn fresh(&self) -> Self {
        let mut fresh = self.clone();
        if let Location::Memory(memory) = &mut fresh.database {
            *memory = MemoryStorage::default();
            fresh.storage = Arc::new(memory.clone());
        }
        fresh
    }

    /// A new conversation.
    fn begin(&self, script: Script, person: Person) -> Case {
        let ledger = format!("ledger-{}", uuid::Uuid::new_v4());
        let ledger = self.directory.path().join(ledger);
        let begun = Case::begin(&*self.storage, script, person, ledger);
        self.runtime.block_on(begun)
    }

    fn undisturbed(&self, script: Script, person: Person) -> Undisturbed {
        let place = self.fresh();
        let case = place.begin(script, person);
        let process = Process::new(None);
        let engine = case.engine(Arc::clone(&place.storage), &process);
        let outcome = self.runtime.block_on(in_time(async {
            let answer = case.converse(&engine).await;
            case.check(&*place.storage, &answer).await
        }));
        let crossed = process.crossed();
        assert!(crossed.len() >= BOUNDARIES, "{} boundaries", crossed.len());
        for call in CALLS {
            let made = crossed.iter().any(|made| (made.part, made.call) == call);
            assert!(made, "{call:?} is no boundary");
        }
        Undisturbed { outcome, crossed }
    }

    /// Whether a server crashes there before its client has its answer.
    fn crash(&self, case: &Case, stop: Stop) -> bool {
        let orders = Orders {
            database: self.database.clone(),
            case: case.clone(),
            stop,
        };
        if let Location::Memory(_) = &self.database {
            return orders.run(&Process::new(Some(stop)));
        }
        let server = Command::new(std::env::current_exe().unwrap())
            .env(ORDERS, serde_json::to_string(&orders).unwrap())
            .output()
            .unwrap();
        let aborts = server.status.signal() == Some(ABORTED);
        assert!(aborts || server.status.success(), "{server:?}");
        aborts
    }

    /// Another server goes on, the client gets its answer, and all is as without a fault. Returns
    /// the answer, and all that is stored in the end.
    fn recover(&self, case: &Case, rescue: Rescue, undisturbed: &Undisturbed) -> (Message, String) {
        let storage = &self.storage;
        let engine = case.engine(Arc::clone(storage), &Process::new(None));
        self.runtime.block_on(in_time(async {
            if rescue == Rescue::Server {
                case.rescue(&**storage, &engine).await;
            }
            let answer = case.converse(&engine).await;
            let outcome = case.check(&**storage, &answer).await;
            assert_eq!(outcome, undisturbed.outcome);
            case.check_rest(&**storage, &engine, &answer).await;
            (answer, case.everything(&**storage).await)
        }))
    }
}

impl Location {
    async fn open(&self) -> Arc<dyn Storage> {
        match self {
            Self::Memory(storage) => Arc::new(storage.clone()),
            Self::Database { url, schema } => {
                let mut config = DatabaseConfig::new(url).unwrap();
                if let Some(schema) = schema {
                    config = config.schema(schema).unwrap();
                }
                Arc::new(Database::connect(&config).await.unwrap())
            }
        }
    }
}

/// What a server is to do, and where it is to stop.
#[derive(Serialize, Deserialize)]
struct Orders {
    database: Location,
    case: Case,
    stop: Stop,
}

impl Orders {
    /// Whether it stops; then all that it had is dropped.
    fn run(&self, process: &Process) -> bool {
        runtime().block_on(async {
            let engine = self.case.engine(self.database.open().await, process);
            tokio::select! {
                biased;
                () = process.stopped() => true,
                _ = in_time(self.case.converse(&engine)) => false,
            }
        })
    }
}

/// As a process of its own.
fn serve(orders: &Orders) {
    orders.run(&Process::aborting(Some(orders.stop)));
}

/// One thread, so that nothing goes on in a process that is stopped.
fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.expect("the turn is stuck")
}

/// Says where a test was when it failed.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.database {
            Location::Memory(_) => "memory",
            Location::Database { schema: None, .. } => "SQLite",
            Location::Database { .. } => "PostgreSQL",
        })
    }
}

impl Undisturbed {
    /// Every one.
    fn stops(&self) -> Vec<Stop> {
        stops(self.crossed.len())
    }
}

impl std::fmt::Display for Undisturbed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut counts = BTreeMap::<_, usize>::new();
        for Boundary { part, call, .. } in &self.crossed {
            *counts.entry((part, call)).or_default() += 1;
        }
        let counts = counts.into_iter();
        let counts: Vec<_> = counts
            .map(|((part, call), count)| format!("{count} {part} {call}"))
            .collect();
        let number = self.crossed.len();
        write!(f, "{number} boundaries ({})", counts.join(", "))
    }
}
