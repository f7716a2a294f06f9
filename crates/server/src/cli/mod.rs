//! The commands of the `agentkit` binary.

mod audit;
mod chat;
mod encryption;
mod erase;
mod fork;
mod inspect;
mod keys;
mod list;
pub(crate) mod log;
mod mcp;
mod migrate;
mod prune;
mod redact;
mod remote;
mod remote_chat;
mod shell;
mod state;
mod table;
mod telling;

use std::{io, process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand};
use futures::future::join_all;
use yai_agentkit_agents::{
    agui::AguiAgent, mcp::McpServer, offline::OfflineAgent, openai::OpenAiAgent,
    remote::RemoteAgent,
};
use yai_agentkit_core::{Error, error::BoxError};
use yai_agentkit_engine::{
    TurnEngine,
    agent::{Agents, AnyAgent},
    error_chain,
};
use yai_agentkit_persistence::Database;

use crate::{
    serve::serve,
    settings::{AgentSettings, Flags, NamedAgent, Settings, all_settings},
};

/// The durable memory of stateful AI agents
///
/// Conversations, messages and the checkpoints of an agent, kept in SQLite or PostgreSQL so that a
/// turn can be stopped anywhere and goes on from where it was. Without a command it serves HTTP.
#[derive(Debug, Parser)]
#[command(name = "agentkit", version, after_long_help = help())]
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
    /// List the conversations, first that in which a person said something last
    Conversations(list::ArgumentsOfConversations),
    /// List the messages of a conversation, oldest first
    Messages(list::ArgumentsOfConversation),
    /// List the turns of a conversation, newest first
    Turns(list::ArgumentsOfConversation),
    /// List the threads, the last written first
    Threads(list::Arguments),
    /// List the checkpoints of a thread, newest first
    History(inspect::HistoryArguments),
    /// Show a checkpoint, decoded
    Show(inspect::ShowArguments),
    /// Show what changed between two checkpoints: a JSON Patch (RFC 6902), an operation a line
    Diff(inspect::DiffArguments),
    /// Make a new conversation from a point in the past of another
    Fork(fork::Arguments),
    /// Delete what the settings do not keep, as a server does by itself
    Prune(prune::Arguments),
    /// Erase a conversation, or all of an owner or a tenant, for good
    Erase(erase::Arguments),
    /// Take a message out of all that its chat has
    Redact(redact::Arguments),
    /// Write the database anew without what was deleted; on PostgreSQL each table is locked meanwhile
    Vacuum,
    /// Serve what is remembered to another agent, by MCP on standard input and output
    Mcp(mcp::Arguments),
    /// Migrate what agents keep in conversations
    #[command(subcommand)]
    State(state::Command),
    /// List who has done what that can't be undone, newest first
    Audit(audit::Arguments),
    /// Make, list and revoke the keys that a server asks for
    Keys(keys::Arguments),
    /// Encrypt with another key, or what was there before its key
    #[command(subcommand)]
    Encryption(encryption::Command),
    /// Print what completes commands in a shell
    Completions(shell::Completions),
    /// Write pages for `man`
    Man(shell::Man),
}

impl Command {
    /// Whether it is nothing where there are tenants and none is named.
    fn is_of_one_tenant(&self) -> bool {
        match self {
            Self::Serve | Self::Migrate(_) | Self::Vacuum | Self::Prune(_) => false,
            Self::Keys(keys) => keys.tenant.is_none(),
            Self::Erase(erase) => !erase.names_tenant(),
            _ => true,
        }
    }

    /// Whether it does the same with a server in place of the database, or needs neither.
    fn may_ask_a_server(&self) -> bool {
        matches!(
            self,
            Self::Serve
                | Self::Chat(_)
                | Self::Conversations(_)
                | Self::Messages(_)
                | Self::Turns(_)
                | Self::Threads(_)
        )
    }
}

const HELP: &str = "\
Examples:
  agentkit                                      serve on http://127.0.0.1:8080, data in ./agentkit.db
  agentkit chat 'My name is Ada.'               one turn in a new conversation
  agentkit chat --conversation ID               go on with a conversation, line by line
  agentkit conversations                        what was talked about
  agentkit messages CONVERSATION                what was said there
  agentkit threads                              what agents have worked on
  agentkit chat --server https://agents.example.com   the same, and all lists, behind a server
  agentkit show THREAD                          what the agent of a thread knows now
  agentkit fork CONVERSATION --message ID       go on from there in a new conversation
  agentkit prune --dry-run                      how many old checkpoints would go, with how many bytes
  agentkit erase --owner ada --dry-run          how much of a person would be erased
  agentkit state migrate --dry-run              which states of agents are of an earlier version
  agentkit keys create NAME --owner ada         a key for the conversations of one person
  DATABASE_URL=postgresql://me@localhost/agentkit agentkit migrate --dry-run

Each setting has its environment variable, and its place in agentkit.toml. A flag goes before the
variable, the variable before the file, the file before the default.

