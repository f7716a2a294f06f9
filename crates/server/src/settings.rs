//! What an operator can set: flags over environment over `agentkit.toml` over defaults. Each setting
//! is declared once, here, in `settings/` or in [`DatabaseConfig`]; `agentkit --help` and the README
//! list them all.

mod agents;
mod mcp;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Arg, ArgMatches, Command};
use yai_agentkit_core::{Error, Result, audit::SHORTEST_AGE, retention::RetentionPolicy};
use yai_agentkit_persistence::{
    DatabaseConfig,
    setting::{Choice, FilePath, Kind, Number, Parsed, Seconds, Setting, Sources, Text, settings},
};

use yai_agentkit_agents::{
    Url, http_url,
    mcp::McpConfig,
    openai::{Api, OpenAiConfig},
    remote::RemoteConfig,
};
use yai_agentkit_engine::{OnBusy, TurnLimits};

use crate::mcp::McpAccess;

use crate::http::{
    JwtConfig, Quota,
    connection::ConnectionLimits,
    host::{Access, AllowedHosts, CorsOrigins},
    tls::TlsFiles,
};

const DEFAULT_FILE: &str = "agentkit.toml";
/// What may be named freely in the file.
const TABLES: [(&str, &[Setting]); 2] =
    [(agents::KEY, agents::SETTINGS), (mcp::KEY, mcp::SETTINGS)];
const OFFLINE: &str = "offline";
const OPENAI: &str = "openai";
const YEAR: f64 = 366.0 * 86_400.0;

const TURN_SECONDS: Seconds = Seconds {
    from: 0.1,
    to: YEAR,
};
const WHOLE_SECONDS: Seconds = Seconds {
    from: 1.0,
    to: 86_400.0,
};
const BYTES: Number<usize> = Number {
    from: 1,
    to: 1 << 30,
    unit: "bytes",
};
const STEPS: Number<usize> = Number {
    from: 1,
    to: 1_000_000,
    unit: "steps",
};
const TOKENS: Number<usize> = Number {
    from: 1,
    to: 100_000_000,
    unit: "tokens",
};
const REQUESTS: Number<u32> = Number {
    from: 1,
    to: 1_000_000,
    unit: "requests",
};
const TURNS: Number<u32> = Number {
    from: 1,
    to: 1_000_000,
    unit: "turns",
};
const ATTEMPTS: Number<u32> = Number {
    from: 1,
    to: 1_000_000,
    unit: "attempts",
};
const TOOLS: Number<usize> = Number {
    from: 1,
    to: 10_000,
    unit: "tools",
};
const MESSAGES: Number<u64> = Number {
    from: 1,
    to: 1_000_000,
    unit: "messages",
};
const CHECKPOINTS: Number<u64> = Number {
    from: 1,
    to: 1_000_000,
    unit: "checkpoints",
};
const AGE: Parsed<Option<Duration>> = Parsed {
    placeholder: "SECONDS",
    allowed: "a number of seconds from 1 to 3153600000, or `forever`",
    parse: |text| match text {
        "forever" => Some(None),
        seconds => AGES.parse(seconds).map(Some),
    },
};
const AUDIT_AGE: Parsed<Option<Duration>> = Parsed {
    placeholder: "SECONDS",
    allowed: "a number of seconds from 2592000 (30 days) to 3153600000, or `forever`",
    parse: |text| {
        let age = AGE.parse(text)?;
        age.is_none_or(|age| age >= SHORTEST_AGE).then_some(age)
    },
};
const AGES: Seconds = Seconds {
    from: 1.0,
    to: 100.0 * 365.0 * 86_400.0,
};
const MILLISECONDS: Number<u64> = Number {
    from: 0,
    to: 3_600_000,
    unit: "milliseconds",
};
const URL: Parsed<Url> = Parsed {
    placeholder: "URL",
    allowed: "a URL such as http://localhost:9000/",
    parse: http_url,
};
const ADDRESS: Parsed<SocketAddr> = Parsed {
    placeholder: "IP:PORT",
    allowed: "an address with a port, as in 127.0.0.1:8080 or [::]:8080",
    parse: |text| text.parse().ok(),
};
const SECONDS: Seconds = Seconds {
    from: 0.1,
    to: 86_400.0,
};
const CONNECTIONS: Number<usize> = Number {
    from: 1,
    to: 1_000_000,
    unit: "connections",
};
const TEMPERATURE: Parsed<f64> = Parsed {
    placeholder: "NUMBER",
    allowed: "a number from 0 to 2",
    parse: |text| {
        text.parse()
            .ok()
            .filter(|number| (0.0..=2.0).contains(number))
    },
};
const HOSTS: Parsed<AllowedHosts> = Parsed {
    placeholder: "NAMES",
    allowed: "names without ports, as in agents.example.com,.internal",
    parse: |text| text.parse().ok(),
};
const ORIGINS: Parsed<CorsOrigins> = Parsed {
    placeholder: "ORIGINS",
    allowed: "origins, as in https://app.example.com,http://localhost:3000",
    parse: |text| text.parse().ok(),
};
const MCP_ACCESS: Choice<McpAccess> = Choice(&[
    ("off", McpAccess::Off),
    ("read", McpAccess::Read),
    ("write", McpAccess::Write),
]);
const API: Choice<Api> = Choice(&[
    ("chat", Api::ChatCompletions),
    ("responses", Api::Responses),
]);
const SWITCH: Choice<bool> = Choice(&[("true", true), ("false", false)]);
const LOG_FORMAT: Choice<LogFormat> =
    Choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
