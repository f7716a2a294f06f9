use std::{fmt, path::Path, str::FromStr, time::Duration};

use serde::Deserialize;
use sqlx::{postgres::PgConnectOptions, sqlite::SqliteConnectOptions};
use url::Url;
use yai_agentkit_core::{Error, Result};

/// How to reach the database.
///
/// | environment variable | TOML key | default | allowed |
/// | --- | --- | --- | --- |
/// | `DATABASE_URL` | `url` | `sqlite:agentkit.db` | `postgresql://…`, `sqlite:FILE`, `sqlite::memory:` |
/// | `DB_GENERATE_SCHEMAS` | `generate_schemas` | `true` | `true`, `false` |
/// | `DB_MAX_CONNECTIONS` | `max_connections` | 20 | 1 to 10000 |
/// | `DB_MIN_CONNECTIONS` | `min_connections` | 1 | 0 to the maximum |
/// | `DB_CONNECTION_TIMEOUT` | `connection_timeout` | 30 | seconds, 0.001 to 86400 |
/// | `DB_QUERY_TIMEOUT` | `query_timeout` | 30 | seconds, 0.001 to 86400 |
/// | `DB_SCHEMA` | `schema` | the connection's | a PostgreSQL schema: `a-z`, `0-9`, `_`, at most 63 |
/// | `DB_TRANSACTION_POOLER` | `transaction_pooler` | found out | `true`, `false` |
///
/// The environment wins over the file, the file over the default. TLS is part of the URL, as in
/// libpq: `?sslmode=verify-full&sslrootcert=FILE`.
///
/// ```
/// use std::time::Duration;
/// use yai_agentkit_persistence::DatabaseConfig;
///
/// let config = DatabaseConfig::new("postgresql://agent:secret@localhost/agents")?
///     .max_connections(50)?
///     .query_timeout(Duration::from_secs(5))?;
/// assert!(!format!("{config:?}").contains("secret"));
/// # Ok::<(), yai_agentkit_core::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct DatabaseConfig {
    pub(crate) url: String,
    pub(crate) generate_schemas: bool,
    pub(crate) max_connections: u32,
    pub(crate) min_connections: u32,
    pub(crate) connection_timeout: Duration,
    pub(crate) query_timeout: Duration,
    pub(crate) schema: Option<String>,
    pub(crate) transaction_pooler: Option<bool>,
}

/// The database that a URL means.
#[derive(Clone)]
pub(crate) enum Target {
    Postgres(Box<PgConnectOptions>),
    Sqlite(Box<SqliteConnectOptions>),
    /// Gone when it is closed.
    SqliteMemory,
}

/// The `[database]` table of a file.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    url: Option<String>,
    generate_schemas: Option<bool>,
    max_connections: Option<u32>,
    min_connections: Option<u32>,
    connection_timeout: Option<f64>,
    query_timeout: Option<f64>,
    schema: Option<String>,
    transaction_pooler: Option<bool>,
}

const SECONDS: &str = "a number of seconds from 0.001 to 86400";
const FLAG: &str = "`true` or `false`";

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: "sqlite:agentkit.db".to_owned(),
            generate_schemas: true,
            max_connections: 20,
            min_connections: 1,
            connection_timeout: Duration::from_secs(30),
            query_timeout: Duration::from_secs(30),
            schema: None,
            transaction_pooler: None,
        }
    }
}

impl DatabaseConfig {
    /// For `url`: `postgresql://…`, `sqlite:FILE` or `sqlite::memory:`; the rest as by default.
    pub fn new(url: impl Into<String>) -> Result<Self> {
        Self::default().url(url)
    }

    /// From environment variables, over the `[database]` table of `toml` (the text of a file),
    /// over the defaults. `variable` reads the environment.
    pub fn load(toml: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            database: Table,
        }
        let table = toml
            .map(toml::from_str::<File>)
            .transpose()
            // The message alone: the error's `Display` quotes the line, which may hold a password.
            .map_err(|error| Error::configuration("[database]", error.message().to_owned()))?
            .map_or_else(Table::default, |file| file.database);

