//! A turn as a DBOS workflow: `POST /turns` with a message runs it, and answers with what its last
//! step has said. Each step takes `BENCH_STEP_DELAY` milliseconds and is written down in
//! `BENCH_LEDGER`, if they are set.

use std::{
    env, fs,
    io::{self, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use dbos::{Config, DBOS, WorkflowRef};
use mimalloc::MiMalloc;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Turn = WorkflowRef<String, String>;

const STEPS: usize = 4;
const BYTES: usize = 400;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = env::var("DATABASE_URL")?;
    let dbos = DBOS::new(Config {
        app_version: Some("1".to_owned()),
        // As many as ours.
        max_connections: 20,
        ..Config::new("bench", url)
    });
    let turn: Turn = dbos.register_workflow("turn", run)?;
    dbos.launch().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}/", listener.local_addr()?);
    io::stdout().flush()?;
    let app = Router::new()
        .route("/turns", post(answer))
        .route("/readyz", get(|| async {}))
        .with_state(turn);
    Ok(axum::serve(listener, app).await?)
}

async fn answer(State(turn): State<Turn>, message: String) -> Result<String, StatusCode> {
    let answered = turn.run(message).await;
    answered.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn run(message: String) -> Result<String, dbos::Error> {
    let mut said = message;
    for number in 0..STEPS {
        let step = dbos::step("say", move || say(number));
        said = step.await?;
    }
    Ok(said)
}

async fn say(number: usize) -> Result<String, dbos::Error> {
    if let Ok(ledger) = env::var("BENCH_LEDGER") {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let line = format!("{} {number}\n", now.unwrap_or_default().as_micros());
        let file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(ledger);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the ledger takes it");
    }
    if let Some(delay) = env::var("BENCH_STEP_DELAY")
        .ok()
        .and_then(|delay| delay.parse().ok())
    {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    Ok(number.to_string().repeat(BYTES))
}
