//! The checkpoint with which a turn begins or ends: one statement on PostgreSQL, that stores the
//! turn and its message as well. Elsewhere it is a transaction of several.

use sea_orm::DbErr;
use yai_agentkit_core::{
    CheckpointKey, Entity, Error, Fence, Leases, Message, Repository, Result, Turn, TurnChange, now,
};

use super::{
    NewRawCheckpoint, PUT_CHECKPOINT, SqlCheckpointer, Told, fence,
    statement::{self, Conflicts, Place},
    write::New,
};
use crate::{
    connection::{Connection, retrying_undone},
    entity::{message, turn::Model},
    error::{Table, storage_error, taken_in},
    events::{self, EventRow},
    lease::SqlLeases,
    repository::SqlRepository,
    sql::{Parameter, Query, Sql},
};

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
    let is_statement = connection.undivided().is_some()
        && matches!(
            (fence, change),
            (Fence::Raise(_), TurnChange::Begin { .. }) | (Fence::Hold(_), TurnChange::End { .. })
        );
    if !is_statement {
        let failed = |error| events::refused(PUT_CHECKPOINT, Some(&told.events), error);
        let transaction = connection.begin().await.map_err(failed)?;
        let new = New::Checkpoint(new);
        SqlCheckpointer::within(transaction.clone())
            .write(PUT_CHECKPOINT, new, Some(fence), Some(&told.events))
            .await?;
        // The thread is locked first, as by the statements.
        change_turn(&transaction, change).await?;
        return transaction.commit().await.map_err(failed);
    }
    let statement = statement_of(&new, fence.stored_epoch()?, &(&told.events).into(), change);
    let mut stored = execute(connection, statement.clone()).await;
    if let Err(error) = &stored
        && connection.may_repeat(error, &mut 0).await
    {
        stored = retrying_undone!(connection, execute(connection, statement.clone()));
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
    let mut query = IS_STORED.query(connection);
    for text in place {
        query.bind(text);
    }
    let rows = query.rows(connection).await;
    let rows = rows.map_err(|error| storage_error(PUT_CHECKPOINT, error))?;
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
async fn execute(connection: &Connection, statement: Query) -> Result<Option<bool>, DbErr> {
    let rows = statement.rows(connection).await?;
    let first = rows.first().map(|row| row.try_get_by_index(0));
    first.transpose()
}

/// What begins a turn raises the thread, or nothing is stored and no row returned. What ends one
/// holds the thread (else no row is returned) and the turn is as it was seen (else `false`), or
/// nothing is stored. Both are seldom enough to look for each row.
pub(super) fn statement_of(
    new: &NewRawCheckpoint,
    epoch: i64,
    events: &EventRow,
    change: &TurnChange,
) -> Query {
    let mut query = Query::on_postgres();
    let place = Place::of(&mut query, &new.key);
    match change {
        TurnChange::Begin { turn, message } => {
            query.push("WITH thread AS (\n    ");
            statement::raised(&mut query, place.thread, epoch, true);
            query.push("\n), ");
            put_from(&mut query, place, "thread", new, events);
            said(&mut query, "thread", Some(message));
            begun(&mut query, turn.clone().into());
            query.push("\nSELECT true FROM thread");
        }
        TurnChange::End {
            seen,
            ended,
            answer,
        } => {
            let turn = seen_turn(&mut query, place, epoch, seen.clone().into());
            put_from(&mut query, place, "turn", new, events);
            said(&mut query, "turn", answer.as_ref());
            let mut next = ended.clone();
            next.touch(now());
            changed(&mut query, turn, next.into());
            query.push("\nSELECT EXISTS (SELECT FROM turn) FROM thread");
        }
    }
    query
}

/// The checkpoint and what the turn tells with it.
fn put_from(
    query: &mut Query,
    place: Place,
    from: &str,
    new: &NewRawCheckpoint,
    events: &EventRow,
) {
    query.push("told AS (\n    ");
    statement::told(query, from, events);
    query.push("\n), blobs AS (\n    ");
    statement::values(query, place, from, new, Conflicts::Possible);
    query.push("\n), written AS (\n    ");
    statement::checkpoint(query, place, from, new, Conflicts::Possible);
    query.push("\n)");
}

/// The message of a turn, if there is one.
fn said(query: &mut Query, from: &str, message: Option<&Message>) {
    let message = message.map(|message| message::Model::from(message.clone()));
    let message = || message.as_slice();
    let id = query.column(message(), |message| message.id);
    let conversation = query.column(message(), |message| message.conversation_id);
    let role = query.column(message(), |message| message.role.as_str());
    let content = query.column(message(), |message| message.content.as_str());
    let metadata = query.column(message(), |message| {
        message.metadata_.as_ref().map(ToString::to_string)
    });
    let created_at = query.column(message(), |message| message.created_at);
    query.push(format_args!(
        ", said AS (
    INSERT INTO agent_messages (id, conversation_id, role, content, metadata_, created_at)
    SELECT m.id, m.conversation_id, m.role, m.content, m.metadata_::json, m.created_at
    FROM {from}, unnest({id}::uuid[], {conversation}::uuid[], {role}::text[], {content}::text[],
        {metadata}::text[], {created_at}::timestamptz[])
        m (id, conversation_id, role, content, metadata_, created_at)
)"
    ));
}

