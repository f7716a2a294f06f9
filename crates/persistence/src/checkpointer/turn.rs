//! The checkpoint with which a turn begins or ends: one statement on PostgreSQL, that stores the
//! turn and its message as well. Elsewhere it is a transaction of several.

use sea_orm::DbErr;
use sqlx::Row;
use yai_agentkit_core::{
    CheckpointKey, Entity, Error, Fence, Leases, Message, Repository, Result, Turn, TurnChange, now,
};

use super::{
    NewRawCheckpoint, PUT_CHECKPOINT, Sql, SqlCheckpointer, Told, fence,
    statement::{blobs, checkpoint, checkpoint_is_replaced, raised, told, value_stays},
    write::{
        New,
        postgres::{PostgresArguments, put_arguments},
    },
};
use crate::{
    connection::{Connection, PostgresSource},
    entity::{message, turn::Model},
    error::{Table, from_sqlx, is_disconnected, storage_error, taken_in},
    events::{self, EventRow},
    lease::SqlLeases,
    repository::SqlRepository,
};

/// Seldom enough to look for each row.
macro_rules! put_from {
    ($admitted:literal) => {
        concat!(
            "told AS (",
            told!($admitted),
            "), blobs AS (",
            blobs!($admitted, value_stays!()),
            "), written AS (",
            checkpoint!($admitted, checkpoint_is_replaced!()),
            "), said AS (
    INSERT INTO agent_messages (id, conversation_id, role, content, metadata_, created_at)
    SELECT m.id, m.conversation_id, m.role, m.content, m.metadata_::json, m.created_at
    FROM ",
            $admitted,
            ", unnest($30::uuid[], $31::uuid[], $32::text[], $33::text[], $34::text[],
        $35::timestamptz[]) m (id, conversation_id, role, content, metadata_, created_at)
)"
        )
    };
}

/// It raises the thread, or nothing is stored and no row returned.
pub(super) const BEGIN: &str = concat!(
    "WITH thread AS (",
    raised!("$11"),
    "), ",
    put_from!("thread"),
    ", begun AS (
    INSERT INTO agent_turns (conversation_id, id, assistant_message_id, status, error, interrupt,
        attempt, epoch, lease_owner, lease_ms, started_at, updated_at, created_at, user_message_id)
    SELECT $16, $17, $18, $19, $20, $21::json, $22, $23, $24, $25, $26, $27, $28, $29 FROM thread
) SELECT true FROM thread"
);

/// It holds the thread (else no row is returned) and the turn is as it was seen (else `false`), or
/// nothing is stored. The thread is locked before its turn, as by who cancels it.
pub(super) const END: &str = concat!(
    "WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = $1 AND epoch = $11::bigint FOR UPDATE
), turn AS MATERIALIZED (
    SELECT 1 FROM thread CROSS JOIN LATERAL (
        SELECT FROM agent_turns
        WHERE conversation_id = $16 AND id = $17 AND status = $28 AND epoch = $29 FOR UPDATE
    ) seen
), touched AS (
    UPDATE threads SET updated_at = GREATEST(updated_at, clock_timestamp())
    WHERE thread_id = $1 AND EXISTS (SELECT FROM turn)
), ",
    put_from!("turn"),
    ", ended AS (
    UPDATE agent_turns SET assistant_message_id = $18, status = $19, error = $20,
        interrupt = $21::json, attempt = $22, epoch = $23, lease_owner = $24, lease_ms = $25,
        started_at = $26, updated_at = $27, lease_renewed_at = clock_timestamp()
    WHERE conversation_id = $16 AND id = $17 AND EXISTS (SELECT FROM turn)
) SELECT EXISTS (SELECT FROM turn) FROM thread"
);

/// Whether a checkpoint is there.
const IS_STORED: Sql = Sql::same(
    "SELECT 1 FROM checkpoints
WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id = $3",
);

/// Stores `new` with what it tells, and changes the turn.
pub(super) async fn put(
    connection: &Connection,
    fence: Fence,
    new: NewRawCheckpoint,
    told: &Told,
    change: &TurnChange,
) -> Result<()> {
    let (turn, message) = validated(change)?;
    let statement = match (connection.undivided(), fence, change) {
        (Some(postgres), Fence::Raise(_), TurnChange::Begin { .. }) => Some((postgres, BEGIN)),
        (Some(postgres), Fence::Hold(_), TurnChange::End { .. }) => Some((postgres, END)),
        _ => None,
    };
    let Some((postgres, sql)) = statement else {
        let failed = |error| events::refused(PUT_CHECKPOINT, Some(&told.events), error);
        let transaction = connection.begin().await.map_err(failed)?;
        let telling = SqlCheckpointer {
            fence: Some(fence),
            ..SqlCheckpointer::within(transaction.clone())
        };
        let new = New::Checkpoint(new);
        telling
            .write(PUT_CHECKPOINT, new, Some(&told.events))
            .await?;
        // The thread is locked first, as by the statements.
        change_turn(&transaction, change).await?;
        return transaction.commit().await.map_err(failed);
    };
    let epoch = fence.stored_epoch()?;
    let mut stored = execute(postgres, sql, &new, epoch, told, change).await;
    if stored.as_ref().is_err_and(is_disconnected) && connection.replace_dead_connections().await {
        stored = execute(postgres, sql, &new, epoch, told, change).await;
        // By the first attempt, which was committed after all.
        if matches!(stored, Ok(None | Some(false))) && is_stored(connection, &new.key).await? {
            return Ok(());
        }
    }
    let is_as_seen = stored.map_err(|error| match (taken_in(&error), message) {
        (Some(Table::Messages), Some(message)) => Error::Conflict(Message::conflict(&message.id)),
        (Some(Table::Turns), _) => Error::Conflict(Turn::conflict(&turn.id)),
        _ => events::refused(PUT_CHECKPOINT, Some(&told.events), error),
    })?;
    if is_as_seen == Some(false) {
        return Err(Error::Conflict(Turn::conflict(&turn.id)));
    }
    let admitted = is_as_seen.is_some();
    fence::admitted(connection, PUT_CHECKPOINT, &new.key.thread_id, admitted).await
}

