mod calls;
mod entity;
mod page;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, FromQueryResult,
    IntoActiveModel, Iterable, PaginatorTrait, PrimaryKeyToColumn, PrimaryKeyTrait, QueryFilter,
    QueryResult, QuerySelect, QueryTrait, Select, SelectExt, Value as SqlValue,
    sea_query::{Expr, IntoValueTuple, LockType},
};
use uuid::Uuid;
use yai_agentkit_core::{
    Entity, Error, ListQuery, Repository, Result,
    storage::{Change, Cursor, Page},
};

pub(crate) use self::calls::Calls;
use self::calls::{Add, Get};
pub use self::entity::StoredEntity;
use crate::{
    connection::{Connection, retrying, retrying_undone},
    encryption::{self, KeyRing, Keys, opening},
    error::{is_foreign_key_violation, is_unique_violation, is_unreadable, storage_error},
    part::{self, Long, Parts},
    precision::truncate_times,
    retention::LOCK,
    search::{self, hashes_of},
};

type Model<E> = <<E as StoredEntity>::Table as EntityTrait>::Model;
type ActiveModel<E> = <<E as StoredEntity>::Table as EntityTrait>::ActiveModel;
type Column<E> = <<E as StoredEntity>::Table as EntityTrait>::Column;
type PrimaryKey<E> = <<E as StoredEntity>::Table as EntityTrait>::PrimaryKey;

/// PostgreSQL takes 65535 parameters in a statement, SQLite 32766.
const MAX_PARAMETERS: usize = 32_000;

pub(crate) struct SqlRepository<E: StoredEntity> {
    connection: Connection,
    /// None of who has rows as they are stored.
    keys: Keys,
    /// Of a pool.
    calls: Option<Arc<Calls<E>>>,
}

impl<E: StoredEntity> SqlRepository<E> {
    pub(crate) fn on_pool(connection: Connection, calls: Arc<Calls<E>>) -> Self {
        Self {
            connection,
            keys: Keys::default(),
            calls: Some(calls),
        }
    }

    /// Takes part in a transaction.
    pub(crate) fn within(transaction: Connection) -> Self {
        Self {
            connection: transaction,
            keys: Keys::default(),
            calls: None,
        }
    }

    /// Encrypts and decrypts with these.
    pub(crate) fn with(self, keys: Keys) -> Self {
        Self { keys, ..self }
    }

    /// The entity as it will be read back.
    fn as_stored(entity: E) -> Result<E> {
        entity.validate()?;
        let mut model = Model::<E>::from(entity);
        truncate_times(&mut model);
        entity_of(model)
    }

    /// The row, and what stands apart of it.
    fn row(entity: &E) -> (ActiveModel<E>, Vec<Long>) {
        let mut model = Model::<E>::from(entity.clone());
        let apart = parts_of::<E>(&mut model).map(Parts::set_apart);
        let mut row = model.into_active_model().reset_all();
        if let Some(position) = E::POSITION {
            row.not_set(position);
        }
        (row, apart.unwrap_or_default())
    }

    async fn insert(&self, entity: &E) -> Result<(), DbErr> {
        let (row, apart) = Self::row(entity);
        let insert = E::Table::insert(row);
        if apart.is_empty() {
            let inserted = insert.exec_without_returning(&self.connection).await;
            return inserted.map(drop);
        }
        let transaction = self.connection.begin().await?;
        part::keep(&transaction, &apart).await?;
        insert.exec_without_returning(&*transaction).await?;
        transaction.commit().await
    }

    async fn insert_with_others(&self, entity: &E) -> Result<(), DbErr> {
        match &self.calls {
            Some(calls) if E::ADDED_TOGETHER => calls.adds.call(Add(entity.clone())).await,
            _ => self.insert(entity).await,
        }
    }

    async fn insert_all(&self, entities: &[E]) -> Result<(), DbErr> {
        let columns = Column::<E>::iter().count();
        let transaction = self.connection.begin().await?;
        transaction.save().await?;
        for chunk in entities.chunks(MAX_PARAMETERS / columns) {
            let (rows, apart): (Vec<_>, Vec<_>) = chunk.iter().map(Self::row).unzip();
            let mut inserted = part::keep(&transaction, &apart.concat()).await;
            if inserted.is_ok() {
                let insert = E::Table::insert_many(rows);
                let insert = insert.exec_without_returning(&*transaction).await;
                inserted = insert.map(drop);
            }
            if let Err(error) = inserted {
                transaction.undo_to_save().await?;
                return Err(error);
            }
        }
        transaction.commit().await
    }

