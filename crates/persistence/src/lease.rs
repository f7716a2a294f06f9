//! The leases of turns, by the database's clock: the one column of `agent_turns` that holds times
//! of that clock, `lease_renewed_at`, is read and written only here.

use std::time::Duration;

use sea_orm::{
    ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QueryResult,
    QuerySelect, QueryTrait, sea_query::Expr,
};
use uuid::Uuid;
use yai_agentkit_core::{
    ConversationId, Entity, Error, Result, Turn, TurnStatus, error::BoxError, turn::OwnerId,
};

use crate::{
    connection::{Connection, retrying, retrying_undone},
    encryption::{EncryptionError, KeyRing},
    entity::turn::{Column, Entity as TurnTable, Model, assigned},
    error::{is_unique_violation, storage_error},
    presence,
    sql::{Query, Sql},
};

pub(crate) struct SqlLeases(pub(crate) Connection);

/// The present, and when a lease has ended.
struct Time {
    now: &'static str,
    lease_has_ended: &'static str,
}

const POSTGRES: Time = Time {
    now: "statement_timestamp()",
    lease_has_ended: "(lease_owner IS NULL OR lease_renewed_at IS NULL
        OR GREATEST(lease_renewed_at, (
            SELECT s.renewed_at FROM agent_servers s WHERE s.id = lease_owner
        )) + lease_ms * INTERVAL '1 millisecond' <= statement_timestamp()
        OR EXISTS (SELECT FROM agent_servers s WHERE s.id = lease_owner AND s.has_died))",
};

const SQLITE: Time = Time {
    now: "unixepoch('now', 'subsec')",
    lease_has_ended: "(lease_owner IS NULL OR lease_renewed_at IS NULL
        OR max(lease_renewed_at, COALESCE((
            SELECT s.renewed_at FROM agent_servers s WHERE s.id = lease_owner
        ), 0)) + lease_ms / 1000.0 <= unixepoch('now', 'subsec')
        OR EXISTS (SELECT 1 FROM agent_servers s WHERE s.id = lease_owner AND s.has_died))",
};

const OWNED: Sql = Sql::same(
    "SELECT conversation_id FROM agent_turns WHERE status = 'running' AND lease_owner = $1",
);

/// A row for all of them.
const RENEW: Sql = Sql {
    postgres: "INSERT INTO agent_servers (id, renewed_at) VALUES ($1, statement_timestamp())
ON CONFLICT (id) DO UPDATE SET renewed_at = EXCLUDED.renewed_at",
    sqlite: "INSERT INTO agent_servers (id, renewed_at) VALUES ($1, unixepoch('now', 'subsec'))
ON CONFLICT (id) DO UPDATE SET renewed_at = EXCLUDED.renewed_at",
};

/// Whose turns.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    /// Of engines.
    Engines,
    /// Of those who open turns.
    Openers,
}

impl Of {
    fn condition(self) -> &'static str {
        match self {
            Self::Engines => "NOT agent_turns.opened",
            Self::Openers => "agent_turns.opened",
        }
    }
}

/// No turn of the conversation goes before the queued one.
pub(crate) const IS_NEXT: &str = "NOT EXISTS (
    SELECT 1 FROM agent_turns o WHERE o.conversation_id = agent_turns.conversation_id
        AND o.status = 'running'
) AND NOT EXISTS (
    SELECT 1 FROM agent_turns o WHERE o.conversation_id = agent_turns.conversation_id
        AND o.status IN ('queued', 'waiting')
        AND (o.status = 'waiting' OR o.position < agent_turns.position)
)";

impl SqlLeases {
    fn time(&self) -> Time {
        if self.0.is_postgres() {
            POSTGRES
        } else {
            SQLITE
        }
    }

