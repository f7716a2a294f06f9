//! The agent of the test, and this executable as a server with it.

use std::{
    io,
    path::PathBuf,
    process::{self, ExitCode},
    sync::Arc,
    thread,
    time::Duration,
};

use async_trait::async_trait;
use tracing_subscriber::EnvFilter;
use yai_agentkit_core::Role;
use yai_agentkit_engine::{
    agent::{
        Agent, AgentError, AgentState, Agents, Context, Step, ToolCall, ToolOutcome, ToolTraits,
        Tools,
    },
    error_chain,
    test_kit::Noted,
};
use yai_agentkit_server::{
    serve::serve,
    settings::{Flags, Settings},
};

use crate::{
    ledger::{Ledger, WORKS},
    plan::{APPROVED, ASKS, Plan, REMOTE, SAFE, answer, done, says},
    program,
    random::Random,
    rolling::{COUNTER, Counter},
    variable,
};

/// The environment variable that names the ledger; with it this executable is a server.
pub(crate) const LEDGER: &str = "CHAOS_LEDGER";
/// The variable with the port of the agent that is a program of its own.
pub(crate) const PROGRAM: &str = "CHAOS_PROGRAM";

pub(crate) fn run_server(ledger: PathBuf) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
    // A test that is killed takes its servers with it.
    thread::spawn(|| {
        drop(io::copy(&mut io::stdin(), &mut io::sink()));
        process::exit(1);
    });
    let port = variable(PROGRAM).expect("the port of a program");
    let agent = Arc::new(PlannedAgent(Ledger::open(&ledger)));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let settings = Settings::read(&Flags::default()).expect("settings");
    let served = async {
        let remote = Arc::new(program::agent(port, &ledger).await);
        let agents = Agents::from(agent).with(REMOTE, remote);
        serve(settings, agents.with(COUNTER, Arc::new(Counter::new()))).await
    };
    match runtime.block_on(served) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = error_chain(error.as_ref()), "the server failed");
            ExitCode::FAILURE
        }
    }
}

/// Does what the [`Plan`] in the message says, and writes down what it does.
struct PlannedAgent(Ledger);

#[async_trait]
impl Agent for PlannedAgent {
    type State = Noted;

    async fn step(
        &self,
        context: &Context,
        state: &mut AgentState<Noted>,
    ) -> Result<Step, AgentError> {
        let (asked, of_turn) = state.turn().split_first().expect("a question");
        let plan = Plan::parse(&asked.content);
        let said = |role: Role| of_turn.iter().filter(move |message| message.role == role);
        let number = said(Role::Assistant).count();
        self.0.write(WORKS, &plan.token);
        let Some(calls) = plan.steps().into_iter().nth(number) else {
            pause(&format!("{} answers", plan.token)).await;
            let results: Vec<_> = said(Role::Tool)
                .map(|result| result.content.clone())
                .collect();
            return Ok(Step::Answer(answer(&plan.token, &results)));
        };
        let content = says(&plan.token, number);
        let (first, second) = content.split_at(content.len() / 2);
        context.say(first).await;
        pause(&content).await;
        context.say(second).await;
        Ok(Step::ToolCalls { content, calls })
    }

    fn tools(&self) -> &dyn Tools<Noted> {
        self
    }
}

#[async_trait]
impl Tools<Noted> for PlannedAgent {
    fn traits(&self, call: &ToolCall) -> ToolTraits {
        ToolTraits {
            is_repeatable: call.name == SAFE,
            needs_approval: call.name == APPROVED,
            ..ToolTraits::default()
        }
    }

    async fn run(
        &self,
        _: &Context,
        call: &ToolCall,
        state: &mut AgentState<Noted>,
        answer: Option<&str>,
    ) -> ToolOutcome {
        self.0.write(WORKS, &call.id);
        pause(&format!("{} before", call.id)).await;
        if call.name == ASKS && answer.is_none() {
            return ToolOutcome::Ask(format!("May {} run?", call.id));
        }
        self.0.write(&call.name, &call.id);
        pause(&format!("{} after", call.id)).await;
        state.own.facts.insert(call.id.clone(), call.name.clone());
        ToolOutcome::Result(done(call))
    }
}

/// Mostly short; the long ones are longer than what is said waits before it is stored.
async fn pause(name: &str) {
    let mut random = Random::of(0, name);
    let milliseconds = match random.between(0..8) {
        0 => random.between(100..300),
        _ => random.between(1..40),
    };
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}