const ON_BUSY: Choice<OnBusy> = Choice(&[
    ("reject", OnBusy::Reject),
    ("enqueue", OnBusy::Enqueue),
    ("interrupt", OnBusy::Interrupt),
    ("rollback", OnBusy::Rollback),
]);

settings! {
    /// The settings as they are declared.
    struct Declared {
        /// the settings file
        config: Option<PathBuf> | "agentkit.toml, if it exists", FilePath,
            "AGENTKIT_CONFIG", "", "config";
        /// where the server listens; port 0 takes a free one
        bind: SocketAddr = "127.0.0.1:8080", ADDRESS, "AGENTKIT_BIND", "bind", "bind";
        /// who answers; `offline`, `openai` or the NAME of an `[agents.NAME]`
        agent: String = "offline", Text("NAME"), "AGENTKIT_AGENT", "agent", "agent";
        /// bytes that a request may have
        body_limit: usize = "1048576", BYTES, "AGENTKIT_BODY_LIMIT", "body_limit", "body-limit";
        /// connections at a time, and at most half the open files
        max_connections: usize = "10000", CONNECTIONS,
            "AGENTKIT_MAX_CONNECTIONS", "max_connections", "max-connections";
        /// seconds until a request's line and headers have arrived
        header_timeout: Duration = "10", SECONDS,
            "AGENTKIT_HEADER_TIMEOUT", "header_timeout", "header-timeout";
        /// seconds that a connection may ask nothing
        idle_timeout: Duration = "75", SECONDS,
            "AGENTKIT_IDLE_TIMEOUT", "idle_timeout", "idle-timeout";
        /// seconds that a client may read nothing of its answer
        write_timeout: Duration = "30", SECONDS,
            "AGENTKIT_WRITE_TIMEOUT", "write_timeout", "write-timeout";
        /// names of the server besides localhost and its address
        allowed_hosts: Option<AllowedHosts> | "none", HOSTS,
            "AGENTKIT_ALLOWED_HOSTS", "allowed_hosts", "allowed-hosts";
        /// pages that may call the server from a browser
        cors_origins: Option<CorsOrigins> | "none", ORIGINS,
            "AGENTKIT_CORS_ORIGINS", "cors_origins", "cors-origins";
        /// serve other addresses than loopback although there is no key
        without_keys: bool = "false", SWITCH,
            "AGENTKIT_WITHOUT_KEYS", "without_keys", "without-keys";
        /// the file with the server's certificate, in PEM; without it, it speaks no TLS
        tls_certificate: Option<PathBuf> | "none", FilePath,
            "AGENTKIT_TLS_CERTIFICATE", "tls_certificate", "tls-certificate";
        /// the file with the certificate's key
        tls_key: Option<PathBuf> | "none", FilePath, "AGENTKIT_TLS_KEY", "tls_key", "tls-key";
        /// requests that an owner, or a caller without one, may send in a minute, to each server
        requests_per_minute: Option<u32> | "no limit", REQUESTS,
            "AGENTKIT_REQUESTS_PER_MINUTE", "requests_per_minute", "requests-per-minute";
        /// requests that all of a tenant may send in a minute, to each server
        tenant_requests_per_minute: Option<u32> | "no limit", REQUESTS,
            "AGENTKIT_TENANT_REQUESTS_PER_MINUTE", "tenant_requests_per_minute", "tenant-requests-per-minute";
        /// turns of an owner that may run at once, on all servers
        turns_at_once: Option<u32> | "no limit", TURNS,
            "AGENTKIT_TURNS_AT_ONCE", "turns_at_once", "turns-at-once";
        /// turns of all of a tenant that may run at once, on all servers
        tenant_turns_at_once: Option<u32> | "no limit", TURNS,
            "AGENTKIT_TENANT_TURNS_AT_ONCE", "tenant_turns_at_once", "tenant-turns-at-once";
        /// whose tokens (JWT) let somebody in, besides keys: the claim `iss`
        jwt_issuer: Option<String> | "none", Text("NAME"),
            "AGENTKIT_JWT_ISSUER", "jwt.issuer", "jwt-issuer";
        /// for whom these are: in the claim `aud`
        jwt_audience: Option<String> | "none", Text("NAME"),
            "AGENTKIT_JWT_AUDIENCE", "jwt.audience", "jwt-audience";
        /// where the issuer's public keys are (JWKS)
        jwt_jwks_url: Option<Url> | "as the issuer says at `/.well-known/openid-configuration`", URL,
            "AGENTKIT_JWT_JWKS_URL", "jwt.jwks_url", "jwt-jwks-url";
        /// the claim that names the owner
        jwt_owner_claim: String = "sub", Text("NAME"),
            "AGENTKIT_JWT_OWNER_CLAIM", "jwt.owner_claim", "jwt-owner-claim";
        /// the claim that names the tenant, for a server of several
        jwt_tenant_claim: String = "tenant", Text("NAME"),
            "AGENTKIT_JWT_TENANT_CLAIM", "jwt.tenant_claim", "jwt-tenant-claim";
        /// the claim that has the scopes
        jwt_scope_claim: String = "scope", Text("NAME"),
            "AGENTKIT_JWT_SCOPE_CLAIM", "jwt.scope_claim", "jwt-scope-claim";
        /// what agents of others may do with what is remembered, by MCP at /mcp
        mcp_server: McpAccess = "read", MCP_ACCESS,
            "AGENTKIT_MCP_SERVER", "mcp_server", "mcp-server";
        /// the server that `chat` and the lists talk to in place of the database
        server: Option<Url> | "none", URL, "AGENTKIT_SERVER", "server", "server";
        /// the key for that server
        api_key: Option<String> | "none", Text("KEY"), "AGENTKIT_API_KEY", "api_key", "";
        /// seconds that running turns get to reach a checkpoint when the server stops
        shutdown_timeout: Duration = "30", WHOLE_SECONDS,
            "AGENTKIT_SHUTDOWN_TIMEOUT", "shutdown_timeout", "shutdown-timeout";
        /// decisions that an agent may take in one turn
        max_steps: usize = "50", STEPS, "AGENTKIT_MAX_STEPS", "max_steps", "max-steps";
        /// tools of one step that run at once
        tools_at_once: usize = "16", TOOLS,
            "AGENTKIT_TOOLS_AT_ONCE", "tools_at_once", "tools-at-once";
        /// how often a turn may be cut short before it fails
        max_attempts: u32 = "5", ATTEMPTS, "AGENTKIT_MAX_ATTEMPTS", "max_attempts", "max-attempts";
        /// seconds that a turn may run on one server; waiting for a person does not count
        turn_deadline: Duration = "600", TURN_SECONDS,
            "AGENTKIT_TURN_DEADLINE", "turn_deadline", "turn-deadline";
        /// seconds without a sign of life after which another server takes a turn over, at most a
        /// quarter later
        lease: Duration = "10", TURN_SECONDS, "AGENTKIT_LEASE", "lease", "lease";
        /// a message to a busy chat
        on_busy: OnBusy = "reject", ON_BUSY, "AGENTKIT_ON_BUSY", "on_busy", "on-busy";
        /// messages that may wait in a conversation
        max_enqueued: u64 = "100", MESSAGES,
            "AGENTKIT_MAX_ENQUEUED", "max_enqueued", "max-enqueued";
        /// seconds for which an `Idempotency-Key` is known
        key_age: Duration = "86400", TURN_SECONDS, "AGENTKIT_KEY_AGE", "key_age", "key-age";
        /// seconds for which the events of a turn that has ended are kept
        event_age: Duration = "86400", TURN_SECONDS,
            "AGENTKIT_EVENT_AGE", "event_age", "event-age";
        /// seconds after which a conversation goes in which nothing happens
        conversation_age: Option<Duration> = "forever", AGE,
            "AGENTKIT_CONVERSATION_AGE", "conversation_age", "conversation-age";
        /// seconds after which the checkpoints of a chat go, but for the last ones
        checkpoint_age: Option<Duration> = "forever", AGE,
            "AGENTKIT_CHECKPOINT_AGE", "checkpoint_age", "checkpoint-age";
        /// checkpoints of a chat that stay, however old they are
        checkpoints_kept: u64 = "10", CHECKPOINTS,
            "AGENTKIT_CHECKPOINTS_KEPT", "checkpoints_kept", "checkpoints-kept";
        /// seconds after which entries of the audit log go
        audit_age: Option<Duration> = "forever", AUDIT_AGE,
            "AGENTKIT_AUDIT_AGE", "audit_age", "audit-age";
        /// index what is said, so that it can be searched
        search_index: bool = "true", SWITCH,
            "AGENTKIT_SEARCH_INDEX", "search_index", "search-index";
        /// milliseconds that each step of the offline agent takes
        step_delay: u64 = "0", MILLISECONDS, "AGENTKIT_STEP_DELAY", "step_delay", "step-delay";
        /// how the log on stderr looks
        log_format: LogFormat = "text", LOG_FORMAT,
            "AGENTKIT_LOG_FORMAT", "log_format", "log-format";
        /// what is logged, as in `info,sqlx=debug`
        log: Option<String> | "`info`; `warn` for all but `serve`", Text("FILTER"),
            "RUST_LOG", "log", "log";
        /// the key of the openai agent, needed unless its endpoint is set
        openai_api_key: Option<String> | "none", Text("KEY"),
            "OPENAI_API_KEY", "openai.api_key", "";
        /// the endpoint of the openai agent, up to its version
        openai_base_url: Option<String> | "OpenAI's", Text("URL"),
            "OPENAI_BASE_URL", "openai.base_url", "openai-base-url";
        /// the model of the openai agent
        openai_model: String = "gpt-5-mini", Text("NAME"),
            "OPENAI_MODEL", "openai.model", "openai-model";
        /// how it is asked: by chat completions, or by OpenAI's responses
        openai_api: Api = "chat", API, "OPENAI_API", "openai.api", "openai-api";
        /// how much a model that reasons is to think
        openai_reasoning_effort: Option<String> | "the endpoint's", Text("LEVEL"),
            "OPENAI_REASONING_EFFORT", "openai.reasoning_effort", "openai-reasoning-effort";
        /// seconds that a step of the openai agent may take, retries included
        openai_timeout: Duration = "60", WHOLE_SECONDS,
            "OPENAI_TIMEOUT", "openai.timeout", "openai-timeout";
        /// what the model is told first
        openai_system_prompt: Option<String> | "AgentKit's own words", Text("TEXT"),
            "OPENAI_SYSTEM_PROMPT", "openai.system_prompt", "openai-system-prompt";
        /// how random its answers are
        openai_temperature: Option<f64> | "the endpoint's", TEMPERATURE,
            "OPENAI_TEMPERATURE", "openai.temperature", "openai-temperature";
        /// the file with the JSON schema of its answers
        openai_response_schema: Option<PathBuf> | "answers are text", FilePath,
            "OPENAI_RESPONSE_SCHEMA", "openai.response_schema", "openai-response-schema";
        /// whether the model makes a summary of the messages that do not fit
        openai_compaction: bool = "true", SWITCH,
            "OPENAI_COMPACTION", "openai.compaction", "openai-compaction";
        /// tokens of a chat that the model is told, estimated: the newest messages
        openai_context_tokens: usize = "64000", TOKENS,
            "OPENAI_CONTEXT_TOKENS", "openai.context_tokens", "openai-context-tokens";
    }
}

