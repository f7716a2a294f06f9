//! What a batch writes.

use std::{collections::BTreeMap, time::Duration};

use sea_orm::{DbErr, QueryResult};
use serde_json::{Value as Json, json};
use yai_agentkit_core::store::NewItem;

use super::{Lock, Writes, joined, now, vectors};
use crate::{
    connection::Connection,
    sql::{Query, Sql},
};

const ALONE: &str = "SELECT pg_advisory_xact_lock(hashtext('agentkit store ' || current_schema()))";

/// $1 holds a row of prefix, key, value and minutes for each, $2 is the time.
const PUT_ON_SQLITE: &str =
    "INSERT INTO store (prefix, key, value, created_at, updated_at, expires_at, ttl_minutes)
SELECT value ->> 0, value ->> 1, value ->> 2, $2, $2,
    $2 + CAST(value ->> 3 * 60000000 AS INTEGER), value ->> 3
FROM json_each($1) WHERE true
ON CONFLICT (prefix, key) DO UPDATE
SET value = excluded.value, updated_at = excluded.updated_at, expires_at = excluded.expires_at,
    ttl_minutes = excluded.ttl_minutes,
    created_at = CASE WHEN store.expires_at <= excluded.updated_at THEN excluded.created_at
        ELSE store.created_at END";

/// $1 holds the places that were put.
const FORGET_ON_SQLITE: &str = "DELETE FROM store_vectors WHERE (prefix, key) IN
    (SELECT value ->> 0, value ->> 1 FROM json_each($1))";

/// $1 holds a row of prefix, key, field and digits for each.
const REMEMBER_ON_SQLITE: &str = "INSERT INTO store_vectors (prefix, key, field_name, embedding)
SELECT value ->> 0, value ->> 1, value ->> 2, unhex(value ->> 3) FROM json_each($1)";

const DELETE_ON_SQLITE: &str = "DELETE FROM store WHERE (prefix, key) IN
    (SELECT value ->> 0, value ->> 1 FROM json_each($1))";

/// $1 and $2 hold the places; on SQLite $1 does, and $2 is the time, by which it would look for the
/// rows if it might.
const RENEW: Sql = Sql {
    postgres: "UPDATE store s
SET expires_at = statement_timestamp() + s.ttl_minutes * interval '1 minute'
FROM unnest($1, $2) g (prefix, key)
WHERE s.prefix = g.prefix AND s.key = g.key AND s.ttl_minutes IS NOT NULL
    AND s.expires_at > statement_timestamp()",
    sqlite: "UPDATE store SET expires_at = $2 + CAST(ttl_minutes * 60000000 AS INTEGER)
WHERE (prefix, key) IN (SELECT value ->> 0, value ->> 1 FROM json_each($1))
    AND ttl_minutes IS NOT NULL AND +expires_at > $2",
};

/// The rows of a statement of PostgreSQL, beside which nobody writes who puts or deletes several items.
pub(super) async fn alone(
    connection: &Connection,
    statement: Query,
) -> Result<Vec<QueryResult>, DbErr> {
    let transaction = connection.begin().await?;
    Query::new(&transaction, ALONE).rows(&transaction).await?;
    let rows = statement.rows(&transaction).await?;
    transaction.commit().await?;
    Ok(rows)
}

/// Adds the writes to a statement of PostgreSQL, before what it reads. What has outlived its time and
/// is put again is new.
pub(super) fn push(query: &mut Query, writes: &Writes<'_>, lock: Lock) {
    let mut word = "WITH";
    let mut locked = "";
    if lock == Lock::Shared {
        query.push(
            "WITH locked AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(hashtext('agentkit store ' || current_schema()))
)\n",
        );
        word = ",";
        locked = "locked, ";
    }
    if !writes.puts.is_empty() {
        let prefixes = query.column(&writes.puts, |put| joined(&put.key.namespace));
        let keys = query.column(&writes.puts, |put| put.key.key.as_str());
        let values = query.column(&writes.puts, |put| put.value.as_str());
        let minutes = query.column(&writes.puts, |put| minutes(put.time_to_live));
        query.push(format_args!(
            "{word} put AS (
    INSERT INTO store AS s
        (prefix, key, value, created_at, updated_at, expires_at, ttl_minutes)
    SELECT g.prefix, g.key, g.value::jsonb, statement_timestamp(), statement_timestamp(),
        statement_timestamp() + g.minutes * interval '1 minute', g.minutes
    FROM {locked}unnest({prefixes}, {keys}, {values}, {minutes}) g (prefix, key, value, minutes)
    ON CONFLICT ON CONSTRAINT store_pkey DO UPDATE
    SET value = excluded.value, updated_at = excluded.updated_at,
        expires_at = excluded.expires_at, ttl_minutes = excluded.ttl_minutes,
        created_at = CASE WHEN s.expires_at <= excluded.updated_at THEN excluded.created_at
            ELSE s.created_at END
)\n"
        ));
        word = ",";
    }
    push_vectors(query, writes);
    if !writes.deletes.is_empty() {
        let prefixes = query.column(&writes.deletes, |key| joined(&key.namespace));
        let keys = query.column(&writes.deletes, |key| key.key.as_str());
        query.push(format_args!(
            "{word} gone AS (
    DELETE FROM store s USING unnest({prefixes}, {keys}) g (prefix, key)
    WHERE s.prefix = g.prefix AND s.key = g.key
)\n"
        ));
    }
}

