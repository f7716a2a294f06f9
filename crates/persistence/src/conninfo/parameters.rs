use std::{collections::HashMap, fmt::Write};

use super::{Environment, Fault, files, syntax};
use crate::setting;

/// libpq's parameters and the variables that stand for them.
const PARAMETERS: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("service", "PGSERVICE"),
    ("servicefile", "PGSERVICEFILE"),
    ("options", "PGOPTIONS"),
    ("application_name", "PGAPPNAME"),
    ("fallback_application_name", ""),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("client_encoding", "PGCLIENTENCODING"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslpassword", ""),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslcompression", "PGSSLCOMPRESSION"),
    ("sslsni", "PGSSLSNI"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("requiressl", "PGREQUIRESSL"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("require_auth", "PGREQUIREAUTH"),
    ("requirepeer", "PGREQUIREPEER"),
    ("gssencmode", "PGGSSENCMODE"),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("gsslib", "PGGSSLIB"),
    ("gssdelegation", "PGGSSDELEGATION"),
    ("keepalives", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("keepalives_count", ""),
    ("tcp_user_timeout", ""),
    ("replication", ""),
    ("min_protocol_version", "PGMINPROTOCOLVERSION"),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION"),
];

/// What else than nothing may be said of a parameter that nobody here looks at, since it holds
/// anyway.
const HOLDS_ANYWAY: &[(&str, &[&str])] = &[
    ("load_balance_hosts", &["disable"]),
    (
        "client_encoding",
        &["UTF8", "utf8", "UTF-8", "utf-8", "auto"],
    ),
    ("sslcompression", &["0"]),
    ("sslsni", &["1"]),
    ("sslcertmode", &["allow"]),
    ("sslnegotiation", &["postgres"]),
    ("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2"]),
    ("ssl_max_protocol_version", &["TLSv1.3"]),
    ("channel_binding", &["prefer", "disable"]),
    ("gssencmode", &["prefer", "disable"]),
    ("gssdelegation", &["0"]),
    ("keepalives", &["1"]),
    ("replication", &["false", "off", "no", "0"]),
    ("requiressl", &["0"]),
    ("min_protocol_version", &["3.0"]),
    ("max_protocol_version", &["3.0", "latest"]),
];

/// Looked at in [`Postgres`](super::Postgres).
const HEEDED: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "service",
    "servicefile",
    "options",
    "application_name",
    "fallback_application_name",
    "connect_timeout",
    "target_session_attrs",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
];

pub(super) fn is_known(name: &str) -> bool {
    PARAMETERS.iter().any(|(known, _)| *known == name)
}

pub(super) fn nearest(name: &str) -> Option<&'static str> {
    setting::nearest(name, PARAMETERS.iter().map(|(known, _)| *known))
}

pub(super) fn is_secret(name: &str) -> bool {
    matches!(name, "password" | "sslpassword")
}

/// Parameters with the words in which each was given.
pub(super) struct Parameters(HashMap<String, (String, String)>);

impl Parameters {
    /// What is written, then what the service says that it names, then the environment.
    pub(super) fn complete(
        written: &[(String, String)],
        environment: Environment<'_>,
    ) -> Result<Self, Fault> {
        let mut all = Self(HashMap::new());
        for (name, value) in written {
            all.add(name, value, || format!("the parameter {name}"));
        }
        let named = |name, variable| {
            let given = written.iter().find(|(known, _)| known == name);
            let given = given.map(|(_, value)| value.clone());
            given
                .or_else(|| environment(variable))
                .filter(|value| !value.is_empty())
        };
        if let Some(service) = named("service", "PGSERVICE") {
            let file = named("servicefile", "PGSERVICEFILE");
            for (name, value) in files::service(&service, file, environment)? {
                syntax::check_name(&name)
                    .map_err(|fault| format!("names a service that {fault}"))?;
                all.add(&name, &value, || format!("the service's parameter {name}"));
            }
        }
        for (name, variable) in PARAMETERS {
            let value = environment(variable).filter(|value| !value.is_empty());
            if let Some(value) = value {
                all.add(name, &value, || (*variable).to_owned());
            }
        }
        all.refuse_unheeded()?;
        Ok(all)
    }

    fn add(&mut self, name: &str, value: &str, words: impl FnOnce() -> String) {
        let given = self.0.entry(name.to_owned());
        given.or_insert_with(|| (value.to_owned(), words()));
    }

    fn refuse_unheeded(&self) -> Result<(), Fault> {
        let mut names: Vec<&String> = self.0.keys().collect();
        names.sort();
        for name in names {
            let (value, words) = &self.0[name];
            let holds = HOLDS_ANYWAY.iter().find(|(known, _)| known == name);
            let holds = holds.map_or(&[] as &[&str], |(_, values)| values);
            if value.is_empty() || HEEDED.contains(&&**name) || holds.contains(&&**value) {
                continue;
            }
            let but = match holds {
                [] => String::new(),
                holds => format!(" but for {}", holds.join(", ")),
            };
            return Err(format!("can't be heeded: {words} is not supported{but}"));
        }
        Ok(())
    }

    /// The value of a parameter, where it is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (value, _) = self.0.get(name)?;
        Some(&**value).filter(|value| !value.is_empty())
    }

    /// Where a parameter was given.
    pub(super) fn words(&self, name: &str) -> String {
        let given = self.0.get(name);
        given.map_or_else(|| name.to_owned(), |(_, words)| words.clone())
    }
}

/// As a URI, without secrets.
pub(super) fn display(written: &[(String, String)]) -> String {
    let get = |wanted: &str| {
        let found = written.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| &**value).unwrap_or_default()
    };
    let mut text = "postgresql://".to_owned();
    if !get("user").is_empty() || !get("password").is_empty() {
        text += get("user");
        text += if get("password").is_empty() {
            "@"
        } else {
            ":***@"
        };
    }
    let ports: Vec<&str> = get("port").split(',').collect();
    for (index, host) in get("host").split(',').enumerate() {
        text += if index == 0 { "" } else { "," };
        text += &host.replace('/', "%2F");
        let port = ports
            .get(index)
            .or(ports.first())
            .copied()
            .unwrap_or_default();
        let _ = if port.is_empty() {
            Ok(())
        } else {
            write!(text, ":{port}")
        };
    }
    let _ = write!(text, "/{}", get("dbname"));
    let in_place = ["user", "password", "host", "port", "dbname"];
    let others = written
        .iter()
        .filter(|(name, _)| !in_place.contains(&&**name));
    for (index, (name, value)) in others.enumerate() {
        let value = if is_secret(name) { "***" } else { value };
        let _ = write!(text, "{}{name}={value}", if index == 0 { '?' } else { '&' });
    }
    text
}
