//! What is to be reached, and whether it is.

use std::collections::BTreeMap;

use crate::report::Table;

type Figures = BTreeMap<String, f64>;

struct Target {
    work: &'static str,
    /// The figure of ours.
    ours: &'static str,
    /// What it is divided by, the greatest of these; a figure that counts by itself has none.
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

macro_rules! pgbench {
    ($threads:literal) => {
        &[
            turn!("PostgreSQL", "pgbench, AgentKit's statements", $threads),
            turn!(
                "PostgreSQL",
                "pgbench, AgentKit's statements, redundant indexes",
                $threads
            ),
            turn!("PostgreSQL", "pgbench, LangGraph's rows only", $threads),
            turn!(
                "PostgreSQL",
                "pgbench, LangGraph's rows only, redundant indexes",
                $threads
            ),
        ]
    };
}

const SAVER: &str = "AsyncPostgresSaver, the better";
const PGBENCH: &str = "pgbench at its best";
const ORIGINAL: &str = "FastAPI, Tortoise, the better";

const TARGETS: &[Target] = &[
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
        work: "PostgreSQL, bytes of turn 1,000 against turn 10",
        ours: "growth/PostgreSQL",
        peers: &[],
        against: "",
        goal: AtMost(1.3),
    },
    Target {
        work: "SQLite, bytes of turn 1,000 against turn 10",
        ours: "growth/SQLite",
        peers: &[],
        against: "",
        goal: AtMost(1.3),
    },
];

/// Those of which something was measured.
pub(crate) fn table(figures: &Figures) -> Table {
    let mut table = Table::new(&[
        "work", "ours", "against", "theirs", "ratio", "to reach", "reached",
    ]);
    for target in TARGETS {
        if let Some(row) = target.row(figures) {
            table.row(row);
        }
    }
    table
}

impl Target {
    fn row(&self, figures: &Figures) -> Option<Vec<String>> {
        let ours = figures.get(self.ours)?;
        let theirs = self.peers.iter().filter_map(|peer| figures.get(*peer));
        let theirs = theirs.copied().max_by(f64::total_cmp);
        let measured = match (self.peers, theirs) {
            ([], _) => *ours,
            (_, Some(theirs)) => ours / theirs,
            (_, None) => return None,
        };
        let (goal, reached) = match self.goal {
            AtLeast(goal) => (format!("≥ {goal} ×"), measured >= goal),
            AtMost(goal) => (format!("≤ {goal}"), measured <= goal),
        };
        let or_empty = |figure: Option<f64>| figure.map_or(String::new(), display);
        Some(vec![
            self.work.to_owned(),
            display(*ours),
            self.against.to_owned(),
            or_empty(theirs),
            theirs.map_or(String::new(), |_| format!("{measured:.2}")),
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

    #[test]
    fn a_ratio_is_to_the_best_peer() {
        let figures = Figures::from([
            ("graph/PostgreSQL/AgentkitSaver/16".to_owned(), 300.0),
            (
                "graph/PostgreSQL/AsyncPostgresSaver, pool of 20/16".to_owned(),
                60.0,
            ),
            (
                "graph/PostgreSQL/AsyncPostgresSaver, one connection/16".to_owned(),
                150.0,
            ),
        ]);
        let rows: Vec<_> = TARGETS
            .iter()
            .filter_map(|target| target.row(&figures))
            .collect();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0][3..], ["150", "2.00", "≥ 3 ×", "no"]);
    }
}
