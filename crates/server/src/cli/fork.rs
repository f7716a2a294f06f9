use std::{
    io::{Write, stdout},
    sync::Arc,
};

use yai_agentkit_core::{ConversationId, MessageId, error::BoxError};
use yai_agentkit_persistence::Database;

use crate::settings::Settings;
use yai_agentkit_engine::{Conversations, ForkPoint};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The conversation to fork
    conversation: ConversationId,
    /// After this checkpoint [default: now]
    #[arg(long, value_name = "ID")]
    checkpoint: Option<String>,
    /// After this message [default: now]
    #[arg(long, value_name = "ID")]
    message: Option<MessageId>,
}

pub(super) async fn run(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    let database = Database::connect(&settings.database).await?;
    let point = ForkPoint {
        checkpoint_id: arguments.checkpoint.map(Into::into),
        message_id: arguments.message,
    };
    let fork = Conversations::new(Arc::new(database.clone()))
        .fork(arguments.conversation, &point)
        .await?;
    writeln!(stdout(), "{}", fork.id)?;
    database.close().await;
    Ok(())
}