    async fn update_once(
        &self,
        id: &E::Id,
        (change, touches): (Change<'_, E>, bool),
        ring: Option<&KeyRing>,
    ) -> Result<E> {
        let failed = |error| storage_error("update", error);
        let transaction = self.connection.begin().await.map_err(failed)?;
        // Not against those that only refer to the row. On SQLite the transaction is the lock.
        let stored = find::<E>(id).lock(LockType::NoKeyUpdate);
        let stored = stored.one(&*transaction).await;
        let stored = stored.map_err(|error| read_error::<E>("update", id, error))?;
        let mut stored = stored.ok_or_else(|| Error::not_found(E::NAME, id))?;
        let named = places_of::<E>(&mut stored);
        if let Some((conversation, _)) = named {
            let lock = LOCK.query(&transaction).with(conversation);
            lock.rows(&transaction).await.map_err(failed)?;
        }
        let stored = joined::<E>(&transaction, vec![stored], || find::<E>(id)).await;
        let stored = stored.map_err(|error| read_error::<E>("update", id, error))?;
        let stored = stored.into_iter().next();
        let stored = stored.ok_or_else(|| Error::not_found(E::NAME, id))?;
        let mut entity: E = entity_of(stored)?;
        let found_by = entity.searched().map(hashes_of);
        open(&mut entity, ring)?;
        change(&mut entity)?;
        if touches {
            entity.changed(id, transaction.now())?;
        }
        seal(&mut entity, ring);
        let mut entity = Self::as_stored(entity)?;
        let (row, apart) = Self::row(&entity);
        let kept = part::keep(&transaction, &apart).await;
        kept.map_err(|error| write_error("update", &entity, error))?;
        let updated = E::Table::update(row).exec(&*transaction);
        updated
            .await
            .map_err(|error| write_error("update", &entity, error))?;
        if let Some((conversation, mut hashes)) = named {
            hashes.retain(|hash| apart.iter().all(|long| long.hash != *hash));
            let left = part::leave(&transaction, conversation, hashes).await;
            left.map_err(failed)?;
        }
        if let Some(conversation) = entity.searched() {
            let hashes = hashes_of(conversation);
            if found_by.as_ref() != Some(&hashes) {
                let replaced = search::replace(&transaction, conversation.id, hashes);
                replaced.await.map_err(failed)?;
            }
        }
        transaction.commit().await.map_err(failed)?;
        open(&mut entity, ring)?;
        Ok(entity)
    }

    /// Deletes a row that is going to be added again: what stands apart of it stays.
    pub(crate) async fn take_out(&self, id: &E::Id) -> Result<()> {
        let deleted = delete_row::<E>(&self.connection, id).await;
        deleted
            .map(drop)
            .map_err(|error| storage_error("delete", error))
    }

    async fn delete_once(&self, id: &E::Id) -> Result<bool, DbErr> {
        let Some(conversation) = E::conversation_with_parts(id) else {
            return delete_row::<E>(&self.connection, id).await;
        };
        let transaction = self.connection.begin().await?;
        let is_gone = delete_row::<E>(&transaction, id).await?;
        let lock = LOCK.query(&transaction).with(conversation);
        lock.rows(&transaction).await?;
        part::leave_all(&transaction, conversation).await?;
        transaction.commit().await?;
        Ok(is_gone)
    }

    /// Encrypts a row anew, with the newest key.
    pub(crate) async fn encrypt(&self, id: &E::Id) -> Result<()> {
        self.amend(id, &|_| Ok(())).await
    }

    /// Changes what a row says, but not when it was changed. One that is gone is no error.
    pub(crate) async fn amend(&self, id: &E::Id, change: Change<'_, E>) -> Result<()> {
        let amended = opening!(self.keys, &self.connection, |ring| {
            let change = (change, false);
            retrying_undone!(self.connection, self.update_once(id, change, ring))
        });
        match amended {
            Err(Error::NotFound { .. }) => Ok(()),
            amended => amended.map(drop),
        }
    }

    async fn get_stored(&self, id: &E::Id) -> Result<Option<E>> {
        let found = match &self.calls {
            // A statement about a conversation's own names no other.
            Some(calls) if key_columns::<E>().count() == 1 => {
                calls.reads.call(Get(id.clone())).await
            }
            _ => {
                let find = find::<E>(id);
                retrying!(self.connection, find.clone().one(&self.connection))
            }
        };
        let failed = |error| read_error::<E>("get", id, error);
        let found: Vec<_> = found.map_err(failed)?.into_iter().collect();
        let joined = joined::<E>(&self.connection, found, || find::<E>(id));
        let found = joined.await.map_err(failed)?.into_iter().next();
        found.map(entity_of).transpose()
    }

    async fn add_stored(&self, entity: E) -> Result<E> {
        let entity = Self::as_stored(entity)?;
        let mut added = self.insert_with_others(&entity).await;
        if let Err(error) = &added
            && self.connection.may_repeat(error, &mut 0).await
        {
            added = retrying_undone!(self.connection, self.insert(&entity));
            // The first attempt may have been committed after all.
            if added.as_ref().is_err_and(is_unique_violation)
                && self.get_stored(&entity.id()).await?.as_ref() == Some(&entity)
            {
                return Ok(entity);
            }
        }
        added.map_err(|error| write_error("add", &entity, error))?;
        Ok(entity)
    }

    async fn add_many_stored(&self, entities: Vec<E>) -> Result<Vec<E>> {
        let entities: Vec<E> = entities
            .into_iter()
            .map(Self::as_stored)
            .collect::<Result<_>>()?;
        match retrying_undone!(self.connection, self.insert_all(&entities)) {
            Ok(()) => Ok(entities),
            Err(error) if is_unique_violation(&error) || is_foreign_key_violation(&error) => {
                Err(self.error_of_row(&entities, error).await)
            }
            Err(error) => Err(storage_error("add", error)),
        }
    }

    /// Refuses a filter that asks for what is encrypted.
    async fn check(&self, filter: &E::Filter) -> Result<()> {
        let ring = self.keys.ring(&self.connection).await?;
        match ring.and_then(|ring| E::needs_plain(filter, &ring)) {
            Some(field) => Err(encryption::not_searched(field)),
            None => Ok(()),
        }
    }

    /// The exact error of the row at fault, where a statement of many rows failed: one after the
    /// other, and nothing kept.
    async fn error_of_row(&self, entities: &[E], error: DbErr) -> Error {
        let Ok(transaction) = self.connection.begin().await else {
            return storage_error("add", error);
        };
        let repository = Self::within(Connection::clone(&transaction));
        for entity in entities {
            if let Err(error) = repository.insert(entity).await {
                return write_error("add", entity, error);
            }
        }
        storage_error("add", error)
    }
}

fn parts_of<E: StoredEntity>(row: &mut Model<E>) -> Option<Parts<'_>> {
    let (conversation, json) = E::parts(row)?;
    Some(Parts { conversation, json })
}

