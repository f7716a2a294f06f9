use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::{Environment, Fault, files, parameters::Parameters};

/// Where PostgreSQL's socket may be, as it is built: Debian's, macOS's, its own.
const SOCKET_DIRECTORIES: [&str; 3] = ["/var/run/postgresql", "/private/tmp", "/tmp"];

/// A PostgreSQL as libpq would find it.
#[derive(Clone, Debug)]
pub(crate) struct Postgres {
    /// In the order in which they are tried.
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) database: Option<String>,
    /// Settings of the session.
    pub(crate) options: Vec<(String, String)>,
    pub(crate) application_name: Option<String>,
    /// For one host.
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) tls: Tls,
    pub(crate) role: Role,
}

/// One server.
#[derive(Clone, PartialEq)]
pub(crate) struct Host {
    pub(crate) place: Place,
    pub(crate) port: u16,
    password: Option<String>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    /// The directory of its socket.
    Socket(PathBuf),
    /// A name or an address, and what to connect to in its place.
    Network {
        name: String,
        address: Option<String>,
    },
}

/// Which server is wanted: libpq's `target_session_attrs`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Role {
    Any,
    /// It takes writes.
    ReadWrite,
    /// It is no standby.
    Primary,
}

/// How a server is trusted.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) mode: TlsMode,
    /// The authorities; `None` for those of the system.
    pub(crate) roots: Option<PathBuf>,
    /// The client's certificate and its key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

/// libpq's `sslmode`, after it has looked which files are there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TlsMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.place, self.port)
    }
}

impl Postgres {
    /// Reads the environment and the files that `written` leaves to them.
    pub(crate) fn resolve(
        written: &[(String, String)],
        environment: Environment<'_>,
    ) -> Result<Self, Fault> {
        let parameters = Parameters::complete(written, environment)?;
        let user = match parameters.get("user") {
            Some(user) => user.to_owned(),
            None => PgConnectOptions::new_without_pgpass()
                .get_username()
                .to_owned(),
        };
        let database = parameters.get("dbname").map(str::to_owned);
        let mut hosts = hosts(&parameters)?;
        let file = parameters.get("passfile").map(PathBuf::from);
        let file = file.or_else(|| files::in_home(".pgpass", environment));
        for host in &mut hosts {
            host.password = match parameters.get("password") {
                Some(password) => Some(password.to_owned()),
                None => file.as_deref().and_then(|file| {
                    let database = database.as_deref().unwrap_or(&user);
                    let port = host.port.to_string();
                    files::password(file, [&host.name_in_files(), &port, database, &user])
                }),
            };
        }
        let connect_timeout = number(&parameters, "connect_timeout")?;
        Ok(Self {
            hosts,
            user,
            database,
            options: options(parameters.get("options").unwrap_or_default())?,
            application_name: parameters
                .get("application_name")
                .or(parameters.get("fallback_application_name"))
                .map(str::to_owned),
            // As libpq has it: one second is two, and zero or less is for ever.
            connect_timeout: connect_timeout
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|seconds| *seconds > 0)
                .map(|seconds| Duration::from_secs(seconds.max(2))),
            tls: Tls::resolve(&parameters, environment)?,
            role: match parameters.get("target_session_attrs") {
                None | Some("any") => Role::Any,
                Some("read-write") => Role::ReadWrite,
                Some("primary") => Role::Primary,
                Some(_) => {
                    let words = parameters.words("target_session_attrs");
                    return Err(format!(
                        "can't be heeded: {words} must be any, read-write or primary, since AgentKit writes"
                    ));
                }
            },
        })
    }

    /// What sqlx connects to `host` with, by itself.
    pub(crate) fn connect_options(&self, host: &Host, tls: PgSslMode) -> PgConnectOptions {
        // Its own reading of the environment is overruled by ours, field for field.
        let options = PgConnectOptions::new_without_pgpass()
            .username(&self.user)
            .database(self.database.as_deref().unwrap_or(&self.user))
            .password(host.password.as_deref().unwrap_or_default())
            .port(host.port)
            .ssl_mode(tls)
            // PgBouncer refuses it.
            .extra_float_digits(None)
            .application_name(self.application_name.as_deref().unwrap_or("agentkit"));
        let options = match &host.place {
            Place::Socket(directory) => options.socket(directory),
            Place::Network { name, address } => options.host(address.as_ref().unwrap_or(name)),
        };
        match &self.tls.client {
            Some((certificate, key)) => options.ssl_client_cert(certificate).ssl_client_key(key),
            None => options,
        }
    }

    /// The servers for people.
    pub(crate) fn display_hosts(&self) -> String {
        let hosts = self.hosts.iter().map(|host| match &host.place {
            Place::Socket(directory) => {
                format!("{}/.s.PGSQL.{}", directory.display(), host.port)
            }
            Place::Network { name, .. } if name.contains(':') => format!("[{name}]:{}", host.port),
            Place::Network { name, .. } => format!("{name}:{}", host.port),
        });
        hosts.collect::<Vec<_>>().join(", ")
    }
}

impl Host {
    #[cfg(test)]
    pub(super) fn password(&self) -> Option<String> {
        self.password.clone()
    }

    /// As a password file calls it.
    fn name_in_files(&self) -> String {
        match &self.place {
            Place::Socket(directory)
                if SOCKET_DIRECTORIES
                    .iter()
                    .any(|known| Path::new(known) == directory) =>
            {
                "localhost".to_owned()
            }
            Place::Socket(directory) => directory.display().to_string(),
            Place::Network { name, .. } => name.clone(),
        }
    }
}

