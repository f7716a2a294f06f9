//! What is to be reached, and whether it is.

use crate::{
    report::{Figures, Table},
    rounds::median,
};

struct Target {
    work: &'static str,
    /// The figure of ours.
    ours: &'static str,
    /// What it is divided by, in each round the greatest of these; a figure that counts by itself
    /// has none.
    peers: &'static [&'static str],
    /// How the peers are called.
    against: &'static str,
    goal: Goal,
}

enum Goal {
    AtLeast(f64),
    AtMost(f64),
}
use Goal::{AtLeast, AtMost};

macro_rules! turn {
    ($database:literal, $name:literal, $threads:literal) => {
        concat!(
            "agent-turn/",
            $database,
            "/",
            $name,
            "/",
            $threads,
            "/steps"
        )
    };
}

macro_rules! savers {
    ($threads:literal) => {
        &[
            turn!("PostgreSQL", "AsyncPostgresSaver, one connection", $threads),
            turn!("PostgreSQL", "AsyncPostgresSaver, pool of 20", $threads),
        ]
    };
}

// Those with redundant indexes do the same and more.
macro_rules! pgbench {
    ($threads:literal) => {
        &[
            turn!("PostgreSQL", "pgbench, AgentKit's statements", $threads),
            turn!("PostgreSQL", "pgbench, LangGraph's rows only", $threads),
        ]
    };
}

const SAVER: &str = "AsyncPostgresSaver, the better";
const PGBENCH: &str = "pgbench at its best";
const ORIGINAL: &str = "FastAPI, Tortoise, the better";

