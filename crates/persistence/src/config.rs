use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use yai_agentkit_core::{Clock, Error, Result, access::validate_tenant};

use crate::{
    conninfo::{self, Postgres, SqliteFile, Written},
    encryption::{KeySource, MasterKey, Policy, Readable},
    setting::{Choice, Described, Kind, Number, Parsed, Seconds, Setting, Sources, Text, settings},
};

const URL: Text = Text("URL");
const CONNECTIONS: Number<u32> = Number {
    from: 1,
    to: 10_000,
    unit: "connections",
};
const OPEN_CONNECTIONS: Number<u32> = Number {
    from: 0,
    to: 10_000,
    unit: "connections",
};
const TIMEOUT: Seconds = Seconds {
    from: 0.001,
    to: 86_400.0,
};
const SWITCH: Choice<bool> = Choice(&[("true", true), ("false", false)]);
const SCHEMA: Parsed<String> = Parsed {
    placeholder: "NAME",
    allowed: "at most 63 characters of a-z, 0-9 and _, the first no digit",
    parse: |text| {
        let first = |c: char| c.is_ascii_lowercase() || c == '_';
        let other = |c: char| first(c) || c.is_ascii_digit();
        let is_allowed = text.starts_with(first) && text.chars().all(other) && text.len() <= 63;
        is_allowed.then(|| text.to_owned())
    },
};
const KEY_SOURCE: Parsed<KeySource> = Parsed {
    placeholder: "WHERE",
    allowed: "`file:PATH`, `env:VARIABLE` or `command:COMMAND`",
    parse: KeySource::parse,
};
const READABLE: Choice<Readable> = Choice(&[
    ("nothing", Readable::Nothing),
    ("titles", Readable::Titles),
    ("messages", Readable::Messages),
]);
const TENANT: Parsed<String> = Parsed {
    placeholder: "NAME",
    allowed: "1 to 63 of A-Z, a-z, 0-9, `.`, `_` and `-`, the first a letter or digit",
    parse: |text| validate_tenant(text).ok().map(|()| text.to_owned()),
};

settings! {
    #[derive(Clone)]
    pub(crate) struct DatabaseSettings {
        /// the database: `postgresql://…`, `sqlite:FILE` or `sqlite::memory:`
        pub(crate) url: String = "sqlite:agentkit.db", URL,
            "DATABASE_URL", "database.url", "database-url";
        /// whether to migrate on start; if not, an outdated schema is an error
        pub(crate) generate_schemas: bool = "true", SWITCH,
            "DB_GENERATE_SCHEMAS", "database.generate_schemas", "database-generate-schemas";
        /// connections at most; SQLite uses one of them to write
        pub(crate) max_connections: u32 = "20", CONNECTIONS,
            "DB_MAX_CONNECTIONS", "database.max_connections", "database-max-connections";
        /// connections that are kept open, no more than the maximum
        pub(crate) min_connections: u32 = "1", OPEN_CONNECTIONS,
            "DB_MIN_CONNECTIONS", "database.min_connections", "database-min-connections";
        /// seconds to wait for a connection, retries included
        pub(crate) connection_timeout: Duration = "30", TIMEOUT,
            "DB_CONNECTION_TIMEOUT", "database.connection_timeout", "database-connection-timeout";
        /// seconds to look for the database on start, while nobody answers there
        pub(crate) start_timeout: Duration = "4", TIMEOUT,
            "DB_START_TIMEOUT", "database.start_timeout", "database-start-timeout";
        /// seconds after which the database ends a statement
        pub(crate) query_timeout: Duration = "30", TIMEOUT,
            "DB_QUERY_TIMEOUT", "database.query_timeout", "database-query-timeout";
        /// the PostgreSQL schema of the tables, made if it is missing
        pub(crate) schema: Option<String> | "the connection's", SCHEMA,
            "DB_SCHEMA", "database.schema", "database-schema";
        /// whether PgBouncer or its like stands before PostgreSQL
        pub(crate) transaction_pooler: Option<bool> | "found out", SWITCH,
            "DB_TRANSACTION_POOLER", "database.transaction_pooler", "database-transaction-pooler";
        /// whether the installation is divided among tenants, which PostgreSQL then keeps apart
        pub(crate) tenants: bool = "false", SWITCH,
            "DB_TENANTS", "database.tenants", "database-tenants";
        /// the tenant whose rows are seen, where there are tenants
        pub(crate) tenant: Option<String> | "nobody's", TENANT,
            "DB_TENANT", "database.tenant", "database-tenant";
        /// where the master key is, a key a line, of which the first encrypts: what is said and known is encrypted then
        pub(crate) encryption_key: Option<KeySource> | "nothing is encrypted", KEY_SOURCE,
            "DB_ENCRYPTION_KEY", "database.encryption_key", "database-encryption-key";
        /// what stays readable, and can be searched: titles with metadata of conversations; those and the words of messages
        pub(crate) encryption_readable: Readable = "nothing", READABLE,
            "DB_ENCRYPTION_READABLE", "database.encryption_readable", "database-encryption-readable";
        /// whether rows that are not encrypted are read, as long as there are some of before
        pub(crate) encryption_admits_plain: bool = "false", SWITCH,
            "DB_ENCRYPTION_ADMITS_PLAIN", "database.encryption_admits_plain",
            "database-encryption-admits-plain";
    }
}