/// All settings, checked. Holds secrets, so it does not print.
pub struct Settings {
    /// Where everything is kept.
    pub database: DatabaseConfig,
    /// Where the server listens.
    pub bind: SocketAddr,
    /// Who answers.
    pub agent: AgentSettings,
    /// Who answers in the conversations that name it.
    pub agents: BTreeMap<String, NamedAgent>,
    /// Whose tools the agents have besides their own.
    pub mcp: Vec<McpConfig>,
    /// How many bytes a request may have.
    pub body_limit: usize,
    /// Where commands ask in place of the database.
    pub server: Option<Url>,
    /// The key that they show there.
    pub api_key: Option<String>,
    /// How many connections there may be, and how long each may take.
    pub connections: ConnectionLimits,
    /// By which names the server may be called, and from which pages.
    pub access: Access,
    /// What the server shows who it is with, where it speaks TLS.
    pub tls: Option<TlsFiles>,
    /// How long running turns get to reach their next checkpoint.
    pub shutdown_timeout: Duration,
    /// How far turns may go.
    pub limits: TurnLimits,
    /// What is kept, and for how long.
    pub retention: RetentionPolicy,
    /// Whether messages can be searched.
    pub search_index: bool,
    /// What is logged, as `tracing_subscriber::EnvFilter` reads it.
    pub log: Option<String>,
    /// How it is logged.
    pub log_format: LogFormat,
    /// By which names they were given.
    sources: Sources,
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
    /// The one of this name in [`Settings::agents`].
    Named(String),
}

