use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use proptest::{collection::btree_set, option, prelude::*};
use serde_json::json;
use uuid::Uuid;
use yai_agentkit_core::{
    Clock, Conversation, ConversationId, ListQuery, Message, MessageId, Role, Turn, TurnId,
    TurnStatus,
    conversation::{ConversationFilter, MessageFilter},
    storage::{Cursor, Order, Start},
    turn::TurnFilter,
};

use super::{Names, Pair};
use crate::fixtures::replace;

pub(super) const CONVERSATIONS: u8 = 2;
const ROWS: u8 = 5;
const TITLES: u8 = 3;
const ROLES: [Role; 2] = [Role::User, Role::Assistant];
const STATUSES: [TurnStatus; 6] = TurnStatus::ALL;

/// A call of a repository.
#[derive(Clone, Debug)]
pub(super) enum RowOperation {
    AddConversations(BTreeSet<u8>),
    /// To the thread that another conversation may have.
    UpdateConversation {
        conversation: u8,
        thread: u8,
        title: Option<u8>,
    },
    DeleteConversation(u8),
    /// Those with a title.
    ListConversations(u8),
    AddMessages {
        conversation: u8,
        messages: BTreeSet<u8>,
        text: u8,
    },
    UpdateMessage {
        conversation: u8,
        message: u8,
        text: u8,
    },
    DeleteMessage {
        conversation: u8,
        message: u8,
    },
    ListMessages {
        conversation: u8,
        role: Option<u8>,
        is_oldest_first: bool,
        /// An offset, or the message behind which to start.
        start: Result<u64, u8>,
        limit: u64,
    },
    AddTurn {
        conversation: u8,
        turn: u8,
        status: u8,
    },
    UpdateTurn {
        conversation: u8,
        turn: u8,
        status: u8,
    },
    ListTurns {
        conversation: u8,
        status: Option<u8>,
    },
}

/// The ids of a conversation and of all rows that may belong to it.
pub(super) struct ConversationNames {
    pub(super) id: ConversationId,
    thread: Uuid,
    messages: Vec<MessageId>,
    turns: Vec<TurnId>,
    created_at: DateTime<Utc>,
}

impl ConversationNames {
    pub(super) fn new() -> Self {
        Self {
            id: ConversationId::new(),
            thread: Uuid::now_v7(),
            messages: (0..ROWS).map(|_| MessageId::new()).collect(),
            turns: (0..ROWS).map(|_| TurnId::new()).collect(),
            created_at: Clock::default().now(),
        }
    }

    fn message(&self, number: u8, text: u8) -> Message {
        let (id, role) = (
            self.messages[usize::from(number)],
            ROLES[usize::from(text % 2)].clone(),
        );
        let mut message = Message::with_id(id, self.id, role, text.to_string(), self.created_at);
        message.metadata = (!text.is_multiple_of(3)).then(|| json!({"text": [text]}));
        message
    }

    fn turn(&self, number: u8, status: u8) -> Turn {
        let status = STATUSES[usize::from(status)];
        let id = self.turns[usize::from(number)];
        let mut turn = Turn::with_id(id, self.id, self.messages[0], self.created_at);
        turn.status = status;
        turn.error = (status == TurnStatus::Failed).then(|| "failed".to_owned());
        turn.started_at = None;
        turn
    }
}

pub(super) fn operation() -> impl Strategy<Value = RowOperation> {
    use RowOperation::*;
    let conversation = || 0..CONVERSATIONS;
    let row = || 0..ROWS;
    let start = prop_oneof![(0..7_u64).prop_map(Ok), row().prop_map(Err)];
    let list = (
        conversation(),
        option::of(0..ROLES.len() as u8),
        any::<bool>(),
        start,
        0..5_u64,
    );
    let update = (conversation(), conversation(), option::of(0..TITLES));
    let status = || 0..STATUSES.len() as u8;
    prop_oneof![
        4 => btree_set(conversation(), 1..3).prop_map(AddConversations),
        2 => update.prop_map(|(conversation, thread, title)| UpdateConversation {
            conversation,
            thread,
            title,
        }),
        1 => conversation().prop_map(DeleteConversation),
        1 => (0..TITLES).prop_map(ListConversations),
        4 => (conversation(), btree_set(row(), 0..5), any::<u8>()).prop_map(
            |(conversation, messages, text)| AddMessages { conversation, messages, text },
        ),
        1 => (conversation(), row(), any::<u8>()).prop_map(
            |(conversation, message, text)| UpdateMessage { conversation, message, text },
        ),
        1 => (conversation(), row())
            .prop_map(|(conversation, message)| DeleteMessage { conversation, message }),
        3 => list.prop_map(|(conversation, role, is_oldest_first, start, limit)| ListMessages {
            conversation,
            role,
            is_oldest_first,
            start,
            limit,
        }),
        3 => (conversation(), row(), status()).prop_map(
            |(conversation, turn, status)| AddTurn { conversation, turn, status },
        ),
        2 => (conversation(), row(), status()).prop_map(
            |(conversation, turn, status)| UpdateTurn { conversation, turn, status },
        ),
        1 => (conversation(), option::of(status()))
            .prop_map(|(conversation, status)| ListTurns { conversation, status }),
    ]
}