    async fn due_with(
        &self,
        of: Of,
        status: TurnStatus,
        is_due: &'static str,
        limit: u64,
        ring: Option<&KeyRing>,
    ) -> Result<Vec<(i64, Turn)>> {
        // The status as a literal, so that its partial index is found.
        let of_status = format!("status = '{}'", status.as_str());
        let select = TurnTable::find()
            .filter(Expr::cust(of_status))
            .filter(Expr::cust(of.condition()))
            .filter(Expr::cust(is_due))
            .order_by_asc(Column::Position)
            .limit(limit);
        let select = select.build(self.0.get_database_backend());
        let rows = retrying!(self.0, self.0.query_all_raw(select.clone()));
        let rows = rows.map_err(|error| storage_error("list due turns", error))?;
        let mut turns = Vec::new();
        for row in &rows {
            match read(row, ring) {
                Ok(turn) => turns.push(turn),
                Err(error) => match error.downcast_ref() {
                    // Another process has it.
                    Some(EncryptionError::UnknownKey(_)) => {
                        return Err(Error::unreadable("a turn", error));
                    }
                    // Whoever may read it will.
                    Some(EncryptionError::Unencrypted) => {
                        tracing::error!("a turn waits that is not encrypted");
                    }
                    // It must neither keep the others waiting nor come back at every look.
                    _ => {
                        tracing::error!(error, "a turn that can't be read is ended");
                        self.end_unreadable(row).await?;
                    }
                },
            }
        }
        Ok(turns)
    }

    async fn end_unreadable(&self, row: &QueryResult) -> Result<()> {
        const END: Sql = Sql::same(
            "UPDATE agent_turns SET status = 'failed', interrupt = NULL,
    error = 'what was stored of the turn could not be read'
WHERE conversation_id = $1 AND id = $2 AND status IN ('running', 'queued')",
        );
        let failed = |error| storage_error("end turn", error);
        let conversation: Uuid = row.try_get("", "conversation_id").map_err(failed)?;
        let id: Uuid = row.try_get("", "id").map_err(failed)?;
        let end = END.query(&self.0).with(conversation).with(id);
        let ended = retrying_undone!(self.0, end.clone().execute(&self.0));
        ended.map(drop).map_err(failed)
    }
}

fn read(row: &QueryResult, ring: Option<&KeyRing>) -> Result<(i64, Turn), BoxError> {
    let model = Model::from_query_result(row, "")?;
    let (position, mut turn) = (model.position, Turn::try_from(model)?);
    if let Some(ring) = ring {
        ring.open_turn(&mut turn)?;
    }
    Ok((position, turn))
}

impl SqlLeases {
    /// Replaces a turn that is as it was seen.
    pub(crate) async fn replace(&self, seen: &Turn, mut next: Turn) -> Result<Turn> {
        next.validate()?;
        next.touch(self.0.now());
        let mut query = Query::new(&self.0, "UPDATE agent_turns SET ");
        let columns = assigned(&Model::from(next.clone()).bind(&mut query));
        let seen_model = Model::from(seen.clone());
        let (conversation, id) = (
            query.bind(seen_model.conversation_id),
            query.bind(seen_model.id),
        );
        let (status, epoch) = (query.bind(seen_model.status), query.bind(seen_model.epoch));
        query.push(format_args!(
            "{columns},
    lease_renewed_at = {}
WHERE conversation_id = {conversation} AND id = {id} AND status = {status} AND epoch = {epoch}",
            self.time().now
        ));
        // Where the connection is lost it would refuse itself.
        match retrying_undone!(self.0, query.clone().execute(&self.0)) {
            Ok(0) => Err(Error::Conflict(Turn::conflict(&seen.id()))),
            Ok(_) => Ok(next),
            Err(error) if is_unique_violation(&error) => {
                Err(Error::Conflict(Turn::conflict(&seen.id())))
            }
            Err(error) => Err(storage_error("replace turn", error)),
        }
    }

