use std::{
    io::{IsTerminal, Write, stderr, stdin, stdout},
    time::Duration,
};

use tokio::io::{AsyncBufReadExt, BufReader};
use yai_agentkit_core::{Conversation, ConversationId, Message, Role, error::BoxError};
use yai_agentkit_persistence::Database;

use super::turn_engine;
use crate::settings::Settings;
use yai_agentkit_engine::{TurnEngine, TurnError, TurnOutcome, error_chain};

/// How often a turn that somebody else has is looked at.
const LOOK: Duration = Duration::from_millis(200);

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
    let keeper = turns.clone();
    let keeper = tokio::spawn(async move { keeper.keep_own().await });
    let conversation = match arguments.conversation {
        Some(id) => {
            finish(&turns, id).await?;
            id
        }
        None => {
            let new = Conversation::new(None, None);
            let id = turns.conversations().create(new).await?.id;
            eprintln!("Conversation {id}; go on with: agentkit chat --conversation {id}");
            id
        }
    };
    match arguments.message {
        Some(message) => show(say(&turns, conversation, message).await)?,
        None => converse(&turns, conversation).await?,
    }
    keeper.abort();
    database.close().await;
    Ok(())
}

/// Waits for the turn that is under way, if there is one, and shows what it comes to.
async fn finish(turns: &TurnEngine, conversation: ConversationId) -> Result<(), BoxError> {
    let due = loop {
        match turns.settle(conversation).await {
            // Its lease ends soon, if nobody works on it any more.
            Err(TurnError::Busy(_)) => tokio::time::sleep(LOOK).await,
            due => break due,
        }
    };
    match due.transpose() {
        None => Ok(()),
        Some(due) => {
            if due.is_ok() {
                eprintln!("Still due:");
            }
            show(due)
        }
    }
}

/// Shows the answer, or what the agent asks: then the next thing said is the answer to that.
fn show(outcome: Result<TurnOutcome, TurnError>) -> Result<(), BoxError> {
    match outcome? {
        TurnOutcome::Waiting(turn) => {
            let question = turn.interrupt.map(|asked| asked.question);
            let question = question.unwrap_or_default();
            eprintln!("The agent asks; answer with what you say next:");
            writeln!(stdout(), "{question}")?;
        }
        TurnOutcome::Answered(answer) => writeln!(stdout(), "{}", answer.content)?,
    }
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
        if let Err(error) = show(say(turns, conversation, line).await) {
            eprintln!("error: {}", error_chain(error.as_ref()));
        }
    }
}

/// Says something to the agent: the answer to what it asks, else a message.
async fn say(
    turns: &TurnEngine,
    conversation: ConversationId,
    text: String,
) -> Result<TurnOutcome, TurnError> {
    match turns.asking(conversation).await? {
        Some((turn, asked)) => {
            let resumed = turns.resume(conversation, turn, asked.id, text).await?;
            resumed.outcome().await
        }
        None => {
            turns
                .send(Message::new(conversation, Role::User, text))
                .await
        }
    }
}
