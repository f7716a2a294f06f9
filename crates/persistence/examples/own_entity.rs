//! An application's own entity: a note, in its own table beside AgentKit's, with the whole
//! `Repository` on PostgreSQL and SQLite.
//!
//! ```sh
//! cargo run -p yai-agentkit-persistence --example own_entity [DATABASE_URL]
//! ```

use chrono::{DateTime, Utc};
use uuid::Uuid;
use yai_agentkit_core::{Clock, Conversation, Entity, ListQuery, Message, Result, Role, Stores};
use yai_agentkit_persistence::{
    Database, DatabaseConfig, StoredEntity,
    sea_orm::{ColumnTrait, Condition},
};

pub(crate) use migration::Migrator;
pub(crate) use note::Model as Note;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1);
    let config = DatabaseConfig::new(url.as_deref().unwrap_or("sqlite::memory:"))?;
    let database = Database::connect(&config).await?;
    database.migrate_with::<Migrator>().await?;
    for line in take_notes(&database).await? {
        println!("{line}");
    }
    database.close().await;
    Ok(())
}

/// The table: an ordinary SeaORM model.
mod note {
    use yai_agentkit_persistence::sea_orm::{self, entity::prelude::*};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "notes")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) id: Uuid,
        pub(crate) author: String,
        pub(crate) text: String,
        pub(crate) pinned: bool,
        pub(crate) created_at: DateTimeUtc,
        pub(crate) updated_at: DateTimeUtc,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Note {
    /// A new note. Its id sorts behind those of older notes: lists and pages go by id.
    pub(crate) fn new(author: &str, text: &str) -> Self {
        let now = Clock::default().now();
        Self {
            id: Uuid::now_v7(),
            author: author.to_owned(),
            text: text.to_owned(),
            pinned: false,
            created_at: now,
            updated_at: now,
        }
    }
}

/// Which notes; the default is all.
#[derive(Clone, Debug, Default)]
pub(crate) struct NoteFilter {
    pub(crate) author: Option<String>,
    pub(crate) pinned: Option<bool>,
}

impl Entity for Note {
    type Id = Uuid;
    type Filter = NoteFilter;
    const NAME: &'static str = "note";

    fn id(&self) -> Uuid {
        self.id
    }

    fn touch(&mut self, now: DateTime<Utc>) {
        self.updated_at = now;
    }
}

impl StoredEntity for Note {
    type Table = note::Entity;

    fn condition(filter: &NoteFilter) -> Condition {
        let author = filter.author.as_deref();
        Condition::all()
            .add_option(author.map(|author| note::Column::Author.eq(author)))
            .add_option(filter.pinned.map(|pinned| note::Column::Pinned.eq(pinned)))
    }
}

/// Uses the repository, and says what it does.
pub(crate) async fn take_notes(database: &Database) -> Result<Vec<String>> {
    let notes = database.repository::<Note>();
    let mut said = Vec::new();

    notes.add(Note::new("Ada", "Bernoulli numbers")).await?;
    let texts = ["Weave algebra", "Ask Charles", "Correct note G"];
    let others = texts.map(|text| Note::new("Ada", text));
    notes.add_many(others.to_vec()).await?;
    notes.add(Note::new("Grace", "A moth in relay 70")).await?;
    said.push(format!(
        "{} notes",
        notes.count(&NoteFilter::default()).await?
    ));

    let of_ada = NoteFilter {
        author: Some("Ada".to_owned()),
        ..NoteFilter::default()
    };
    let mut query = ListQuery::filtered(of_ada.clone()).limit(3);
    loop {
        let page = notes.list(&query).await?;
        let texts: Vec<_> = page.items.iter().map(|note| note.text.as_str()).collect();
        said.push(format!(
            "a page of Ada's, newest first: {}",
            texts.join(", ")
        ));
        let Some(next) = page.next else { break };
        query = query.after(next);
    }

    let newest = notes.list(&ListQuery::filtered(of_ada).limit(1)).await?;
    for note in newest.items {
        let pin = |stored: &mut Note| {
            stored.pinned = true;
            Ok(())
        };
        let note = notes.update(&note.id, &pin).await?;
        said.push(format!("pinned: {}", note.text));
        let gone = notes.delete(&note.id).await?;
        said.push(format!("deleted: {gone}"));
    }

    // A note and a conversation, both or neither.
    let unit = database.begin_unit().await?;
    let chat = unit
        .conversations()
        .add(Conversation::titled("Notes"))
        .await?;
    let message = Message::new(chat.id, Role::User, "Note: call Charles");
    unit.messages().add(message).await?;
    unit.repository()
        .add(Note::new("Ada", "Call Charles"))
        .await?;
    unit.commit().await?;
    let chats = database.conversations().count(&Default::default()).await?;
    let count = notes.count(&NoteFilter::default()).await?;
    said.push(format!("{chats} conversation, {count} notes"));
    Ok(said)
}

/// The application's own migrations.
mod migration {
    use yai_agentkit_persistence::sea_orm_migration::{prelude::*, schema};

    pub(crate) struct Migrator;

    impl MigratorTrait for Migrator {
        fn migrations() -> Vec<Box<dyn MigrationTrait>> {
            vec![Box::new(CreateNotes)]
        }
    }

    struct CreateNotes;

    impl MigrationName for CreateNotes {
        fn name(&self) -> &str {
            "0001_create_notes"
        }
    }

    #[async_trait::async_trait]
    impl MigrationTrait for CreateNotes {
        async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
            let table = Table::create()
                .table("notes")
                .col(schema::pk_uuid("id"))
                .col(schema::text("author"))
                .col(schema::text("text"))
                .col(schema::boolean("pinned"))
                .col(schema::timestamp_with_time_zone("created_at"))
                .col(schema::timestamp_with_time_zone("updated_at"))
                .take();
            manager.create_table(table).await?;
            // The id behind the author: a page of an author's notes costs the same at any depth.
            let index = Index::create()
                .name("notes_author_id_idx")
                .table("notes")
                .col("author")
                .col("id")
                .take();
            manager.create_index(index).await
        }
    }
}