/// How to reach the database: [`SETTINGS`](Self::SETTINGS) from the environment, from a file, or
/// from code. The environment goes before the file, the file before the default.
///
/// The URL means what libpq says it does: as URI or as `host=… dbname=…`, with the environment
/// (`PGHOST`, …), services, password files, several hosts and TLS
/// (`?sslmode=verify-full&sslrootcert=FILE`). A parameter that is not heeded is an error.
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
#[derive(Clone)]
pub struct DatabaseConfig {
    pub(crate) values: DatabaseSettings,
    /// By which name the URL was given.
    pub(crate) url_name: Cow<'static, str>,
    pub(crate) clock: Clock,
    /// That of the settings is read on connecting.
    pub(crate) master_key: Option<Arc<dyn MasterKey>>,
}

/// The database that a URL means.
#[derive(Clone)]
pub(crate) enum Target {
    Postgres(Box<Postgres>),
    Sqlite(SqliteFile),
    /// Gone when it is closed.
    SqliteMemory,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        let nothing_given = Sources::new(Self::SETTINGS);
        Self::from_sources(&nothing_given).expect("the defaults are allowed")
    }
}

impl DatabaseConfig {
    /// What can be set of a database.
    pub const SETTINGS: &'static [Setting] = DatabaseSettings::SETTINGS;

    /// For `url`: `postgresql://…`, `sqlite:FILE` or `sqlite::memory:`; the rest as by default.
    pub fn new(url: impl Into<String>) -> Result<Self> {
        Self::default().url(url)
    }

    /// From environment variables, over the `[database]` table of `toml` (the text of a file),
    /// over the defaults. `variable` reads the environment.
    pub fn load(toml: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut sources = Sources::new(Self::SETTINGS);
        sources.variables(variable);
        if let Some(toml) = toml {
            sources.file("the settings file", toml, Some("database"))?;
        }
        Self::from_sources(&sources)
    }

    /// From what `sources` have for [`SETTINGS`](Self::SETTINGS).
    pub fn from_sources(sources: &Sources) -> Result<Self> {
        let config = Self {
            values: DatabaseSettings::read(sources)?,
            url_name: sources.name("DATABASE_URL"),
            clock: Clock::default(),
            master_key: None,
        };
        config.target()?;
        config.check_open_connections(&sources.name("DB_MIN_CONNECTIONS"))?;
        Ok(config)
    }

    /// The database: `postgresql://…`, `sqlite:FILE` or `sqlite::memory:`.
    pub fn url(self, url: impl Into<String>) -> Result<Self> {
        self.url_named("url", url)
    }

