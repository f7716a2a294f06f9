//! What PostgreSQL is sent where somebody else keeps the state of a turn.

use yai_agentkit_core::{
    Fence, Result, Value,
    turn::{TurnClosing, TurnOpening, TurnOwner, TurnRecord},
};

use crate::{
    checkpointer::turn::{changed_turn, messages, used_key},
    entity::turn::Model,
    sql::{Parameter, Query},
};

/// Raises the thread by one, and returns its epoch; or stores nothing and returns no row.
pub(in crate::checkpointer) fn open_statement(opening: &TurnOpening) -> Query {
    let mut query = Query::on_postgres();
    let model = Model::from(opening.turn.clone());
    let thread = query.bind(opening.thread_id.as_str());
    let key = [query.bind(model.conversation_id), query.bind(model.id)];
    let [conversation, _] = key;
    query.push(format_args!(
        "WITH free AS MATERIALIZED (
    SELECT 1 WHERE NOT EXISTS (
        SELECT FROM agent_turns WHERE conversation_id = {conversation} AND status = 'running'
    ) AND NOT EXISTS (
        SELECT FROM agent_turns
        WHERE conversation_id = {conversation} AND status IN ('queued', 'waiting')
    )
), thread AS (
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    SELECT {thread}, clock_timestamp(), 1 FROM free
    ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE
    SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = t.epoch + 1
    RETURNING epoch
)"
    ));
    if opening.turn.conversation_id.to_string() == opening.thread_id.as_str() {
        let created_at = query.bind(model.created_at);
        query.push(format_args!(
            ", made AS (
    INSERT INTO agent_conversations (id, checkpoint_thread_id, created_at, updated_at)
    SELECT {conversation}, {conversation}, {created_at}, {created_at} FROM thread
    ON CONFLICT DO NOTHING
)"
        ));
    }
    opened(&mut query, key, model);
    messages(&mut query, "thread", opening.message.as_slice());
    noted(&mut query, "thread", key, &opening.records);
    used_key(&mut query, opening.key.as_ref());
    query.push("\nSELECT epoch FROM thread");
    query
}

fn opened(query: &mut Query, [conversation, id]: [Parameter; 2], turn: Model) {
    let (status, attempt) = (query.bind(turn.status), query.bind(turn.attempt));
    let (owner, lease) = (query.bind(turn.lease_owner), query.bind(turn.lease_ms));
    let (started_at, created_at) = (query.bind(turn.started_at), query.bind(turn.created_at));
    let user_message = query.bind(turn.user_message_id);
    query.push(format_args!(
        ", opened AS (
    INSERT INTO agent_turns (conversation_id, id, user_message_id, status, attempt, epoch,
        lease_owner, lease_ms, started_at, created_at, updated_at, opened)
    SELECT {conversation}, {id}, {user_message}, {status}, {attempt}, epoch, {owner}, {lease},
        {started_at}, {created_at}, {created_at}, true
    FROM thread
)"
    ));
}

fn noted(
    query: &mut Query,
    from: &str,
    [conversation, id]: [Parameter; 2],
    records: &[TurnRecord],
) {
    let names = query.column(records, |record| record.name.as_str());
    let types = query.column(records, |record| record.value.as_ref().map(Value::type_tag));
    let blobs = query.column(records, |record| record.value.as_ref().map(Value::bytes));
    query.push(format_args!(
        ", noted AS (
    INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
    SELECT {conversation}, {id}, n.*
    FROM {from}, unnest({names}::text[], {types}::text[], {blobs}::bytea[]) n
    ON CONFLICT ON CONSTRAINT agent_turn_records_pkey DO UPDATE
    SET type = excluded.type, blob = excluded.blob WHERE r.type IS NULL
)"
    ));
}

/// Returns a row if the turn is as it was seen.
pub(in crate::checkpointer) fn close_statement(closing: &TurnClosing) -> Query {
    let mut query = Query::on_postgres();
    let seen = Model::from(closing.seen.clone());
    let key = [query.bind(seen.conversation_id), query.bind(seen.id)];
    let [conversation, id] = key;
    let (status, epoch) = (query.bind(seen.status), query.bind(seen.epoch));
    query.push(format_args!(
        "WITH turn AS MATERIALIZED (
    SELECT 1 FROM agent_turns
    WHERE conversation_id = {conversation} AND id = {id} AND status = {status} AND epoch = {epoch}
    FOR UPDATE
)"
    ));
    messages(&mut query, "turn", &closing.messages);
    noted(&mut query, "turn", key, &closing.records);
    changed_turn(&mut query, key, closing.next.clone().into());
    query.push("\nSELECT 1 FROM turn");
    query
}

/// Returns what was recorded before and whether it is new, if the thread has the epoch.
pub(in crate::checkpointer) fn record_statement(
    owner: &TurnOwner,
    record: &TurnRecord,
) -> Result<Query> {
    let mut query = Query::on_postgres();
    let thread = query.bind(owner.thread_id.as_str());
    let epoch = query.bind(Fence::Hold(owner.epoch).stored_epoch()?);
    let (conversation, turn) = (
        query.bind(owner.conversation_id.0),
        query.bind(owner.turn_id.0),
    );
    let name = query.bind(record.name.as_str());
    let value = record.value.as_ref();
    let (type_tag, blob) = (
        query.bind(value.map(Value::type_tag)),
        query.bind(value.map(Value::bytes)),
    );
    query.push(format_args!(
        "WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = {thread} AND epoch = {epoch}::bigint FOR SHARE
), before AS MATERIALIZED (
    SELECT type, blob FROM agent_turn_records
    WHERE conversation_id = {conversation} AND turn_id = {turn} AND name = {name}
), noted AS (
    INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
    SELECT {conversation}, {turn}, {name}, {type_tag}, {blob} FROM thread
    ON CONFLICT ON CONSTRAINT agent_turn_records_pkey DO UPDATE
    SET type = excluded.type, blob = excluded.blob
    WHERE r.type IS NULL AND excluded.type IS NOT NULL
    RETURNING 1
)
SELECT (SELECT type FROM before), (SELECT blob FROM before),
    EXISTS (SELECT FROM noted) AND NOT EXISTS (SELECT FROM before)
FROM thread"
    ));
    Ok(query)
}
