//! Pages of rows: by keyset or offset, bounded in rows and in bytes.

use sea_orm::{
    ColumnTrait, ColumnType, DbErr, EntityTrait, ModelTrait, PrimaryKeyTrait, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait, Select, Value as SqlValue,
    sea_query::{self, Expr, Func},
};
use yai_agentkit_core::{
    Error, ListQuery, Result,
    storage::{Cursor, Order, Page, Start},
};

use super::{
    Column, Model, PrimaryKey, StoredEntity, entity_of, find, joined, key, key_columns,
    last_key_column, parts_of,
};
use crate::{
    connection::{Connection, retrying},
    error::{is_unreadable, storage_error},
    tenancy::IS_MINE,
};

/// Reads a page.
pub(super) async fn read<E: StoredEntity>(
    connection: &Connection,
    query: &ListQuery<E>,
) -> Result<Page<E, Cursor<E::Id>>> {
    let mut limit = query.limit.min(i64::MAX as u64 - 1);
    if let Some(max_bytes) = query.max_bytes {
        limit = rows_within(connection, query, limit, max_bytes).await?;
    }
    // One more tells whether there is a next page.
    let select = rows(connection, query)?.limit(limit + 1);
    let found = retrying!(connection, select.clone().all(connection));
    let mut found = match found {
        Ok(found) => found,
        Err(error) => return Err(list_error::<E>(connection, select, error).await),
    };
    let mut is_last = found.len() as u64 <= limit;
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    if let Some(max_bytes) = query.max_bytes {
        let count = apart_within::<E>(&mut found, max_bytes);
        is_last &= count == found.len();
        found.truncate(count);
    }
    let column = E::POSITION.unwrap_or_else(last_key_column::<E>);
    let ends = [found.first(), found.last()].map(|row| row.map(|row| row.get(column)));
    let [Some(first), Some(last)] = ends else {
        let (items, next) = (Vec::new(), None);
        return Ok(Page { items, next });
    };
    let again = || {
        let (low, high) = match query.order {
            Order::NewestFirst => (last.clone(), first),
            Order::OldestFirst => (first, last.clone()),
        };
        let matching = E::Table::find().filter(E::condition(&query.filter));
        in_order::<E>(matching.filter(column.between(low, high)), query.order)
    };
    let found = match joined::<E>(connection, found, again).await {
        Ok(found) => found,
        Err(error) => return Err(list_error::<E>(connection, select, error).await),
    };
    let items: Vec<E> = found.into_iter().map(entity_of).collect::<Result<_>>()?;
    let next = match last {
        _ if is_last => None,
        SqlValue::BigInt(Some(position)) if E::POSITION.is_some() => {
            Some(Cursor::Position(position))
        }
        _ => items.last().map(|last| Cursor::Id(last.id())),
    };
    Ok(Page { items, next })
}

/// How many of the rows of a page, `limit` at most, have so many bytes together; at least one.
async fn rows_within<E: StoredEntity>(
    connection: &Connection,
    query: &ListQuery<E>,
    limit: u64,
    max_bytes: u64,
) -> Result<u64> {
    let select = rows(connection, query)?;
    let select = select.limit(limit).select_only().expr(bytes::<E>());
    let sizes = || select.clone().into_tuple::<i64>();
    let sizes = retrying!(connection, sizes().all(connection));
    let sizes = sizes.map_err(|error| storage_error("list", error))?;
    let mut bytes = 0;
    let fits = |size: &&i64| {
        bytes += size.cast_unsigned();
        bytes <= max_bytes
    };
    let count = sizes.iter().take_while(fits).count() as u64;
    Ok(count.max(1).min(limit))
}

/// How many of the rows have so many bytes that stand apart of them; at least one.
fn apart_within<E: StoredEntity>(rows: &mut [Model<E>], max_bytes: u64) -> usize {
    let mut bytes = 0;
    let apart = rows
        .iter_mut()
        .map(|row| parts_of::<E>(row).map_or(0, |parts| parts.places().1));
    let fits = |apart: &u64| {
        bytes += apart;
        *apart == 0 || bytes <= max_bytes
    };
    apart.take_while(fits).count().max(1)
}

