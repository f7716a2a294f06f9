//! The audit log: rows that triggers keep as they are.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sea_orm::{DbErr, QueryResult};
use yai_agentkit_core::{
    Error, Result,
    audit::{Act, Action, Actor, AuditEntry, AuditLog, AuditQuery, SHORTEST_AGE},
};

use crate::{
    connection::{Connection, retrying, retrying_undone},
    error::storage_error,
    sql::Sql,
};

const RECORD: Sql = Sql::same(
    "INSERT INTO agent_audit (who, owner, action, subject, count) VALUES ($1, $2, $3, $4, $5)",
);

/// $1 is the position before which, $2 the owner of whom, $3 how many.
const LIST: Sql = Sql {
    postgres: "SELECT position, at, who, owner, action, subject, count FROM agent_audit
WHERE position < $1 AND ($2::uuid IS NULL OR owner = $2) ORDER BY position DESC LIMIT $3",
    sqlite: "SELECT position, at, who, owner, action, subject, count FROM agent_audit
WHERE position < $1 AND ($2 IS NULL OR owner = $2) ORDER BY position DESC LIMIT $3",
};

const EXPIRE: Sql = Sql {
    postgres: "DELETE FROM agent_audit
WHERE at < statement_timestamp() - make_interval(secs => $1)",
    sqlite: "DELETE FROM agent_audit WHERE at < unixepoch('now', 'subsec') - $1",
};

pub(crate) struct SqlAudit(pub(crate) Connection);

pub(crate) async fn record(connection: &Connection, act: &Act) -> Result<(), DbErr> {
    let count = act
        .count
        .map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    let record = RECORD.query(connection).with(act.actor.who.as_str());
    let record = record.with(act.actor.owner).with(act.action.as_str());
    let record = record.with(act.subject.as_str()).with(count);
    record.execute(connection).await.map(drop)
}

#[async_trait]
impl AuditLog for SqlAudit {
    async fn record(&self, act: &Act) -> Result<()> {
        let recorded = retrying_undone!(self.0, record(&self.0, act));
        recorded.map_err(failed)
    }

    async fn list(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>> {
        let list = LIST.query(&self.0).with(query.before.unwrap_or(i64::MAX));
        let list = list.with(query.owner);
        let list = list.with(i64::try_from(query.limit).unwrap_or(i64::MAX));
        let rows = retrying!(self.0, list.clone().rows(&self.0));
        let rows = rows.map_err(failed)?;
        let is_postgres = self.0.is_postgres();
        rows.iter().map(|row| entry(row, is_postgres)).collect()
    }

    async fn expire(&self, age: Duration) -> Result<u64> {
        let age = age.max(SHORTEST_AGE).as_secs_f64();
        let expire = EXPIRE.query(&self.0).with(age);
        let expired = retrying!(self.0, expire.clone().execute(&self.0));
        expired.map_err(failed)
    }
}

fn entry(row: &QueryResult, is_postgres: bool) -> Result<AuditEntry> {
    let unreadable = |reason: String| Error::unreadable("an entry of the audit log", reason);
    let at = match is_postgres {
        true => row.try_get_by_index(1).map_err(failed)?,
        false => {
            let seconds: f64 = row.try_get_by_index(1).map_err(failed)?;
            #[expect(clippy::cast_possible_truncation, reason = "of a time of this age")]
            let at = DateTime::<Utc>::from_timestamp_micros((seconds * 1e6) as i64);
            at.ok_or_else(|| unreadable(seconds.to_string()))?
        }
    };
    let action: String = row.try_get_by_index(4).map_err(failed)?;
    let count: Option<i64> = row.try_get_by_index(6).map_err(failed)?;
    Ok(AuditEntry {
        position: row.try_get_by_index(0).map_err(failed)?,
        at,
        act: Act {
            actor: Actor {
                who: row.try_get_by_index(2).map_err(failed)?,
                owner: row.try_get_by_index(3).map_err(failed)?,
            },
            action: Action::named(&action).ok_or_else(|| unreadable(action))?,
            subject: row.try_get_by_index(5).map_err(failed)?,
            count: count.map(i64::unsigned_abs),
        },
    })
}

fn failed(error: DbErr) -> Error {
    storage_error("audit", error)
}
