//! Vectors, as the databases take them, and PostgreSQL's table of them.

use std::fmt::Write;

use sea_orm::{ConnectionTrait, DbErr};
use yai_agentkit_core::{
    Error, Result,
    store::{Distance, FieldVector, Precision, VectorIndex, VectorKind},
};

use crate::{connection::Connection, error::storage_error, sql::Query};

const PREPARE: &str = "prepare the memory store for vectors";

/// What there is, and whether there could be more.
const FOUND: &str = "SELECT
    (SELECT format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = to_regclass('store_vectors') AND attname = 'embedding'),
    (SELECT coalesce(installed_version, default_version) FROM pg_available_extensions
        WHERE name = 'vector')";

/// One process at a time.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('agentkit store_vectors'))";

pub(super) fn bytes(vectors: &[FieldVector]) -> usize {
    vectors.iter().map(|vector| 4 * vector.vector.len()).sum()
}

/// As pgvector reads it.
pub(super) fn text(vector: &[f32]) -> String {
    let mut text = String::with_capacity(12 * vector.len());
    let mut before = '[';
    for number in vector {
        write!(text, "{before}{number}").expect("a string takes any text");
        before = ',';
    }
    text + "]"
}

/// As SQLite holds it, in digits.
pub(super) fn hexadecimal(vector: &[f32]) -> String {
    let mut digits = String::with_capacity(8 * vector.len());
    for byte in vector.iter().flat_map(|number| number.to_le_bytes()) {
        write!(digits, "{byte:02x}").expect("a string takes any text");
    }
    digits
}

pub(super) fn from_blob(blob: &[u8]) -> Vec<f32> {
    let (numbers, _) = blob.as_chunks();
    numbers
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

/// Makes LangGraph's table of vectors, as its `PostgresStore` does, where there is none.
pub(super) async fn prepare(connection: &Connection, index: &VectorIndex) -> Result<()> {
    if connection.is_divided() {
        let reason = "can't be searched where the installation is divided among tenants";
        return Err(Error::configuration("vectors", reason));
    }
    if is_there(connection, index).await? {
        return Ok(());
    }
    let transaction = connection.begin().await.map_err(failed)?;
    transaction.execute_unprepared(LOCK).await.map_err(failed)?;
    if !is_there(&transaction, index).await? {
        let made = transaction.execute_unprepared(&table(index)).await;
        made.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}

async fn is_there(connection: &Connection, index: &VectorIndex) -> Result<bool> {
    let rows = Query::new(connection, FOUND).rows(connection).await;
    let (column, version) = rows.and_then(|rows| found(&rows)).map_err(failed)?;
    let version = version.as_deref().unwrap_or("0");
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    if (parts.next(), parts.next()) < (Some(0), Some(8)) {
        let reason =
            "the server has no pgvector of version 0.8 or later, which a search by vectors needs";
        return Err(Error::configuration("vectors", reason));
    }
    let Some(column) = column else {
        return Ok(false);
    };
    if column.ends_with(&format!("({})", index.dimensions)) {
        return Ok(true);
    }
    let reason = format!(
        "store_vectors.embedding is a {column}, not of {} dimensions",
        index.dimensions
    );
    Err(Error::configuration("vectors", reason))
}

fn found(rows: &[sea_orm::QueryResult]) -> Result<(Option<String>, Option<String>), DbErr> {
    let row = rows
        .first()
        .ok_or_else(|| DbErr::RecordNotFound("a row".to_owned()))?;
    Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?))
}

fn table(index: &VectorIndex) -> String {
    let precision = match index.precision {
        Precision::Half => "halfvec",
        Precision::Single => "vector",
    };
    let dimensions = index.dimensions;
    let mut text = format!(
        "CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS vector_migrations (v INTEGER PRIMARY KEY);
CREATE TABLE store_vectors (
    prefix TEXT NOT NULL,
    key TEXT NOT NULL,
    field_name TEXT NOT NULL,
    embedding {precision}({dimensions}),
    created_at TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (prefix, key, field_name),
    FOREIGN KEY (prefix, key) REFERENCES store (prefix, key) ON DELETE CASCADE
);
INSERT INTO vector_migrations (v) VALUES (0), (1) ON CONFLICT DO NOTHING;"
    );
    if let VectorKind::Hnsw { m, ef_construction } = index.kind {
        let distance = match index.distance {
            Distance::Cosine => "cosine",
            Distance::Euclidean => "l2",
            Distance::InnerProduct => "ip",
        };
        text += &format!(
            "
CREATE INDEX store_vectors_embedding_idx ON store_vectors
    USING hnsw (embedding {precision}_{distance}_ops) WITH (m = {m}, ef_construction = {ef_construction});
INSERT INTO vector_migrations (v) VALUES (2) ON CONFLICT DO NOTHING;"
        );
    }
    text
}

fn failed(error: DbErr) -> Error {
    storage_error(PREPARE, error)
}
