use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use crate::{
    ledger::since_1970,
    random::Random,
    servers::{Postgres, Servers},
};

/// What is done to a run, and how it gets over it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// SIGKILL of this server.
    Kill(usize),
    Start(usize),
    /// SIGSTOP of this server, for longer than a lease of a second.
    Stop(usize),
    Continue(usize),
    /// `pg_terminate_backend` of every nth connection.
    Terminate(u64),
    /// PostgreSQL restarts in immediate mode.
    Crash,
}

/// When which server was killed.
pub(crate) struct Kill {
    pub(crate) process: u32,
    /// Since 1970.
    pub(crate) at: Duration,
}

/// What was done.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) kinds: BTreeMap<&'static str, usize>,
    pub(crate) kills: Vec<Kill>,
}

/// Which fault comes when: by the seed alone.
pub(crate) fn schedule(
    seed: u64,
    servers: usize,
    has_postgres: bool,
    length: Duration,
) -> Vec<(Duration, Fault)> {
    let mut random = Random::of(seed, "faults");
    let mut schedule = Vec::new();
    let mut bag = Vec::new();
    // A server that is down or stopped, or begins, gets no further fault.
    let mut free_at = vec![Duration::from_secs(1); servers];
    let mut now = Duration::ZERO;
    let mut milliseconds = move |range| Duration::from_millis(random.between(range));
    let mut choice = Random::of(seed, "choice");
    loop {
        now += milliseconds(300..1500);
        if now > length {
            break;
        }
        if bag.is_empty() {
            // Each kind comes once at least in so many faults.
            bag = match has_postgres {
                true => "kkkksstttc".chars().collect(),
                false => vec!['k'],
            };
        }
        let kind = bag.swap_remove(usize::try_from(choice.between(0..bag.len() as u64)).unwrap());
        let free: Vec<_> = (0..servers)
            .filter(|server| free_at[*server] <= now)
            .collect();
        match kind {
            't' => schedule.push((now, Fault::Terminate(*choice.pick(&[1, 1, 2, 5])))),
            'c' => schedule.push((now, Fault::Crash)),
            _ if free.is_empty() => bag.push(kind),
            kind => {
                let server = *choice.pick(&free);
                let (begin, end, duration) = match kind {
                    'k' => (
                        Fault::Kill(server),
                        Fault::Start(server),
                        milliseconds(50..2000),
                    ),
                    _ => (
                        Fault::Stop(server),
                        Fault::Continue(server),
                        milliseconds(1200..4000),
                    ),
                };
                schedule.push((now, begin));
                schedule.push((now + duration, end));
                free_at[server] = now + duration + Duration::from_secs(2);
            }
        }
    }
    schedule.sort_by_key(|(at, _)| *at);
    schedule
}

/// Does what the schedule says; a fault that takes long holds up those after it.
pub(crate) fn run(
    schedule: &[(Duration, Fault)],
    servers: &Servers,
    mut postgres: Option<&mut Postgres>,
) -> Done {
    let begin = Instant::now();
    let mut done = Done::default();
    for (at, fault) in schedule {
        thread::sleep(at.saturating_sub(begin.elapsed()));
        let kind = match *fault {
            Fault::Kill(server) => {
                let at = since_1970();
                let process = servers.kill(server);
                done.kills.push(Kill { process, at });
                "killed"
            }
            Fault::Stop(server) => {
                servers.signal(server, "-STOP");
                "stopped"
            }
            Fault::Start(server) => {
                servers.start_one(server);
                continue;
            }
            Fault::Continue(server) => {
                servers.signal(server, "-CONT");
                continue;
            }
            Fault::Terminate(every) => {
                let postgres = postgres.as_mut().expect("only with PostgreSQL");
                postgres.run(&format!("terminate {every}"));
                "connections terminated"
            }
            Fault::Crash => {
                let postgres = postgres.as_mut().expect("only with PostgreSQL");
                postgres.run("crash");
                "PostgreSQL crashed"
            }
        };
        *done.kinds.entry(kind).or_default() += 1;
    }
    done
}