/// An agent that is a program of its own.
#[derive(Clone, Debug)]
pub enum NamedAgent {
    /// It is asked step by step.
    Remote(RemoteConfig),
    /// It speaks AG-UI.
    Agui(RemoteConfig),
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// The settings on the command line, under the variables of their settings.
#[derive(Clone, Debug, Default)]
pub struct Flags(Vec<(&'static str, String)>);

/// Every setting of the program.
pub fn all_settings() -> impl Iterator<Item = &'static Setting> {
    Declared::SETTINGS.iter().chain(DatabaseConfig::SETTINGS)
}

impl Settings {
    /// Reads the file and the environment of this process.
    pub fn read(flags: &Flags) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let mut sources = given(flags, variable);
        let chosen = sources.find("AGENTKIT_CONFIG", &FilePath)?;
        let path = match &chosen {
            Some(path) => Some(path.as_path()),
            None => Some(Path::new(DEFAULT_FILE)).filter(|path| path.exists()),
        };
        if let Some(path) = path {
            let text = std::fs::read_to_string(path).map_err(|error| {
                let reason = format!("{} can't be read: {error}", path.display());
                Error::configuration(sources.name("AGENTKIT_CONFIG"), reason)
            })?;
            sources.file(&path.display().to_string(), &text, None)?;
        }
        Self::from_sources(sources, variable)
    }

    /// Reads the text of the file `agentkit.toml`, and the environment through `variable`. A
    /// variable that is empty is not set.
    pub fn load(
        flags: &Flags,
        file: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let mut sources = given(flags, &variable);
        sources.file(DEFAULT_FILE, file.unwrap_or_default(), None)?;
        Self::from_sources(sources, variable)
    }

    fn from_sources(sources: Sources, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let declared = Declared::read(&sources)?;
        let database = DatabaseConfig::from_sources(&sources)?;
        let url_name = sources.name("DATABASE_URL");
        if url_name.starts_with("--") && database.url_has_password() {
            let reason = "holds a password, which `ps` shows to everyone on this machine; put it \
                          in DATABASE_URL, the settings file, a password file (~/.pgpass) or a \
                          service";
            return Err(Error::configuration(url_name, reason));
        }
        let agents = agents::read(&sources, &variable)?;
        let mcp = mcp::read(&sources, variable)?;
        Ok(Self {
            database,
            limits: TurnLimits {
                max_steps: declared.max_steps,
                tools_at_once: declared.tools_at_once,
                max_attempts: declared.max_attempts,
                deadline: declared.turn_deadline,
                lease: declared.lease,
                key_age: declared.key_age,
                event_age: declared.event_age,
                on_busy: declared.on_busy,
                max_enqueued: declared.max_enqueued,
            },
            retention: RetentionPolicy {
                conversation_age: declared.conversation_age,
                checkpoint_age: declared.checkpoint_age,
                checkpoints: declared.checkpoints_kept,
                audit_age: declared.audit_age,
            },
            search_index: declared.search_index,
            connections: ConnectionLimits {
                connections: declared.max_connections,
                header_timeout: declared.header_timeout,
                idle_timeout: declared.idle_timeout,
                write_timeout: declared.write_timeout,
            },
            access: Access {
                address: declared.bind.ip(),
                hosts: declared.allowed_hosts.clone().unwrap_or_default(),
                origins: declared.cors_origins.clone().unwrap_or_default(),
                without_keys: declared.without_keys,
                quota: Quota {
                    requests_per_minute: declared.requests_per_minute.and_then(NonZeroU32::new),
                    turns_at_once: declared.turns_at_once.and_then(NonZeroU32::new),
                },
                tenant_quota: Quota {
                    requests_per_minute: declared
                        .tenant_requests_per_minute
                        .and_then(NonZeroU32::new),
                    turns_at_once: declared.tenant_turns_at_once.and_then(NonZeroU32::new),
                },
                jwt: declared.jwt(&sources)?,
                mcp: declared.mcp_server,
            },
            tls: declared.tls(&sources)?,
            bind: declared.bind,
            body_limit: declared.body_limit,
            server: declared.server.clone(),
            api_key: declared.api_key.clone(),
            shutdown_timeout: declared.shutdown_timeout,
            log_format: declared.log_format,
            log: declared.log.clone(),
            agent: declared.agent(&sources, &agents)?,
            agents,
            mcp,
            sources,
        })
    }

    /// An error of the setting with this variable, under the name by which it was given.
    pub(crate) fn refused(&self, variable: &'static str, reason: String) -> Error {
        Error::configuration(self.sources.name(variable), reason)
    }

    /// A line for each variable of this process that looks like a setting and is none.
    pub(crate) fn unknown_variables(&self) -> Vec<String> {
        let names: Vec<String> = std::env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .collect();
        let unknown = self
            .sources
            .unknown("AGENTKIT_", names.iter().map(String::as_str));
        let lines = unknown.into_iter().map(|(name, meant)| match meant {
            Some(meant) => format!("{name} is no setting; did you mean {meant}?"),
            None => format!("{name} is no setting"),
        });
        lines.collect()
    }
}

fn given(flags: &Flags, variable: impl Fn(&str) -> Option<String>) -> Sources {
    let settings: Vec<Setting> = all_settings().copied().collect();
    let mut sources = Sources::new(&settings);
    for (key, settings) in TABLES {
        sources = sources.with_tables(key, settings);
    }
    sources.flags(|setting| flags.get(setting.variable));
    sources.variables(variable);
    sources
}

/// What the variable `env` or the file `file` holds, where a table names one of them: then it is not
/// nothing, so that no request goes out without its secret by mistake.
fn secret(
    table: &Sources,
    env: Option<&str>,
    file: Option<&Path>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<String>> {
    let (setting, secret) = match (env, file) {
        (None, None) => return Ok(None),
        (Some(name), None) => {
            let value = variable(name).ok_or_else(|| format!("{name} is not set"));
            ("secret_env", value)
        }
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path);
            let unreadable = |error| format!("{} can't be read: {error}", path.display());
            ("secret_file", text.map_err(unreadable))
        }
        (Some(_), Some(_)) => (
            "secret_file",
            Err("is one too many beside secret_env".to_owned()),
        ),
    };
    let secret = secret.and_then(|text| match text.trim_end() {
        "" => Err("holds no secret".to_owned()),
        secret => Ok(secret.to_owned()),
    });
    let refused = |reason| Error::configuration(table.name(setting), reason);
    secret.map(Some).map_err(refused)
}

