//! Taking what was said into the index, behind those who say it.

use std::time::{Duration, Instant};

use super::TurnEngine;
use crate::error_chain;

/// How often one looks for something new.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many messages are taken in at once.
const AT_ONCE: u64 = 200;

impl TurnEngine {
    /// The same engine, which while it [keeps](Self::keep) makes messages [searchable](yai_agentkit_core::conversation::ConversationSearch).
    #[must_use]
    pub fn with_search(self, indexes: bool) -> Self {
        Self { indexes, ..self }
    }

    /// Whether messages can be searched.
    pub fn has_search(&self) -> bool {
        self.indexes
    }

    pub(super) async fn keep_indexing(&self) {
        if !self.indexes {
            return std::future::pending().await;
        }
        let search = self.storage.search();
        let mut fails = false;
        loop {
            let begun = Instant::now();
            match search.index(AT_ONCE).await {
                // As long as others work one rests.
                Ok(AT_ONCE) => tokio::time::sleep(begun.elapsed()).await,
                Ok(_) => {
                    fails = false;
                    tokio::time::sleep(INTERVAL).await;
                }
                Err(error) => {
                    if !fails {
                        tracing::warn!(error = error_chain(&error), "messages are not indexed");
                    }
                    fails = true;
                    tokio::time::sleep(10 * INTERVAL).await;
                }
            }
        }
    }
}