const TARGETS: &[Target] = &[
    Target {
        work: "durable turn, 1 caller, turns/s",
        ours: "durable-turn/agentkit/1",
        peers: &["durable-turn/dbos/1"],
        against: "DBOS for Rust",
        goal: AtLeast(1.0),
    },
    Target {
        work: "durable turn, 16 callers, turns/s",
        ours: "durable-turn/agentkit/16",
        peers: &["durable-turn/dbos/16"],
        against: "DBOS for Rust",
        goal: AtLeast(1.5),
    },
    Target {
        work: "durable turn, 64 callers, turns/s",
        ours: "durable-turn/agentkit/64",
        peers: &["durable-turn/dbos/64"],
        against: "DBOS for Rust",
        goal: AtLeast(2.0),
    },
    Target {
        work: "durable turn, 256 callers, turns/s",
        ours: "durable-turn/agentkit/256",
        peers: &["durable-turn/dbos/256"],
        against: "DBOS for Rust",
        goal: AtLeast(2.0),
    },
    Target {
        work: "durable turn, 16 callers, turns/s",
        ours: "durable-turn/agentkit/16",
        peers: &["durable-turn/restate/16"],
        against: "Restate",
        goal: AtLeast(3.0),
    },
    Target {
        work: "durable turn, 64 callers, turns/s",
        ours: "durable-turn/agentkit/64",
        peers: &["durable-turn/restate/64"],
        against: "Restate",
        goal: AtLeast(3.0),
    },
    Target {
        work: "durable turn, 256 callers, turns/s",
        ours: "durable-turn/agentkit/256",
        peers: &["durable-turn/restate/256"],
        against: "Restate",
        goal: AtLeast(3.0),
    },
    Target {
        work: "durable turn, 1 caller, p50, ms",
        ours: "durable-turn/agentkit/1/p50",
        peers: &[],
        against: "",
        goal: AtMost(4.0),
    },
    Target {
        work: "durable turn, CPU, ms",
        ours: "durable-turn/agentkit/cpu",
        peers: &[],
        against: "",
        goal: AtMost(1.5),
    },
    Target {
        work: "durable turn, bytes written",
        ours: "durable-turn/agentkit/written",
        peers: &[],
        against: "",
        goal: AtMost(5000.0),
    },
    Target {
        work: "durable turn, bytes kept",
        ours: "durable-turn/agentkit/kept",
        peers: &[],
        against: "",
        goal: AtMost(3000.0),
    },
    Target {
        work: "durable turn, SQLite, 64 callers, turns/s",
        ours: "durable-turn/agentkit-sqlite/64",
        peers: &[],
        against: "",
        goal: AtLeast(1500.0),
    },
    Target {
        work: "durable turn, SQLite, bytes written",
        ours: "durable-turn/agentkit-sqlite/written",
        peers: &[],
        against: "",
        goal: AtMost(25000.0),
    },
    Target {
        work: "kill -9 of a server to going on there, s",
        ours: "durable-turn/agentkit/kill",
        peers: &[],
        against: "",
        goal: AtMost(1.0),
    },
    Target {
        work: "agent turn, 1 thread, steps/s",
        ours: turn!("PostgreSQL", "AgentKit, Rust", 1),
        peers: savers!(1),
        against: SAVER,
        goal: AtLeast(2.0),
    },
    Target {
        work: "agent turn, 1 thread, steps/s",
        ours: turn!("PostgreSQL", "AgentKit, Rust", 1),
        peers: pgbench!(1),
        against: PGBENCH,
        goal: AtLeast(0.65),
    },
    Target {
        work: "agent turn, 16 threads, steps/s",
        ours: turn!("PostgreSQL", "AgentKit, Rust", 16),
        peers: savers!(16),
        against: SAVER,
        goal: AtLeast(8.0),
    },
    Target {
        work: "agent turn, 16 threads, steps/s",
        ours: turn!("PostgreSQL", "AgentKit, Rust", 16),
        peers: pgbench!(16),
        against: PGBENCH,
        goal: AtLeast(1.0),
    },
    Target {
        work: "agent turn, 256 threads, steps/s",
        ours: turn!("PostgreSQL", "AgentKit, Rust", 256),
        peers: savers!(256),
        against: SAVER,
        goal: AtLeast(12.0),
    },
    Target {
        work: "agent turn, 256 threads, p99 of put, ms",
        ours: "agent-turn/PostgreSQL/AgentKit, Rust/256/put p99",
        peers: &[],
        against: "",
        goal: AtMost(100.0),
    },
    Target {
        work: "agent turn, SQLite, 16 threads, steps/s",
        ours: turn!("SQLite", "AgentKit, Rust", 16),
        peers: &[turn!("SQLite", "AsyncSqliteSaver", 16)],
        against: "AsyncSqliteSaver",
        goal: AtLeast(8.0),
    },
    Target {
        work: "graph, alone, invocations/s",
        ours: "graph/PostgreSQL/AgentkitSaver/1",
        peers: &[
            "graph/PostgreSQL/AsyncPostgresSaver, one connection/1",
            "graph/PostgreSQL/AsyncPostgresSaver, pool of 20/1",
        ],
        against: SAVER,
        goal: AtLeast(1.7),
    },
    Target {
        work: "graph, 16 at once, invocations/s",
        ours: "graph/PostgreSQL/AgentkitSaver/16",
        peers: &[
            "graph/PostgreSQL/AsyncPostgresSaver, one connection/16",
            "graph/PostgreSQL/AsyncPostgresSaver, pool of 20/16",
        ],
        against: SAVER,
        goal: AtLeast(3.0),
    },
    Target {
        work: "graph, 16 at once, invocations/s",
        ours: "graph/PostgreSQL/AgentkitSaver/16",
        peers: &["graph/none/InMemorySaver/16"],
        against: "InMemorySaver",
        goal: AtLeast(0.6),
    },
    Target {
        work: "graph, SQLite, 16 at once, invocations/s",
        ours: "graph/SQLite/AgentkitSaver/16",
        peers: &["graph/SQLite/AsyncSqliteSaver/16"],
        against: "AsyncSqliteSaver",
        goal: AtLeast(3.0),
    },
    Target {
        work: "memory of AgentkitSaver, 100,000 operations against 10,000, MiB more",
        ours: "graph/memory growth",
        peers: &[],
        against: "",
        goal: AtMost(2.0),
    },
    Target {
        work: "POST /conversations, 16 connections, requests/s",
        ours: "http/agentkit serve/post",
        peers: &["http/original/1/post", "http/original/cores/post"],
        against: ORIGINAL,
        goal: AtLeast(6.0),
    },
    Target {
        work: "GET /conversations/{id}, 16 connections, requests/s",
        ours: "http/agentkit serve/get",
        peers: &["http/original/1/get", "http/original/cores/get"],
        against: ORIGINAL,
        goal: AtLeast(10.0),
    },
    Target {
        work: "latest checkpoint at 1,000,000 checkpoints, times that at 1,000",
        ours: "history/latest",
        peers: &[],
        against: "",
        goal: AtMost(1.3),
    },
    Target {
        work: "a page of threads at 1,000,000 threads, the slowest median, ms",
        ours: "history/threads",
        peers: &[],
        against: "",
        goal: AtMost(5.0),
    },
    Target {
        work: "PostgreSQL, bytes of turn 10,000 against turn 10",
        ours: "growth/PostgreSQL",
        peers: &[],
        against: "",
        goal: AtMost(1.3),
    },
    Target {
        work: "PostgreSQL, time of turn 10,000 against turn 10",
        ours: "growth/PostgreSQL time",
        peers: &[],
        against: "",
        goal: AtMost(1.3),
    },
    Target {
        work: "SQLite, bytes of turn 10,000 against turn 10",
        ours: "growth/SQLite",
        peers: &[],
        against: "",
        goal: AtMost(1.3),
    },
    Target {
        work: "SQLite, time of turn 10,000 against turn 10",
        ours: "growth/SQLite time",
        peers: &[],
        against: "",
        goal: AtMost(1.3),
    },
];