fn hosts(parameters: &Parameters) -> Result<Vec<Host>, Fault> {
    let list = |name| {
        parameters
            .get(name)
            .map(|text| text.split(',').collect::<Vec<_>>())
    };
    let (names, addresses) = (list("host"), list("hostaddr"));
    let count = match (&names, &addresses) {
        (Some(names), Some(addresses)) if names.len() != addresses.len() => {
            return Err("has not as many hostaddr as hosts".to_owned());
        }
        (Some(list), _) | (None, Some(list)) => list.len(),
        (None, None) => 1,
    };
    let ports = list("port").unwrap_or_else(|| vec![""]);
    if ports.len() != 1 && ports.len() != count {
        return Err("has neither one port nor as many as hosts".to_owned());
    }
    let host = |index: usize| {
        let at = |list: &Option<Vec<&str>>| {
            let text = list.as_ref().and_then(|list| list.get(index).copied());
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let port = match *ports.get(index).unwrap_or(&ports[0]) {
            "" => 5432,
            text => text
                .trim()
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| {
                    format!(
                        "has a port that is no number from 1 to 65535 ({})",
                        parameters.words("port")
                    )
                })?,
        };
        let place = match (at(&names), at(&addresses)) {
            (Some(name), _) if name.starts_with('@') => {
                return Err("has an abstract socket as host, which is not supported".to_owned());
            }
            (Some(name), None) if name.starts_with('/') => Place::Socket(name.into()),
            (name, Some(address)) => Place::Network {
                name: name.unwrap_or_else(|| address.clone()),
                address: Some(address),
            },
            (Some(name), None) => Place::Network {
                name,
                address: None,
            },
            (None, None) => default_place(port),
        };
        let password = None;
        Ok(Host {
            place,
            port,
            password,
        })
    };
    (0..count).map(host).collect()
}

/// The socket of a server on this machine, else its port.
fn default_place(port: u16) -> Place {
    let socket = SOCKET_DIRECTORIES
        .iter()
        .map(Path::new)
        .find(|directory| directory.join(format!(".s.PGSQL.{port}")).exists());
    match socket {
        Some(directory) => Place::Socket(directory.to_owned()),
        None => Place::Network {
            name: "localhost".to_owned(),
            address: None,
        },
    }
}

fn number(parameters: &Parameters, name: &str) -> Result<Option<i64>, Fault> {
    let number = parameters.get(name).map(|text| {
        let number = text.trim().parse();
        number.map_err(|_| format!("can't be read: {} must be a number", parameters.words(name)))
    });
    number.transpose()
}

/// `-c name=value`, `-cname=value` and `--name=value`, where a backslash keeps a space.
fn options(text: &str) -> Result<Vec<(String, String)>, Fault> {
    let mut words = vec![String::new()];
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => words
                .last_mut()
                .into_iter()
                .for_each(|word| word.extend(characters.next())),
            c if c.is_ascii_whitespace() => words.push(String::new()),
            c => words.last_mut().into_iter().for_each(|word| word.push(c)),
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut options = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next().unwrap_or_default(),
            Some(setting) => setting.to_owned(),
            None => String::new(),
        };
        let Some((name, value)) = setting.split_once('=').filter(|(name, _)| !name.is_empty())
        else {
            return Err("has options other than `-c name=value` and `--name=value`".to_owned());
        };
        options.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(options)
}

impl Tls {
    /// <https://www.postgresql.org/docs/current/libpq-ssl.html>
    fn resolve(parameters: &Parameters, environment: Environment<'_>) -> Result<Self, Fault> {
        let in_home = |name: &str| files::in_home(&format!(".postgresql/{name}"), environment);
        let existing = |name: &str| in_home(name).filter(|file| file.is_file());
        let of_system = parameters.get("sslrootcert") == Some("system");
        let default = if of_system { "verify-full" } else { "prefer" };
        let mut mode = match parameters.get("sslmode").unwrap_or(default) {
            "disable" => TlsMode::Disable,
            "allow" => TlsMode::Allow,
            "prefer" => TlsMode::Prefer,
            "require" => TlsMode::Require,
            "verify-ca" => TlsMode::VerifyCa,
            "verify-full" => TlsMode::VerifyFull,
            _ => {
                let words = parameters.words("sslmode");
                return Err(format!(
                    "can't be heeded: {words} must be disable, allow, prefer, require, verify-ca or verify-full"
                ));
            }
        };
        if of_system && mode != TlsMode::VerifyFull {
            return Err(
                "has sslrootcert=system, with which sslmode must be verify-full".to_owned(),
            );
        }
        let file = |name: &str, default: Option<PathBuf>| match parameters.get(name) {
            Some(file) if !Path::new(file).is_file() && mode != TlsMode::Disable => Err(format!(
                "names a file that is not there: {} is `{file}`",
                parameters.words(name)
            )),
            Some(file) => Ok(Some(PathBuf::from(file))),
            None => Ok(default),
        };
        let roots = if of_system {
            None
        } else {
            file("sslrootcert", existing("root.crt"))?
        };
        let certificate = file("sslcert", existing("postgresql.crt"))?;
        let key = file("sslkey", existing("postgresql.key"))?;
        match mode {
            // "If a root CA file exists, the behavior of sslmode=require will be the same as that
            // of verify-ca."
            TlsMode::Require if roots.is_some() => mode = TlsMode::VerifyCa,
            TlsMode::VerifyCa | TlsMode::VerifyFull if roots.is_none() && !of_system => {
                return Err(
                    "asks to verify the server, but names no sslrootcert: write its file, or \
                            sslrootcert=system for the authorities that everybody trusts"
                        .to_owned(),
                );
            }
            _ => {}
        }
        Ok(Self {
            mode,
            roots,
            client: certificate.zip(key),
        })
    }
}
