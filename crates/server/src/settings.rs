//! What an operator can set: flags over environment over `agentkit.toml` over defaults.
//!
//! | variable | flag | `agentkit.toml` | default |
//! | --- | --- | --- | --- |
//! | `AGENTKIT_CONFIG` | `--config` | | `agentkit.toml`, if it exists |
//! | `DATABASE_URL` | `--database-url` | `database.url` | see [`DatabaseConfig`] |
//! | `AGENTKIT_BIND` | `--bind` | `bind` | `127.0.0.1:8080` |
//! | `AGENTKIT_AGENT` | `--agent` | `agent` | `offline` |
//! | `AGENTKIT_LOG_FORMAT` | `--log-format` | `log_format` | `text` |
//! | `RUST_LOG` | | `log` | `info` for the server, `warn` for the other commands |
//! | `AGENTKIT_BODY_LIMIT` | | `body_limit` | 1048576 bytes |
//! | `AGENTKIT_SHUTDOWN_TIMEOUT` | | `shutdown_timeout` | 30 seconds |
//! | `AGENTKIT_MAX_STEPS` | | `max_steps` | 50 steps a turn |
//! | `AGENTKIT_MAX_ATTEMPTS` | | `max_attempts` | 5 attempts a turn |
//! | `AGENTKIT_TURN_DEADLINE` | | `turn_deadline` | 600 seconds a turn |
//! | `AGENTKIT_LEASE` | | `lease` | 10 seconds |
//! | `AGENTKIT_ON_BUSY` | | `on_busy` | `reject` |
//! | `AGENTKIT_KEY_AGE` | | `key_age` | 86400 seconds |
//! | `AGENTKIT_EVENT_AGE` | | `event_age` | 86400 seconds |
//! | `AGENTKIT_STEP_DELAY` | | `step_delay` | 0 milliseconds, of the offline agent |
//! | `OPENAI_API_KEY` | | `openai.api_key` | needed, unless `OPENAI_BASE_URL` is set |
//! | `OPENAI_BASE_URL` | | `openai.base_url` | OpenAI's |
//! | `OPENAI_MODEL` | | `openai.model` | `gpt-5-mini` |
//! | `OPENAI_TIMEOUT` | | `openai.timeout` | 60 seconds |

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, de::IgnoredAny};
use yai_agentkit_core::{Error, Result};
use yai_agentkit_persistence::DatabaseConfig;

use crate::{agent::openai::OpenAiConfig, turn::TurnLimits};

const DEFAULT_FILE: &str = "agentkit.toml";
const DEFAULT_MODEL: &str = "gpt-5-mini";

/// All settings, checked. Holds secrets, so it does not print.
pub struct Settings {
    /// Where everything is kept.
    pub database: DatabaseConfig,
    /// Where the server listens.
    pub bind: SocketAddr,
    /// Who answers.
    pub agent: AgentSettings,
    /// How many bytes a request may have.
    pub body_limit: usize,
    /// How long running turns get to reach their next checkpoint.
    pub shutdown_timeout: Duration,
    /// How far turns may go.
    pub limits: TurnLimits,
    /// What is logged, as `tracing_subscriber::EnvFilter` reads it.
    pub log: Option<String>,
    /// How it is logged.
    pub log_format: LogFormat,
}

/// Which agent, and what it needs.
pub enum AgentSettings {
    /// The one that needs no network.
    Offline {
        /// How long each step takes, to watch a turn at work.
        step_delay: Duration,
    },
    /// A model behind OpenAI's interface.
    OpenAi(OpenAiConfig),
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// The settings on the command line.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Settings")]
pub struct Flags {
    /// The settings file [env: AGENTKIT_CONFIG] [default: agentkit.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// sqlite:FILE or postgresql://USER:PASSWORD@HOST/NAME [env: DATABASE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// Where the server listens [env: AGENTKIT_BIND] [default: 127.0.0.1:8080]
    #[arg(long, global = true, value_name = "IP:PORT")]
    pub bind: Option<String>,
    /// Who answers: offline or openai [env: AGENTKIT_AGENT] [default: offline]
    #[arg(long, global = true, value_name = "NAME")]
    pub agent: Option<String>,
    /// How the log looks: text or json [env: AGENTKIT_LOG_FORMAT] [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl Settings {
    /// Reads the file and the environment of this process.
    pub fn read(flags: &Flags) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let chosen = flags
            .config
            .clone()
            .or_else(|| set(variable("AGENTKIT_CONFIG")).map(PathBuf::from));
        let file = match chosen {
            Some(path) => Some(read_file(&path)?),
            None if Path::new(DEFAULT_FILE).exists() => Some(read_file(Path::new(DEFAULT_FILE))?),
            None => None,
        };
        Self::load(flags, file.as_deref(), variable)
    }