async fn is_stored(connection: &Connection, key: &CheckpointKey) -> Result<bool> {
    let place = [
        key.thread_id.as_str(),
        key.namespace.as_str(),
        key.checkpoint_id.as_str(),
    ];
    let rows = IS_STORED.rows(connection, place.map(Into::into).into());
    let rows = rows
        .await
        .map_err(|error| storage_error(PUT_CHECKPOINT, error))?;
    Ok(!rows.is_empty())
}

/// By the statements of the repositories.
pub(super) async fn change_turn(transaction: &Connection, change: &TurnChange) -> Result<()> {
    let (turn, message) = validated(change)?;
    if let Some(message) = message {
        let messages = SqlRepository::within(transaction.clone());
        messages.add(message.clone()).await?;
    }
    match change {
        TurnChange::Begin { .. } => {
            let turns = SqlRepository::within(transaction.clone());
            turns.add(turn.clone()).await?;
        }
        TurnChange::End { seen, .. } => {
            let leases = SqlLeases(transaction.clone());
            leases.replace(seen, turn.clone()).await?;
        }
    }
    Ok(())
}

/// What is stored of the turn, and the message that is added.
fn validated(change: &TurnChange) -> Result<(&Turn, Option<&Message>)> {
    let (turn, message) = match change {
        TurnChange::Begin { turn, message } => (turn, Some(message)),
        TurnChange::End { ended, answer, .. } => (ended, answer.as_ref()),
    };
    turn.validate()?;
    message.map_or(Ok(()), Message::validate)?;
    Ok((turn, message))
}

/// The row that it returned.
async fn execute(
    postgres: &PostgresSource,
    sql: &'static str,
    new: &NewRawCheckpoint,
    epoch: i64,
    told: &Told,
    change: &TurnChange,
) -> Result<Option<bool>, DbErr> {
    let mut arguments = put_arguments(new)?;
    arguments.add(epoch)?;
    EventRow::from(&told.events).add_to(&mut arguments)?;
    let message = match change {
        TurnChange::Begin { turn, message } => {
            let turn = Model::from(turn.clone());
            let (created_at, user_message_id) = (turn.created_at, turn.user_message_id);
            add_turn(&mut arguments, turn)?;
            arguments.add(created_at)?;
            arguments.add(user_message_id)?;
            Some(message)
        }
        TurnChange::End {
            seen,
            ended,
            answer,
        } => {
            let mut ended = ended.clone();
            ended.touch(now());
            add_turn(&mut arguments, ended.into())?;
            let seen = Model::from(seen.clone());
            arguments.add(seen.status)?;
            arguments.add(seen.epoch)?;
            answer.as_ref()
        }
    };
    let message = message.map(|message| message::Model::from(message.clone()));
    let message = || message.as_slice();
    arguments.column(message(), |message| message.id)?;
    arguments.column(message(), |message| message.conversation_id)?;
    arguments.column(message(), |message| message.role.as_str())?;
    arguments.column(message(), |message| message.content.as_str())?;
    arguments.column(message(), |message| {
        message.metadata_.as_ref().map(ToString::to_string)
    })?;
    arguments.column(message(), |message| message.created_at)?;
    let rows = postgres.fetch_all(sql, arguments.0).await?;
    let first = rows.first().map(|row| row.try_get(0));
    first.transpose().map_err(from_sqlx)
}

/// Twelve columns.
fn add_turn(arguments: &mut PostgresArguments, turn: Model) -> Result<(), DbErr> {
    arguments.add(turn.conversation_id)?;
    arguments.add(turn.id)?;
    arguments.add(turn.assistant_message_id)?;
    arguments.add(turn.status)?;
    arguments.add(turn.error)?;
    arguments.add(turn.interrupt.map(|interrupt| interrupt.to_string()))?;
    arguments.add(turn.attempt)?;
    arguments.add(turn.epoch)?;
    arguments.add(turn.lease_owner)?;
    arguments.add(turn.lease_ms)?;
    arguments.add(turn.started_at)?;
    arguments.add(turn.updated_at)
}
