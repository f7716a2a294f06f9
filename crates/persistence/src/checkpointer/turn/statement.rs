//! What PostgreSQL is sent where a turn begins or ends.

use yai_agentkit_core::{
    Message, Turn,
    turn::{EventBatch, IdempotencyKey, TurnBegin, TurnChange},
};

use crate::{
    checkpointer::{
        NewRawCheckpoint,
        statement::{self, Conflicts::Possible, Place, TOUCH},
    },
    entity::{
        message,
        turn::{Model, assigned},
    },
    part::Parts,
    repository::StoredEntity,
    sql::{Parameter, Query},
};

/// Raises the thread, or stores nothing and returns no row. Seldom enough to look for each row.
pub(in crate::checkpointer) fn begin_statement(
    new: &NewRawCheckpoint,
    epoch: i64,
    begin: &TurnBegin,
) -> Query {
    let mut query = Query::on_postgres();
    let place = Place::of(&mut query, &new.key);
    raised_thread(&mut query, place.thread, epoch);
    let events = Some((&begin.events).into());
    statement::checkpoint_and_events(&mut query, place, "thread", new, events.as_ref(), Possible);
    messages(&mut query, "thread", std::slice::from_ref(&begin.message));
    new_turn(&mut query, begin.turn.clone().into());
    used_key(&mut query, begin.key.as_ref());
    query.push("\nSELECT true FROM thread");
    query
}

/// Holds the thread, else no row is returned; and the turn is as it was seen, else `false` is; or
/// nothing is stored.
pub(in crate::checkpointer) fn end_statement(
    new: &NewRawCheckpoint,
    epoch: i64,
    events: &EventBatch,
    change: &TurnChange,
    next: &Turn,
) -> Query {
    let mut query = Query::on_postgres();
    let place = Place::of(&mut query, &new.key);
    let turn = seen_turn(&mut query, place, epoch, change.seen.clone().into());
    let events = Some(events.into());
    statement::checkpoint_and_events(&mut query, place, "turn", new, events.as_ref(), Possible);
    messages(&mut query, "turn", change.answer.as_slice());
    changed_turn(&mut query, turn, next.clone().into());
    query.push("\nSELECT EXISTS (SELECT FROM turn) FROM thread");
    query
}

fn raised_thread(query: &mut Query, thread: Parameter, epoch: i64) {
    let epoch = query.bind(epoch);
    query.push(format_args!(
        "WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    VALUES ({thread}, clock_timestamp(), {epoch}::bigint)
    ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE
    SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = excluded.epoch
    WHERE t.epoch < excluded.epoch
    RETURNING 1
), "
    ));
}

/// The messages of a turn.
pub(in crate::checkpointer) fn messages(query: &mut Query, from: &str, messages: &[Message]) {
    let messages = messages.iter().cloned().map(message::Model::from);
    let mut messages: Vec<_> = messages.collect();
    let apart = messages.iter_mut().filter_map(|message| {
        let (conversation, json) = Message::parts(message)?;
        Some(Parts { conversation, json }.set_apart())
    });
    let apart = apart.collect::<Vec<_>>().concat();
    if !apart.is_empty() {
        let conversation = query.column(&apart, |long| long.conversation);
        let hash = query.column(&apart, |long| long.hash.as_str());
        let text = query.column(&apart, |long| long.text.as_str());
        query.push(format_args!(
            ", part AS (
    INSERT INTO agent_parts (conversation_id, hash, text)
    SELECT p.* FROM {from}, unnest({conversation}::uuid[], {hash}::text[], {text}::text[])
        p (conversation_id, hash, text)
    JOIN agent_conversations c ON c.id = p.conversation_id FOR KEY SHARE OF c
    ON CONFLICT DO NOTHING
)"
        ));
    }
    let id = query.column(&messages, |message| message.id);
    let conversation = query.column(&messages, |message| message.conversation_id);
    let role = query.column(&messages, |message| message.role.as_str());
    let content = query.column(&messages, |message| message.content.as_str());
    let metadata = query.column(&messages, |message| {
        message.metadata_.as_ref().map(ToString::to_string)
    });
    let created_at = query.column(&messages, |message| message.created_at);
    let parts = query.column(&messages, |message| {
        message.parts.as_ref().map(ToString::to_string)
    });
    let parent = query.column(&messages, |message| message.parent_id);
    let checkpoint = query.column(&messages, |message| message.checkpoint_id.as_deref());
    query.push(format_args!(
        ", message AS (
    INSERT INTO agent_messages (id, conversation_id, role, content, metadata_, created_at, parts,
        parent_id, checkpoint_id)
    SELECT m.id, m.conversation_id, m.role, m.content, m.metadata_::json, m.created_at,
        m.parts::json, m.parent_id, m.checkpoint_id
    FROM {from}, unnest({id}::uuid[], {conversation}::uuid[], {role}::text[], {content}::text[],
        {metadata}::text[], {created_at}::timestamptz[], {parts}::text[], {parent}::uuid[],
        {checkpoint}::text[])
        m (id, conversation_id, role, content, metadata_, created_at, parts, parent_id,
            checkpoint_id)
)"
    ));
}

fn new_turn(query: &mut Query, turn: Model) {
    let conversation = query.bind(turn.conversation_id);
    let (id, created_at) = (query.bind(turn.id), query.bind(turn.created_at));
    let user_message = query.bind(turn.user_message_id);
    let (columns, values): (Vec<_>, Vec<_>) = turn.bind(query).into_iter().unzip();
    let (columns, values) = (columns.join(", "), values.join(", "));
    query.push(format_args!(
        ", turn AS (
    INSERT INTO agent_turns (conversation_id, id, created_at, user_message_id,
        {columns})
    SELECT {conversation}, {id}, {created_at}, {user_message},
        {values}
    FROM thread
)"
    ));
}

pub(in crate::checkpointer) fn used_key(query: &mut Query, key: Option<&IdempotencyKey>) {
    let id = query.bind(key.map(|key| key.id));
    let conversation = query.bind(key.map(|key| key.scope.0));
    let fingerprint = query.bind(key.map(|key| key.fingerprint));
    let resource = query.bind(key.map(|key| key.resource_id));
    query.push(format_args!(
        ", key AS (
    INSERT INTO agent_idempotency_keys (conversation_id, id, fingerprint, resource_id)
    SELECT {conversation}, {id}, {fingerprint}, {resource} FROM thread WHERE {id} IS NOT NULL
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
    UPDATE threads SET updated_at = statement_timestamp()
    WHERE thread_id = {thread} AND EXISTS (SELECT FROM turn){TOUCH}
), "
    ));
    key
}

pub(in crate::checkpointer) fn changed_turn(
    query: &mut Query,
    [conversation, id]: [Parameter; 2],
    next: Model,
) {
    let columns = assigned(&next.bind(query));
    query.push(format_args!(
        ", changed AS (
    UPDATE agent_turns SET {columns},
        lease_renewed_at = statement_timestamp()
    WHERE conversation_id = {conversation} AND id = {id} AND EXISTS (SELECT FROM turn)
)"
    ));
}
