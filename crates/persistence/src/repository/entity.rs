//! How an application's own entity becomes a row.

use sea_orm::{Condition, EntityTrait, IntoActiveModel, PrimaryKeyTrait};
use yai_agentkit_core::{Conversation, Entity, error::BoxError};

use crate::encryption::{EncryptionError, KeyRing};

/// How an [`Entity`] is stored: as a row of a SeaORM entity.
///
/// An application's own entity takes two steps: derive its SeaORM model, and say what its filter
/// means. Then [`Database::repository`](crate::Database::repository) gives it the whole
/// [`Repository`](yai_agentkit_core::Repository) on both databases:
///
/// ```
/// use uuid::Uuid;
/// use yai_agentkit_core::Entity;
/// use yai_agentkit_persistence::{StoredEntity, sea_orm::{ColumnTrait, Condition}};
///
/// mod note {
///     use yai_agentkit_persistence::sea_orm::{self, entity::prelude::*};
///
///     #[sea_orm::model]
///     #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
///     #[sea_orm(table_name = "notes")]
///     pub struct Model {
///         #[sea_orm(primary_key, auto_increment = false)]
///         pub id: Uuid,
///         pub author: String,
///         pub text: String,
///     }
///
///     impl ActiveModelBehavior for ActiveModel {}
/// }
///
/// #[derive(Clone, Debug, Default)]
/// pub struct NoteFilter {
///     pub author: Option<String>,
/// }
///
/// impl Entity for note::Model {
///     type Id = Uuid;
///     type Filter = NoteFilter;
///     const NAME: &'static str = "note";
///
///     fn id(&self) -> Uuid {
///         self.id
///     }
/// }
///
/// impl StoredEntity for note::Model {
///     type Table = note::Entity;
///
///     fn condition(filter: &NoteFilter) -> Condition {
///         let author = filter.author.as_deref();
///         Condition::all().add_option(author.map(|author| note::Column::Author.eq(author)))
///     }
/// }
/// ```
///
/// `examples/own_entity.rs` goes on from there: it makes the table and uses the repository.
///
/// The model may be the entity itself, as here, or any type that converts from and into it. The
/// primary key is set by the application; where it has several columns, [`Entity::Id`] converts into
/// a tuple of them. Times are kept to the microsecond.
pub trait StoredEntity: Entity {
    /// The SeaORM entity.
    type Table: EntityTrait<
            Model: From<Self>
                       + TryInto<Self, Error: Into<BoxError>>
                       + IntoActiveModel<<Self::Table as EntityTrait>::ActiveModel>
                       + Send
                       + Sync,
            ActiveModel: Send,
            PrimaryKey: PrimaryKeyTrait<ValueType: From<Self::Id>>,
        >;

    /// Whether the rows that many callers [`add`](yai_agentkit_core::Repository::add) at once are one
    /// statement. For ids that nobody else can have, such as random ones: a row that has to wait for
    /// another transaction holds up those it came with.
    const ADDED_TOGETHER: bool = false;

    /// The column by which rows are ordered, where that is not their key: an integer that the
    /// database assigns to each new row, greater than those before.
    const POSITION: Option<<Self::Table as EntityTrait>::Column> = None;

    /// The columns of text or JSON that [`ListQuery::max_bytes`](yai_agentkit_core::ListQuery::max_bytes) counts.
    const COUNTED: &'static [<Self::Table as EntityTrait>::Column] = &[];

    /// Whether its table has a tenant where there are tenants, and pages are read by an index that
    /// begins with that.
    #[doc(hidden)]
    const INDEXED_BY_TENANT: bool = false;

    /// The conversation, where it is one: the index of words follows what changes in it.
    #[doc(hidden)]
    fn searched(&self) -> Option<&Conversation> {
        None
    }

    /// The parts of a message: long texts in them stand apart.
    #[doc(hidden)]
    fn parts(
        _row: &mut <Self::Table as EntityTrait>::Model,
    ) -> Option<(uuid::Uuid, &mut serde_json::Value)> {
        None
    }

    /// The conversation, where such rows have [`parts`](Self::parts).
    #[doc(hidden)]
    fn conversation_with_parts(_id: &Self::Id) -> Option<uuid::Uuid> {
        None
    }

    /// Encrypts what it says.
    #[doc(hidden)]
    fn seal(&mut self, _: &KeyRing) {}

    /// Decrypts it.
    #[doc(hidden)]
    fn open(&mut self, _: &KeyRing) -> Result<(), EncryptionError> {
        Ok(())
    }

    /// What of a filter can't be compared with what is encrypted.
    #[doc(hidden)]
    fn needs_plain(_: &Self::Filter, _: &KeyRing) -> Option<&'static str> {
        None
    }

    /// Which rows `filter` takes.
    fn condition(filter: &Self::Filter) -> Condition;
}
