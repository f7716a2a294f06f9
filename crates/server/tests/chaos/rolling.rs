//! A deploy, server by server, of an agent whose state has another shape: turns that run, wait or are
//! queued go on.
//!
//! `ROLLING_TURNS` says how many, if not 120.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use yai_agentkit_core::{
    ConversationId, ListQuery, Storage, Stores, ThreadState, TurnStatus, error::BoxError,
    turn::TurnFilter,
};
use yai_agentkit_engine::agent::{Agent, AgentError, AgentState, Context, Step};
use yai_agentkit_persistence::{Database, DatabaseConfig};

use crate::{
    PATIENCE,
    client::problem,
    http::request_with,
    servers::{Postgres, Servers},
    variable,
};

/// The variable with the version of the agent's state.
pub(crate) const VERSION: &str = "CHAOS_VERSION";
/// The agent of such conversations.
pub(crate) const COUNTER: &str = "counter";

const TURNS: usize = 120;
const SERVERS: usize = 3;
const CLIENTS: usize = 12;
/// How long a step takes of a turn that waits for nobody.
const STEP: Duration = Duration::from_millis(250);

/// Counts its steps: version 1 in a number, version 2 in a list that says which version took each.
pub(crate) struct Counter(u32);

impl Counter {
    pub(crate) fn new() -> Self {
        Self(variable(VERSION).unwrap_or(1))
    }
}

#[async_trait]
impl Agent for Counter {
    type State = Json;

    async fn step(&self, _: &Context, state: &mut AgentState) -> Result<Step, AgentError> {
        let (asked, done) = state.turn().split_first().expect("a question");
        let (asked, done) = (asked.content.clone(), done.len());
        if asked != "ask" {
            tokio::time::sleep(STEP).await;
        }
        let counted = match self.0 {
            1 => {
                let counted = state.own["count"].as_u64().unwrap_or_default() + 1;
                state.own = json!({ "count": counted });
                counted
            }
            _ => {
                let mut steps = state.own["steps"].as_array().cloned().unwrap_or_default();
                steps.push(json!(self.0));
                let counted = steps.len() as u64;
                state.own = json!({ "steps": steps });
                counted
            }
        };
        Ok(match asked.strip_prefix("steps ") {
            None if done == 0 => Step::Ask("Go on?".to_owned()),
            Some(steps) if done < steps.parse().expect("a number") => Step::ToolCalls {
                content: "I think.".to_owned(),
                calls: Vec::new(),
            },
            _ => Step::Answer(counted.to_string()),
        })
    }

    fn state_version(&self) -> u32 {
        self.0
    }

    fn migrate(&self, version: u32, stored: Json) -> Result<Json, BoxError> {
        assert_eq!(version, 1);
        let count = stored["count"].as_u64().unwrap_or_default();
        Ok(json!({ "steps": vec![1; usize::try_from(count)?] }))
    }
}

/// What a chat has: a turn that waits, one that runs, or one that waits with another behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Waits,
    Runs,
    Queues,
}

struct Deploy<'a> {
    servers: &'a Servers,
    /// Of a turn that runs.
    steps: usize,
    next: AtomicUsize,
}