    /// The same with a clock that stamps changes of rows and, on SQLite, which has none of its own,
    /// what PostgreSQL's clock stamps there.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// [`url`](Self::url), which messages call `name`, as whoever gave it knows it.
    pub fn url_named(mut self, name: &'static str, url: impl Into<String>) -> Result<Self> {
        self.values.url = url.into();
        self.url_name = name.into();
        self.target()?;
        Ok(self)
    }

    /// Whether to migrate on connecting. If not, an outdated schema is an error.
    #[must_use]
    pub fn generate_schemas(mut self, on: bool) -> Self {
        self.values.generate_schemas = on;
        self
    }

    /// How many connections at most, 1 to 10000. SQLite uses one of them to write.
    pub fn max_connections(mut self, count: u32) -> Result<Self> {
        if !CONNECTIONS.holds(count) {
            return Err(refused("max_connections", count, &CONNECTIONS.allowed()));
        }
        self.values.max_connections = count;
        self.check_open_connections("max_connections")?;
        Ok(self)
    }

    /// How many connections are kept open, at most the maximum.
    pub fn min_connections(mut self, count: u32) -> Result<Self> {
        self.values.min_connections = count;
        self.check_open_connections("min_connections")?;
        Ok(self)
    }

    fn check_open_connections(&self, name: &str) -> Result<()> {
        let (least, most) = (self.values.min_connections, self.values.max_connections);
        if least > most {
            let allowed = format!("at most the maximum of {most} connections");
            return Err(refused(name.to_owned(), least, &allowed));
        }
        Ok(())
    }

    /// How long to wait for a connection, retries included.
    pub fn connection_timeout(mut self, timeout: Duration) -> Result<Self> {
        self.values.connection_timeout = checked("connection_timeout", timeout)?;
        Ok(self)
    }

    /// How long a statement may take until the database ends it.
    pub fn query_timeout(mut self, timeout: Duration) -> Result<Self> {
        self.values.query_timeout = checked("query_timeout", timeout)?;
        Ok(self)
    }

    /// The PostgreSQL schema that holds the tables, so that several installations share a
    /// database. It is created when migrating. SQLite has none.
    pub fn schema(mut self, schema: impl Into<String>) -> Result<Self> {
        let schema = schema.into();
        match Kind::parse(&SCHEMA, &schema) {
            Some(schema) => self.values.schema = Some(schema),
            None => return Err(refused("schema", schema, SCHEMA.allowed)),
        }
        Ok(self)
    }

    /// Whether a transaction pooler such as PgBouncer stands before PostgreSQL. Found out on
    /// connecting unless set.
    #[must_use]
    pub fn transaction_pooler(mut self, on: bool) -> Self {
        self.values.transaction_pooler = Some(on);
        self
    }

    /// Whether the installation is divided among tenants, which PostgreSQL then keeps apart: see
    /// [`Database::tenant`](crate::Database::tenant). Migrating divides it, for good. SQLite has none:
    /// a file is that of one tenant.
    #[must_use]
    pub fn tenants(mut self, on: bool) -> Self {
        self.values.tenants = on;
        self
    }

    /// Whether there are tenants, and none is named.
    pub fn lacks_tenant(&self) -> bool {
        self.values.tenants && self.values.tenant.is_none()
    }

    /// Connects as this tenant: see [`Database::tenant`](crate::Database::tenant).
    #[must_use]
    pub fn tenant(mut self, name: impl Into<String>) -> Self {
        self.values.tenant = Some(name.into());
        self
    }

    /// Encrypts what is said and known, with keys that `master` wraps: a service that keeps it, or
    /// [`LocalKeys`](crate::encryption::LocalKeys). It goes before a setting.
    #[must_use]
    pub fn master_key(mut self, master: Arc<dyn MasterKey>) -> Self {
        self.master_key = Some(master);
        self
    }

    /// What is not encrypted, so that it can be searched: nothing, unless set.
    #[must_use]
    pub fn encryption_readable(mut self, readable: Readable) -> Self {
        self.values.encryption_readable = readable;
        self
    }

