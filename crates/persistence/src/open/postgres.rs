use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Connection as _, Executor, PgConnection, PgPool, Postgres, Row as _, SqlSafeStr,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::pool_options;
use crate::{
    DatabaseConfig,
    connection::{Connection, PostgresSource, answers, servers::Servers},
    conninfo,
};

/// A connection that has been idle for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(5);

/// Opens the pool. `first` is a connection to the server to use, and the place of that.
pub(super) async fn open(
    config: &DatabaseConfig,
    postgres: &conninfo::Postgres,
    servers: Servers,
    first: (PgConnection, usize),
) -> Result<Connection, sqlx::Error> {
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

    let given = settings.clone();
    servers.set_options(move |options: PgConnectOptions| options.options(given.clone()));
    let behind_pooler = match config.values.transaction_pooler {
        Some(known) => known,
        None => is_transaction_pooler(&servers).await?,
    };
    if behind_pooler {
        servers.set_options(|options| options);
    }
    let set_local = |(setting, value): &(String, String)| {
        format!(
            "; SET LOCAL \"{setting}\" = '{}'",
            value.replace('\'', "''")
        )
    };
    let pooler_begin = behind_pooler.then(|| {
        let settings = settings.iter().filter(|(setting, _)| setting != ISOLATION);
        let settings: String = settings.map(set_local).collect();
        format!("BEGIN ISOLATION LEVEL READ COMMITTED{settings}").into()
    });
    let pool: PgPoolOptions =
        pool_options(config).before_acquire(|connection: &mut PgConnection, meta| {
            Box::pin(async move { Ok(meta.idle_for < TRUSTED_IDLE || answers(connection).await) })
        });
    let (watched, index) = first;
    let pool = pool.connect_with(servers.options(index)).await?;
    let is_distributed = is_distributed(&pool, config.values.schema.as_deref()).await?;
    let watch = servers.watch(&pool, watched).await;
    Ok(Connection::Postgres(PostgresSource::new(
        pool,
        pooler_begin,
        is_distributed,
        watch,
    )))
}

/// Whether Citus distributes the checkpoints.
async fn is_distributed(pool: &PgPool, schema: Option<&str>) -> Result<bool, sqlx::Error> {
    const HAS_CITUS: &str = "SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL";
    if !holds(pool, HAS_CITUS).await? {
        return Ok(false);
    }
    // Behind a transaction pooler no search path is set here.
    let schema = schema.map(|schema| format!("\"{schema}\"."));
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition
WHERE logicalrelid = to_regclass('{}checkpoints'))",
        schema.unwrap_or_default(),
    );
    holds(pool, AssertSqlSafe(sql)).await
}

/// Whether what `sql` selects is true. Without parameters, so that nothing is prepared.
async fn holds<'e>(
    executor: impl Executor<'e, Database = Postgres>,
    sql: impl SqlSafeStr,
) -> Result<bool, sqlx::Error> {
    executor.fetch_one(sqlx::raw_sql(sql)).await?.try_get(0)
}

/// Whether settings given on connecting don't arrive, as behind PgBouncer: it refuses them, or
/// drops them where it is told to ignore them.
async fn is_transaction_pooler(direct: &Servers) -> Result<bool, sqlx::Error> {
    const PROTOCOL_VIOLATION: &str = "08P01";
    const PROBE: (&str, &str) = ("agentkit.direct", "yes");
    let mut connection = match direct
        .connect_with(|options| options.options([PROBE]))
        .await
    {
        Ok((connection, _)) => connection,
        Err(sqlx::Error::Database(error))
            if error.code().as_deref() == Some(PROTOCOL_VIOLATION) =>
        {
            return Ok(true);
        }
        Err(error) => return Err(error),
    };
    const ARRIVED: &str =
        "SELECT current_setting('agentkit.direct', true) IS NOT DISTINCT FROM 'yes'";
    let arrived = holds(&mut connection, ARRIVED).await?;
    connection.close().await?;
    Ok(!arrived)
}

/// Of what runs without a `BEGIN` too.
const ISOLATION: &str = "default_transaction_isolation";
