//! What deletes what is not kept any more: [`RetentionStore`], a conversation at a time.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use chrono::TimeDelta;
use sea_orm::{DbErr, QueryResult};
use serde_json::json;
use uuid::Uuid;
use yai_agentkit_core::{
    ConversationId, Error, MessageId, Result, ThreadId,
    audit::Act,
    retention::{Removed, RetentionPolicy, RetentionStore, Sweep, Swept},
    turn::OwnerId,
};

use crate::{
    audit::record,
    checkpointer::trim::{self, Kept},
    connection::{Connection, retrying},
    encryption::{Keys, opening},
    error::storage_error,
    redaction::redact,
    sql::{Query, Sql},
};

/// The name of the lease; each tenant has its own.
const SWEEP: &str = "sweep";

/// $2 is the owner, $3 how many seconds.
const LEAD: Sql = Sql {
    postgres: "INSERT INTO agent_tasks AS t (name, owner, leased_until)
VALUES ($1, $2, statement_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, leased_until = excluded.leased_until
WHERE t.owner = excluded.owner OR t.leased_until <= statement_timestamp()",
    sqlite: "INSERT INTO agent_tasks AS t (name, owner, leased_until)
VALUES ($1, $2, unixepoch('now', 'subsec') + $3)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, leased_until = excluded.leased_until
WHERE t.owner = excluded.owner OR t.leased_until <= unixepoch('now', 'subsec')",
};

/// Conversations: the thread of each, for how many seconds it has been there, for how many nothing
/// was said or changed, and whether a turn goes on or waits.
const LOOK: Sql = Sql {
    postgres: "SELECT c.id, c.checkpoint_thread_id,
    extract(epoch FROM statement_timestamp() - c.created_at)::float8,
    extract(epoch FROM statement_timestamp() - GREATEST(c.updated_at, (
        SELECT m.created_at FROM agent_messages m WHERE m.conversation_id = c.id
        ORDER BY m.position DESC LIMIT 1
    )))::float8,
    EXISTS (
        SELECT FROM agent_turns t WHERE t.conversation_id = c.id AND t.status = 'running'
    ) OR EXISTS (
        SELECT FROM agent_turns t
        WHERE t.conversation_id = c.id AND t.status IN ('queued', 'waiting')
    )
FROM agent_conversations c WHERE ",
    sqlite: "SELECT c.id, c.checkpoint_thread_id,
    unixepoch('now', 'subsec') - unixepoch(c.created_at, 'subsec'),
    unixepoch('now', 'subsec') - max(unixepoch(c.updated_at, 'subsec'), COALESCE((
        SELECT unixepoch(m.created_at, 'subsec') FROM agent_messages m
        WHERE m.conversation_id = c.id ORDER BY m.position DESC LIMIT 1
    ), 0)),
    EXISTS (
        SELECT 1 FROM agent_turns t WHERE t.conversation_id = c.id AND t.status = 'running'
    ) OR EXISTS (
        SELECT 1 FROM agent_turns t
        WHERE t.conversation_id = c.id AND t.status IN ('queued', 'waiting')
    )
FROM agent_conversations c WHERE ",
};

/// Threads, of a JSON array of ids: for how many seconds nothing was written, and for how many nothing
/// was pruned.
const THREADS: Sql = Sql {
    postgres: "SELECT thread_id, extract(epoch FROM statement_timestamp() - updated_at)::float8,
    extract(epoch FROM statement_timestamp() - pruned_at)::float8
FROM threads WHERE thread_id IN (SELECT jsonb_array_elements_text($1::jsonb))",
    sqlite: "SELECT thread_id, unixepoch('now', 'subsec') - unixepoch(updated_at, 'subsec'),
    unixepoch('now', 'subsec') - pruned_at
FROM threads WHERE thread_id IN (SELECT value FROM json_each($1))",
};

pub(crate) const THREAD_OF: Sql =
    Sql::same("SELECT checkpoint_thread_id FROM agent_conversations WHERE id = $1");

/// Against those who add to it. On SQLite the transaction is the lock.
pub(crate) const LOCK: Sql = Sql {
    postgres: "SELECT FROM agent_conversations WHERE id = $1 FOR UPDATE",
    sqlite: "SELECT 1 FROM agent_conversations WHERE id = $1",
};

const RUNS: Sql =
    Sql::same("SELECT 1 FROM agent_turns WHERE conversation_id = $1 AND status = 'running'");

/// The tables that refer to the conversation follow it.
const DELETE: [Sql; 2] = [
    Sql::same("DELETE FROM agent_idempotency_keys WHERE conversation_id = $1"),
    Sql::same("DELETE FROM agent_conversations WHERE id = $1"),
];

/// How often a thread is looked at that is written to all the time: so many times in the age of what
/// is kept.
const LOOKS: u32 = 10;

pub(crate) struct SqlRetention(pub(crate) Connection, pub(crate) Keys);

/// What one look tells of a conversation.
struct Seen {
    id: ConversationId,
    thread: ThreadId,
    age: Duration,
    idle: Duration,
    waits: bool,
    /// Since when its thread is written to no more, and since when it was last pruned.
    written: Option<(Duration, Option<Duration>)>,
}

impl Seen {
    fn idle(&self) -> Duration {
        let written = self.written.map_or(self.idle, |(written, _)| written);
        self.idle.min(written)
    }

    /// Whether checkpoints may have become older than `age` since the thread was last pruned.
    fn may_be_pruned(&self, age: Duration) -> bool {
        self.written.is_some_and(|(written, pruned)| {
            let has_more = |pruned| pruned + age > written && pruned >= age / LOOKS;
            self.age >= age && pruned.is_none_or(has_more)
        })
    }
}

#[async_trait]
impl RetentionStore for SqlRetention {
    async fn lead(&self, owner: OwnerId, lease: Duration) -> Result<bool> {
        let name = self
            .0
            .tenant_name()
            .map(|tenant| format!("{SWEEP} {tenant}"));
        let lead = LEAD.query(&self.0).with(name.as_deref().unwrap_or(SWEEP));
        let lead = lead.with(owner.0);
        let lead = lead.with(lease.as_secs_f64());
        let led = retrying!(self.0, lead.clone().execute(&self.0));
        Ok(led.map_err(failed)? == 1)
    }

    async fn sweep(&self, policy: &RetentionPolicy, sweep: Sweep) -> Result<Swept> {
        let seen = retrying!(self.0, self.look(sweep));
        let seen = seen.map_err(failed)?;
        let is_full = seen.len() as u64 >= sweep.limit;
        let mut swept = Swept {
            next: seen.last().filter(|_| is_full).map(|seen| seen.id),
            ..Swept::default()
        };
        for seen in seen {
            let (id, removed) = (seen.id, self.sweep_one(policy, seen, sweep.dry_run).await);
            match removed {
                Ok(removed) => swept.removed += removed,
                Err(error @ Error::Unreadable { .. }) => {
                    tracing::warn!(conversation = %id, %error, "not pruned");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(swept)
    }

    async fn erase(&self, conversation: ConversationId, told: Option<&Act>) -> Result<bool> {
        let erased = retrying!(self.0, self.erase_if(conversation, None, told));
        Ok(erased?.is_some())
    }

    async fn redact(
        &self,
        conversation: ConversationId,
        message: MessageId,
        told: Option<&Act>,
    ) -> Result<bool> {
        opening!(self.1, &self.0, |ring| retrying!(
            self.0,
            redact(&self.0, (conversation, message), told, &self.1, ring)
        ))
    }
}

impl SqlRetention {
    /// By two statements, since on Citus no one covers both.
    async fn look(&self, sweep: Sweep) -> Result<Vec<Seen>, DbErr> {
        let mut look = LOOK.query(&self.0);
        let after = look.bind(sweep.after.map_or(Uuid::nil(), |after| after.0));
        let limit = look.bind(i64::try_from(sweep.limit).unwrap_or(i64::MAX));
        look.push(format_args!("c.id > {after} ORDER BY c.id LIMIT {limit}"));
        seen(&self.0, look).await
    }

    async fn sweep_one(
        &self,
        policy: &RetentionPolicy,
        seen: Seen,
        dry_run: bool,
    ) -> Result<Removed> {
        if policy.expires(seen.idle(), seen.waits) {
            if dry_run {
                let size = trim::size(&self.0, &seen.thread).await?;
                return Ok(Removed {
                    conversations: 1,
                    ..size
                });
            }
            let erased = retrying!(self.0, self.erase_if(seen.id, Some(policy), None));
            return Ok(erased?.unwrap_or_default());
        }
        let Some(age) = policy.checkpoint_age.filter(|age| seen.may_be_pruned(*age)) else {
            return Ok(Removed::default());
        };
        let age = TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
        let since = self.0.now().checked_sub_signed(age).unwrap_or_default();
        let last = policy.checkpoints;
        let kept = Kept { last, since };
        match dry_run {
            true => trim::would_trim(&self.0, &seen.thread, kept).await,
            false => retrying!(self.0, trim::trim(&self.0, &seen.thread, kept)),
        }
    }

    /// Erases a conversation, where there is a `policy` only if it expires under that. The thread is
    /// locked first, as each write of a turn locks it before anything else.
    async fn erase_if(
        &self,
        id: ConversationId,
        policy: Option<&RetentionPolicy>,
        told: Option<&Act>,
    ) -> Result<Option<Removed>> {
        let transaction = self.0.begin().await.map_err(failed)?;
        let of_it = |sql: Sql| sql.query(&transaction).with(id.0);
        let rows = of_it(THREAD_OF).rows(&transaction).await.map_err(failed)?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let thread: Uuid = row.try_get_by_index(0).map_err(failed)?;
        let thread = ThreadId::from(thread.to_string());
        trim::lock(&transaction, &thread).await?;
        of_it(LOCK).rows(&transaction).await.map_err(failed)?;
        let mut removed = Removed::default();
        if let Some(policy) = policy {
            // Somebody may have said something since.
            let mut look = LOOK.query(&transaction);
            look.push("c.id = ").push_bind(id.0);
            let seen = seen(&transaction, look).await.map_err(failed)?;
            let expires = |seen: &Seen| policy.expires(seen.idle(), seen.waits);
            if !seen.first().is_some_and(expires) {
                return Ok(None);
            }
            removed = trim::size(&transaction, &thread).await?;
            removed.conversations = 1;
        }
        let rows = of_it(RUNS).rows(&transaction).await.map_err(failed)?;
        match rows.is_empty() {
            true => trim::delete_all(&transaction, &thread).await?,
            false => trim::leave_epoch(&transaction, &thread).await?,
        }
        for sql in DELETE {
            of_it(sql).execute(&transaction).await.map_err(failed)?;
        }
        if let Some(act) = told {
            record(&transaction, act).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(Some(removed))
    }
}

async fn seen(connection: &Connection, look: Query) -> Result<Vec<Seen>, DbErr> {
    let rows = look.rows(connection).await?;
    let mut all: Vec<Seen> = rows.iter().map(conversation).collect::<Result<_, _>>()?;
    let threads: Vec<&str> = all.iter().map(|seen| seen.thread.as_str()).collect();
    let threads = THREADS.query(connection).with(json!(threads).to_string());
    let rows = threads.rows(connection).await?;
    let threads: HashMap<ThreadId, _> = rows.iter().map(thread).collect::<Result<_, _>>()?;
    for seen in &mut all {
        seen.written = threads.get(&seen.thread).copied();
    }
    Ok(all)
}

fn conversation(row: &QueryResult) -> Result<Seen, DbErr> {
    Ok(Seen {
        id: ConversationId(row.try_get_by_index(0)?),
        thread: ThreadId::from(row.try_get_by_index::<Uuid>(1)?.to_string()),
        age: seconds(row.try_get_by_index(2)?),
        idle: seconds(row.try_get_by_index(3)?),
        waits: row.try_get_by_index(4)?,
        written: None,
    })
}

fn thread(row: &QueryResult) -> Result<(ThreadId, (Duration, Option<Duration>)), DbErr> {
    let id: String = row.try_get_by_index(0)?;
    let pruned: Option<f64> = row.try_get_by_index(2)?;
    let written = seconds(row.try_get_by_index(1)?);
    Ok((id.into(), (written, pruned.map(seconds))))
}

/// None where a clock is behind another.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn failed(error: DbErr) -> Error {
    storage_error("delete what is not kept", error)
}
