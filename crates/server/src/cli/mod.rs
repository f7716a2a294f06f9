//! The commands of the `agentkit` binary.

mod chat;
mod fork;
mod inspect;
mod log;
mod migrate;

use std::{io, process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand};
use yai_agentkit_core::{BoxError, Error};
use yai_agentkit_persistence::Database;

use crate::{
    agent::{Agent, offline::OfflineAgent, openai::OpenAiAgent},
    error_chain,
    serve::serve,
    settings::{AgentSettings, Flags, Settings},
    turn::TurnEngine,
};

/// The durable memory of stateful AI agents
///
/// Conversations, messages and the checkpoints of an agent, kept in SQLite or PostgreSQL so that a
/// turn can be stopped anywhere and goes on from where it was. Without a command it serves HTTP.
#[derive(Debug, Parser)]
#[command(name = "agentkit", version, after_long_help = HELP)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve HTTP; the default
    Serve,
    /// Talk to the agent in the terminal
    Chat(chat::Arguments),
    /// Bring the database's schema up to date
    Migrate(migrate::Arguments),
    /// List the threads, the last written first
    Threads(inspect::ThreadsArguments),
    /// List the checkpoints of a thread, newest first
    History(inspect::HistoryArguments),
    /// Show a checkpoint, decoded
    Show(inspect::ShowArguments),
    /// Show what changed between two checkpoints: a JSON Patch (RFC 6902), an operation a line
    Diff(inspect::DiffArguments),
    /// Make a new conversation from a point in the past of another
    Fork(fork::Arguments),
}

const HELP: &str = "\
Examples:
  agentkit                                      serve on http://127.0.0.1:8080, data in ./agentkit.db
  agentkit chat 'My name is Ada.'               one turn in a new conversation
  agentkit chat --conversation ID               go on with a conversation, line by line
  agentkit threads                              what agents have worked on
  agentkit show THREAD                          what the agent of a thread knows now
  agentkit fork CONVERSATION --message ID       go on from there in a new conversation
  DATABASE_URL=postgresql://me@localhost/agentkit agentkit migrate --dry-run

Environment (a flag goes before it, agentkit.toml behind it):
  DATABASE_URL               sqlite:FILE or postgresql://USER:PASSWORD@HOST/NAME
  DB_GENERATE_SCHEMAS        migrate on connecting: true or false [true]
  DB_MAX_CONNECTIONS         connections at most [20]
  DB_MIN_CONNECTIONS         connections kept open [1]
  DB_CONNECTION_TIMEOUT      seconds to wait for a connection, retries included [30]
  DB_QUERY_TIMEOUT           seconds until the database ends a statement [30]
  DB_SCHEMA                  the PostgreSQL schema of the tables [the connection's]
  DB_TRANSACTION_POOLER      PgBouncer in transaction mode stands before it [found out]
  AGENTKIT_CONFIG            the settings file [agentkit.toml]
  AGENTKIT_BIND              where the server listens; port 0 takes a free one [127.0.0.1:8080]
  AGENTKIT_AGENT             offline (no network needed) or openai [offline]
  AGENTKIT_BODY_LIMIT        bytes a request may have [1048576]
  AGENTKIT_SHUTDOWN_TIMEOUT  seconds for running turns to reach a checkpoint [30]
  AGENTKIT_MAX_STEPS         steps an agent may take in one turn [50]
  AGENTKIT_MAX_ATTEMPTS      how often a turn may be cut short [5]
  AGENTKIT_TURN_DEADLINE     seconds a turn may run [600]
  AGENTKIT_LEASE             seconds until another server takes a turn over [10]
  AGENTKIT_ON_BUSY           a message to a busy chat: reject, queue or interrupt [reject]
  AGENTKIT_KEY_AGE           seconds for which an Idempotency-Key is known [86400]
  AGENTKIT_EVENT_AGE         seconds for which the events of an ended turn are kept [86400]
  AGENTKIT_STEP_DELAY        milliseconds each step of the offline agent takes [0]
  AGENTKIT_LOG_FORMAT        text or json [text]
  RUST_LOG                   what is logged, as in info,sqlx=debug [serve: info, else warn]
  OPENAI_API_KEY             the key of the openai agent
  OPENAI_BASE_URL            its endpoint, for others than OpenAI
  OPENAI_MODEL               its model [gpt-5-mini]
  OPENAI_TIMEOUT             seconds one step of the model may take [60]

Exit codes: 0 done, 1 failed, 2 a setting or an argument is wrong.";

/// Runs the command line of this process.
pub async fn run() -> ExitCode {
    match execute(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error_chain(error.as_ref()));
            match error.downcast_ref() {
                Some(Error::Configuration { .. }) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn execute(cli: Cli) -> Result<(), BoxError> {
    let settings = Settings::read(&cli.flags)?;
    let command = cli.command.unwrap_or(Command::Serve);
    let default = match command {
        Command::Serve => "info",
        _ => "warn",
    };
    log::start(&settings, default)?;
    match command {
        Command::Serve => {
            let agent = build_agent(&settings)?;
            serve(settings, agent).await
        }
        Command::Chat(arguments) => chat::run(settings, arguments).await,
        Command::Migrate(arguments) => migrate::run(settings, arguments).await,
        Command::Threads(arguments) => inspect::threads(settings, arguments).await,
        Command::History(arguments) => inspect::history(settings, arguments).await,
        Command::Show(arguments) => inspect::show(settings, arguments).await,
        Command::Diff(arguments) => inspect::diff(settings, arguments).await,
        Command::Fork(arguments) => fork::run(settings, arguments).await,
    }
}

/// The turns of the agent that the settings name, kept in `database`.
fn turn_engine(settings: &Settings, database: &Database) -> Result<TurnEngine, Error> {
    let agent = build_agent(settings)?;
    Ok(TurnEngine::new(Arc::new(database.clone()), agent).with_limits(settings.limits.clone()))
}

fn build_agent(settings: &Settings) -> Result<Arc<dyn Agent>, Error> {
    Ok(match &settings.agent {
        AgentSettings::Offline { step_delay } => {
            Arc::new(OfflineAgent::new().with_step_delay(*step_delay))
        }
        AgentSettings::OpenAi(config) => Arc::new(OpenAiAgent::new(config.clone())?),
    })
}

/// Whether the reader of the output has gone, as in `agentkit threads | head`.
fn is_broken_pipe(error: &BoxError) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