impl Declared {
    /// A token counts only for whom it was made, by whom, and with that one's key.
    fn jwt(&self, sources: &Sources) -> Result<Option<JwtConfig>> {
        match (&self.jwt_issuer, &self.jwt_audience, &self.jwt_jwks_url) {
            (None, None, None) => Ok(None),
            (Some(issuer), Some(audience), keys)
                if keys.is_some()
                    || issuer.starts_with("https://")
                    || issuer.starts_with("http://") =>
            {
                Ok(Some(JwtConfig {
                    issuer: issuer.clone(),
                    audience: audience.clone(),
                    keys: keys.clone(),
                    owner_claim: self.jwt_owner_claim.clone(),
                    tenant_claim: self.jwt_tenant_claim.clone(),
                    scope_claim: self.jwt_scope_claim.clone(),
                }))
            }
            _ => {
                let reason = "goes with AGENTKIT_JWT_AUDIENCE, and where it is no URL with \
                              AGENTKIT_JWT_JWKS_URL";
                Err(Error::configuration(
                    sources.name("AGENTKIT_JWT_ISSUER"),
                    reason,
                ))
            }
        }
    }

    /// A certificate is of no use without its key.
    fn tls(&self, sources: &Sources) -> Result<Option<TlsFiles>> {
        let alone = |variable, other| {
            let reason = format!("needs {other} too");
            Err(Error::configuration(sources.name(variable), reason))
        };
        match (self.tls_certificate.clone(), self.tls_key.clone()) {
            (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) => alone("AGENTKIT_TLS_CERTIFICATE", "AGENTKIT_TLS_KEY"),
            (None, Some(_)) => alone("AGENTKIT_TLS_KEY", "AGENTKIT_TLS_CERTIFICATE"),
        }
    }

