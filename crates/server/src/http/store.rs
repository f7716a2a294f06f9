//! Items that threads share, by the routes of LangGraph's server: its clients work here too.
//!
//! An owner has namespaces of its own, within [`owner::ITEMS`]; who acts for all sees them there.

use std::time::Duration;

use axum::{Json, http::StatusCode};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use yai_agentkit_core::{
    Error,
    store::{
        Answer, Distance, FieldVector, Filter, Item, ItemKey, Labels, MemoryStoreExt,
        NamespacePattern, NamespaceQuery, NewItem, Operation, Search, VectorIndex, VectorQuery,
    },
};

use super::{
    App,
    caller::Caller,
    extract::{Body, Query},
    page::{MAX_LIMIT, limit},
    problem::Problem,
};
use crate::owner;

/// The most items of one search.
const MAX_ITEMS: u64 = 100;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(put_item, get_item, delete_item))
        .routes(routes!(search_items))
        .routes(routes!(list_namespaces))
}

/// An item to store.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewItemBody {
    /// Its namespace, from the outermost label on.
    #[schema(example = json!(["users", "ada"]))]
    namespace: Labels,
    /// Its key there; what is there is replaced.
    #[schema(example = "prefs")]
    key: String,
    /// An object.
    #[schema(value_type = Object)]
    value: Box<RawValue>,
    /// How many minutes it lives after it was last put or read; without it, for ever.
    ttl: Option<f64>,
    /// By what a search by `vector` finds it.
    #[serde(default)]
    vectors: Vec<VectorBody>,
    /// What LangGraph's clients send. Ignored: this server embeds nothing.
    #[expect(dead_code, reason = "it is only accepted")]
    #[schema(value_type = Object)]
    index: Option<Value>,
}

/// A vector of an item.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct VectorBody {
    /// Of which text of the value it is.
    field: String,
    /// The numbers; all items have as many.
    vector: Vec<f32>,
}

/// The place of an item.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ItemPlace {
    namespace: Labels,
    key: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ItemQuery {
    /// The labels of its namespace, joined by points.
    namespace: String,
    /// Its key.
    key: String,
    /// Whether its time to live begins anew.
    #[serde(default = "yes")]
    refresh_ttl: bool,
}

/// Which items are searched.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SearchBody {
    /// Those of this namespace, and within it.
    namespace_prefix: Labels,
    /// By field what it must be, or operators on it: `$eq`, `$ne`, `$gt`, `$gte`, `$lt`, `$lte`.
    filter: Option<Map<String, Value>>,
    /// How many at most: 10, and 100 at most.
    limit: Option<u64>,
    /// How many to pass over.
    offset: Option<u64>,
    /// Words, of which some stand in the item's texts.
    query: Option<String>,
    /// A vector, to which one of the item's is near.
    vector: Option<Vec<f32>>,
    /// Whether the time to live of those found begins anew, as by default.
    refresh_ttl: Option<bool>,
}

/// Which namespaces are listed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NamespacesBody {
    /// Those that begin with these labels; `*` is any label.
    prefix: Option<Labels>,
    /// Those that end with these.
    suffix: Option<Labels>,
    /// Cut to so many labels.
    max_depth: Option<u64>,
    /// How many at most: 100, and 1000 at most.
    limit: Option<u64>,
    /// How many to pass over.
    offset: Option<u64>,
}

/// An item.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Item)]
struct ItemBody {
    namespace: Labels,
    key: String,
    #[schema(value_type = Object)]
    value: Box<RawValue>,
    created_at: DateTime<Utc>,
    /// When it was last put.
    updated_at: DateTime<Utc>,
    /// How well it answers a search by words or a vector: the higher, the better.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
}

/// What a search has found.
#[derive(Debug, Serialize, ToSchema)]
struct FoundItems {
    items: Vec<ItemBody>,
}

/// Namespaces, in order.
#[derive(Debug, Serialize, ToSchema)]
struct Namespaces {
    namespaces: Vec<Labels>,
}

fn yes() -> bool {
    true
}

/// The namespaces that a caller has.
struct Own(Labels);

impl Own {
    fn of(caller: &Caller) -> Self {
        let own = |owner: String| owner::namespace(owner::ITEMS, &owner);
        Self(caller.owner().map_or_else(Vec::new, own))
    }

    fn namespace(&self, labels: Labels) -> Labels {
        self.0.iter().cloned().chain(labels).collect()
    }

    /// What no store takes is refused as it was sent.
    fn key(&self, namespace: Labels, key: String) -> Result<ItemKey, Error> {
        ItemKey::new(namespace.clone(), &key).validate()?;
        Ok(ItemKey {
            namespace: self.namespace(namespace),
            key,
        })
    }

    fn labels(&self, mut namespace: Labels) -> Labels {
        namespace.drain(..self.0.len().min(namespace.len()));
        namespace
    }

    fn body(&self, item: Item) -> Result<ItemBody, Problem> {
        let value = RawValue::from_string(item.value);
        Ok(ItemBody {
            namespace: self.labels(item.key.namespace),
            key: item.key.key,
            value: value.map_err(|_| Problem::internal("an item that is no JSON"))?,
            created_at: item.created_at,
            updated_at: item.updated_at,
            score: item.score,
        })
    }
}