    /// One that is due for those who ask.
    pub(crate) async fn take(
        &self,
        of: Of,
        seen: &Turn,
        owner: OwnerId,
        lease: Duration,
    ) -> Result<Option<Turn>> {
        let Time {
            now: clock,
            lease_has_ended,
        } = self.time();
        let skip_locked = if self.0.is_postgres() {
            "FOR UPDATE SKIP LOCKED"
        } else {
            ""
        };
        let of = of.condition();
        let sql = format!(
            "UPDATE agent_turns SET epoch = epoch + 1,
    attempt = attempt + CASE WHEN lease_owner IS NULL THEN 0 ELSE 1 END,
    lease_owner = $4, lease_ms = $5, lease_renewed_at = {clock}, updated_at = $6
WHERE conversation_id = $1 AND id = (
    SELECT id FROM agent_turns WHERE conversation_id = $1 AND id = $2
        AND status = 'running' AND {of} AND epoch = $3 AND (lease_owner = $4 OR {lease_has_ended})
    {skip_locked}
)
RETURNING attempt"
        );
        let mut turn = seen.clone();
        turn.touch(self.0.now());
        turn.epoch += 1;
        turn.lease_owner = Some(owner);
        turn.lease = lease;
        let (seen, model) = (Model::from(seen.clone()), Model::from(turn.clone()));
        let failed = |error| storage_error("take turn", error);
        let take = Query::new(&self.0, sql)
            .with(seen.conversation_id)
            .with(seen.id)
            .with(seen.epoch)
            .with(model.lease_owner)
            .with(model.lease_ms)
            .with(model.updated_at);
        let rows = retrying_undone!(self.0, take.clone().rows(&self.0));
        let rows = rows.map_err(failed)?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let attempt: i32 = row.try_get_by_index(0).map_err(failed)?;
        turn.attempt = attempt.unsigned_abs();
        Ok(Some(turn))
    }

    pub(crate) async fn renew(&self, owner: OwnerId) -> Result<Vec<ConversationId>> {
        let renewed = async {
            presence::show(&self.0, owner).await?;
            let owned = OWNED.query(&self.0).with(owner.0);
            let rows = retrying!(self.0, owned.clone().rows(&self.0))?;
            if !rows.is_empty() {
                let renew = RENEW.query(&self.0).with(owner.0);
                retrying!(self.0, renew.clone().execute(&self.0))?;
            }
            let ids = rows
                .iter()
                .map(|row| row.try_get_by_index(0).map(ConversationId));
            ids.collect::<Result<_, DbErr>>()
        };
        renewed
            .await
            .map_err(|error| storage_error("renew leases", error))
    }

    /// Those that run are in an index of their own, and few.
    pub(crate) async fn running(&self, owner: Option<&str>) -> Result<u64> {
        let mut count = Query::new(
            &self.0,
            "SELECT count(*) FROM agent_turns t WHERE t.status = 'running'",
        );
        if let Some(owner) = owner {
            let owner = count.bind(owner);
            count.push(format_args!(
                " AND EXISTS (SELECT 1 FROM agent_conversations c
    WHERE c.id = t.conversation_id AND c.owner = {owner})"
            ));
        }
        let rows = retrying!(self.0, count.clone().rows(&self.0));
        let running = rows.and_then(|rows| rows[0].try_get_by_index::<i64>(0));
        let running = running.map_err(|error| storage_error("count running turns", error))?;
        Ok(running.unsigned_abs())
    }

    pub(crate) async fn due(
        &self,
        of: Of,
        limit: u64,
        ring: Option<&KeyRing>,
    ) -> Result<Vec<Turn>> {
        let buried = presence::bury(&self.0).await;
        buried.map_err(|error| storage_error("list due turns", error))?;
        let ended = self.time().lease_has_ended;
        let mut due = self
            .due_with(of, TurnStatus::Running, ended, limit, ring)
            .await?;
        due.extend(
            self.due_with(of, TurnStatus::Queued, IS_NEXT, limit, ring)
                .await?,
        );
        due.sort_by_key(|(position, _)| *position);
        due.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(due.into_iter().map(|(_, turn)| turn).collect())
    }
}