    fn agent(
        self,
        sources: &Sources,
        named: &BTreeMap<String, NamedAgent>,
    ) -> Result<AgentSettings> {
        match self.agent.as_str() {
            OFFLINE => {
                let step_delay = Duration::from_millis(self.step_delay);
                return Ok(AgentSettings::Offline { step_delay });
            }
            OPENAI => {}
            name if named.contains_key(name) => return Ok(AgentSettings::Named(self.agent)),
            name => {
                let names = named.keys().map(|name| format!(", `{name}`"));
                let reason = format!(
                    "`{name}` is not allowed; it must be `{OFFLINE}`, `{OPENAI}`{} or the NAME of \
                     an [agents.NAME] in agentkit.toml",
                    names.collect::<String>()
                );
                return Err(Error::configuration(sources.name("AGENTKIT_AGENT"), reason));
            }
        }
        if self.openai_api_key.is_none() && self.openai_base_url.is_none() {
            let reason = "must be set for the openai agent, or OPENAI_BASE_URL to an endpoint \
                          without keys";
            return Err(Error::configuration(sources.name("OPENAI_API_KEY"), reason));
        }
        let schema = self.openai_response_schema.map(|path| {
            let text = std::fs::read_to_string(&path).map_err(|error| error.to_string());
            let schema = text.and_then(|text| {
                serde_json::from_str(&text).map_err(|error| format!("it is no JSON: {error}"))
            });
            schema.map_err(|reason| {
                let reason = format!("{} can't be read: {reason}", path.display());
                Error::configuration(sources.name("OPENAI_RESPONSE_SCHEMA"), reason)
            })
        });
        let config = OpenAiConfig::new(self.openai_api_key.unwrap_or_default(), self.openai_model);
        Ok(AgentSettings::OpenAi(OpenAiConfig {
            base_url: self.openai_base_url.unwrap_or(config.base_url),
            api: self.openai_api,
            reasoning_effort: self.openai_reasoning_effort,
            timeout: self.openai_timeout,
            system_prompt: self.openai_system_prompt,
            temperature: self.openai_temperature,
            response_schema: schema.transpose()?,
            context_tokens: self.openai_context_tokens,
            compacts: self.openai_compaction,
            ..config
        }))
    }
}

