//! What is written while SQLite fails, and what must hold afterwards.

use std::collections::BTreeSet;

use futures::future::join_all;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tempfile::TempDir;
use yai_agentkit_core::{
    CheckpointSelector, Conversation, Error, ListQuery, Message, NewWrites, Result, Role, Storage,
    Stores, ThreadId, Turn, UnitOfWork, Value,
    checkpoint::{ChannelWrite, CheckpointerExt},
    conversation::{ConversationFilter, MessageFilter},
    turn::TurnFilter,
};
use yai_agentkit_persistence::{Database, DatabaseConfig};

use crate::fixture::{config, sqlite_file};

/// The tables that a unit of work writes to, in its order.
pub(crate) const TABLES: [&str; 7] = [
    "agent_conversations",
    "agent_messages",
    "agent_turns",
    "threads",
    "checkpoint_blobs",
    "checkpoints",
    "checkpoint_writes",
];

/// Larger than a page, so that each statement asks for new ones.
const TEXT: usize = 5_000;

/// A database on a file, and what it has acknowledged.
pub(crate) struct Rig {
    pub(crate) database: Database,
    pub(crate) url: String,
    acknowledged: BTreeSet<ThreadId>,
    failed: Vec<Conversation>,
    _directory: Option<TempDir>,
}

impl Rig {
    pub(crate) async fn new(configure: impl FnOnce(DatabaseConfig) -> DatabaseConfig) -> Self {
        let (directory, _, url) = sqlite_file();
        let mut rig = Self::at(url, configure).await;
        rig._directory = Some(directory);
        rig
    }

    pub(crate) async fn at(
        url: String,
        configure: impl FnOnce(DatabaseConfig) -> DatabaseConfig,
    ) -> Self {
        let database = Database::connect(&configure(config(&url))).await.unwrap();
        let mut rig = Self {
            database,
            url,
            acknowledged: BTreeSet::new(),
            failed: Vec::new(),
            _directory: None,
        };
        rig.unit().await.unwrap();
        rig
    }

    /// A unit of work that writes to each of [`TABLES`].
    pub(crate) async fn unit(&mut self) -> Result<()> {
        let metadata = serde_json::json!({"text": "t".repeat(TEXT)});
        let conversation = Conversation::new(None, Some(metadata));
        let done = write_all(&self.database, &conversation).await;
        match &done {
            Ok(()) => drop(self.acknowledged.insert(conversation.thread_id())),
            Err(_) => self.failed.push(conversation),
        }
        done
    }

    /// What goes together by itself, at once; returns the errors.
    pub(crate) async fn group(&mut self) -> Vec<Error> {
        let conversations: Vec<_> = (0..8).map(|_| Conversation::titled("g")).collect();
        let checkpointer = self.database.checkpointer();
        let saved = join_all(conversations.iter().map(|conversation| {
            let (checkpointer, thread) = (checkpointer.clone(), conversation.thread_id());
            async move { checkpointer.save(&thread, &["g".repeat(TEXT)]).await }
        }));
        let mut errors = Vec::new();
        for (conversation, saved) in conversations.into_iter().zip(saved.await) {
            match saved {
                Ok(_) => drop(self.acknowledged.insert(conversation.thread_id())),
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// After the fault has gone.
    pub(crate) async fn assert_sound(&mut self) {
        self.unit().await.unwrap();
        assert!(self.group().await.is_empty());
        let conversations = self.database.conversations();
        let count = conversations.count(&ConversationFilter::default()).await;
        let threads = self.database.checkpointer().keys(10_000).await.unwrap();
        let threads: BTreeSet<_> = threads.into_iter().collect();
        assert_eq!(threads, self.acknowledged);
        let all = ListQuery::default();
        let first = conversations.list(&all).await.unwrap();
        assert!(count.unwrap() >= first.items.len() as u64);
        for failed in &self.failed {
            assert_eq!(conversations.get(&failed.id).await.unwrap(), None);
            let messages = MessageFilter::of(failed.id);
            assert_eq!(self.database.messages().count(&messages).await.unwrap(), 0);
            let turns = TurnFilter::default().of(failed.id);
            assert_eq!(self.database.turns().count(&turns).await.unwrap(), 0);
        }
        assert_eq!(self.texts("PRAGMA integrity_check").await, ["ok"]);
        let broken = "SELECT \"table\" FROM pragma_foreign_key_check";
        assert!(self.texts(broken).await.is_empty());
    }

    /// Runs a script on a connection of its own, as another process would.
    pub(crate) async fn execute(&self, script: &str) {
        let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
        let script = sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut connection);
        script.await.unwrap();
        connection.close().await.unwrap();
    }

    pub(crate) async fn texts(&self, query: &str) -> Vec<String> {
        let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
        let rows = sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&mut connection);
        let rows = rows.await.unwrap();
        connection.close().await.unwrap();
        rows
    }
}

async fn write_all(database: &Database, conversation: &Conversation) -> Result<()> {
    let unit: Box<dyn UnitOfWork> = Storage::begin(database).await?;
    let thread = conversation.thread_id();
    unit.conversations().add(conversation.clone()).await?;
    let message = Message::new(conversation.id, Role::User, "m".repeat(TEXT));
    let message = unit.messages().add(message).await?;
    let turn = Turn::new(conversation.id, message.id);
    unit.turns().add(turn).await?;
    let checkpointer = unit.checkpointer();
    checkpointer.save(&thread, &["s".repeat(TEXT)]).await?;
    let tuple = checkpointer
        .get(&CheckpointSelector::latest(thread))
        .await?;
    let Some(tuple) = tuple else {
        panic!("a unit did not see its own checkpoint");
    };
    let writes = NewWrites {
        key: tuple.key,
        task_id: "task".to_owned(),
        task_path: String::new(),
        writes: vec![ChannelWrite {
            channel: "channel".to_owned(),
            value: Value::encode(&"w".repeat(TEXT)).unwrap(),
        }],
    };
    checkpointer.put_writes(writes, None).await?;
    unit.commit().await
}