fn begun(query: &mut Query, turn: Model) {
    let user_message = turn.user_message_id;
    let created_at = turn.created_at;
    let key = [query.bind(turn.conversation_id), query.bind(turn.id)];
    let [conversation, id] = key;
    let TurnColumns {
        assistant_message,
        status,
        error,
        interrupt,
        attempt,
        epoch,
        lease_owner,
        lease,
        started_at,
        updated_at,
    } = TurnColumns::of(query, turn);
    let (created_at, user_message) = (query.bind(created_at), query.bind(user_message));
    query.push(format_args!(
        ", begun AS (
    INSERT INTO agent_turns (conversation_id, id, assistant_message_id, status, error, interrupt,
        attempt, epoch, lease_owner, lease_ms, started_at, updated_at, created_at, user_message_id)
    SELECT {conversation}, {id}, {assistant_message}, {status}, {error}, {interrupt}::json,
        {attempt}, {epoch}, {lease_owner}, {lease}, {started_at}, {updated_at}, {created_at},
        {user_message}
    FROM thread
)"
    ));
}

/// Locks the thread, before its turn, as does who cancels it. Returns the turn's key.
fn seen_turn(query: &mut Query, place: Place, epoch: i64, seen: Model) -> [Parameter; 2] {
    let (thread, epoch) = (place.thread, query.bind(epoch));
    let key = [query.bind(seen.conversation_id), query.bind(seen.id)];
    let [conversation, id] = key;
    let (status, turn_epoch) = (query.bind(seen.status), query.bind(seen.epoch));
    query.push(format_args!(
        "WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = {thread} AND epoch = {epoch}::bigint FOR UPDATE
), turn AS MATERIALIZED (
    SELECT 1 FROM thread CROSS JOIN LATERAL (
        SELECT FROM agent_turns
        WHERE conversation_id = {conversation} AND id = {id} AND status = {status}
            AND epoch = {turn_epoch}
        FOR UPDATE
    ) seen
), touched AS (
    UPDATE threads SET updated_at = GREATEST(updated_at, clock_timestamp())
    WHERE thread_id = {thread} AND EXISTS (SELECT FROM turn)
), "
    ));
    key
}

fn changed(query: &mut Query, [conversation, id]: [Parameter; 2], next: Model) {
    let TurnColumns {
        assistant_message,
        status,
        error,
        interrupt,
        attempt,
        epoch,
        lease_owner,
        lease,
        started_at,
        updated_at,
    } = TurnColumns::of(query, next);
    query.push(format_args!(
        ", ended AS (
    UPDATE agent_turns SET assistant_message_id = {assistant_message}, status = {status},
        error = {error}, interrupt = {interrupt}::json, attempt = {attempt}, epoch = {epoch},
        lease_owner = {lease_owner}, lease_ms = {lease}, started_at = {started_at},
        updated_at = {updated_at}, lease_renewed_at = clock_timestamp()
    WHERE conversation_id = {conversation} AND id = {id} AND EXISTS (SELECT FROM turn)
)"
    ));
}

/// The columns of a turn that change.
struct TurnColumns {
    assistant_message: Parameter,
    status: Parameter,
    error: Parameter,
    interrupt: Parameter,
    attempt: Parameter,
    epoch: Parameter,
    lease_owner: Parameter,
    lease: Parameter,
    started_at: Parameter,
    updated_at: Parameter,
}

impl TurnColumns {
    fn of(query: &mut Query, turn: Model) -> Self {
        Self {
            assistant_message: query.bind(turn.assistant_message_id),
            status: query.bind(turn.status),
            error: query.bind(turn.error),
            interrupt: query.bind(turn.interrupt.map(|interrupt| interrupt.to_string())),
            attempt: query.bind(turn.attempt),
            epoch: query.bind(turn.epoch),
            lease_owner: query.bind(turn.lease_owner),
            lease: query.bind(turn.lease_ms),
            started_at: query.bind(turn.started_at),
            updated_at: query.bind(turn.updated_at),
        }
    }
}