/// The conversation, and the hashes of what stands apart of a row, where anything does.
fn places_of<E: StoredEntity>(row: &mut Model<E>) -> Option<(Uuid, Vec<String>)> {
    let parts = parts_of::<E>(row)?;
    let conversation = parts.conversation;
    let (hashes, _) = parts.places();
    (!hashes.is_empty()).then_some((conversation, hashes))
}

/// The rows that were `found`, with what stands apart of them. Where that is gone in between, they are
/// read again with it, by one statement.
async fn joined<E: StoredEntity>(
    connection: &Connection,
    mut found: Vec<Model<E>>,
    again: impl FnOnce() -> Select<E::Table>,
) -> Result<Vec<Model<E>>, DbErr> {
    let read = retrying!(
        connection,
        part::read(connection, found.iter_mut().filter_map(parts_of::<E>))
    )?;
    let is_whole = found.iter_mut().filter_map(parts_of::<E>).all(|parts| {
        let conversation = parts.conversation;
        parts.put_back(|hash| read.get(&(conversation, hash.to_owned())).cloned())
    });
    if is_whole {
        return Ok(found);
    }
    let named = Expr::cust(part::NAMED.on(connection));
    let again = again().expr_as(named, "named");
    let again = again.build(connection.get_database_backend());
    let rows = retrying!(connection, connection.query_all_raw(again.clone()))?;
    rows.iter().map(whole::<E>).collect()
}

