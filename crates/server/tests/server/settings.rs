use std::{collections::HashMap, time::Duration};

use yai_agentkit_agents::mcp::McpTransport;
use yai_agentkit_core::{Error, Result};
use yai_agentkit_engine::{OnBusy, TurnLimits};
use yai_agentkit_server::{
    http::connection::ConnectionLimits,
    settings::{
        AgentSettings, Flags, LogFormat, NamedAgent, Settings, all_settings, markdown,
        markdown_of_tables,
    },
};

fn load(flags: &Flags, file: &str, variables: &[(&str, &str)]) -> Result<Settings> {
    let variables: HashMap<_, _> = variables.iter().copied().collect();
    Settings::load(flags, Some(file), |name| {
        variables.get(name).map(|value| (*value).to_owned())
    })
}

/// The setting at fault and what is said about it.
fn fault(flags: &Flags, file: &str, variables: &[(&str, &str)]) -> (String, String) {
    match load(flags, file, variables) {
        Err(Error::Configuration { setting, reason }) => {
            (setting.into_owned(), reason.into_owned())
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("{file} {variables:?} is allowed"),
    }
}

#[test]
fn a_flag_goes_before_a_variable_before_the_file_before_the_default() {
    let file = "bind = '127.0.0.1:3'";
    let variables = [("AGENTKIT_BIND", "127.0.0.1:2")];
    let flags = Flags::default().with("AGENTKIT_BIND", "127.0.0.1:1");
    let port = |settings: Result<Settings>| settings.unwrap().bind.port();
    assert_eq!(port(load(&flags, file, &variables)), 1);
    assert_eq!(port(load(&Flags::default(), file, &variables)), 2);
    assert_eq!(
        port(load(&Flags::default(), file, &[("AGENTKIT_BIND", "")])),
        3
    );
    assert_eq!(port(load(&Flags::default(), "", &[])), 8080);
}

#[test]
fn the_defaults_need_no_setting() {
    let settings = load(&Flags::default(), "", &[]).unwrap();
    assert!(settings.bind.ip().is_loopback());
    assert!(matches!(
        settings.agent,
        AgentSettings::Offline {
            step_delay: Duration::ZERO
        }
    ));
    assert_eq!(settings.body_limit, 1_048_576);
    assert_eq!(settings.connections, ConnectionLimits::default());
    assert_eq!(settings.shutdown_timeout, Duration::from_secs(30));
    assert_eq!(settings.limits, TurnLimits::default());
    assert_eq!(settings.limits.max_steps, 50);
    assert_eq!(settings.limits.lease, Duration::from_secs(10));
    assert_eq!(settings.limits.on_busy, OnBusy::Reject);
    assert_eq!(settings.log, None);
    assert_eq!(settings.log_format, LogFormat::Text);
}

#[test]
fn the_file_holds_every_setting() {
    let file = "
        bind = '0.0.0.0:80'
        agent = 'openai'
        log = 'debug'
        log_format = 'json'
        body_limit = 10
        max_connections = 11
        header_timeout = 1.5
        idle_timeout = 20
        write_timeout = 0.1
        allowed_hosts = 'Agents.example.com, .internal'
        cors_origins = 'https://app.example.com'
        shutdown_timeout = 5
        max_steps = 7
        max_attempts = 2
        turn_deadline = 60
        lease = 0.5
        on_busy = 'enqueue'
        max_enqueued = 7
        tools_at_once = 3
        key_age = 3600
        event_age = 7200
        step_delay = 9
        [openai]
        api_key = 'key'
        base_url = 'http://127.0.0.1:1/v1'
        model = 'small'
        timeout = 3
        [database]
        url = 'sqlite::memory:'
    ";
    let settings = load(&Flags::default(), file, &[]).unwrap();
    assert_eq!(settings.bind.to_string(), "0.0.0.0:80");
    assert_eq!(settings.log.as_deref(), Some("debug"));
    assert_eq!(settings.log_format, LogFormat::Json);
    assert_eq!(settings.body_limit, 10);
    let connections = ConnectionLimits {
        connections: 11,
        header_timeout: Duration::from_millis(1500),
        idle_timeout: Duration::from_secs(20),
        write_timeout: Duration::from_millis(100),
    };
    assert_eq!(settings.connections, connections);
    let hosts = "agents.example.com,.internal".parse().unwrap();
    assert_eq!(settings.access.hosts, hosts);
    let origins = "https://app.example.com".parse().unwrap();
    assert_eq!(settings.access.origins, origins);
    let limits = TurnLimits {
        max_steps: 7,
        max_attempts: 2,
        tools_at_once: 3,
        deadline: Duration::from_secs(60),
        lease: Duration::from_millis(500),
        key_age: Duration::from_secs(3600),
        on_busy: OnBusy::Enqueue,
        event_age: Duration::from_secs(7200),
        max_enqueued: 7,
    };
    assert_eq!(settings.limits, limits);
    assert_eq!(settings.shutdown_timeout, Duration::from_secs(5));
    let AgentSettings::OpenAi(openai) = settings.agent else {
        panic!("not the openai agent");
    };
    assert_eq!(
        (openai.api_key.as_str(), openai.model.as_str()),
        ("key", "small")
    );
    assert_eq!(openai.base_url, "http://127.0.0.1:1/v1");
    assert_eq!(openai.timeout, Duration::from_secs(3));
    let offline = load(&Flags::default(), file, &[("AGENTKIT_AGENT", "offline")]).unwrap();
    let AgentSettings::Offline { step_delay } = offline.agent else {
        panic!("not the offline agent");
    };
    assert_eq!(step_delay, Duration::from_millis(9));
}

#[test]
fn a_bad_value_names_its_variable_and_what_is_allowed() {
    for (name, value, allowed) in [
        ("AGENTKIT_BIND", "localhost", "127.0.0.1:8080"),
        (
            "AGENTKIT_AGENT",
            "gpt",
            "`offline`, `openai` or the NAME of",
        ),
        ("AGENTKIT_BODY_LIMIT", "1MiB", "number of bytes from 1"),
        ("AGENTKIT_SHUTDOWN_TIMEOUT", "0", "from 1 to 86400"),
        ("AGENTKIT_BODY_LIMIT", "0", "from 1 to 1073741824"),
        ("AGENTKIT_MAX_CONNECTIONS", "0", "from 1 to"),
        ("AGENTKIT_IDLE_TIMEOUT", "0", "from 0.1 to"),
        ("AGENTKIT_ALLOWED_HOSTS", "a.example:80", "without ports"),
        ("AGENTKIT_CORS_ORIGINS", "app.example.com", "https://app"),
        ("AGENTKIT_CORS_ORIGINS", "https://a.example/", "https://app"),
        ("AGENTKIT_MAX_STEPS", "-1", "number of steps"),
        ("AGENTKIT_MAX_STEPS", "0", "from 1 to"),
        ("AGENTKIT_MAX_ATTEMPTS", "0", "from 1 to"),
        ("AGENTKIT_LEASE", "0", "from 0.1"),
        ("AGENTKIT_LEASE", "NaN", "from 0.1"),
        ("AGENTKIT_TURN_DEADLINE", "-1", "number of seconds"),
        (
            "AGENTKIT_ON_BUSY",
            "wait",
            "`reject`, `enqueue`, `interrupt` or `rollback`",
        ),
        ("AGENTKIT_STEP_DELAY", "1s", "milliseconds"),
        ("AGENTKIT_LOG_FORMAT", "xml", "`text` or `json`"),
    ] {
        let (setting, reason) = fault(&Flags::default(), "", &[(name, value)]);
        assert_eq!(setting, name);
        assert!(
            reason.contains(value) && reason.contains(allowed),
            "{reason}"
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_names_the_line_without_its_secrets() {
    for (file, message) in [
        (
            "\nbnd = 'x'",
            "line 2: `bnd` is no setting; did you mean `bind`?",
        ),
        (
            "[openai]\nkey = 'hunter2'",
            "line 2: `openai.key` is no setting",
        ),
        (
            "[database]\nmax_conections = 1",
            "line 2: `database.max_conections` is no setting; did you mean `database.max_connections`?",
        ),
        ("bind = [1]", "line 1: `bind` must be a text or a number"),
        ("\n\n[openai]\napi_key = 'hunter2", "line 4: "),
    ] {
        let (setting, reason) = fault(&Flags::default(), file, &[]);
        assert_eq!(setting, "agentkit.toml");
        assert!(reason.starts_with(message), "{reason}");
        assert!(!reason.contains("hunter2"));
    }
}

#[test]
fn the_openai_agent_needs_a_key_or_another_endpoint() {
    let agent = ("AGENTKIT_AGENT", "openai");
    let (setting, _) = fault(&Flags::default(), "", &[agent]);
    assert_eq!(setting, "OPENAI_API_KEY");
    let base_url = ("OPENAI_BASE_URL", "http://127.0.0.1:1/v1");
    assert!(load(&Flags::default(), "", &[agent, base_url]).is_ok());
    assert!(load(&Flags::default(), "", &[agent, ("OPENAI_API_KEY", "key")]).is_ok());
}

#[test]
fn an_error_names_what_the_person_used() {
    let flags = Flags::default().with("DB_MAX_CONNECTIONS", "0");
    let file = "[database]\nmin_connections = 99";
    let (setting, _) = fault(&flags, file, &[("DB_QUERY_TIMEOUT", "1")]);
    assert_eq!(setting, "--database-max-connections");
    let (setting, _) = fault(&Flags::default(), file, &[]);
    assert_eq!(setting, "`database.min_connections` in agentkit.toml");
    let (setting, _) = fault(&Flags::default(), "body_limit = 'x'", &[]);
    assert_eq!(setting, "`body_limit` in agentkit.toml");
    let variable = ("AGENTKIT_BODY_LIMIT", "x");
    let (setting, _) = fault(&Flags::default(), "body_limit = 1", &[variable]);
    assert_eq!(setting, "AGENTKIT_BODY_LIMIT");
}

#[test]
fn every_setting_is_declared_in_full_and_once() {
    let (mut variables, mut keys, mut flags) = (vec![], vec![], vec![]);
    for setting in all_settings() {
        let is_complete = !setting.default.is_empty() && !setting.help.trim().is_empty();
        assert!(is_complete, "{}", setting.variable);
        variables.push(setting.variable);
        keys.extend(Some(setting.key).filter(|key| !key.is_empty()));
        flags.extend(Some(setting.flag).filter(|flag| !flag.is_empty()));
    }
    for mut names in [variables, keys, flags] {
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert!(count > 20 && names.len() == count, "{names:?}");
    }
}

#[test]
fn agents_are_named_by_tables_of_the_file_with_their_secrets_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "of the file\n").unwrap();
    let file = format!(
        "agent = 'shop'
        [agents.shop]
        url = 'http://127.0.0.1:9000/agent'
        secret_env = 'SHOP'
        timeout = 5
        [agents.'the other']
        kind = 'agui'
        url = 'https://agents.example.com'
        secret_file = '{}'
        patience = 600",
        secret.display()
    );
    let settings = load(&Flags::default(), &file, &[("SHOP", "of the variable")]).unwrap();
    let AgentSettings::Named(name) = &settings.agent else {
        panic!("not the agent of the file");
    };
    let NamedAgent::Remote(shop) = &settings.agents[name] else {
        panic!("{:?}", settings.agents);
    };
    assert_eq!(shop.url.as_str(), "http://127.0.0.1:9000/agent");
    assert_eq!(shop.secret.as_deref(), Some("of the variable"));
    assert_eq!(shop.timeout, Duration::from_secs(5));
    assert_eq!(shop.patience, Duration::from_secs(30));
    let NamedAgent::Agui(other) = &settings.agents["the other"] else {
        panic!("{:?}", settings.agents);
    };
    assert_eq!(other.secret.as_deref(), Some("of the file"));
    assert_eq!(other.patience, Duration::from_secs(600));
    let (setting, reason) = fault(&Flags::default(), &file, &[]);
    assert_eq!(setting, "`agents.shop.secret_env` in agentkit.toml");
    assert_eq!(reason, "SHOP is not set");
}

#[test]
fn servers_of_mcp_are_named_by_tables_of_the_file() {
    let file = "
        [mcp.files]
        command = ['npx', '-y', 'a server']
        env = ['TOKEN']
        timeout = 5
        tools = ['read', 'write']
        repeatable = ['read']
        no_approval = ['*']
        needs_approval = 'write'
        trust_annotations = false
        [mcp.web]
        url = 'https://mcp.example.com/mcp'
        secret_env = 'TOKEN'";
    let settings = load(&Flags::default(), file, &[("TOKEN", "hunter2")]).unwrap();
    let [files, web] = &settings.mcp[..] else {
        panic!("{:?}", settings.mcp);
    };
    let McpTransport::Stdio {
        program,
        arguments,
        variables,
    } = &files.transport
    else {
        panic!("{files:?}");
    };
    assert_eq!((files.name.as_str(), program.as_str()), ("files", "npx"));
    assert_eq!(arguments, &["-y", "a server"]);
    assert_eq!(variables, &[("TOKEN".to_owned(), "hunter2".to_owned())]);
    assert_eq!(files.timeout, Duration::from_secs(5));
    let rules = &files.rules;
    let only = rules.only.as_ref().unwrap();
    assert_eq!(only, &["read", "write"]);
    assert_eq!(
        (&rules.repeatable[..], &rules.no_approval[..]),
        (&["read".to_owned()][..], &["*".to_owned()][..])
    );
    assert_eq!(rules.needs_approval, ["write"]);
    assert!(!rules.trusts_annotations && web.rules.trusts_annotations);
    assert!(web.rules.only.is_none());
    let McpTransport::Http { url, token } = &web.transport else {
        panic!("{web:?}");
    };
    assert_eq!(url.as_str(), "https://mcp.example.com/mcp");
    assert_eq!(token.as_deref(), Some("hunter2"));
    assert!(!format!("{:?}", settings.mcp).contains("hunter2"));
}

#[test]
fn a_table_that_is_wrong_says_where() {
    for (file, setting, message) in [
        (
            "agents = 1",
            "agentkit.toml",
            "line 1: `agents` must be tables [agents.NAME]",
        ),
        (
            "[agents]\nurl = 'http://a'",
            "agentkit.toml",
            "line 1: `agents` must be tables [agents.NAME]",
        ),
        (
            "[agents.a]\nurl = 'http://a'\ntimeouts = 1",
            "agentkit.toml",
            "line 3: `agents.a.timeouts` is no setting; did you mean `agents.a.timeout`?",
        ),
        ("[agents.a]", "agents.a.url", "must be given"),
        (
            "[agents.openai]\nurl = 'http://a'",
            "agents.openai",
            "must have another name",
        ),
        (
            "[agents.a]\nurl = 'a'",
            "`agents.a.url` in agentkit.toml",
            "`a` is not allowed",
        ),
        (
            "[agents.a]\nurl = 'http://a'\nkind = 'local'",
            "`agents.a.kind` in agentkit.toml",
            "`local` is not",
        ),
        (
            "[agents.a]\nurl = 'http://a'\nsecret_file = '/nowhere/secret'",
            "`agents.a.secret_file` in agentkit.toml",
            "/nowhere/secret can't be read",
        ),
        (
            "[agents.a]\nurl = 'http://a'\nsecret_file = 'a'\nsecret_env = 'b'",
            "`agents.a.secret_file` in agentkit.toml",
            "is one too many",
        ),
        ("[mcp.a]", "mcp.a", "must have one of `command` and `url`"),
        (
            "[mcp.a__b]\nurl = 'http://a'",
            "mcp.a__b",
            "must be named by",
        ),
        (
            "[mcp.a]\ncommand = []",
            "mcp.a.command",
            "must name a program",
        ),
        (
            "[mcp.a]\ncommand = [1]",
            "agentkit.toml",
            "line 2: `mcp.a.command` must be a list of texts",
        ),
        (
            "[mcp.a]\ncommand = 'x'\nenv = ['NOWHERE']",
            "mcp.a.env",
            "NOWHERE is not set",
        ),
    ] {
        let (at_fault, reason) = fault(&Flags::default(), file, &[]);
        assert_eq!(at_fault, setting, "{file}");
        assert!(reason.starts_with(message), "{reason}");
    }
}

/// `UPDATE_README=1` writes the tables in place of looking at them.
#[test]
fn the_readme_lists_every_setting_as_it_is_declared() {
    const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    for (header, declared) in [
        ("| variable | flag |", markdown()),
        ("| `agentkit.toml` | | default |", markdown_of_tables()),
    ] {
        let readme = std::fs::read_to_string(README).unwrap();
        let start = readme.find(header).expect("the table of settings");
        let length = readme[start..].find("\n\n").expect("its end") + 1;
        let written = &readme[start..start + length];
        if std::env::var_os("UPDATE_README").is_some() {
            std::fs::write(README, readme.replace(written, &declared)).unwrap();
        } else {
            assert_eq!(
                written, declared,
                "UPDATE_README=1 ./test -p yai-agentkit-server the_readme"
            );
        }
    }
}

#[test]
fn a_password_in_a_flag_is_refused_and_not_shown() {
    for url in ["postgresql://u:hunter2@h/d", "host=h password=hunter2"] {
        let flags = Flags::default().with("DATABASE_URL", url);
        let (setting, reason) = fault(&flags, "", &[]);
        assert_eq!(setting, "--database-url");
        assert!(
            reason.contains("DATABASE_URL") && reason.contains(".pgpass"),
            "{reason}"
        );
        assert!(!reason.contains("hunter2"));
        assert!(load(&Flags::default(), "", &[("DATABASE_URL", url)]).is_ok());
    }
    let flags = Flags::default().with("DATABASE_URL", "postgresql://u@h/d");
    assert!(load(&flags, "", &[]).is_ok());
}
