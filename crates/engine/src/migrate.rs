//! States of agents that were stored in earlier versions, all at once.

use serde::Deserialize;
use serde_json::Value as Json;
use yai_agentkit_core::{
    CheckpointSelector, Conversation, ConversationId, Fence, ListQuery, ThreadState,
    checkpoint::{CheckpointSource, Values},
};

use super::{
    TurnEngine, TurnError,
    chat::{Chat, STATE, state_version},
    error_chain,
};

/// How many conversations are looked at at once.
const AT_ONCE: u64 = 100;

/// Of how many conversations the agent's state is of which version.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Migration {
    /// Of today's, or there is none yet.
    pub current: u64,
    /// Of an earlier one, and migrated now, or would be.
    pub migrated: u64,
    /// Of an earlier one that can be migrated, and will be when the turn that has not ended goes on.
    pub later: u64,
    /// Of a later one than the agents of this program know.
    pub newer: u64,
    /// Those that can't be migrated, with the reason.
    pub failed: Vec<(ConversationId, String)>,
}

/// What is read of a state.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Own {
    state: Json,
}

enum Found {
    Current,
    Older,
    Newer,
    Failed(String),
}

impl TurnEngine {
    /// Migrates the agents' states of all conversations. Without it each is migrated when its chat
    /// goes on, so that this is for who wants to know before (`dry_run` changes nothing), or to take an
    /// old migration out of the program. Servers may be at work meanwhile.
    pub async fn migrate_states(&self, dry_run: bool) -> Result<Migration, TurnError> {
        let mut migration = Migration::default();
        let mut query = ListQuery::default().oldest_first().limit(AT_ONCE);
        loop {
            let page = self.storage.conversations().list(&query).await?;
            for conversation in page.items {
                let id = conversation.id;
                match self.find_state(conversation).await? {
                    Found::Current => migration.current += 1,
                    Found::Newer => migration.newer += 1,
                    Found::Failed(reason) => migration.failed.push((id, reason)),
                    Found::Older if dry_run => migration.migrated += 1,
                    Found::Older => match self.migrate_state(id).await {
                        Ok(true) => migration.migrated += 1,
                        Ok(false) | Err(TurnError::Busy(_)) => migration.later += 1,
                        Err(error) => migration.failed.push((id, error_chain(&error))),
                    },
                }
            }
            match page.next {
                Some(next) => query = query.after(next),
                None => return Ok(migration),
            }
        }
    }

    async fn find_state(&self, conversation: Conversation) -> Result<Found, TurnError> {
        let agent = match self.agents.of(&conversation) {
            Ok(agent) => agent,
            Err(name) => return Ok(Found::Failed(TurnError::NoAgent(name).to_string())),
        };
        let thread = conversation.thread_id();
        let state = CheckpointSelector {
            values: Values::Of([STATE.to_owned()].into()),
            ..CheckpointSelector::latest(thread.clone())
        };
        let Some(tuple) = self.storage.checkpointer().get(&state).await? else {
            return Ok(Found::Current);
        };
        let (stored, known) = (state_version(&tuple), agent.state_version());
        let own = match ThreadState::new(thread, Some(tuple)).state::<Own>() {
            Ok(own) => own.unwrap_or_default().state,
            Err(error) => return Ok(Found::Failed(error_chain(&error))),
        };
        Ok(match own {
            Json::Null => Found::Current,
            _ if stored > known => Found::Newer,
            _ if stored == known => Found::Current,
            own => match agent.migrate(stored, own) {
                Ok(_) => Found::Older,
                Err(reason) => Found::Failed(reason),
            },
        })
    }

    /// Stores the state of a conversation as it is today; not while a turn is under way.
    async fn migrate_state(&self, conversation: ConversationId) -> Result<bool, TurnError> {
        let claim = self.claim(conversation).await?;
        let chat = Chat::open(self.clone(), claim, 0).await?;
        let Some(last) = chat.last_message().filter(|_| !chat.is_under_way()) else {
            return Ok(false);
        };
        let (state, epoch) = (chat.state.clone(), chat.next_epoch());
        let checkpointer = self.storage.checkpointer();
        let source = CheckpointSource::Update;
        let staged = chat.stage(&*checkpointer, state, source, last, epoch, None);
        let (checkpoint, _) = staged.await?;
        let put = checkpointer.put(checkpoint, Fence::Raise(epoch).into());
        match put.await.map_err(TurnError::of_owner) {
            Ok(_) => Ok(true),
            // A turn has begun meanwhile.
            Err(TurnError::Lost) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
