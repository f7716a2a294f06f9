//! Turns while servers are killed and stopped, connections are terminated and PostgreSQL crashes, the
//! agent of every second client is a program that is killed too, as are the MCP servers of its tools, and
//! people approve late, twice and on another server: in the end nothing is lost, doubled or stuck.
//!
//! | variable | |
//! | --- | --- |
//! | `CHAOS_SEED` | decides on the messages and on the faults and their times; printed by each run |
//! | `CHAOS_MINUTES` | how long there are faults; 0.3, unless set |
//! | `CHAOS_LEASE` | seconds; 1, unless set. From 10 on no turn may pass from a server that lives, stopped or not |

mod agent;
mod check;
mod client;
mod eraser;
mod faults;
#[path = "../server/http.rs"]
mod http;
mod ledger;
mod plan;
mod program;
mod random;
mod rolling;
mod servers;

use std::{
    collections::{HashMap, HashSet},
    env, fmt,
    process::ExitCode,
    str::FromStr,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Trial};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use yai_agentkit_persistence::{Database, DatabaseConfig};

use client::{Chat, Clients, Ending};
use faults::Done;
use ledger::{Entry, Ledger};
use plan::{Plan, SAFE, is};
use servers::{Postgres, Servers, lease};

/// How long everything may take once the faults are over.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    if let Some(ledger) = env::var_os(agent::LEDGER) {
        return agent::run_server(ledger.into());
    }
    let seed = variable("CHAOS_SEED").unwrap_or_else(|| {
        let now = ledger::since_1970();
        now.as_secs() % 1_000_000
    });
    let length = variable("CHAOS_MINUTES").unwrap_or(0.3_f64) * 60.0;
    let length = Duration::from_secs_f64(length);
    let trials = vec![
        Trial::test("three_servers_on_postgres", move || {
            let mut postgres = Postgres::start();
            let url = postgres.url.clone();
            run(seed, length, 3, 50, &url, Some(&mut postgres));
            Ok(())
        }),
        Trial::test("one_server_on_sqlite", move || {
            run(seed, length, 1, 16, "sqlite:agentkit.db", None);
            Ok(())
        }),
        Trial::test(
            "a_rolling_deploy_with_another_state_strands_no_turn",
            || {
                rolling::run(&Postgres::start());
                Ok(())
            },
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn variable<T: FromStr<Err: fmt::Debug>>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|error| panic!("{name}: {error:?}")),
    )
}