impl RowOperation {
    pub(super) async fn run(&self, pair: &Pair, names: &Names) -> Result<bool, String> {
        let named = |number: &u8| &names.conversations[usize::from(*number)];
        match self {
            Self::AddConversations(numbers) => {
                let rows: Vec<_> = numbers
                    .iter()
                    .map(|number| conversation(named(number), named(number).thread, None))
                    .collect();
                pair.same(async |parts| parts.conversations.add_many(rows.clone()).await)
                    .await
            }
            Self::UpdateConversation {
                conversation: number,
                thread,
                title,
            } => {
                let title = title.map(|title| title_of(names, title));
                let row = conversation(named(number), named(thread).thread, title);
                pair.same(async |parts| {
                    let updated = replace(&*parts.conversations, &row).await?;
                    Ok((updated.updated_at > row.updated_at, timeless(updated)))
                })
                .await
            }
            Self::DeleteConversation(number) => {
                let id = named(number).id;
                pair.same(async |parts| parts.conversations.delete(&id).await)
                    .await
            }
            Self::ListConversations(title) => {
                let filter = ConversationFilter::titled(title_of(names, *title));
                let query = ListQuery::filtered(filter.clone());
                pair.same(async |parts| {
                    let count = parts.conversations.count(&filter).await?;
                    let page = parts.conversations.list(&query).await?;
                    let rows: Vec<_> = page.items.into_iter().map(timeless).collect();
                    Ok((count, rows, page.next))
                })
                .await
            }
            Self::AddMessages {
                conversation,
                messages,
                text,
            } => {
                let row = |number: &u8| named(conversation).message(*number, *text);
                let rows: Vec<_> = messages.iter().map(row).collect();
                pair.same(async |parts| parts.messages.add_many(rows.clone()).await)
                    .await
            }
            Self::UpdateMessage {
                conversation,
                message,
                text,
            } => {
                let row = named(conversation).message(*message, *text);
                pair.same(async |parts| replace(&*parts.messages, &row).await)
                    .await
            }
            Self::DeleteMessage {
                conversation,
                message,
            } => {
                let names = named(conversation);
                let id = names.id.key(names.messages[usize::from(*message)]);
                pair.same(async |parts| parts.messages.delete(&id).await)
                    .await
            }
            Self::ListMessages {
                conversation,
                role,
                is_oldest_first,
                start,
                limit,
            } => {
                let names = named(conversation);
                let mut filter = MessageFilter::of(names.id);
                filter.role = role.map(|role| ROLES[usize::from(role)].clone());
                let order = if *is_oldest_first {
                    Order::OldestFirst
                } else {
                    Order::NewestFirst
                };
                let start = match start {
                    Ok(offset) => Start::Offset(*offset),
                    Err(message) => {
                        let id = names.messages[usize::from(*message)];
                        Start::After(Cursor::Id(names.id.key(id)))
                    }
                };
                let mut query = ListQuery::filtered(filter).limit(*limit).order(order);
                query.start = start;
                query.max_bytes = (limit % 2 == 0).then_some(20);
                pair.same(async |parts| {
                    let page = parts.messages.list(&query).await?;
                    // A position is each storage's own: what counts is where it leads.
                    let rest = match page.next {
                        None => None,
                        Some(cursor) => {
                            let query = query.clone().after(cursor);
                            Some(parts.messages.list(&query).await?.items)
                        }
                    };
                    Ok((page.items, rest))
                })
                .await
            }
            Self::AddTurn {
                conversation,
                turn,
                status,
            } => {
                let row = named(conversation).turn(*turn, *status);
                pair.same(async |parts| parts.turns.add(row.clone()).await)
                    .await
            }
            Self::UpdateTurn {
                conversation,
                turn,
                status,
            } => {
                let row = named(conversation).turn(*turn, *status);
                pair.same(async |parts| {
                    let updated = replace(&*parts.turns, &row).await?;
                    Ok((updated.updated_at > row.updated_at, timeless_turn(updated)))
                })
                .await
            }
            Self::ListTurns {
                conversation,
                status,
            } => {
                let mut filter = TurnFilter::default().of(named(conversation).id);
                filter.status = status.map(|status| STATUSES[usize::from(status)]);
                same_turns(pair, filter).await
            }
        }
    }
}

/// Compares every row that the run may have made.
pub(super) async fn compare_all(pair: &Pair, names: &Names) -> Result<(), String> {
    for names in &names.conversations {
        pair.same(async |parts| {
            let row = parts.conversations.get(&names.id).await?;
            let exists = parts.conversations.exists(&names.id).await?;
            Ok((row.map(timeless), exists))
        })
        .await?;
        let filter = MessageFilter::of(names.id);
        let query = ListQuery::filtered(filter.clone());
        pair.same(async |parts| {
            let count = parts.messages.count(&filter).await?;
            Ok((count, parts.messages.list(&query).await?))
        })
        .await?;
        same_turns(pair, TurnFilter::default().of(names.id)).await?;
    }
    Ok(())
}

async fn same_turns(pair: &Pair, filter: TurnFilter) -> Result<bool, String> {
    let query = ListQuery::filtered(filter);
    pair.same(async |parts| {
        let page = parts.turns.list(&query).await?;
        let rows: Vec<_> = page.items.into_iter().map(timeless_turn).collect();
        Ok(rows)
    })
    .await
}

fn conversation(names: &ConversationNames, thread: Uuid, title: Option<String>) -> Conversation {
    let mut conversation = Conversation::with_id(names.id, names.created_at).with_thread(thread);
    conversation.title = title;
    conversation
}

fn title_of(names: &Names, number: u8) -> String {
    format!("{} title {number}", names.run)
}

/// Without the time of the last update, which two storages don't share.
fn timeless(mut conversation: Conversation) -> Conversation {
    conversation.updated_at = conversation.created_at;
    conversation
}

fn timeless_turn(mut turn: Turn) -> Turn {
    turn.updated_at = turn.created_at;
    turn
}