    /// Reads the text of the file, and the environment through `variable`. A variable that is
    /// empty is not set.
    pub fn load(
        flags: &Flags,
        file: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let variable = |name: &str| flags.variable(name).or_else(|| set(variable(name)));
        let sources = Sources {
            file: File::parse(file.unwrap_or_default())?.into_variables(),
            variable: &variable,
        };
        let seconds = |name, default| {
            let seconds = sources.positive(name, default, "a number of seconds, at least 1")?;
            Ok(Duration::from_secs(seconds))
        };
        let localhost = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        let agent = sources.get("AGENTKIT_AGENT", AgentName::Offline, "offline or openai")?;
        Ok(Self {
            database: DatabaseConfig::load(file, variable)?,
            bind: sources.get(
                "AGENTKIT_BIND",
                localhost,
                "an address with a port, as in 127.0.0.1:8080 or [::]:8080",
            )?,
            agent: match agent {
                AgentName::Offline => AgentSettings::Offline {
                    step_delay: Duration::from_millis(sources.get(
                        "AGENTKIT_STEP_DELAY",
                        0,
                        "a number of milliseconds",
                    )?),
                },
                AgentName::OpenAi => {
                    AgentSettings::OpenAi(sources.openai(seconds("OPENAI_TIMEOUT", 60)?)?)
                }
            },
            body_limit: sources.positive(
                "AGENTKIT_BODY_LIMIT",
                1024 * 1024,
                "a number of bytes, at least 1",
            )?,
            shutdown_timeout: seconds("AGENTKIT_SHUTDOWN_TIMEOUT", 30)?,
            limits: sources.limits()?,
            log: sources.text("RUST_LOG"),
            log_format: sources.get("AGENTKIT_LOG_FORMAT", LogFormat::Text, "text or json")?,
        })
    }
}

impl Flags {
    /// The flag that stands over a variable.
    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "DATABASE_URL" => self.database_url.clone(),
            "AGENTKIT_BIND" => self.bind.clone(),
            "AGENTKIT_AGENT" => self.agent.clone(),
            "AGENTKIT_LOG_FORMAT" => self.log_format.clone(),
            _ => None,
        }
    }
}

struct Sources<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    file: BTreeMap<&'static str, String>,
}

impl Sources<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.variable)(name).or_else(|| self.file.get(name).cloned())
    }

    fn get<T: FromStr>(&self, name: &'static str, default: T, allowed: &str) -> Result<T> {
        match self.text(name) {
            Some(text) => text.parse().map_err(|_| refused(name, &text, allowed)),
            None => Ok(default),
        }
    }

    /// A number that is not zero.
    fn positive<T>(&self, name: &'static str, default: T, allowed: &str) -> Result<T>
    where
        T: FromStr + Default + PartialEq,
    {
        let number = self.get(name, default, allowed)?;
        if number == T::default() {
            return Err(refused(name, 0, allowed));
        }
        Ok(number)
    }

    fn limits(&self) -> Result<TurnLimits> {
        let default = TurnLimits::default();
        let seconds = |name, default: Duration| {
            let allowed = "a number of seconds, at least 0.1";
            let seconds: f64 = self.get(name, default.as_secs_f64(), allowed)?;
            let duration = Duration::try_from_secs_f64(seconds).ok();
            let duration = duration.filter(|given| *given >= Duration::from_millis(100));
            duration.ok_or_else(|| refused(name, seconds, allowed))
        };
        Ok(TurnLimits {
            max_steps: self.positive(
                "AGENTKIT_MAX_STEPS",
                default.max_steps,
                "a number of steps, at least 1",
            )?,
            max_attempts: self.positive(
                "AGENTKIT_MAX_ATTEMPTS",
                default.max_attempts,
                "a number of attempts, at least 1",
            )?,
            deadline: seconds("AGENTKIT_TURN_DEADLINE", default.deadline)?,
            lease: seconds("AGENTKIT_LEASE", default.lease)?,
            key_age: seconds("AGENTKIT_KEY_AGE", default.key_age)?,
            event_age: seconds("AGENTKIT_EVENT_AGE", default.event_age)?,
            on_busy: self.get(
                "AGENTKIT_ON_BUSY",
                default.on_busy,
                "reject, queue or interrupt",
            )?,
        })
    }

    fn openai(&self, timeout: Duration) -> Result<OpenAiConfig> {
        let base_url = self.text("OPENAI_BASE_URL");
        let api_key = self.text("OPENAI_API_KEY");
        if api_key.is_none() && base_url.is_none() {
            return Err(Error::configuration(
                "OPENAI_API_KEY",
                "must be set for the openai agent, or OPENAI_BASE_URL to an endpoint without keys",
            ));
        }
        let model = self.text("OPENAI_MODEL");
        let config = OpenAiConfig::new(
            api_key.unwrap_or_default(),
            model.unwrap_or_else(|| DEFAULT_MODEL.to_owned()),
        );
        Ok(OpenAiConfig {
            base_url: base_url.unwrap_or(config.base_url),
            timeout,
            ..config
        })
    }
}

