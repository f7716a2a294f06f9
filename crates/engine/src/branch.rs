//! Branches: messages beside others, answers given anew, and which of them counts.

use std::collections::HashMap;

use yai_agentkit_core::{
    CheckpointTuple, ConversationId, Entity, Error, Fence, ListQuery, Message, MessageId,
    Repository, Result, Role, checkpoint::CheckpointSource, conversation::MessageFilter,
    turn::Place,
};

use super::{MESSAGE_ID, SendOptions, TurnEngine, TurnError, TurnHandle, chat::Chat};

/// How much is read at once.
pub(super) const MESSAGES_AT_ONCE: u64 = 1000;
pub(super) const BYTES_AT_ONCE: u64 = 4 << 20;

impl TurnEngine {
    /// The place of a message that takes the place of `message`, beside it.
    pub async fn beside(
        &self,
        conversation: ConversationId,
        message: MessageId,
    ) -> Result<Place, TurnError> {
        let messages = self.storage.messages();
        let message = find(&*messages, conversation, message).await?;
        Ok(Place::Behind(before(&*messages, &message).await?))
    }

    /// Answers a user's message anew, by its own id or that of an answer to it, and returns the turn.
    /// The new answer stands beside the first one, on the branch that is chosen from now on.
    pub async fn regenerate(
        &self,
        conversation: ConversationId,
        message: MessageId,
        options: SendOptions,
    ) -> Result<TurnHandle, TurnError> {
        let messages = self.storage.messages();
        let mut asked = find(&*messages, conversation, message).await?;
        if let (Role::Assistant, Some(parent)) = (&asked.role, asked.parent_id) {
            asked = find(&*messages, conversation, parent).await?;
        }
        let options = SendOptions {
            place: Place::Stored,
            ..options
        };
        self.start(asked, options).await
    }

    /// Chooses the branch that `message` is on, up to its newest message: what is said next goes on
    /// from there, and so does the agent. [`TurnError::Busy`] while a turn has not ended.
    pub async fn choose(
        &self,
        conversation: ConversationId,
        message: MessageId,
    ) -> Result<(), TurnError> {
        let work = async move |engine: Self| engine.choose_end(conversation, message).await;
        self.detached(work).await
    }

    async fn choose_end(
        self,
        conversation: ConversationId,
        message: MessageId,
    ) -> Result<(), TurnError> {
        let messages = self.storage.messages();
        let message = find(&*messages, conversation, message).await?;
        if message.is_chosen {
            return Ok(());
        }
        let last = end_of(&*messages, &message).await?;
        let busy = || TurnError::Busy(conversation);
        let claim = self.claim(conversation).await?;
        let mut chat = Chat::open(self.clone(), claim, 0).await?;
        if chat.is_under_way() {
            return Err(busy());
        }
        chat.go_back(Some(last)).await?;
        let (state, epoch) = (chat.base(), chat.next_epoch());
        let unit = self.storage.begin().await?;
        let checkpointer = unit.checkpointer();
        let source = CheckpointSource::Fork;
        let staged = chat.stage(&*checkpointer, state, source, last, epoch, None);
        let (checkpoint, _) = staged.await?;
        let put = checkpointer.put(checkpoint, Fence::Raise(epoch).into());
        match put.await {
            // A turn has begun meanwhile.
            Err(Error::Fenced { .. }) => return Err(busy()),
            put => drop(put?),
        }
        unit.turn_store().choose(conversation, Some(last)).await?;
        unit.commit().await?;
        Ok(())
    }
}

pub(super) async fn find(
    messages: &dyn Repository<Message>,
    conversation: ConversationId,
    id: MessageId,
) -> Result<Message> {
    let found = messages.get(&conversation.key(id)).await?;
    found.ok_or_else(|| Error::not_found("message", id))
}

/// The message before another one. One that an application has stored may not name it.
pub(super) async fn before(
    messages: &dyn Repository<Message>,
    message: &Message,
) -> Result<Option<MessageId>> {
    if message.parent_id.is_some() || !message.is_chosen {
        return Ok(message.parent_id);
    }
    let chosen = ListQuery::filtered(MessageFilter::of(message.conversation_id));
    let page = messages.list(&chosen.after(message.id()).limit(1)).await?;
    Ok(page.items.first().map(|before| before.id))
}

/// The newest message behind one of another branch than the chosen one.
async fn end_of(messages: &dyn Repository<Message>, message: &Message) -> Result<MessageId> {
    let mut newest = HashMap::new();
    let others = MessageFilter::of(message.conversation_id).of_other_branches();
    let mut query = ListQuery::filtered(others)
        .oldest_first()
        .limit(MESSAGES_AT_ONCE)
        .max_bytes(BYTES_AT_ONCE);
    loop {
        let page = messages.list(&query).await?;
        for other in page.items {
            newest.extend(other.parent_id.map(|parent| (parent, other.id)));
        }
        match page.next {
            Some(next) => query = query.after(next),
            None => break,
        }
    }
    let mut end = message.id;
    while let Some(next) = newest.get(&end) {
        end = *next;
    }
    Ok(end)
}

/// All messages up to this one, the first first.
pub(super) async fn path_to(
    messages: &dyn Repository<Message>,
    last: Message,
) -> Result<Vec<Message>> {
    let conversation = last.conversation_id;
    let mut path = vec![last];
    while let Some(message) = path.last().filter(|message| !message.is_chosen) {
        match message.parent_id {
            Some(parent) => path.push(find(messages, conversation, parent).await?),
            None => break,
        }
    }
    // What is before one that is chosen is chosen too, whether it is named or not.
    if let Some(message) = path.last().filter(|message| message.is_chosen) {
        let mut chosen = ListQuery::filtered(MessageFilter::of(conversation))
            .after(message.id())
            .limit(MESSAGES_AT_ONCE)
            .max_bytes(BYTES_AT_ONCE);
        loop {
            let page = messages.list(&chosen).await?;
            path.extend(page.items);
            match page.next {
                Some(next) => chosen = chosen.after(next),
                None => break,
            }
        }
    }
    path.reverse();
    Ok(path)
}

/// The last message that the state of a checkpoint knows.
pub(super) fn last_message(tuple: &CheckpointTuple) -> Option<MessageId> {
    tuple.metadata.0.get(MESSAGE_ID)?.as_str()?.parse().ok()
}