        let text = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut config = Self::default();
        if let Some(url) = text("DATABASE_URL").or(table.url) {
            config = config.url(url)?;
        }
        if let Some(on) = parsed(text, "DB_GENERATE_SCHEMAS", FLAG)?.or(table.generate_schemas) {
            config = config.generate_schemas(on);
        }
        let count = "a whole number from 1 to 10000";
        if let Some(count) = parsed(text, "DB_MAX_CONNECTIONS", count)?.or(table.max_connections) {
            config.min_connections = config.min_connections.min(count);
            config = config.max_connections(count)?;
        }
        let count = "a whole number from 0 to DB_MAX_CONNECTIONS";
        if let Some(count) = parsed(text, "DB_MIN_CONNECTIONS", count)?.or(table.min_connections) {
            config = config.min_connections(count)?;
        }
        let timeout = parsed(text, "DB_CONNECTION_TIMEOUT", SECONDS)?.or(table.connection_timeout);
        if let Some(timeout) = timeout {
            config = config.connection_timeout(seconds("DB_CONNECTION_TIMEOUT", timeout)?)?;
        }
        let timeout = parsed(text, "DB_QUERY_TIMEOUT", SECONDS)?.or(table.query_timeout);
        if let Some(timeout) = timeout {
            config = config.query_timeout(seconds("DB_QUERY_TIMEOUT", timeout)?)?;
        }
        if let Some(schema) = text("DB_SCHEMA").or(table.schema) {
            config = config.schema(schema)?;
        }
        let pooler = parsed(text, "DB_TRANSACTION_POOLER", FLAG)?.or(table.transaction_pooler);
        if let Some(pooler) = pooler {
            config = config.transaction_pooler(pooler);
        }
        Ok(config)
    }

    /// The database: `postgresql://…`, `sqlite:FILE` or `sqlite::memory:`.
    pub fn url(mut self, url: impl Into<String>) -> Result<Self> {
        self.url = url.into();
        self.target()?;
        Ok(self)
    }

    /// Whether to migrate on connecting. If not, an outdated schema is an error.
    #[must_use]
    pub fn generate_schemas(mut self, on: bool) -> Self {
        self.generate_schemas = on;
        self
    }

    /// How many connections at most, 1 to 10000. SQLite uses one of them to write.
    pub fn max_connections(mut self, count: u32) -> Result<Self> {
        if !(1..=10_000).contains(&count) {
            return Err(refused(
                "DB_MAX_CONNECTIONS",
                count,
                "a whole number from 1 to 10000",
            ));
        }
        self.max_connections = count;
        Ok(self)
    }

    /// How many connections are kept open, at most the maximum.
    pub fn min_connections(mut self, count: u32) -> Result<Self> {
        if count > self.max_connections {
            let allowed = format!("a whole number from 0 to {}", self.max_connections);
            return Err(refused("DB_MIN_CONNECTIONS", count, &allowed));
        }
        self.min_connections = count;
        Ok(self)
    }

    /// How long to wait for a connection, retries included.
    pub fn connection_timeout(mut self, timeout: Duration) -> Result<Self> {
        self.connection_timeout = seconds("DB_CONNECTION_TIMEOUT", timeout.as_secs_f64())?;
        Ok(self)
    }

    /// How long a statement may take until the database ends it.
    pub fn query_timeout(mut self, timeout: Duration) -> Result<Self> {
        self.query_timeout = seconds("DB_QUERY_TIMEOUT", timeout.as_secs_f64())?;
        Ok(self)
    }

    /// The PostgreSQL schema that holds the tables, so that several installations share a
    /// database. It is created when migrating. SQLite has none.
    pub fn schema(mut self, schema: impl Into<String>) -> Result<Self> {
        let schema = schema.into();
        let first = |c: char| c.is_ascii_lowercase() || c == '_';
        let other = |c: char| first(c) || c.is_ascii_digit();
        if !schema.starts_with(first) || !schema.chars().all(other) || schema.len() > 63 {
            let allowed =
                "a name of at most 63 characters from a-z, 0-9 and _, not beginning with a digit";
            return Err(refused("DB_SCHEMA", schema, allowed));
        }
        self.schema = Some(schema);
        Ok(self)
    }

    /// Whether a transaction pooler such as PgBouncer stands before PostgreSQL. Found out on
    /// connecting unless set.
    #[must_use]
    pub fn transaction_pooler(mut self, on: bool) -> Self {
        self.transaction_pooler = Some(on);
        self
    }

    /// The URL without its password, for people and logs.
    pub fn display_url(&self) -> String {
        let Ok(mut url) = Url::parse(&self.url) else {
            return "(unreadable URL)".to_owned();
        };
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return format!("{}:(hidden)", url.scheme());
        }
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        if pairs.iter().any(|(key, _)| key == "password") {
            url.query_pairs_mut().clear().extend_pairs(
                pairs
                    .iter()
                    .map(|(key, value)| (key, if key == "password" { "***" } else { value })),
            );
        }
        url.to_string()
    }

    /// Whether the database is PostgreSQL.
    pub fn is_postgres(&self) -> bool {
        self.url.starts_with("postgres")
    }

    pub(crate) fn target(&self) -> Result<Target> {
        // No part of the URL goes into an error: any may hold a password.
        let unreadable = |error: sqlx::Error| {
            Error::configuration("DATABASE_URL", format!("can't be read ({error})"))
        };
        match self.url.split(':').next() {
            Some("postgres" | "postgresql") => {
                self.find_certificates()?;
                let options = PgConnectOptions::from_str(&self.url).map_err(unreadable)?;
                Ok(Target::Postgres(Box::new(options)))
            }
            Some("sqlite") if self.url.contains(":memory:") => Ok(Target::SqliteMemory),
            Some("sqlite") => {
                let options = SqliteConnectOptions::from_str(&self.url).map_err(unreadable)?;
                if options.get_filename().as_os_str().is_empty() {
                    return Err(Error::configuration("DATABASE_URL", "names no SQLite file"));
                }
                Ok(Target::Sqlite(Box::new(options)))
            }
            _ => Err(Error::configuration(
                "DATABASE_URL",
                "must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE, sqlite:FILE or sqlite::memory:",
            )),
        }
    }
}

