//! Long-term memory: items in namespaces, which threads and conversations share.
//!
//! The protocol is that of LangGraph's `BaseStore`. What differs from its savers: an item whose time
//! to live is over is gone at once, numbers compare as numbers, and a namespace never matches another
//! that begins with the same characters.

mod filter;
mod namespace;
mod search;
mod vector;

pub use filter::{Comparison, Condition, Filter, Step, Test};
pub use namespace::{Labels, NamespacePattern, NamespaceQuery};
pub use search::Search;
pub use vector::{Distance, FieldVector, Precision, VectorIndex, VectorKind, VectorQuery};

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

use crate::{Error, Result, validate};

/// The place of an item.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemKey {
    /// The namespace, from the outermost label on.
    pub namespace: Labels,
    /// The key within the namespace.
    pub key: String,
}

impl ItemKey {
    /// The key `key` of a namespace.
    pub fn new<L: Into<String>>(
        namespace: impl IntoIterator<Item = L>,
        key: impl Into<String>,
    ) -> Self {
        Self {
            namespace: namespace.into_iter().map(Into::into).collect(),
            key: key.into(),
        }
    }

    /// Refuses labels that are empty or have a point, NUL characters, and what is too long for an
    /// index.
    pub fn validate(&self) -> Result<()> {
        namespace::validate(&self.namespace)?;
        if self.namespace.is_empty() {
            return Err(Error::invalid("namespace", "must not be empty"));
        }
        validate::text("key", &self.key)?;
        self.validate_with("")
    }

    fn validate_with(&self, field: &str) -> Result<()> {
        let namespace = self.namespace.join(".");
        validate::key(&[
            ("namespace", &namespace),
            ("key", &self.key),
            ("field", field),
        ])
    }
}

/// An item: an object of JSON under a key.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Item {
    /// Its place.
    pub key: ItemKey,
    /// The object, as JSON: a number has all the digits that it was stored with.
    pub value: String,
    /// When there was first an item at this place.
    pub created_at: DateTime<Utc>,
    /// When it was last put.
    pub updated_at: DateTime<Utc>,
    /// How well it answers a search by a text or a vector: the higher, the better.
    pub score: Option<f64>,
}

impl Item {
    /// An item, for a back end to return.
    pub fn new(
        key: ItemKey,
        value: String,
        created_at: DateTime<Utc>,
        updated_at: DateTime<Utc>,
    ) -> Self {
        Self {
            key,
            value,
            created_at,
            updated_at,
            score: None,
        }
    }

    /// The same, found with a score.
    #[must_use]
    pub fn scored(&self, score: f64) -> Self {
        Self {
            score: Some(score),
            ..self.clone()
        }
    }

    /// The value as a type of one's own.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.value)
            .map_err(|error| Error::invalid("value", error.to_string()))
    }
}

/// An item to store.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    /// Its place; what is there is replaced.
    pub key: ItemKey,
    /// An object, as JSON.
    pub value: String,
    /// How long it lives after it was last put or renewed; `None` is for ever.
    pub time_to_live: Option<Duration>,
    /// By what a search finds it that has a vector; what it had before is gone.
    pub vectors: Vec<FieldVector>,
}

impl NewItem {
    /// `value` at `key`, for ever.
    pub fn new<T: Serialize>(key: ItemKey, value: &T) -> Result<Self> {
        let value = serde_json::to_string(value)
            .map_err(|error| Error::invalid("value", error.to_string()))?;
        Ok(Self {
            key,
            value,
            time_to_live: None,
            vectors: Vec::new(),
        })
    }

    fn validate(&self) -> Result<()> {
        self.key.validate()?;
        let value: Json = serde_json::from_str(&self.value)
            .map_err(|error| Error::invalid("value", error.to_string()))?;
        if !value.is_object() {
            return Err(Error::invalid("value", "must be an object"));
        }
        validate::json("value", &value)?;
        for vector in &self.vectors {
            vector.validate()?;
            self.key.validate_with(&vector.field)?;
        }
        match self.time_to_live {
            Some(time) if time > MAX_TIME_TO_LIVE => {
                Err(Error::invalid("ttl", "must be at most 1,000 years"))
            }
            _ => Ok(()),
        }
    }
}