/// A row that was read with what it [names](part::NAMED).
fn whole<E: StoredEntity>(row: &QueryResult) -> Result<Model<E>, DbErr> {
    let mut model = Model::<E>::from_query_result(row, "")?;
    let named: Option<String> = row.try_get("", "named")?;
    let named = serde_json::from_str(named.as_deref().unwrap_or("{}"));
    let named: HashMap<String, String> = named.map_err(|error| DbErr::Json(error.to_string()))?;
    let parts = parts_of::<E>(&mut model);
    if parts.is_some_and(|parts| !parts.put_back(|hash| named.get(hash).cloned())) {
        return Err(DbErr::Json("a text of a part is not there".to_owned()));
    }
    Ok(model)
}

/// What an error says about the row of `entity`.
fn write_error<E: Entity>(operation: &'static str, entity: &E, error: DbErr) -> Error {
    if is_unique_violation(&error) {
        return Error::Conflict(E::conflict(&entity.id()));
    }
    if is_foreign_key_violation(&error) {
        let (parent, id) = entity
            .parent()
            .unwrap_or(("row that it refers to", String::new()));
        return Error::not_found(parent, id);
    }
    storage_error(operation, error)
}

fn seal<E: StoredEntity>(entity: &mut E, ring: Option<&KeyRing>) {
    if let Some(ring) = ring {
        entity.seal(ring);
    }
}

fn open<E: StoredEntity>(entity: &mut E, ring: Option<&KeyRing>) -> Result<()> {
    let opened = ring.map_or(Ok(()), |ring| entity.open(ring));
    opened.map_err(|error| Error::unreadable(format!("{} {}", E::NAME, entity.id()), error))
}

fn opened<E: StoredEntity>(mut entity: E, ring: Option<&KeyRing>) -> Result<E> {
    open(&mut entity, ring)?;
    Ok(entity)
}

fn entity_of<E: StoredEntity>(model: Model<E>) -> Result<E> {
    let read = model.try_into();
    read.map_err(|error| Error::unreadable(E::NAME, error))
}

/// What an error says about reading the row with `id`.
fn read_error<E: Entity>(operation: &'static str, id: &E::Id, error: DbErr) -> Error {
    if is_unreadable(&error) {
        return Error::unreadable(format!("{} {id}", E::NAME), error);
    }
    storage_error(operation, error)
}

/// The columns of the key; SeaORM refuses an entity without.
fn key_columns<E: StoredEntity>() -> impl Iterator<Item = Column<E>> {
    PrimaryKey::<E>::iter().map(PrimaryKeyToColumn::into_column)
}

fn last_key_column<E: StoredEntity>() -> Column<E> {
    let last = key_columns::<E>().last();
    last.expect("SeaORM refuses an entity without primary key")
}

/// The values of the columns of the key.
fn key<E: StoredEntity>(id: &E::Id) -> Vec<SqlValue> {
    let values = <PrimaryKey<E> as PrimaryKeyTrait>::ValueType::from(id.clone());
    values.into_value_tuple().into_iter().collect()
}

fn has_key<E: StoredEntity>(id: &E::Id) -> Condition {
    let values = key_columns::<E>().zip(key::<E>(id));
    values.fold(Condition::all(), |all, (column, value)| {
        all.add(column.eq(value))
    })
}

fn find<E: StoredEntity>(id: &E::Id) -> Select<E::Table> {
    E::Table::find().filter(has_key::<E>(id))
}

/// Whether it was there.
async fn delete_row<E: StoredEntity>(connection: &Connection, id: &E::Id) -> Result<bool, DbErr> {
    let delete = E::Table::delete_many().filter(has_key::<E>(id));
    let deleted = delete.exec(connection).await?;
    Ok(deleted.rows_affected > 0)
}

#[async_trait]
impl<E: StoredEntity> Repository<E> for SqlRepository<E> {
    async fn get(&self, id: &E::Id) -> Result<Option<E>> {
        opening!(self.keys, &self.connection, |ring| {
            let found = self.get_stored(id).await?;
            found.map(|found| opened(found, ring)).transpose()
        })
    }

    async fn list(&self, query: &ListQuery<E>) -> Result<Page<E, Cursor<E::Id>>> {
        self.check(&query.filter).await?;
        opening!(self.keys, &self.connection, |ring| {
            let page = page::read(&self.connection, query).await?;
            let items = page.items.into_iter().map(|item| opened(item, ring));
            items.collect::<Result<_>>().map(|items| Page {
                items,
                next: page.next,
            })
        })
    }