impl DatabaseConfig {
    /// On connecting, a certificate that is not there would pass for a server that is not there.
    fn find_certificates(&self) -> Result<()> {
        let Ok(url) = Url::parse(&self.url) else {
            return Ok(());
        };
        for (key, file) in url.query_pairs() {
            let is_file = matches!(&*key, "sslrootcert" | "sslcert" | "sslkey");
            if is_file && !Path::new(&*file).is_file() {
                let reason = format!("{key} names `{file}`, which is no file");
                return Err(Error::configuration("DATABASE_URL", reason));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("url", &self.display_url())
            .field("generate_schemas", &self.generate_schemas)
            .field("max_connections", &self.max_connections)
            .field("min_connections", &self.min_connections)
            .field("connection_timeout", &self.connection_timeout)
            .field("query_timeout", &self.query_timeout)
            .field("schema", &self.schema)
            .field("transaction_pooler", &self.transaction_pooler)
            .finish()
    }
}

fn parsed<T: FromStr>(
    variable: impl Fn(&str) -> Option<String>,
    name: &'static str,
    allowed: &str,
) -> Result<Option<T>> {
    variable(name)
        .map(|text| {
            text.trim()
                .parse()
                .map_err(|_| refused(name, text, allowed))
        })
        .transpose()
}

fn seconds(name: &'static str, value: f64) -> Result<Duration> {
    if !(0.001..=86_400.0).contains(&value) {
        return Err(refused(name, value, SECONDS));
    }
    Ok(Duration::from_secs_f64(value))
}

fn refused(name: &'static str, value: impl fmt::Display, allowed: &str) -> Error {
    Error::configuration(
        name,
        format!("`{value}` is not allowed; it must be {allowed}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str, variables: &[(&str, &str)]) -> Result<DatabaseConfig> {
        DatabaseConfig::load(Some(toml), |name| {
            let (_, value) = variables.iter().find(|(key, _)| *key == name)?;
            Some((*value).to_owned())
        })
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
        let toml = "[database]\nurl = 'sqlite:file.db'\nmax_connections = 7\nschema = 'one'";
        let variables = [("DB_MAX_CONNECTIONS", "9"), ("DB_QUERY_TIMEOUT", "2.5")];
        let config = load(toml, &variables).unwrap();
        let expected = DatabaseConfig::new("sqlite:file.db")
            .and_then(|config| config.max_connections(9))
            .and_then(|config| config.schema("one"))
            .and_then(|config| config.query_timeout(Duration::from_millis(2500)));
        assert_eq!(config, expected.unwrap());
        assert_eq!(load("", &[]).unwrap(), DatabaseConfig::default());
    }

    #[test]
    fn a_bad_value_names_the_variable_and_what_is_allowed() {
        for (name, value, allowed) in [
            ("DB_MAX_CONNECTIONS", "many", "1 to 10000"),
            ("DB_MAX_CONNECTIONS", "0", "1 to 10000"),
            ("DB_MIN_CONNECTIONS", "21", "0 to 20"),
            ("DB_CONNECTION_TIMEOUT", "-1", "0.001 to 86400"),
            ("DB_QUERY_TIMEOUT", "NaN", "0.001 to 86400"),
            ("DB_GENERATE_SCHEMAS", "yes please", "`true` or `false`"),
            ("DB_SCHEMA", "a\"; drop", "a-z, 0-9 and _"),
            ("DATABASE_URL", "mysql://localhost", "postgresql://"),
            (
                "DATABASE_URL",
                "postgres://h/d?sslrootcert=none.pem",
                "none.pem",
            ),
        ] {
            let error = load("", &[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(allowed), "{error}");
        }
        let error = load("[database]\nmax_conections = 3", &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("max_conections"), "{error}");
    }

    #[test]
    fn a_password_is_never_printed() {
        for url in [
            "postgresql://u:s3cret@h:5432/d",
            "postgresql:///d?user=u&password=s3cret&host=h",
        ] {
            let config = DatabaseConfig::new(url).unwrap();
            assert!(!format!("{config:?}").contains("s3cret"));
            assert!(config.display_url().contains("***"));
        }
        let error = DatabaseConfig::new("postgresql://u:s3cret@h:99999/d").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("s3cret"));
        let toml = "[database]\nurl = 'postgresql://u:s3cret@h/d' oops";
        let error = load(toml, &[]).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("s3cret"));
    }
}