/// Which of the rows of `select` can't be read, where `error` says that one can't.
async fn list_error<E: StoredEntity>(
    connection: &Connection,
    select: Select<E::Table>,
    error: DbErr,
) -> Error {
    if is_unreadable(&error) {
        let keys = select.select_only().columns(key_columns::<E>());
        let keys = keys.into_tuple::<<PrimaryKey<E> as PrimaryKeyTrait>::ValueType>();
        for key in keys.all(connection).await.unwrap_or_default() {
            let what = format!("{} {key:?}", E::NAME);
            let one = E::Table::find_by_id(key);
            if let Err(error) = one.one(connection).await {
                return Error::unreadable(what, error);
            }
        }
    }
    storage_error("list", error)
}

/// The rows of `query`, of which a page takes the first.
pub(super) fn rows<E: StoredEntity>(
    connection: &Connection,
    query: &ListQuery<E>,
) -> Result<Select<E::Table>> {
    let column = E::POSITION.unwrap_or_else(last_key_column::<E>);
    let mut select = E::Table::find().filter(E::condition(&query.filter));
    if E::INDEXED_BY_TENANT && connection.is_of_tenant() {
        select = select.filter(Expr::cust(IS_MINE));
    }
    let select = in_order::<E>(select, query.order);
    let place = match &query.start {
        Start::Offset(0) => return Ok(select),
        Start::Offset(offset) => return Ok(select.offset((*offset).min(i64::MAX as u64))),
        Start::After(cursor) => place::<E>(cursor)?,
    };
    Ok(match query.order {
        Order::NewestFirst => select.filter(sea_query::ExprTrait::lt(column.into_expr(), place)),
        Order::OldestFirst => select.filter(sea_query::ExprTrait::gt(column.into_expr(), place)),
    })
}

/// By the column that orders rows.
fn in_order<E: StoredEntity>(select: Select<E::Table>, order: Order) -> Select<E::Table> {
    let column = E::POSITION.unwrap_or_else(last_key_column::<E>);
    match order {
        Order::NewestFirst => select.order_by_desc(column),
        Order::OldestFirst => select.order_by_asc(column),
    }
}

/// How many bytes the columns have that are counted.
fn bytes<E: StoredEntity>() -> Expr {
    let bytes = |column: &Column<E>| {
        let mut text = sea_query::ExprTrait::cast_as(column.into_expr(), "text");
        // sqlx sends PostgreSQL a space before JSON.
        if *column.def().get_column_type() == ColumnType::Json {
            text = Func::cust("ltrim").arg(text).into();
        }
        let bytes = Func::cust("octet_length").arg(text);
        Expr::from(Func::coalesce([bytes.into(), Expr::val(0)]))
    };
    let counted = E::COUNTED.iter().map(bytes);
    let sum = counted
        .reduce(sea_query::ExprTrait::add)
        .unwrap_or(Expr::val(0));
    sea_query::ExprTrait::cast_as(sum, "bigint")
}

/// What the column by which rows are ordered holds at `cursor`.
fn place<E: StoredEntity>(cursor: &Cursor<E::Id>) -> Result<Expr> {
    match (cursor, E::POSITION) {
        (Cursor::Position(position), Some(_)) => Ok((*position).into()),
        (Cursor::Id(id), None) => {
            let last = key::<E>(id).pop();
            Ok(Expr::val(last.expect("a key has a column")))
        }
        (Cursor::Id(id), Some(position)) => {
            let row = find::<E>(id).select_only().column(position).into_query();
            Ok(Expr::SubQuery(None, Box::new(row.into())))
        }
        (Cursor::Position(_), None) => Err(Error::invalid("cursor", "must be an id")),
    }
}