    async fn add(&self, mut entity: E) -> Result<E> {
        entity.validate()?;
        let ring = self.keys.ring(&self.connection).await?;
        seal(&mut entity, ring.as_deref());
        opened(self.add_stored(entity).await?, ring.as_deref())
    }

    async fn add_many(&self, mut entities: Vec<E>) -> Result<Vec<E>> {
        entities.iter().try_for_each(E::validate)?;
        let ring = self.keys.ring(&self.connection).await?;
        for entity in &mut entities {
            seal(entity, ring.as_deref());
        }
        let added = self.add_many_stored(entities).await?.into_iter();
        added
            .map(|entity| opened(entity, ring.as_deref()))
            .collect()
    }

    async fn update(&self, id: &E::Id, change: Change<'_, E>) -> Result<E> {
        opening!(self.keys, &self.connection, |ring| {
            let change = (change, true);
            retrying_undone!(self.connection, self.update_once(id, change, ring))
        })
    }

    async fn delete(&self, id: &E::Id) -> Result<bool> {
        match retrying!(self.connection, self.delete_once(id)) {
            Ok(is_gone) => Ok(is_gone),
            Err(error) if is_foreign_key_violation(&error) => Err(Error::Conflict(E::conflict(id))),
            Err(error) => Err(storage_error("delete", error)),
        }
    }

    async fn exists(&self, id: &E::Id) -> Result<bool> {
        let exists = retrying!(self.connection, find::<E>(id).exists(&self.connection));
        exists.map_err(|error| storage_error("exists", error))
    }

    async fn count(&self, filter: &E::Filter) -> Result<u64> {
        self.check(filter).await?;
        let select = E::Table::find().filter(E::condition(filter));
        let count = retrying!(self.connection, select.clone().count(&self.connection));
        count.map_err(|error| storage_error("count", error))
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::{ConnectionTrait, QueryTrait};
    use yai_agentkit_core::{
        Conversation, ConversationId, Message, MessageId,
        conversation::{ConversationFilter, MessageFilter},
    };

    use super::*;
    use crate::explain::Databases;

    const ROWS: &str = "
INSERT INTO agent_conversations (id, checkpoint_thread_id, owner, created_at, updated_at)
SELECT {id}, {id}, 'owner ' || i % 100, {time}, {time} FROM numbers;
INSERT INTO agent_messages (id, conversation_id, role, content, created_at)
SELECT {id}, c.id, 'user', 'Hello', {time}
FROM (SELECT id FROM agent_conversations LIMIT 1000) c JOIN numbers ON i <= 20;";

    #[tokio::test]
    async fn pages_are_read_by_their_indexes() {
        let databases = Databases::with(ROWS).await;
        let of_all = ListQuery::<Conversation>::default();
        let of_one = ListQuery::<Message>::filtered(MessageFilter::of(ConversationId::new()));
        for query in [of_all.clone(), of_all.after(ConversationId::new())] {
            assert_uses(&databases, &query, "agent_conversations_position_idx").await;
        }
        let of_owner = ConversationFilter::default().owned_by(Some("Ada".to_owned()));
        let of_owner = ListQuery::<Conversation>::filtered(of_owner);
        for query in [of_owner.clone(), of_owner.after(ConversationId::new())] {
            assert_uses(&databases, &query, "agent_conversations_owner_idx").await;
        }
        for query in [
            of_one.clone(),
            of_one.clone().after(Cursor::Position(7)).oldest_first(),
            of_one.after(ConversationId::new().key(MessageId::new())),
        ] {
            assert_uses(&databases, &query, "agent_messages_conversation_id_idx").await;
        }
        databases.remove().await;
    }

    async fn assert_uses<E: StoredEntity>(
        databases: &Databases,
        query: &ListQuery<E>,
        index: &str,
    ) {
        let statement = |connection: &Connection| {
            let backend = connection.get_database_backend();
            let statement = page::rows(connection, query)
                .unwrap()
                .limit(query.limit + 1)
                .build(backend);
            crate::sql::Query::of(connection, statement)
        };
        databases.assert_uses(statement, &[index]).await;
    }
}