impl Deploy<'_> {
    /// The response of a server, of the next one until one takes it.
    fn post(&self, path: &str, body: &Json) -> Json {
        let (begin, patience) = (Instant::now(), Duration::from_secs(10));
        let key = format!(
            "idempotency-key: post-{}\r\n",
            self.next.fetch_add(1, Relaxed)
        );
        loop {
            let server = self.next.fetch_add(1, Relaxed) % SERVERS;
            if let Some(address) = self.servers.address(server) {
                let head = format!("POST {path}");
                match request_with(&address, patience, &head, &key, &body.to_string()) {
                    Some((200..=202, body)) => return body,
                    // The answer was taken before, by a server that was killed before it said so.
                    Some((409, body)) if problem(&body) == "not-asked" => return body,
                    Some((409 | 503, body)) => drop(body),
                    Some((status, body)) => panic!("{path}: {status} {body}"),
                    None => {}
                }
            }
            assert!(begin.elapsed() < PATIENCE, "stuck: POST {path} {body}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A chat, and the turn in it that waits.
    fn begin(&self, kind: Kind) -> (String, Json) {
        let named = json!({"metadata": {"agent": COUNTER}});
        let chat = self.post("/conversations", &named);
        let chat = chat["id"].as_str().expect("an id").to_owned();
        let path = format!("/chats/{chat}/messages");
        let go = json!({"content": format!("steps {}", self.steps), "on_busy": "enqueue"});
        let turn = match kind {
            Kind::Runs => Json::Null,
            _ => self.post(&path, &json!({"content": "ask"})),
        };
        let turns = if kind == Kind::Queues { 2 } else { 1 };
        let begin = Instant::now();
        while kind != Kind::Waits && self.turns(&chat) < turns {
            // Nobody waits for its answer, but until it is there.
            let server = self.next.fetch_add(1, Relaxed) % SERVERS;
            let address = self.servers.address(server);
            let (patience, key) = (
                Duration::from_millis(200),
                format!("idempotency-key: {chat}\r\n"),
            );
            let send = |address: String| {
                request_with(
                    &address,
                    patience,
                    &format!("POST {path}"),
                    &key,
                    &go.to_string(),
                )
            };
            drop(address.and_then(send));
            assert!(begin.elapsed() < PATIENCE, "stuck: POST {path} {go}");
        }
        (chat, turn)
    }

    /// How many turns a chat has.
    fn turns(&self, chat: &str) -> usize {
        let (begin, list) = (Instant::now(), format!("GET /chats/{chat}/turns"));
        loop {
            // One may not listen yet.
            let server = self.next.fetch_add(1, Relaxed) % SERVERS;
            let address = self.servers.address(server);
            let listed =
                address.and_then(|address| request_with(&address, PATIENCE, &list, "", ""));
            if let Some((200, listed)) = listed {
                return listed["items"].as_array().expect("turns").len();
            }
            assert!(begin.elapsed() < PATIENCE, "stuck: {list}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn answer(&self, chat: &str, turn: &Json) {
        let id = turn["id"].as_str().expect("a turn");
        let path = format!("/chats/{chat}/turns/{id}/resume");
        let answer = json!({"interrupt_id": turn["interrupt"]["id"], "answer": "yes"});
        self.post(&path, &answer);
    }
}

pub(crate) fn run(postgres: &Postgres) {
    let count = variable("ROLLING_TURNS").unwrap_or(TURNS);
    let directory = TempDir::new().unwrap().keep();
    let begin = Instant::now();
    let servers = Servers::start(SERVERS, &postgres.url, &directory);
    let deploy = Deploy {
        servers: &servers,
        // Long enough for the last to begin while the first still runs, and for the deploy.
        steps: 24 + count / 100,
        next: AtomicUsize::new(0),
    };
    let kinds: Vec<_> = [Kind::Waits, Kind::Queues, Kind::Runs]
        .into_iter()
        .flat_map(|kind| {
            vec![
                kind;
                if kind == Kind::Queues {
                    count / 6
                } else {
                    count / 3
                }
            ]
        })
        .collect();
    let chats = by_all(&kinds, |kind| {
        let (chat, turn) = deploy.begin(*kind);
        (*kind, chat, turn)
    });
    let begun = begin.elapsed();
    let (early, late) = chats.split_at(chats.len() / 2);

    // While servers of both versions are there, people answer; one server is killed in place of asked to stop.
    thread::scope(|scope| {
        scope.spawn(|| answer_all(&deploy, early));
        for server in 0..SERVERS {
            match server {
                1 => drop(servers.kill(server)),
                _ => servers.stop_one(server),
            }
            servers.start_version(server, 2);
            thread::sleep(Duration::from_millis(500));
        }
    });
    let deployed = begin.elapsed();
    answer_all(&deploy, late);

    let runtime = Runtime::new().unwrap();
    let config = DatabaseConfig::new(postgres.url.as_str()).unwrap();
    let by_both = runtime.block_on(async {
        let database = Database::connect(&config).await.unwrap();
        let patience = PATIENCE + Duration::from_millis(300) * u32::try_from(count).unwrap();
        let left = settled(&database, begin + patience).await;
        assert_eq!(
            left,
            0,
            "turns are stranded, logs in {}",
            directory.display()
        );
        let mut by_both = 0;
        for (kind, chat, _) in &chats {
            by_both += usize::from(check(&database, *kind, chat, deploy.steps).await);
        }
        database.close().await;
        by_both
    });
    servers.stop();
    println!(
        "rolling deploy: {count} turns, of {} chats; begun in {:.1} s, deployed at {:.1} s, all ended at {:.1} s; \
         {by_both} chats were worked on by both versions",
        chats.len(),
        begun.as_secs_f64(),
        deployed.as_secs_f64(),
        begin.elapsed().as_secs_f64(),
    );
    assert!(by_both >= chats.len() / 4, "{by_both} chats had both");
    std::fs::remove_dir_all(directory).unwrap();
}

/// Does it with all of them, several at once.
fn by_all<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let size = items.len().div_ceil(CLIENTS).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> = items
            .chunks(size)
            .map(|part| scope.spawn(|| part.iter().map(&work).collect::<Vec<_>>()))
            .collect();
        let parts = parts.into_iter().map(|part| part.join().expect("its part"));
        parts.flatten().collect()
    })
}

fn answer_all(deploy: &Deploy<'_>, chats: &[(Kind, String, Json)]) {
    by_all(chats, |(kind, chat, turn)| {
        if *kind != Kind::Runs {
            deploy.answer(chat, turn);
        }
    });
}

/// How many turns have not ended, once all have or time is up.
async fn settled(database: &Database, deadline: Instant) -> usize {
    loop {
        let unfinished = ListQuery::filtered(TurnFilter::unfinished());
        let left = database
            .turns()
            .list(&unfinished)
            .await
            .unwrap()
            .items
            .len();
        if left == 0 || Instant::now() > deadline {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether both versions have worked on it.
async fn check(storage: &dyn Storage, kind: Kind, chat: &str, steps: usize) -> bool {
    let id: ConversationId = chat.parse().unwrap();
    let turns = ListQuery::filtered(TurnFilter::default().of(id));
    let turns = storage.turns().list(&turns).await.unwrap().items;
    let expected = if kind == Kind::Queues { 2 } else { 1 };
    assert_eq!(turns.len(), expected, "{kind:?} {chat}");
    for turn in turns {
        assert_eq!(turn.status, TurnStatus::Completed, "{turn:?}");
    }
    let conversation = storage.conversations().get(&id).await.unwrap();
    let thread = conversation.expect("the chat").thread_id();
    let state = ThreadState::load(&*storage.checkpointer(), thread).await;
    let state: AgentState = state.unwrap().state().unwrap().unwrap_or_default();
    let taken = match state.own["count"].as_u64() {
        // It ended before the deploy had come to its server.
        Some(count) => vec![Some(1); usize::try_from(count).unwrap()],
        None => {
            let steps = state.own["steps"].as_array().expect("steps");
            steps.iter().map(Json::as_u64).collect()
        }
    };
    let expected = match kind {
        Kind::Waits => 2,
        Kind::Runs => steps + 1,
        Kind::Queues => 2 + steps + 1,
    };
    assert_eq!(taken.len(), expected, "{kind:?} {chat}: {taken:?}");
    assert!(taken.is_sorted(), "{taken:?}");
    taken.first() == Some(&Some(1)) && taken.last() == Some(&Some(2))
}