/// Adds the vectors of what is put, after that. What its fields had before goes; where it has none now,
/// its old vectors are older than the item, and found no more.
fn push_vectors(query: &mut Query, writes: &Writes<'_>) {
    let of_put = |put| vectors_of(put).map(move |(field, vector)| (put, field, vector));
    let rows: Vec<_> = writes.puts.iter().copied().flat_map(of_put).collect();
    if rows.is_empty() {
        return;
    }
    let prefixes = query.column(&rows, |row| joined(&row.0.key.namespace));
    let keys = query.column(&rows, |row| row.0.key.key.as_str());
    let fields = query.column(&rows, |row| row.1);
    let embeddings = query.column(&rows, |row| vectors::text(row.2));
    query.push(format_args!(
        ", embedded AS (
    SELECT * FROM unnest({prefixes}, {keys}, {fields}, {embeddings}) g (prefix, key, field, embedding)
), remembered AS (
    INSERT INTO store_vectors AS v (prefix, key, field_name, embedding, created_at, updated_at)
    SELECT g.prefix, g.key, g.field, g.embedding::vector, statement_timestamp(), statement_timestamp()
    FROM embedded g
    ON CONFLICT ON CONSTRAINT store_vectors_pkey DO UPDATE
    SET embedding = excluded.embedding, updated_at = excluded.updated_at
), forgotten AS (
    DELETE FROM store_vectors v USING (SELECT DISTINCT prefix, key FROM embedded) p
    WHERE v.prefix = p.prefix AND v.key = p.key AND NOT EXISTS (
        SELECT FROM embedded g
        WHERE g.prefix = v.prefix AND g.key = v.key AND g.field = v.field_name
    )
)\n"
    ));
}

/// By their fields, the last of each.
fn vectors_of(put: &NewItem) -> impl Iterator<Item = (&str, &[f32])> {
    let vectors = put.vectors.iter();
    let vectors = vectors.map(|vector| (vector.field.as_str(), vector.vector.as_slice()));
    vectors.collect::<BTreeMap<_, _>>().into_iter()
}

/// Writes all or nothing.
pub(super) async fn on_sqlite(connection: &Connection, writes: &Writes<'_>) -> Result<(), DbErr> {
    let transaction = connection.begin().await?;
    if !writes.puts.is_empty() {
        let rows = writes.puts.iter().map(|put| {
            let key = &put.key;
            json!([
                joined(&key.namespace),
                key.key,
                put.value,
                minutes(put.time_to_live)
            ])
        });
        let rows = rows.collect::<Json>().to_string();
        let put = Query::new(&transaction, PUT_ON_SQLITE).with(rows);
        put.with(now(&transaction)).execute(&transaction).await?;
        vectors_on_sqlite(&transaction, writes).await?;
    }
    if !writes.deletes.is_empty() {
        let rows = writes.deletes.iter();
        let rows = rows.map(|key| json!([joined(&key.namespace), key.key]));
        let rows = rows.collect::<Json>().to_string();
        let delete = Query::new(&transaction, DELETE_ON_SQLITE).with(rows);
        delete.execute(&transaction).await?;
    }
    transaction.commit().await
}

async fn vectors_on_sqlite(connection: &Connection, writes: &Writes<'_>) -> Result<(), DbErr> {
    let places = writes.puts.iter().map(|put| &put.key);
    let places = places.map(|key| json!([joined(&key.namespace), key.key]));
    let places = places.collect::<Json>().to_string();
    let forget = Query::new(connection, FORGET_ON_SQLITE).with(places);
    forget.execute(connection).await?;
    let rows = writes.puts.iter().flat_map(|put| {
        let row = |(field, vector)| {
            let digits = vectors::hexadecimal(vector);
            json!([joined(&put.key.namespace), put.key.key, field, digits])
        };
        vectors_of(put).map(row)
    });
    let rows: Vec<Json> = rows.collect();
    if !rows.is_empty() {
        let rows = Json::from(rows).to_string();
        let remember = Query::new(connection, REMEMBER_ON_SQLITE).with(rows);
        remember.execute(connection).await?;
    }
    Ok(())
}

/// Begins the time of the items at these places anew.
pub(super) fn renew(connection: &Connection, places: &[(String, String)]) -> Query {
    let mut renew = RENEW.query(connection);
    if connection.is_postgres() {
        renew.column(places, |place| place.0.as_str());
        renew.column(places, |place| place.1.as_str());
        return renew;
    }
    let rows = places.iter().map(|(prefix, key)| json!([prefix, key]));
    let rows = rows.collect::<Json>().to_string();
    renew.with(rows).with(now(connection))
}

fn minutes(time_to_live: Option<Duration>) -> Option<f64> {
    time_to_live.map(|time| time.as_secs_f64() / 60.0)
}
