use std::io::{IsTerminal, Write, stderr, stdin, stdout};

use tokio::io::{AsyncBufReadExt, BufReader};
use yai_agentkit_core::{BoxError, Conversation, ConversationId, Message, Role, Storage};
use yai_agentkit_persistence::Database;

use super::turn_engine;
use crate::{error_chain, settings::Settings, turn::TurnEngine};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The conversation to go on with [default: a new one]
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,
    /// What to say [default: every line of the input, to its end]
    message: Option<String>,
}

pub(super) async fn run(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    let database = Database::connect(&settings.database).await?;
    let turns = turn_engine(&settings, &database)?;
    let conversation = match arguments.conversation {
        Some(id) => {
            if let Some(answer) = turns.resume(id).await? {
                eprintln!("The answer that was still due:");
                print(&answer)?;
            }
            id
        }
        None => {
            let new = Conversation::new(None, None);
            let id = database.conversations().add(new).await?.id;
            eprintln!("Conversation {id}; go on with: agentkit chat --conversation {id}");
            id
        }
    };
    match arguments.message {
        Some(message) => print(&send(&turns, conversation, message).await?)?,
        None => converse(&turns, conversation).await?,
    }
    database.close().await;
    Ok(())
}

/// Answers the lines of the input; an answer that fails does not end the conversation.
async fn converse(turns: &TurnEngine, conversation: ConversationId) -> Result<(), BoxError> {
    let is_terminal = stdin().is_terminal();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        if is_terminal {
            eprint!("> ");
            stderr().flush()?;
        }
        let Some(line) = lines.next_line().await? else {
            return Ok(());
        };
        if line.trim().is_empty() {
            continue;
        }
        match send(turns, conversation, line).await {
            Ok(answer) => print(&answer)?,
            Err(error) => eprintln!("error: {}", error_chain(error.as_ref())),
        }
    }
}

async fn send(
    turns: &TurnEngine,
    conversation: ConversationId,
    content: String,
) -> Result<Message, BoxError> {
    Ok(turns
        .send(Message::new(conversation, Role::User, content))
        .await?)
}

fn print(answer: &Message) -> std::io::Result<()> {
    writeln!(stdout(), "{}", answer.content)
}