    /// Whether rows are read that are not encrypted: for a database that was there before its key.
    #[must_use]
    pub fn encryption_admits_plain(mut self, on: bool) -> Self {
        self.values.encryption_admits_plain = on;
        self
    }

    pub(crate) fn encryption_policy(&self) -> Policy {
        Policy {
            admits_plain: self.values.encryption_admits_plain,
            readable: self.values.encryption_readable,
        }
    }

    pub(crate) async fn read_master_key(&mut self) -> Result<()> {
        if self.master_key.is_none()
            && let Some(source) = self.values.encryption_key.clone()
        {
            self.master_key = Some(Arc::new(source.read().await?));
        }
        Ok(())
    }

    /// How long to look for the database on connecting. One that says that it is starting is
    /// waited for as long as for a connection.
    pub fn start_timeout(mut self, timeout: Duration) -> Result<Self> {
        self.values.start_timeout = checked("start_timeout", timeout)?;
        Ok(self)
    }

    /// The URL without its password, for people and logs.
    pub fn display_url(&self) -> String {
        conninfo::display(&self.values.url)
    }

    /// Whether the URL holds a password.
    pub fn url_has_password(&self) -> bool {
        conninfo::has_secret(&self.values.url)
    }

    /// Whether the database is PostgreSQL.
    pub fn is_postgres(&self) -> bool {
        matches!(conninfo::read(&self.values.url), Ok(Written::Postgres(_)))
    }

    /// The database of the URL, of the environment that libpq reads and the files that they name.
    pub(crate) fn target(&self) -> Result<Target> {
        let refused = |fault| Error::configuration(self.url_name.clone(), fault);
        Ok(match conninfo::read(&self.values.url).map_err(refused)? {
            Written::Postgres(written) => {
                let environment = |name: &str| std::env::var(name).ok();
                let postgres = Postgres::resolve(&written, &environment);
                Target::Postgres(Box::new(postgres.map_err(refused)?))
            }
            Written::Sqlite(file) => Target::Sqlite(file),
            Written::SqliteMemory => Target::SqliteMemory,
        })
    }
}

impl fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("url", &self.display_url())
            .field("generate_schemas", &self.values.generate_schemas)
            .field("max_connections", &self.values.max_connections)
            .field("min_connections", &self.values.min_connections)
            .field("start_timeout", &self.values.start_timeout)
            .field("connection_timeout", &self.values.connection_timeout)
            .field("query_timeout", &self.values.query_timeout)
            .field("schema", &self.values.schema)
            .field("transaction_pooler", &self.values.transaction_pooler)
            .field("tenants", &self.values.tenants)
            .field("tenant", &self.values.tenant)
            .field("encryption_key", &self.values.encryption_key)
            .field("encryption_readable", &self.values.encryption_readable)
            .field(
                "encryption_admits_plain",
                &self.values.encryption_admits_plain,
            )
            .finish()
    }
}

fn checked(name: &'static str, timeout: Duration) -> Result<Duration> {
    let seconds = timeout.as_secs_f64();
    let checked = TIMEOUT.check(seconds);
    checked.ok_or_else(|| refused(name, seconds, &TIMEOUT.allowed()))
}

fn refused(name: impl Into<Cow<'static, str>>, value: impl fmt::Display, allowed: &str) -> Error {
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
        assert_eq!(format!("{config:?}"), format!("{:?}", expected.unwrap()));
        let nothing_set = format!("{:?}", load("", &[]).unwrap());
        assert_eq!(nothing_set, format!("{:?}", DatabaseConfig::default()));
    }

    #[test]
    fn a_bad_value_names_the_variable_and_what_is_allowed() {
        for (name, value, allowed) in [
            ("DB_MAX_CONNECTIONS", "many", "1 to 10000"),
            ("DB_MAX_CONNECTIONS", "0", "1 to 10000"),
            ("DB_MIN_CONNECTIONS", "21", "at most the maximum of 20"),
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
            "host=h user=u password=s3cret",
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
