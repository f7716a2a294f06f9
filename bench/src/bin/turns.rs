//! A turn of four steps, as an agent behind our server: each says 400 bytes, the last is the answer.
//! Each takes `BENCH_STEP_DELAY` milliseconds and is written down in `BENCH_LEDGER`, if they are set.

use std::{
    env, fs,
    io::Write,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use mimalloc::MiMalloc;
use yai_agentkit_core::Role;
use yai_agentkit_engine::agent::{Agent, AgentError, AgentState, Context, Step};
use yai_agentkit_server::{
    serve::serve,
    settings::{Flags, Settings},
};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

type Error = Box<dyn std::error::Error + Send + Sync>;

const STEPS: usize = 4;
const BYTES: usize = 400;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(Settings::read(&Flags::default())?, Arc::new(Speaker)).await
}

struct Speaker;

#[async_trait]
impl Agent for Speaker {
    type State = ();

    async fn step(&self, _: &Context, state: &mut AgentState<()>) -> Result<Step, AgentError> {
        let said = state.messages.iter().rev();
        let number = said.take_while(|message| message.role != Role::User);
        let number = number.count();
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
        let delay = env::var("BENCH_STEP_DELAY").ok();
        if let Some(delay) = delay.and_then(|delay| delay.parse().ok()) {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let content = number.to_string().repeat(BYTES);
        Ok(if number + 1 == STEPS {
            Step::Answer(content)
        } else {
            Step::ToolCalls {
                content,
                calls: Vec::new(),
            }
        })
    }
}