/// The file's settings; `database` belongs to [`DatabaseConfig`].
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    bind: Option<Scalar>,
    agent: Option<Scalar>,
    log: Option<Scalar>,
    log_format: Option<Scalar>,
    body_limit: Option<Scalar>,
    shutdown_timeout: Option<Scalar>,
    max_steps: Option<Scalar>,
    max_attempts: Option<Scalar>,
    turn_deadline: Option<Scalar>,
    lease: Option<Scalar>,
    on_busy: Option<Scalar>,
    key_age: Option<Scalar>,
    event_age: Option<Scalar>,
    step_delay: Option<Scalar>,
    openai: OpenAiTable,
    #[serde(rename = "database")]
    _database: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OpenAiTable {
    api_key: Option<Scalar>,
    base_url: Option<Scalar>,
    model: Option<Scalar>,
    timeout: Option<Scalar>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a number")]
enum Scalar {
    Text(String),
    Integer(i64),
    Float(f64),
}

impl File {
    fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            // Only the message: the line itself may hold a password.
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            let reason = format!("line {line}: {}", error.message());
            Error::configuration("settings file", reason)
        })
    }

    /// The settings under the names of their variables.
    fn into_variables(self) -> BTreeMap<&'static str, String> {
        let settings = [
            ("AGENTKIT_BIND", self.bind),
            ("AGENTKIT_AGENT", self.agent),
            ("RUST_LOG", self.log),
            ("AGENTKIT_LOG_FORMAT", self.log_format),
            ("AGENTKIT_BODY_LIMIT", self.body_limit),
            ("AGENTKIT_SHUTDOWN_TIMEOUT", self.shutdown_timeout),
            ("AGENTKIT_MAX_STEPS", self.max_steps),
            ("AGENTKIT_MAX_ATTEMPTS", self.max_attempts),
            ("AGENTKIT_TURN_DEADLINE", self.turn_deadline),
            ("AGENTKIT_LEASE", self.lease),
            ("AGENTKIT_ON_BUSY", self.on_busy),
            ("AGENTKIT_KEY_AGE", self.key_age),
            ("AGENTKIT_EVENT_AGE", self.event_age),
            ("AGENTKIT_STEP_DELAY", self.step_delay),
            ("OPENAI_API_KEY", self.openai.api_key),
            ("OPENAI_BASE_URL", self.openai.base_url),
            ("OPENAI_MODEL", self.openai.model),
            ("OPENAI_TIMEOUT", self.openai.timeout),
        ];
        let given = settings.into_iter().filter_map(|(name, value)| {
            Some(match value? {
                Scalar::Text(text) => (name, text),
                Scalar::Integer(number) => (name, number.to_string()),
                Scalar::Float(number) => (name, number.to_string()),
            })
        });
        given.collect()
    }
}

enum AgentName {
    Offline,
    OpenAi,
}

impl FromStr for AgentName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "offline" => Ok(Self::Offline),
            "openai" => Ok(Self::OpenAi),
            _ => Err(()),
        }
    }
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

fn set(variable: Option<String>) -> Option<String> {
    variable.filter(|value| !value.is_empty())
}

fn read_file(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        let reason = format!("{} can't be read: {error}", path.display());
        Error::configuration("AGENTKIT_CONFIG", reason)
    })
}

fn refused(name: &'static str, value: impl Display, allowed: &str) -> Error {
    Error::configuration(name, format!("`{value}` is not allowed; write {allowed}"))
}
