//! All that an owner has.

use serde::Serialize;
use utoipa::ToSchema;
use yai_agentkit_core::{
    Conversation, ListQuery, Repository, Result, Storage,
    access::{ApiKey, ApiKeyFilter, owner_id},
    audit::{Action, Actor},
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

/// Counts what [`erase`] would erase.
pub(crate) async fn count(storage: &dyn Storage, owner: &str) -> Result<Erased> {
    let store = storage.memory_store();
    let mut items = 0;
    for within in [ITEMS, MEMORIES] {
        let mut offset = 0;
        loop {
            let found = store.search(items_of(within, owner, offset)).await?;
            if found.is_empty() {
                break;
            }
            offset += found.len() as u64;
        }
        items += offset;
    }
    Ok(Erased {
        conversations: storage.conversations().count(&of(owner)).await?,
        items,
        keys: storage.api_keys().count(&ApiKeyFilter::of(owner)).await?,
    })
}

/// Erases all of an owner for good: the keys first, so that nobody makes more with them, and the
/// conversations also where turns run, whose writes are refused from then on.
pub(crate) async fn erase(
    storage: &dyn Storage,
    conversations: Conversations,
    owner: &str,
    actor: &Actor,
) -> Result<Erased> {
    let mut erased = Erased {
        keys: forget_keys(&*storage.api_keys(), owner).await?,
        ..Erased::default()
    };
    let conversations = conversations.by(actor.clone());
    let query = ListQuery::<Conversation>::filtered(of(owner));
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
    for within in [ITEMS, MEMORIES] {
        loop {
            let found = store.search(items_of(within, owner, 0)).await?;
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
    let act = actor.does(Action::OwnerErased, owner_id(owner));
    let act = act.counting(erased.conversations + erased.items + erased.keys);
    storage.audit().record(&act).await?;
    Ok(erased)
}

fn of(owner: &str) -> ConversationFilter {
    ConversationFilter::default().owned_by(Some(owner.to_owned()))
}

fn items_of(within: &str, owner: &str, offset: u64) -> Search {
    Search {
        namespace: namespace(within, owner),
        filter: Filter::default(),
        text: None,
        vector: None,
        limit: AT_ONCE,
        offset,
        renews: false,
    }
}

/// The rows stay, since a server on which a key was made once is open to nobody without one. They let
/// nobody in and tell of nobody.
async fn forget_keys(keys: &dyn Repository<ApiKey>, owner: &str) -> Result<u64> {
    let query = ListQuery::filtered(ApiKeyFilter::of(owner));
    let mut forgotten = 0;
    loop {
        let page = keys.list(&query).await?;
        if page.items.is_empty() {
            return Ok(forgotten);
        }
        for key in page.items {
            keys.update(&key.id, &|key: &mut ApiKey| {
                key.forget();
                Ok(())
            })
            .await?;
            forgotten += 1;
        }
    }
}
