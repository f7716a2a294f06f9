use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Executor, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::pool_options;
use crate::{
    DatabaseConfig,
    connection::{Connection, PostgresSource, answers, servers::Servers},
    conninfo,
    tenancy::Tenancy,
};

/// A connection that has been idle for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(5);

/// A setting that arrives with the others, or not.
const PROBE: (&str, &str) = ("agentkit.direct", "yes");

/// Of what runs without a `BEGIN` too.
const ISOLATION: &str = "default_transaction_isolation";

/// The first connection, and what it has found.
pub(super) struct First {
    connection: PgConnection,
    /// The place of its server.
    server: usize,
    /// Whether settings given on connecting don't arrive, as behind PgBouncer: it refuses them, or
    /// drops them where it is told to ignore them.
    behind_pooler: bool,
    has_citus: bool,
}

/// Connects once. To connect is what takes long (the server starts a process, and both agree on
/// keys), so that this connection finds out all that has to be known about the server.
pub(super) async fn connect(
    config: &DatabaseConfig,
    settings: &[(String, String)],
    servers: &Servers,
) -> Result<First, sqlx::Error> {
    const PROTOCOL_VIOLATION: &str = "08P01";
    const FACTS: &str =
        "SELECT current_setting('agentkit.direct', true) IS NOT DISTINCT FROM 'yes',
    to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL";
    let known = config.values.transaction_pooler;
    let given = settings.to_vec();
    servers.set_options(move |options: PgConnectOptions| {
        options.options(given.clone()).options([PROBE])
    });
    let direct = match known {
        Some(true) => None,
        Some(false) => Some(servers.connect().await?),
        None => match servers.connect().await {
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some(PROTOCOL_VIOLATION) =>
            {
                None
            }
            connected => Some(connected?),
        },
    };
    let (mut connection, server) = match direct {
        Some(direct) => direct,
        None => {
            servers.set_options(|options| options);
            servers.connect().await?
        }
    };
    // Without parameters, so that nothing is prepared.
    let facts = connection.fetch_one(sqlx::raw_sql(FACTS)).await?;
    let behind_pooler = known.unwrap_or(!facts.try_get::<bool, _>(0)?);
    if behind_pooler {
        servers.set_options(|options| options);
    }
    Ok(First {
        connection,
        server,
        behind_pooler,
        has_citus: facts.try_get(1)?,
    })
}

/// What every session of ours is to have.
pub(super) fn settings(
    config: &DatabaseConfig,
    postgres: &conninfo::Postgres,
) -> Vec<(String, String)> {
    let timeout = config.values.query_timeout.as_millis().max(1);
    let mut settings = vec![
        ("statement_timeout".to_owned(), timeout.to_string()),
        // Rows come by their keys, more of them in the planner's guess than in truth: compiling a
        // statement would take longer than running it.
        ("jit".to_owned(), "off".to_owned()),
        // Whatever the database or the role has for others: our statements count on seeing what was
        // committed while they waited.
        (ISOLATION.to_owned(), "read committed".to_owned()),
        // A process that hangs in a transaction must not keep its locks from the others.
        (
            "idle_in_transaction_session_timeout".to_owned(),
            timeout.to_string(),
        ),
    ];
    settings.extend(postgres.options.clone());
    settings.extend(
        config
            .values
            .schema
            .clone()
            .map(|schema| ("search_path".to_owned(), schema)),
    );
    settings
}

/// Opens the pool, which connects when it is first used.
pub(super) async fn open(
    config: &DatabaseConfig,
    settings: &[(String, String)],
    servers: Servers,
    mut first: First,
) -> Result<Connection, sqlx::Error> {
    let set_local = |(setting, value): &(String, String)| {
        format!(
            "; SET LOCAL \"{setting}\" = '{}'",
            value.replace('\'', "''")
        )
    };
    let pooler_begin = first.behind_pooler.then(|| {
        let settings = settings.iter().filter(|(setting, _)| setting != ISOLATION);
        let settings: String = settings.map(set_local).collect();
        format!("BEGIN ISOLATION LEVEL READ COMMITTED{settings}").into()
    });
    let schema = config.values.schema.as_deref();
    let is_distributed = first.has_citus && is_distributed(&mut first.connection, schema).await?;
    let tenancy = match config.values.tenants {
        true => Tenancy::Unnamed,
        false => Tenancy::Undivided,
    };
    let pool: PgPoolOptions =
        pool_options(config).before_acquire(|connection: &mut PgConnection, meta| {
            Box::pin(async move { Ok(meta.idle_for < TRUSTED_IDLE || answers(connection).await) })
        });
    let pool = pool.connect_lazy_with(servers.options(first.server)?);
    let watch = servers.watch(&pool, first.connection).await;
    Ok(Connection::Postgres(PostgresSource::new(
        pool,
        pooler_begin,
        config.values.query_timeout,
        is_distributed,
        tenancy,
        watch,
    )))
}

/// Whether Citus distributes the checkpoints.
async fn is_distributed(
    connection: &mut PgConnection,
    schema: Option<&str>,
) -> Result<bool, sqlx::Error> {
    // Behind a transaction pooler no search path is set here.
    let schema = schema.map(|schema| format!("\"{schema}\"."));
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition
WHERE logicalrelid = to_regclass('{}checkpoints'))",
        schema.unwrap_or_default(),
    );
    let row = connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql)));
    row.await?.try_get(0)
}
