//! The chosen branch of a conversation: a flag of its messages.

use yai_agentkit_core::{ConversationId, Error, Message, MessageId, Repository, Result};

use crate::{connection::Connection, error::storage_error, repository::SqlRepository, sql::Sql};

/// The path goes up to the first message that is chosen; before that all stays as it is.
const CHOOSE: Sql = Sql::same(
    "WITH RECURSIVE path (id, parent_id, is_chosen, position) AS (
    SELECT id, parent_id, is_chosen, position FROM agent_messages
    WHERE conversation_id = $1 AND id = $2
    UNION ALL
    SELECT m.id, m.parent_id, m.is_chosen, m.position
    FROM path p JOIN agent_messages m ON m.conversation_id = $1 AND m.id = p.parent_id
    WHERE NOT p.is_chosen
)
UPDATE agent_messages SET is_chosen = NOT is_chosen
WHERE conversation_id = $1 AND (
    is_chosen AND position > COALESCE((SELECT p.position FROM path p WHERE p.is_chosen), 0)
    OR NOT is_chosen AND id IN (SELECT p.id FROM path p)
)",
);

/// See [`TurnStore::choose`](yai_agentkit_core::TurnStore::choose).
pub(crate) async fn choose(
    connection: &Connection,
    conversation: ConversationId,
    last: Option<MessageId>,
) -> Result<()> {
    let failed = |error| storage_error("choose", error);
    let transaction = connection.begin().await.map_err(failed)?;
    if let Some(id) = last {
        let messages = SqlRepository::<Message>::within(transaction.clone());
        if !messages.exists(&conversation.key(id)).await? {
            return Err(Error::not_found("message", id));
        }
    }
    let mut query = CHOOSE.query(&transaction);
    query.bind(conversation.0);
    query.bind(last.map(|id| id.0));
    query.execute(&transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}