/// Whether a target needs this figure.
pub(crate) fn need(figure: &str) -> bool {
    let needs = |target: &Target| target.ours == figure || target.peers.contains(&figure);
    TARGETS.iter().any(needs)
}

/// Those of which something was measured.
pub(crate) fn table(figures: &Figures) -> Table {
    let mut table = Table::new(&[
        "work",
        "ours",
        "against",
        "theirs",
        "ratio",
        "lowest – highest",
        "to reach",
        "reached",
    ]);
    for target in TARGETS {
        if let Some(row) = target.row(figures) {
            table.row(row);
        }
    }
    table
}

impl Target {
    /// What counts is the median over the rounds, of the ratio in each where there are peers.
    fn row(&self, figures: &Figures) -> Option<Vec<String>> {
        let ours = figures.get(self.ours)?;
        let peers: Vec<_> = self
            .peers
            .iter()
            .filter_map(|peer| figures.get(*peer))
            .collect();
        let best = |round| {
            let rates = peers.iter().filter_map(|peer: &&Vec<f64>| peer.get(round));
            rates.copied().max_by(f64::total_cmp)
        };
        let theirs: Vec<_> = (0..ours.len()).map_while(best).collect();
        let measured = match self.peers {
            [] => ours.clone(),
            _ => ours
                .iter()
                .zip(&theirs)
                .map(|(ours, theirs)| ours / theirs)
                .collect(),
        };
        let lowest = measured.iter().copied().min_by(f64::total_cmp)?;
        let highest = measured.iter().copied().max_by(f64::total_cmp)?;
        let range = match measured.len() {
            1 => String::new(),
            _ => format!("{} – {}", display(lowest), display(highest)),
        };
        let measured = median(measured);
        let (goal, reached) = match self.goal {
            AtLeast(goal) => (format!("≥ {goal} ×"), measured >= goal),
            AtMost(goal) => (format!("≤ {goal}"), measured <= goal),
        };
        let (theirs, ratio) = match self.peers {
            [] => (String::new(), String::new()),
            _ => (display(median(theirs)), format!("{measured:.2}")),
        };
        Some(vec![
            self.work.to_owned(),
            display(median(ours.clone())),
            self.against.to_owned(),
            theirs,
            ratio,
            range,
            goal,
            if reached { "yes" } else { "no" }.to_owned(),
        ])
    }
}

fn display(figure: f64) -> String {
    if figure.abs() >= 100.0 {
        format!("{figure:.0}")
    } else {
        format!("{figure:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(figures: &[(&str, &[f64])]) -> Vec<Vec<String>> {
        let named = |(name, rounds): &(&str, &[f64])| ((*name).to_owned(), rounds.to_vec());
        let figures = figures.iter().map(named).collect();
        TARGETS
            .iter()
            .filter_map(|target| target.row(&figures))
            .collect()
    }

    const OURS: &str = "graph/PostgreSQL/AgentkitSaver/16";
    const ONE: &str = "graph/PostgreSQL/AsyncPostgresSaver, one connection/16";
    const POOL: &str = "graph/PostgreSQL/AsyncPostgresSaver, pool of 20/16";
    const PUT: &str = "agent-turn/PostgreSQL/AgentKit, Rust/256/put p99";

    #[test]
    fn a_ratio_is_the_median_of_those_of_the_rounds_each_to_its_best_peer() {
        let found = rows(&[
            (OURS, &[300.0, 450.0, 150.0]),
            (ONE, &[60.0, 150.0, 60.0]),
            (POOL, &[100.0, 90.0, 40.0]),
        ]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0][1], "300");
        assert_eq!(
            found[0][3..],
            ["100", "3.00", "2.50 – 3.00", "≥ 3 ×", "yes"]
        );

        // The ratio of the medians would be 2.80.
        let found = rows(&[(OURS, &[300.0, 280.0, 90.0]), (POOL, &[100.0, 140.0, 30.0])]);
        assert_eq!(
            found[0][3..],
            ["100", "3.00", "2.00 – 3.00", "≥ 3 ×", "yes"]
        );
    }

    #[test]
    fn a_figure_without_peers_is_its_own_median() {
        let found = rows(&[(PUT, &[250.0, 90.0, 80.0])]);
        assert_eq!(
            found[0][1..],
            ["90.00", "", "", "", "80.00 – 250", "≤ 100", "yes"]
        );
        assert_eq!(
            rows(&[(PUT, &[101.0])])[0][1..],
            ["101", "", "", "", "", "≤ 100", "no"]
        );
    }

    #[test]
    fn a_ratio_needs_a_peer() {
        assert!(rows(&[(OURS, &[300.0])]).is_empty());
        assert!(need(OURS) && need(POOL) && need(PUT));
        assert!(!need("graph/PostgreSQL/AgentkitSaver/64"));
    }
}