const MAX_TIME_TO_LIVE: Duration = Duration::from_secs(1000 * 365 * 24 * 60 * 60);

/// One operation of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Reads an item.
    Get {
        /// Its place.
        key: ItemKey,
        /// Whether its time to live begins anew.
        renews: bool,
    },
    /// Stores an item.
    Put(NewItem),
    /// Deletes an item. One that is not there is no error.
    Delete(ItemKey),
    /// Finds items.
    Search(Search),
    /// Lists the namespaces that hold items, in order.
    Namespaces(NamespaceQuery),
}

impl Operation {
    /// Refuses what no back end can store or ask.
    pub fn validate(&self) -> Result<()> {
        match self {
            // There is nothing in the root.
            Self::Get { key, .. } if key.namespace.is_empty() => Ok(()),
            Self::Get { key, .. } | Self::Delete(key) => key.validate(),
            Self::Put(item) => item.validate(),
            Self::Search(search) => search.validate(),
            Self::Namespaces(query) => query.validate(),
        }
    }
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Of a get.
    Item(Option<Item>),
    /// Of a search.
    Items(Vec<Item>),
    /// Of a list.
    Namespaces(Vec<Labels>),
    /// Of a put or a delete.
    Done,
}

/// Items in namespaces.
///
/// A failure of the storage is an error, never an empty answer, and every call may be repeated.
#[async_trait]
pub trait MemoryStore: Send + Sync {
    /// Carries out operations, and answers each in order. All that read, read what was there before;
    /// of several that write to one place the last counts, and all that write happen or none. One
    /// round trip on PostgreSQL, and one more where a time to live begins anew.
    ///
    /// What is refused, [`Error::InvalidInput`], is refused before anything is done.
    async fn batch(&self, operations: Vec<Operation>) -> Result<Vec<Answer>>;

    /// Makes room for the vectors of items, where that is needed: PostgreSQL has them by pgvector, in
    /// LangGraph's table. [`Error::Configuration`] where they are of another length there, or the server
    /// has no pgvector.
    async fn prepare(&self, index: &VectorIndex) -> Result<()>;

    /// Deletes what has outlived its time, and returns how much that was. It is not seen before.
    async fn sweep(&self) -> Result<u64>;
}

/// The operations of a [`MemoryStore`] one by one.
#[async_trait]
pub trait MemoryStoreExt: MemoryStore {
    /// Reads an item; its time to live begins anew.
    async fn get(&self, key: ItemKey) -> Result<Option<Item>> {
        let get = Operation::Get { key, renews: true };
        Ok(match self.batch(vec![get]).await?.pop() {
            Some(Answer::Item(item)) => item,
            _ => None,
        })
    }

    /// Stores an item.
    async fn put(&self, item: NewItem) -> Result<()> {
        self.batch(vec![Operation::Put(item)]).await.map(drop)
    }

    /// Deletes an item.
    async fn delete(&self, key: ItemKey) -> Result<()> {
        self.batch(vec![Operation::Delete(key)]).await.map(drop)
    }

    /// Finds items.
    async fn search(&self, search: Search) -> Result<Vec<Item>> {
        Ok(
            match self.batch(vec![Operation::Search(search)]).await?.pop() {
                Some(Answer::Items(items)) => items,
                _ => Vec::new(),
            },
        )
    }

    /// Lists namespaces.
    async fn namespaces(&self, query: NamespaceQuery) -> Result<Vec<Labels>> {
        let list = Operation::Namespaces(query);
        Ok(match self.batch(vec![list]).await?.pop() {
            Some(Answer::Namespaces(namespaces)) => namespaces,
            _ => Vec::new(),
        })
    }
}

impl<T: MemoryStore + ?Sized> MemoryStoreExt for T {}
