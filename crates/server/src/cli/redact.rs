use std::{
    io::{Write, stdout},
    sync::Arc,
};

use yai_agentkit_core::{ConversationId, MessageId, error::BoxError};
use yai_agentkit_engine::Conversations;
use yai_agentkit_persistence::Database;

use crate::{audit::command, settings::Settings};

#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(super) struct Arguments {
    /// The conversation
    conversation: ConversationId,
    /// The message, as `agentkit messages` shows it
    message: MessageId,
}

const HELP: &str = "\
What the message said is taken out of all that its chat has: the message, states of every checkpoint, what
tools have recorded, events, and the search. The rest stays as it is. Text of 12 bytes or more goes also where
somebody quotes it; shorter text only where it is all that was said. Forks are chats of their own. The
bytes are in the database's files until `agentkit vacuum` overwrites them.";

pub(super) async fn run(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    let database = Database::connect(&settings.database).await?;
    let conversations = Conversations::new(Arc::new(database.clone())).by(command());
    let (conversation, message) = (arguments.conversation, arguments.message);
    let redacted = conversations.redact(conversation, message).await;
    database.close().await;
    writeln!(stdout(), "message {} is redacted", redacted?.id)?;
    Ok(())
}
