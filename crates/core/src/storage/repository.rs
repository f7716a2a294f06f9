use std::{
    fmt::{self, Debug, Display},
    str::FromStr,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, de};

use crate::{ConflictKind, Error, Result};

/// What a [`Repository`] keeps.
pub trait Entity: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// The primary key; of what belongs to a conversation it begins with that, as
    /// [`InConversation`](crate::conversation::InConversation). Where the storage assigns no [`Cursor::Position`], newer rows have greater
    /// ids (UUID version 7, or a serial number).
    type Id: Clone + Debug + Display + Ord + Send + Sync + 'static;
    /// Which rows to take; the default takes all.
    type Filter: Clone + Debug + Default + Send + Sync + 'static;
    /// What it is called in errors.
    const NAME: &'static str;

    /// The primary key.
    fn id(&self) -> Self::Id;

    /// The row that must exist for this one to exist: its kind and its id.
    fn parent(&self) -> Option<(&'static str, String)> {
        None
    }

    /// What [`Error::Conflict`](crate::Error::Conflict) says of the row with `id`.
    fn conflict(id: &Self::Id) -> ConflictKind {
        ConflictKind::Row {
            entity: Self::NAME,
            id: id.to_string(),
        }
    }

    /// How many bytes its texts have that may be long, as [`ListQuery::max_bytes`] counts them.
    fn bytes(&self) -> usize {
        0
    }

    /// The same row with other values, which a struct literal could not give it outside of the
    /// crate that declares it: `turn.with(|turn| turn.attempt = 2)`.
    #[must_use]
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// What no back end may store is [`Error::InvalidInput`](crate::Error::InvalidInput).
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Takes the time of every update, for an `updated_at`.
    fn touch(&mut self, _now: DateTime<Utc>) {}

    /// Completes a change of the row with `id`, or refuses what the change has made of it: for back ends,
    /// in [`Repository::update`].
    fn changed(&mut self, id: &Self::Id, now: DateTime<Utc>) -> Result<()> {
        if self.id() != *id {
            return Err(Error::invalid("id", "must stay as it is"));
        }
        self.touch(now);
        self.validate()
    }
}

/// In which order rows come: messages and turns by when the storage stored them, whatever the clocks
/// of those who made them say; other rows by their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Descending.
    #[default]
    NewestFirst,
    /// Ascending.
    OldestFirst,
}

/// A place in a list.
///
/// As text it is the id, or `p` and the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor<Id> {
    /// That of the row with this id. Where rows have positions, the row must exist.
    Id(Id),
    /// That of the row with this position. The row need not exist any more.
    Position(i64),
}

impl<Id> Cursor<Id> {
    /// The same place, where a row is known by another id.
    pub fn map<To>(self, to: impl FnOnce(Id) -> To) -> Cursor<To> {
        match self {
            Self::Id(id) => Cursor::Id(to(id)),
            Self::Position(position) => Cursor::Position(position),
        }
    }
}

impl<Id> From<Id> for Cursor<Id> {
    fn from(id: Id) -> Self {
        Self::Id(id)
    }
}

impl<Id: Display> Display for Cursor<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Position(position) => write!(f, "p{position}"),
        }
    }
}

impl<Id: FromStr> FromStr for Cursor<Id> {
    type Err = Id::Err;

    fn from_str(text: &str) -> Result<Self, Id::Err> {
        let position = text.strip_prefix('p').map(str::parse);
        match position {
            Some(Ok(position)) => Ok(Self::Position(position)),
            _ => text.parse().map(Self::Id),
        }
    }
}

impl<'de, Id: FromStr<Err: Display>> Deserialize<'de> for Cursor<Id> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Where a page starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start<Id> {
    /// After this many rows. Costs more the further it goes.
    Offset(u64),
    /// Behind this place. Costs the same at any depth.
    After(Cursor<Id>),
}

/// Which rows [`Repository::list`] returns. The default: the 100 newest.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ListQuery<E: Entity> {
    /// Which rows.
    pub filter: E::Filter,
    /// In which order.
    pub order: Order,
    /// Where to start.
    pub start: Start<E::Id>,
    /// How many at most.
    pub limit: u64,
    /// How many [bytes](Entity::bytes) they have together at most; of more, the first row comes
    /// alone. What does not come is not read either.
    pub max_bytes: Option<u64>,
}

impl<E: Entity> Default for ListQuery<E> {
    fn default() -> Self {
        Self {
            filter: E::Filter::default(),
            order: Order::default(),
            start: Start::Offset(0),
            limit: 100,
            max_bytes: None,
        }
    }
}

impl<E: Entity> ListQuery<E> {
    /// The 100 newest of those that `filter` takes.
    pub fn filtered(filter: E::Filter) -> Self {
        Self {
            filter,
            ..Self::default()
        }
    }

