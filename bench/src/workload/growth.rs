//! The workload "growth": what an early and a late turn of one conversation of our own agent cost.
//!
//! Between the turns that are measured the chat is made longer by copies of what was said in it.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use yai_agentkit_core::{
    CheckpointSelector, ConversationId, Message, MessageId, Role, Storage, Stores, ThreadState,
    checkpoint::CheckpointMetadata,
};
use yai_agentkit_persistence::DatabaseConfig;

use crate::{
    Options, Result,
    database::{Database, Kind},
    process,
    proxy::Proxy,
    report::{Report, Table},
    rounds::median,
    server::Server,
};

const QUESTION: &str = "What is 17 * 23?";
const ANSWER: &str = "17 * 23 = 391.";
/// How many turns count, around the one that is named.
const MEASURED: usize = 9;
/// Turns before those that count.
const WARM_UP: usize = 5;
const TURNS: [usize; 3] = [10, 1_000, 10_000];
/// How many rows are added at once.
const AT_ONCE: usize = 1_000;
/// How many of them are made searchable at once.
const TAKEN_IN: u64 = 1_000;

/// The state of the agent as its checkpoints hold it.
#[derive(Default, Serialize, Deserialize)]
struct State {
    messages: Vec<Json>,
    #[serde(flatten)]
    others: Map<String, Json>,
}

/// Of one turn.
#[derive(Clone, Copy)]
struct Cost {
    time: Duration,
    written: u64,
    read: u64,
    peak: f64,
}

pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    report.write(&format!(
        "\n## Growth\n\nOne turn of the offline agent in a chat that had so many before: medians of \
         {MEASURED} turns around it. Written is the write-ahead log; read is what PostgreSQL sends; \
         the peak is that of the server's process.\n"
    ));
    let mut table = Table::new(&[
        "database",
        "turn",
        "ms",
        "written",
        "read",
        "peak MiB",
        "ratio of ms",
        "of written",
    ]);
    for kind in [Kind::Postgres, Kind::Sqlite] {
        if !options.takes(kind, "agentkit") {
            continue;
        }
        let database = options.database(kind).await?;
        let costs = measure(&database).await?;
        database.remove().await?;
        let early = costs[0];
        for (turn, cost) in TURNS.into_iter().zip(&costs) {
            let time = cost.time.as_secs_f64() / early.time.as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "bytes of one turn")]
            let written = cost.written as f64 / early.written as f64;
            if turn == TURNS[TURNS.len() - 1] {
                report.record(format!("growth/{}", kind.name()), vec![written]);
                report.record(format!("growth/{} time", kind.name()), vec![time]);
            }
            let cells: [&dyn Display; 8] = [
                &kind.name(),
                &turn,
                &format!("{:.1}", cost.time.as_secs_f64() * 1e3),
                &cost.written,
                &cost.read,
                &format!("{:.1}", cost.peak),
                &format!("{time:.2}"),
                &format!("{written:.2}"),
            ];
            table.row(cells.map(ToString::to_string).to_vec());
        }
        report.progress(&table);
    }
    report.table(&table);
    Ok(())
}

async fn measure(database: &Database) -> Result<Vec<Cost>> {
    let proxy = match database.address() {
        Some(address) => Some(Proxy::start(address).await?),
        None => None,
    };
    let url = match &proxy {
        Some(proxy) => database.url_through(proxy.address)?,
        None => database.url().to_owned(),
    };
    let read = || proxy.as_ref().map_or(0, Proxy::bytes_read);
    let mut costs = Vec::new();
    let mut chat = None;
    let mut done = 0;
    for turn in TURNS {
        let before = turn - MEASURED / 2 - 1;
        if let Some(chat) = chat {
            lengthen(database, chat, before - WARM_UP - done).await?;
            done = before - WARM_UP;
        }
        // Anew, so that its memory is that of these turns.
        let server = Server::start(&url).await?;
        let id = match chat {
            Some(id) => id,
            None => {
                let created = server.post("/conversations", &json!({})).await?;
                created["id"].as_str().ok_or("no id")?.parse()?
            }
        };
        chat = Some(id);
        let path = format!("/chats/{id}/messages");
        let answered = || answered(&server, &path);
        // These open connections and prepare statements.
        for _ in done..before {
            answered().await?;
        }
        let mut turns = Vec::new();
        process::peak_mebibytes(server.id)?;
        for _ in 0..MEASURED {
            let (read_before, mut time) = (read(), Duration::ZERO);
            let timed = async {
                let begun = Instant::now();
                answered().await?;
                time = begun.elapsed();
                Ok(())
            };
            let written = database.wal_bytes(timed).await?;
            turns.push((time, written, read() - read_before));
        }
        done = before + MEASURED;
        costs.push(Cost {
            time: median(turns.iter().map(|turn| turn.0).collect()),
            written: median(turns.iter().map(|turn| turn.1).collect()),
            read: median(turns.iter().map(|turn| turn.2).collect()),
            peak: process::peak_mebibytes(server.id)?,
        });
        server.stop().await?;
    }
    Ok(costs)
}

async fn answered(server: &Server, path: &str) -> Result<()> {
    let answer = server.post(path, &json!({"content": QUESTION})).await?;
    match answer["content"].as_str() {
        Some(ANSWER) => Ok(()),
        _ => Err(format!("a wrong answer: {answer}").into()),
    }
}

/// Adds `turns` to a chat, in one checkpoint.
async fn lengthen(database: &Database, chat: ConversationId, turns: usize) -> Result<()> {
    let config = DatabaseConfig::new(database.url())?;
    let storage = yai_agentkit_persistence::Database::connect(&config).await?;
    let checkpointer = storage.checkpointer();
    let conversation = storage.conversations().get(&chat).await?.ok_or("no chat")?;
    let thread = conversation.thread_id();
    let latest = checkpointer
        .get(&CheckpointSelector::latest(thread.clone()))
        .await?;
    let latest = latest.ok_or("no checkpoint")?;
    let CheckpointMetadata(metadata) = latest.metadata.clone();
    let mut state = ThreadState::new(thread, Some(latest));
    let mut longer: State = state.state()?.unwrap_or_default();
    let of_a_turn = longer.messages[..4].to_vec();
    for _ in 0..turns {
        longer.messages.extend_from_slice(&of_a_turn);
    }
    let step = state.next_step();
    let metadata = CheckpointMetadata(metadata).with("step", step);
    state.save(&*checkpointer, &longer, metadata).await?;
    for begun in (0..turns).step_by(AT_ONCE) {
        let said = (begun..turns.min(begun + AT_ONCE)).flat_map(|_| {
            let question = Message::new(chat, Role::User, QUESTION);
            let mut answer = Message::new(chat, Role::Assistant, ANSWER);
            answer.id = MessageId::answer(question.id);
            [question, answer]
        });
        storage.messages().add_many(said.collect()).await?;
    }
    // Not while the next turns are measured.
    while storage.search().index(TAKEN_IN).await? > 0 {}
    storage.close().await;
    Ok(())
}
