//! All that an owner has, or a tenant.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;
use yai_agentkit_core::{
    CheckpointQuery, Conversation, ListQuery, Repository, Result, Storage,
    access::{ApiKey, ApiKeyFilter, owner_id},
    audit::{Act, Action, Actor},
    conversation::ConversationFilter,
    store::{Filter, Labels, MemoryStoreExt, Search},
};
use yai_agentkit_engine::Conversations;

/// How many items are read at once.
const AT_ONCE: u64 = 100;

/// Within it are the namespaces that an owner has over HTTP,
pub(crate) const ITEMS: &str = "owners";
/// and within this, what agents of others have remembered.
pub(crate) const MEMORIES: &str = "memories";

/// The namespace of an owner within another. A label may have no point.
pub(crate) fn namespace(within: &str, owner: &str) -> Labels {
    let owner = owner.replace('%', "%25").replace('.', "%2E");
    vec![within.to_owned(), owner]
}

/// What was erased, or would be.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ErasedOwner)]
pub(crate) struct Erased {
    /// Conversations, each with all that it had.
    pub(crate) conversations: u64,
    /// Items of the store.
    pub(crate) items: u64,
    /// Keys, which are revoked and forget whose they were.
    pub(crate) keys: u64,
}

/// Whose all is.
#[derive(Clone, Copy)]
pub(crate) enum Whose<'a> {
    /// One owner's.
    Owner(&'a str),
    /// That of the tenant of this name, whose the storage is.
    Tenant(&'a str),
}

impl Whose<'_> {
    fn conversations(self) -> ConversationFilter {
        let owner = match self {
            Self::Owner(owner) => Some(owner.to_owned()),
            Self::Tenant(_) => None,
        };
        ConversationFilter::default().owned_by(owner)
    }

    fn keys(self) -> ApiKeyFilter {
        match self {
            Self::Owner(owner) => ApiKeyFilter::of(owner),
            Self::Tenant(_) => ApiKeyFilter::default(),
        }
    }

    /// Where the items are.
    fn namespaces(self) -> Vec<Labels> {
        match self {
            Self::Owner(owner) => vec![namespace(ITEMS, owner), namespace(MEMORIES, owner)],
            Self::Tenant(_) => vec![Labels::new()],
        }
    }

    fn act(self, actor: &Actor) -> Act {
        match self {
            Self::Owner(owner) => actor.does(Action::OwnerErased, owner_id(owner)),
            Self::Tenant(tenant) => actor.does(Action::TenantErased, tenant),
        }
    }
}

/// Counts what [`erase`] would erase.
pub(crate) async fn count(storage: &dyn Storage, whose: Whose<'_>) -> Result<Erased> {
    let store = storage.memory_store();
    let mut erased = Erased {
        conversations: storage
            .conversations()
            .count(&whose.conversations())
            .await?,
        ..Erased::default()
    };
    for namespace in whose.namespaces() {
        let mut offset = 0;
        loop {
            let found = store.search(items_in(&namespace, offset)).await?;
            if found.is_empty() {
                break;
            }
            offset += found.len() as u64;
        }
        erased.items += offset;
    }
    let keys = keys_of(&*storage.api_keys(), whose).await?;
    erased.keys = keys.len() as u64;
    Ok(erased)
}

/// Erases all of somebody for good: the keys first, so that nobody makes more with them, and the
/// conversations also where turns run, whose writes are refused from then on.
pub(crate) async fn erase(
    storage: &dyn Storage,
    conversations: Conversations,
    whose: Whose<'_>,
    actor: &Actor,
) -> Result<Erased> {
    let mut erased = Erased {
        keys: forget_keys(&*storage.api_keys(), whose).await?,
        ..Erased::default()
    };
    if let Whose::Tenant(_) = whose {
        erase_threads(storage).await?;
    }
    let conversations = conversations.by(actor.clone());
    let query = ListQuery::<Conversation>::filtered(whose.conversations());
    loop {
        let page = storage.conversations().list(&query).await?;
        if page.items.is_empty() {
            break;
        }
        for conversation in page.items {
            erased.conversations += u64::from(conversations.erase(conversation.id).await?);
        }
    }
    let store = storage.memory_store();
    for namespace in whose.namespaces() {
        loop {
            let found = store.search(items_in(&namespace, 0)).await?;
            if found.is_empty() {
                break;
            }
            for item in found {
                store.delete(item.key).await?;
                erased.items += 1;
            }
        }
    }
    // No search finds those that have outlived their time.
    store.sweep().await?;
    let act = whose
        .act(actor)
        .counting(erased.conversations + erased.items + erased.keys);
    storage.audit().record(&act).await?;
    Ok(erased)
}

/// Those of programs beside us. One that is a conversation's goes with it, and what is left of one that
/// was erased under a turn has nothing but its epoch, which it keeps.
async fn erase_threads(storage: &dyn Storage) -> Result<()> {
    let (checkpoints, mut after) = (storage.checkpointer(), None);
    loop {
        let page = checkpoints.threads(AT_ONCE, after.as_ref()).await?;
        for thread in page.items {
            // One whose id is none of a conversation's is no chat's.
            if let Ok(id) = thread.id.as_str().parse() {
                let mut of_thread = ConversationFilter::default();
                of_thread.checkpoint_thread_id = Some(id);
                let is_chats = storage.conversations().count(&of_thread).await? > 0;
                let mut latest = CheckpointQuery::of(thread.id.clone());
                latest.limit = Some(1);
                if is_chats || checkpoints.list(&latest).await?.is_empty() {
                    continue;
                }
            }
            checkpoints.delete_thread(&thread.id).await?;
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

fn items_in(namespace: &Labels, offset: u64) -> Search {
    Search {
        namespace: namespace.clone(),
        filter: Filter::default(),
        text: None,
        vector: None,
        limit: AT_ONCE,
        offset,
        renews: false,
    }
}

/// Those that tell of somebody.
async fn keys_of(keys: &dyn Repository<ApiKey>, whose: Whose<'_>) -> Result<Vec<Uuid>> {
    let (mut query, mut ids) = (ListQuery::filtered(whose.keys()), Vec::new());
    loop {
        let page = keys.list(&query).await?;
        let known = page.items.iter().filter(|key| !key.is_forgotten());
        ids.extend(known.map(|key| key.id));
        match page.next {
            Some(next) => query = query.after(next),
            None => return Ok(ids),
        }
    }
}

/// The rows stay, since a server on which a key was made once is open to nobody without one. They let
/// nobody in and tell of nobody.
async fn forget_keys(keys: &dyn Repository<ApiKey>, whose: Whose<'_>) -> Result<u64> {
    let mut forgotten = 0;
    loop {
        let known = keys_of(keys, whose).await?;
        if known.is_empty() {
            return Ok(forgotten);
        }
        for id in known {
            keys.update(&id, &|key: &mut ApiKey| {
                key.forget();
                Ok(())
            })
            .await?;
            forgotten += 1;
        }
    }
}