fn run(
    seed: u64,
    length: Duration,
    servers: usize,
    clients: usize,
    url: &str,
    postgres: Option<&mut Postgres>,
) {
    // Stays where the test fails.
    let directory = TempDir::new().unwrap().keep();
    let name = format!("{servers} on {}", url.split(':').next().unwrap_or_default());
    println!("{name}: CHAOS_SEED={seed}, logs in {}", directory.display());
    let schedule = faults::schedule(seed, servers, postgres.is_some(), length);
    let servers = Servers::start(servers, url, &directory);
    let talks = &Clients::new(seed, &servers);
    let begin = Instant::now();
    let (chats, erased, faults, over) = thread::scope(|scope| {
        let ending = Ending(talks);
        let clients: Vec<_> = (0..clients)
            .map(|client| scope.spawn(move || talks.talk(client)))
            .collect();
        let eraser = scope.spawn(|| talks.erase());
        let faults = faults::run(&schedule, &servers, postgres);
        // From now on the programs live on.
        std::fs::write(servers.ledger().with_file_name("over"), "").unwrap();
        drop(ending);
        let over = Instant::now();
        let chats = clients
            .into_iter()
            .flat_map(|client| client.join().unwrap());
        let chats = chats.collect::<Vec<_>>();
        (chats, eraser.join().unwrap(), faults, over)
    });
    let (total, after) = (begin.elapsed(), over.elapsed());
    servers.stop();

    let ledger = Ledger::read(&servers.ledger());
    let url = url.replace("sqlite:", &format!("sqlite:{}/", directory.display()));
    let findings = Runtime::new().unwrap().block_on(async {
        let config = DatabaseConfig::new(url).unwrap();
        let database = Database::connect(&config).await.unwrap();
        let findings = check::check(&database, &chats, &erased, &ledger).await;
        database.close().await;
        findings
    });
    let Takeovers {
        count: takeovers,
        of_the_living,
        times,
    } = takeovers(&chats, &ledger, &faults);
    println!(
        "{name}: seed {seed}: {} chats, {} turns in {:.1} s, the last {:.1} s after the faults\n\
         \x20 faults: {:?}\n\
         \x20 the program of the remote agent was started {} times\n\
         \x20 requests: {}, {} without a response; answers of people: {}; approved: {}, with other \
         arguments: {}, refused: {}\n\
         \x20 turns passed to another process: {takeovers}, {of_the_living} of one that lived; resumed: {}; \
         from a kill to going on: {}\n\
         \x20 safe calls: {}, {} of them repeated; unsafe calls: {} that ended, {} cut short \
         ({} with an effect)\n\
         \x20 chats of an owner who is erased all the time: {}\n\
         \x20 checked: {} things, of {} checkpoints and {} events",
        findings.chats,
        findings.turns,
        total.as_secs_f64(),
        after.as_secs_f64(),
        faults.kinds,
        servers.program.starts.load(Relaxed),
        talks.requests.load(Relaxed),
        talks.unanswered.load(Relaxed),
        talks.resumes.load(Relaxed),
        findings.approvals.0,
        findings.approvals.1,
        findings.approvals.2,
        findings.taken_over,
        percentiles(times),
        findings.safe_calls,
        findings.repeated,
        findings.unsafe_calls,
        findings.settled.0 + findings.settled.1,
        findings.settled.0,
        erased.len(),
        findings.checks,
        findings.checkpoints,
        findings.events,
    );
    findings.assert_nothing_wrong();
    let is_long = lease() >= Duration::from_secs(10);
    assert!(
        !is_long || of_the_living == 0,
        "{of_the_living} were taken from a server that lived"
    );
    std::fs::remove_dir_all(directory).unwrap();
}

struct Takeovers {
    /// How often a turn went on in another process,
    count: usize,
    /// and the one before had not been killed,
    of_the_living: usize,
    /// and how long after that was killed. Both of turns that wait for nobody.
    times: Vec<Duration>,
}

fn takeovers(chats: &[Chat], ledger: &[Entry], faults: &Done) -> Takeovers {
    let plans = chats.iter().flat_map(|chat| &chat.exchanges);
    let plans = plans.map(|exchange| Plan::parse(&exchange.message));
    let waits_for_nobody: HashSet<_> = plans
        .filter(|plan| {
            plan.steps()
                .iter()
                .flatten()
                .all(|call| is(&call.name, SAFE))
        })
        .map(|plan| plan.token)
        .collect();
    let killed: HashMap<_, _> = faults
        .kills
        .iter()
        .map(|kill| (kill.process, kill.at))
        .collect();
    let mut last = HashMap::new();
    let mut takeovers = Takeovers {
        count: 0,
        of_the_living: 0,
        times: Vec::new(),
    };
    // Programs that are asked have no number there.
    for entry in ledger.iter().filter(|entry| entry.process != 0) {
        // `c1-m2-0-1` is a call of the turn `c1-m2`.
        let end = entry.id.match_indices('-').nth(1);
        let turn = &entry.id[..end.map_or(entry.id.len(), |(end, _)| end)];
        let before = last.insert(turn, entry.process);
        if let Some(before) = before.filter(|before| *before != entry.process) {
            takeovers.count += 1;
            if waits_for_nobody.contains(turn) {
                let killed = killed.get(&before);
                match killed.and_then(|killed| entry.at.checked_sub(*killed)) {
                    Some(time) => takeovers.times.push(time),
                    None => takeovers.of_the_living += 1,
                }
            }
        }
    }
    takeovers
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let Some(longest) = times.last() else {
        return "none".to_owned();
    };
    let median = times[times.len() / 2];
    format!(
        "median {median:.1?}, longest {longest:.1?}, of {}",
        times.len()
    )
}