    /// At most `limit` rows.
    #[must_use]
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// At most so many bytes.
    #[must_use]
    pub fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = Some(max_bytes);
        self
    }

    /// After `offset` rows.
    #[must_use]
    pub fn offset(mut self, offset: u64) -> Self {
        self.start = Start::Offset(offset);
        self
    }

    /// Behind the place of a row; see [`Page::next`].
    #[must_use]
    pub fn after(mut self, cursor: impl Into<Cursor<E::Id>>) -> Self {
        self.start = Start::After(cursor.into());
        self
    }

    /// In this order.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// In ascending order.
    #[must_use]
    pub fn oldest_first(self) -> Self {
        self.order(Order::OldestFirst)
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, Cursor> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next page starts; `None` when this is the last.
    pub next: Option<Cursor>,
}

/// What becomes of a row; see [`Repository::update`]. The id must stay. It may be called more than
/// once, where a back end has to repeat the call.
pub type Change<'a, E> = &'a (dyn Fn(&mut E) -> Result<()> + Sync);

/// Rows of one kind, by id.
///
/// Every method is one transaction. An error means that nothing was changed, save
/// [`Error::Unavailable`](crate::Error::Unavailable) with an unknown
/// [`Outcome`](crate::error::Outcome). What comes back equals what a later `get` returns.
///
/// ```
/// use yai_agentkit_core::{
///     Conversation, ListQuery, Message, Role, Stores, conversation::MessageFilter,
///     memory::MemoryStorage,
/// };
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let storage = MemoryStorage::default();
/// let chat = storage.conversations().add(Conversation::titled("Trips")).await?;
/// let messages = storage.messages();
/// for text in ["Where to?", "For how long?"] {
///     messages.add(Message::new(chat.id, Role::User, text)).await?;
/// }
///
/// let newest_first = ListQuery::filtered(MessageFilter::of(chat.id)).limit(1);
/// let page = messages.list(&newest_first).await?;
/// assert_eq!(page.items[0].content, "For how long?");
/// let behind = page.next.expect("another page");
/// let page = messages.list(&newest_first.after(behind)).await?;
/// assert_eq!(page.items[0].content, "Where to?");
/// assert!(page.next.is_none());
/// # Ok::<(), yai_agentkit_core::Error>(()) }).unwrap();
/// ```
#[async_trait]
pub trait Repository<E: Entity>: Send + Sync {
    /// The row with `id`, `None` when there is none.
    async fn get(&self, id: &E::Id) -> Result<Option<E>>;

    /// One page of rows. It ends with a cursor that outlives its row.
    async fn list(&self, query: &ListQuery<E>) -> Result<Page<E, Cursor<E::Id>>>;

    /// Stores a new row. A duplicate id, or another unique value that is taken, is
    /// [`Error::Conflict`](crate::Error::Conflict), a missing parent
    /// [`Error::NotFound`](crate::Error::NotFound).
    async fn add(&self, entity: E) -> Result<E>;

    /// Stores all rows or none, as [`add`](Self::add) does one.
    async fn add_many(&self, entities: Vec<E>) -> Result<Vec<E>>;

    /// Applies `change` to the row with `id` as it is stored at that moment; its `updated_at`
    /// moves. Nobody else changes the row in between, so that of changes made at once none is lost.
    /// A row that is gone is [`Error::NotFound`](crate::Error::NotFound). An error of `change`
    /// comes back as it is, and nothing was changed.
    ///
    /// ```
    /// # use yai_agentkit_core::{Conversation, Entity, Error, Repository, Result};
    /// async fn rename(all: &dyn Repository<Conversation>, seen: &Conversation) -> Result<()> {
    ///     let rename = |stored: &mut Conversation| {
    ///         if stored.title != seen.title {
    ///             return Err(Error::Conflict(Conversation::conflict(&seen.id)));
    ///         }
    ///         stored.title = Some("Two trips".to_owned());
    ///         Ok(())
    ///     };
    ///     all.update(&seen.id, &rename).await.map(drop)
    /// }
    /// ```
    async fn update(&self, id: &E::Id, change: Change<'_, E>) -> Result<E>;

    /// Deletes the row and what belongs to it. `false` when there is none (or none any more, where
    /// a back end had to repeat the call on another connection). A row that others still refer to is [`Error::Conflict`](crate::Error::Conflict).
    async fn delete(&self, id: &E::Id) -> Result<bool>;

    /// Whether there is a row with `id`.
    async fn exists(&self, id: &E::Id) -> Result<bool>;

    /// How many rows `filter` takes. Reads them all.
    async fn count(&self, filter: &E::Filter) -> Result<u64>;
}