/// Store an item
///
/// What is at its place is replaced, its vectors too.
#[utoipa::path(put, path = "/store/items", tag = "store", request_body = NewItemBody,
    responses((status = 204, description = "It is stored")))]
async fn put_item(
    app: App,
    caller: Caller,
    Body(new): Body<NewItemBody>,
) -> Result<StatusCode, Problem> {
    let minutes = |minutes: f64| {
        let time = Duration::try_from_secs_f64(minutes * 60.0);
        time.map_err(|error| Problem::invalid("ttl", error))
    };
    let vector = |VectorBody { field, vector }| FieldVector { field, vector };
    let item = NewItem {
        key: Own::of(&caller).key(new.namespace, new.key)?,
        value: String::from(Box::<str>::from(new.value)),
        time_to_live: new.ttl.map(minutes).transpose()?,
        vectors: new.vectors.into_iter().map(vector).collect(),
    };
    let store = app.storage.memory_store();
    let put = Operation::Put(item);
    put.validate()?;
    if let Operation::Put(item) = &put
        && let Some(first) = item.vectors.first()
    {
        store.prepare(&VectorIndex::new(first.vector.len())).await?;
    }
    store.batch(vec![put]).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Read an item
///
/// `null` where there is none.
#[utoipa::path(get, path = "/store/items", tag = "store", params(ItemQuery),
    responses((status = 200, body = Option<ItemBody>)))]
async fn get_item(
    app: App,
    caller: Caller,
    Query(query): Query<ItemQuery>,
) -> Result<Json<Option<ItemBody>>, Problem> {
    let own = Own::of(&caller);
    let labels = query.namespace.split('.').map(str::to_owned).collect();
    let key = own.key(labels, query.key)?;
    let renews = query.refresh_ttl;
    let get = Operation::Get { key, renews };
    let answers = app.storage.memory_store().batch(vec![get]).await?;
    let item = answers.into_iter().find_map(|answer| match answer {
        Answer::Item(item) => item,
        _ => None,
    });
    Ok(Json(item.map(|item| own.body(item)).transpose()?))
}

/// Delete an item
///
/// One that is not there is no error.
#[utoipa::path(delete, path = "/store/items", tag = "store", request_body = ItemPlace,
    responses((status = 204, description = "It is not there any more")))]
async fn delete_item(
    app: App,
    caller: Caller,
    Body(place): Body<ItemPlace>,
) -> Result<StatusCode, Problem> {
    let key = Own::of(&caller).key(place.namespace, place.key)?;
    app.storage.memory_store().delete(key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Search items
///
/// The last put first; by `query` or `vector` those that are most like it, by both those that either
/// ranks high.
#[utoipa::path(post, path = "/store/items/search", tag = "store", request_body = SearchBody,
    responses((status = 200, body = FoundItems)))]
async fn search_items(
    app: App,
    caller: Caller,
    Body(body): Body<SearchBody>,
) -> Result<Json<FoundItems>, Problem> {
    let own = Own::of(&caller);
    let vector = |vector| VectorQuery {
        vector,
        distance: Distance::Cosine,
    };
    let search = Search {
        namespace: own.namespace(body.namespace_prefix),
        filter: Filter::parse(&body.filter.unwrap_or_default())?,
        text: body.query.filter(|query| !query.is_empty()),
        vector: body.vector.map(vector),
        limit: limit(body.limit.unwrap_or(10), MAX_ITEMS)?,
        offset: body.offset.unwrap_or(0),
        renews: body.refresh_ttl.unwrap_or(true),
    };
    let store = app.storage.memory_store();
    if let Some(query) = &search.vector {
        Operation::Search(search.clone()).validate()?;
        store.prepare(&VectorIndex::new(query.vector.len())).await?;
    }
    let found = store.search(search).await?.into_iter();
    let items = found.map(|item| own.body(item)).collect::<Result<_, _>>()?;
    Ok(Json(FoundItems { items }))
}

/// List namespaces
///
/// Those that hold items.
#[utoipa::path(post, path = "/store/namespaces", tag = "store", request_body = NamespacesBody,
    responses((status = 200, body = Namespaces)))]
async fn list_namespaces(
    app: App,
    caller: Caller,
    Body(body): Body<NamespacesBody>,
) -> Result<Json<Namespaces>, Problem> {
    let own = Own::of(&caller);
    let prefix = own.namespace(body.prefix.unwrap_or_default());
    let mut patterns = vec![NamespacePattern::Prefix(prefix)];
    // A suffix must not reach into what comes before one's own.
    if let Some(suffix) = body.suffix {
        let any = own
            .0
            .iter()
            .cloned()
            .chain(suffix.iter().map(|_| "*".to_owned()));
        patterns.push(NamespacePattern::Prefix(any.collect()));
        patterns.push(NamespacePattern::Suffix(suffix));
    }
    let depth = u64::try_from(own.0.len()).unwrap_or(u64::MAX);
    let query = NamespaceQuery {
        patterns,
        max_depth: body.max_depth.map(|labels| labels.saturating_add(depth)),
        limit: limit(body.limit.unwrap_or(100), MAX_LIMIT)?,
        offset: body.offset.unwrap_or(0),
    };
    let listed = app.storage.memory_store().namespaces(query).await?;
    let namespaces = listed.into_iter().map(|labels| own.labels(labels));
    Ok(Json(Namespaces {
        namespaces: namespaces.collect(),
    }))
}