Exit codes: 0 done, 1 failed, 2 a setting or an argument is wrong.";

/// With the settings that have no flag, since `ps` shows flags to everyone.
fn help() -> String {
    let without_flag = all_settings().filter(|setting| setting.flag.is_empty());
    let lines = without_flag.map(|setting| {
        let description = setting.description();
        format!("  {}  {description}\n", setting.variable)
    });
    let lines: String = lines.collect();
    format!("{HELP}\n\nWithout a flag:\n{}", lines.trim_end())
}

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
    let command = cli.command.unwrap_or(Command::Serve);
    match &command {
        Command::Completions(arguments) => {
            shell::completions(arguments);
            return Ok(());
        }
        Command::Man(arguments) => return shell::man(arguments),
        _ => {}
    }
    let settings = Settings::read(&cli.flags)?;
    let default = match command {
        Command::Serve => log::SERVING,
        _ => "warn",
    };
    log::start(&settings, default)?;
    for line in settings.unknown_variables() {
        tracing::warn!("{line}");
    }
    if settings.server.is_some() && !command.may_ask_a_server() {
        let reason =
            "is for `chat`, `conversations`, `messages`, `turns` and `threads`; what this \
                      command does is done in the database"
                .to_owned();
        return Err(settings.refused("AGENTKIT_SERVER", reason).into());
    }
    if settings.server.is_none() && settings.database.lacks_tenant() && command.is_of_one_tenant() {
        let reason = "must say whose this is, since DB_TENANTS is true".to_owned();
        return Err(settings.refused("DB_TENANT", reason).into());
    }
    match command {
        Command::Serve => {
            let agents = build_agents(&settings).await?;
            serve(settings, agents).await
        }
        Command::Chat(arguments) => chat::run(settings, arguments).await,
        Command::Migrate(arguments) => migrate::run(settings, arguments).await,
        Command::Conversations(arguments) => list::conversations(settings, arguments).await,
        Command::Messages(arguments) => list::messages(settings, arguments).await,
        Command::Turns(arguments) => list::turns(settings, arguments).await,
        Command::Threads(arguments) => list::threads(settings, arguments).await,
        Command::History(arguments) => inspect::history(settings, arguments).await,
        Command::Show(arguments) => inspect::show(settings, arguments).await,
        Command::Diff(arguments) => inspect::diff(settings, arguments).await,
        Command::Fork(arguments) => fork::run(settings, arguments).await,
        Command::Prune(arguments) => prune::run(settings, arguments).await,
        Command::Erase(arguments) => erase::erase(settings, arguments).await,
        Command::Redact(arguments) => redact::run(settings, arguments).await,
        Command::Vacuum => erase::vacuum(settings).await,
        Command::Mcp(arguments) => mcp::run(settings, arguments).await,
        Command::State(command) => state::run(settings, command).await,
        Command::Audit(arguments) => audit::run(settings, arguments).await,
        Command::Keys(arguments) => keys::run(settings, arguments).await,
        Command::Encryption(command) => encryption::run(settings, command).await,
        Command::Completions(_) | Command::Man(_) => Ok(()),
    }
}

/// The turns of the agents that the settings name, kept in `database`.
async fn turn_engine(settings: &Settings, database: &Database) -> Result<TurnEngine, Error> {
    let agents = build_agents(settings).await?;
    Ok(TurnEngine::new(Arc::new(database.clone()), agents).with_limits(settings.limits.clone()))
}

/// The agents, with the tools of the MCP servers; a server that can't be reached is looked for later.
async fn build_agents(settings: &Settings) -> Result<Agents, Error> {
    let servers = join_all(settings.mcp.iter().cloned().map(McpServer::start)).await;
    let named = |name: &str| -> Result<Arc<dyn AnyAgent>, Error> {
        let servers = servers.iter().cloned();
        Ok(match settings.agents[name].clone() {
            NamedAgent::Remote(config) => {
                let agent = RemoteAgent::new(config)?;
                Arc::new(servers.fold(agent, |agent, server| agent.with_tools(server)))
            }
            NamedAgent::Agui(config) => {
                let agent = AguiAgent::new(config)?;
                Arc::new(servers.fold(agent, |agent, server| agent.with_tools(server)))
            }
        })
    };
    let default: Agents = match &settings.agent {
        AgentSettings::Offline { step_delay } => {
            Arc::new(OfflineAgent::new().with_step_delay(*step_delay)).into()
        }
        AgentSettings::OpenAi(config) => {
            let agent = OpenAiAgent::new(config.clone())?;
            let servers = servers.iter().cloned();
            Arc::new(servers.fold(agent, |agent, server| agent.with_tools(server))).into()
        }
        AgentSettings::Named(name) => named(name)?.into(),
    };
    settings
        .agents
        .keys()
        .try_fold(default, |agents, name| Ok(agents.with(name, named(name)?)))
}

/// Whether the reader of the output has gone, as in `agentkit threads | head`.
fn is_broken_pipe(error: &BoxError) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