impl Flags {
    /// With the flag of the setting that has this variable.
    #[must_use]
    pub fn with(mut self, variable: &'static str, value: impl Into<String>) -> Self {
        self.0.push((variable, value.into()));
        self
    }

    fn get(&self, variable: &str) -> Option<String> {
        let (_, value) = self.0.iter().find(|(known, _)| *known == variable)?;
        Some(value.clone())
    }
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        let flags = all_settings().filter(|setting| !setting.flag.is_empty());
        let arguments = flags.map(|setting| {
            let help = setting.description();
            let (variable, default) = (setting.variable, setting.default);
            Arg::new(variable)
                .long(setting.flag)
                .global(true)
                .value_name(setting.kind.placeholder())
                .help(format!("{help} [env: {variable}] [default: {default}]"))
                .help_heading("Settings")
        });
        command.args(arguments)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = all_settings().filter_map(|setting| {
            let value = matches.try_get_one::<String>(setting.variable).ok()??;
            Some((setting.variable, value.clone()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The settings as a table in Markdown, for the README.
pub fn markdown() -> String {
    let header =
        "| variable | flag | `agentkit.toml` | default | |\n| --- | --- | --- | --- | --- |\n";
    let code = |text: &str| match text {
        "" => String::new(),
        text => format!("`{text}` "),
    };
    let rows = all_settings().map(|setting| {
        let flag = match setting.flag {
            "" => String::new(),
            flag => format!("--{flag}"),
        };
        let (flag, key) = (code(&flag), code(setting.key));
        format!(
            "| `{}` | {flag}| {key}| {} | {} |\n",
            setting.variable,
            setting.default,
            setting.description(),
        )
    });
    rows.fold(header.to_owned(), |table, row| table + &row)
}

/// The settings of the tables that a file may name freely, likewise.
pub fn markdown_of_tables() -> String {
    let header = "| `agentkit.toml` | | default | |\n| --- | --- | --- | --- |\n";
    let rows = TABLES.into_iter().flat_map(|(table, settings)| {
        settings.iter().map(move |setting| {
            let (key, default, description) = (setting.key, setting.default, setting.description());
            format!("| `[{table}.NAME]` | `{key}` | {default} | {description} |\n")
        })
    });
    rows.fold(header.to_owned(), |table, row| table + &row)
}
