use uuid::Uuid;

use crate::{ConflictKind, ConversationId, Entity, conversation::InConversation};

/// What a request that carried a key has led to, so that its repetition leads to the same.
///
/// It is stored in the transaction of what the request made, or before as
/// [`pending`](Self::pending). The key is used once in its scope: adding it again is
/// [`Error::Conflict`](crate::Error::Conflict).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct IdempotencyKey {
    /// The conversation in which the key was used; of a request that makes one, who sends it.
    pub scope: ConversationId,
    /// Made of the scope and the key; in no order of time.
    pub id: Uuid,
    /// Made of the whole request: another under the same key has another one.
    pub fingerprint: Uuid,
    /// The id of what the request has made, nil before that.
    pub resource_id: Uuid,
}

impl IdempotencyKey {
    /// The use of `key` by `request` within `scope`, such as a conversation.
    pub fn new(scope: Uuid, key: &str, request: &[u8], resource_id: Uuid) -> Self {
        let id = Uuid::new_v5(&scope, key.as_bytes());
        let fingerprint = Uuid::new_v5(&id, request);
        Self::with_id(ConversationId(scope), id, fingerprint, resource_id)
    }

    /// The key with this id, for a back end to return.
    pub fn with_id(scope: ConversationId, id: Uuid, fingerprint: Uuid, resource_id: Uuid) -> Self {
        Self {
            scope,
            id,
            fingerprint,
            resource_id,
        }
    }

    /// Its use by a request that has yet to make something, so that an equal one waits for that.
    pub fn pending(self) -> Self {
        Self {
            resource_id: Uuid::nil(),
            ..self
        }
    }

    /// Whether nothing was made yet.
    pub fn is_pending(&self) -> bool {
        self.resource_id.is_nil()
    }
}

/// Which keys: all.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct IdempotencyKeyFilter {}

impl Entity for IdempotencyKey {
    type Id = InConversation<Uuid>;
    type Filter = IdempotencyKeyFilter;
    const NAME: &'static str = "idempotency key";

    fn id(&self) -> Self::Id {
        self.scope.key(self.id)
    }

    fn conflict(id: &Self::Id) -> ConflictKind {
        ConflictKind::IdempotencyKey(id.id)
    }
}
