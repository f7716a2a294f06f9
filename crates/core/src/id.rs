use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An id that is a UUID of version 7: ordered by time of creation.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, greater than every id made before by this process.
            #[expect(clippy::new_without_default, reason = "a default that differs at each call surprises")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

/// The key of something that belongs to a conversation: the conversation, and its id there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InConversation<Id> {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The id, by which alone it is called.
    pub id: Id,
}

impl<Id: fmt::Display> fmt::Display for InConversation<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl<Id: Into<Uuid>> From<InConversation<Id>> for (Uuid, Uuid) {
    fn from(key: InConversation<Id>) -> Self {
        (key.conversation_id.0, key.id.into())
    }
}

impl ConversationId {
    /// The key of what has `id` in this conversation.
    pub fn key<Id>(self, id: Id) -> InConversation<Id> {
        InConversation {
            conversation_id: self,
            id,
        }
    }
}

/// An id that is any text without a NUL character, as LangGraph has them.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    };
}

uuid_id! {
    /// The id of a [`Conversation`](crate::Conversation).
    ConversationId
}
uuid_id! {
    /// The id of a [`Message`](crate::Message).
    MessageId
}
uuid_id! {
    /// The id of a [`Turn`](crate::Turn).
    TurnId
}

uuid_id! {
    /// The id of who may own turns: one run of a server.
    OwnerId
}
uuid_id! {
    /// The id of an [`Interrupt`](crate::turn::Interrupt).
    InterruptId
}

impl MessageId {
    /// The id of the answer to the message with this id: the next greater one.
    ///
    /// It is the same at every attempt, so an answer can't be stored twice.
    pub fn answer(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128().wrapping_add(1)))
    }
}

text_id! {
    /// The id of a thread: one execution history, the unit of storage and of distribution.
    ThreadId
}
text_id! {
    /// A checkpoint namespace: [`Namespace::root`] is the root graph, any other a subgraph.
    Namespace
}
text_id! {
    /// The id of a checkpoint: a UUID of version 6 as text, so that text order is time order.
    CheckpointId
}

impl ThreadId {
    /// Refuses what no back end can store: a NUL character, more than an index takes.
    pub fn validate(&self) -> crate::Result<()> {
        crate::validate::text("thread_id", &self.0)?;
        crate::validate::key(&[("thread_id", &self.0)])
    }
}

impl Namespace {
    /// The namespace of the root graph, the empty string.
    pub const fn root() -> Self {
        Self(String::new())
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::root()
    }
}

impl CheckpointId {
    /// A new id that sorts behind `parent`, even where this machine's clock is behind the clock
    /// that made the parent's id.
    pub fn after(parent: Option<&Self>) -> Self {
        let [.., a, b, c, d, e, f] = Uuid::new_v4().into_bytes();
        let node = [a, b, c, d, e, f];
        let id = Self(Uuid::now_v6(&node).to_string());
        match parent {
            Some(parent) if id <= *parent => parent.successor(&node).unwrap_or(id),
            _ => id,
        }
    }

    fn successor(&self, node: &[u8; 6]) -> Option<Self> {
        let (ticks, counter) = Uuid::parse_str(&self.0)
            .ok()?
            .get_timestamp()?
            .to_gregorian();
        let timestamp = uuid::Timestamp::from_gregorian_time(ticks + 1, counter);
        Some(Self(Uuid::new_v6(timestamp, node).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_id_sorts_behind_its_parent_although_the_clock_went_back() {
        let future = uuid::Timestamp::from_unix(uuid::NoContext, 4_000_000_000, 0);
        let parent = CheckpointId(Uuid::new_v6(future, &[1; 6]).to_string());
        let child = CheckpointId::after(Some(&parent));
        assert!(child > parent, "{child} > {parent}");
        assert!(CheckpointId::after(Some(&child)) > child);
    }

    #[test]
    fn checkpoint_ids_of_one_process_are_ordered() {
        let ids: Vec<_> = (0..1000).map(|_| CheckpointId::after(None)).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn no_other_message_has_the_id_of_an_answer() {
        let question = MessageId::new();
        assert!(question < question.answer() && question.answer() < MessageId::new());
    }
}
