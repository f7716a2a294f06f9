use std::{
    fmt::Display,
    io::{IsTerminal, stdin},
    pin::pin,
    time::Duration,
};

use futures::StreamExt;
use rustyline::{DefaultEditor, error::ReadlineError};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines, Stdin},
    signal::ctrl_c,
    task::block_in_place,
};
use uuid::Uuid;
use yai_agentkit_core::{Conversation, ConversationId, Message, Role, error::BoxError};
use yai_agentkit_persistence::Database;

use super::{list, remote::Remote, remote_chat::RemoteChat, telling::Telling, turn_engine};
use crate::settings::Settings;
use yai_agentkit_engine::{
    SendOptions, TurnEngine, TurnError, TurnHandle, TurnOutcome, error_chain,
};

/// How often a turn that somebody else has is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What a shell says of a program that Ctrl-C has ended.
const INTERRUPTED: i32 = 130;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The conversation to go on with, by its id or that of its thread [default: a new one]
    #[arg(long, value_name = "ID")]
    conversation: Option<Uuid>,
    /// What to say [default: every line of the input, to its end]
    message: Option<String>,
}

pub(super) async fn run(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    if let Some(remote) = Remote::of(&settings)? {
        let chat = match arguments.conversation {
            Some(id) => RemoteChat::go_on(remote, id).await?,
            None => RemoteChat::begin(remote).await?,
        };
        if arguments.conversation.is_none() {
            say_how_to_go_on(chat.conversation());
        }
        return match arguments.message {
            Some(message) => chat.say(message).await,
            None => converse(async |line| chat.say(line).await).await,
        };
    }
    let database = Database::connect(&settings.database).await?;
    let turns = turn_engine(&settings, &database).await?;
    let keeper = turns.clone();
    let keeper = tokio::spawn(async move { keeper.keep_own().await });
    let conversation = match arguments.conversation {
        Some(id) => {
            let id = list::conversation(&database, id).await?.id;
            finish(&turns, id).await?;
            id
        }
        None => {
            let new = Conversation::new(None, None);
            let id = turns.conversations().create(new).await?.id;
            say_how_to_go_on(id);
            id
        }
    };
    match arguments.message {
        Some(message) => say(&turns, conversation, message).await?,
        None => converse(async |line| say(&turns, conversation, line).await).await?,
    }
    keeper.abort();
    database.close().await;
    Ok(())
}

fn say_how_to_go_on(id: impl Display) {
    eprintln!("Conversation {id}; go on with: agentkit chat --conversation {id}");
}

/// Waits for the turn that is under way, if there is one, and shows what it comes to.
async fn finish(turns: &TurnEngine, conversation: ConversationId) -> Result<(), BoxError> {
    let mut is_said = false;
    let due = loop {
        match turns.settle(conversation).await {
            // Its lease ends soon, if nobody works on it any more.
            Err(TurnError::Busy(_)) => {
                if !std::mem::replace(&mut is_said, true) {
                    eprintln!(
                        "Another process works on a turn here: waiting for it, or its lease."
                    );
                }
                tokio::time::sleep(LOOK).await;
            }
            due => break due,
        }
    };
    match due.transpose() {
        None => Ok(()),
        Some(due) => {
            if due.is_ok() {
                eprintln!("Still due:");
            }
            Telling::default().end(due.map(Into::into).map_err(Into::into))
        }
    }
}

/// What a person says, line by line.
enum Input {
    /// Lines are edited, and those of before come back.
    Terminal(Box<DefaultEditor>),
    Lines(Lines<BufReader<Stdin>>),
}

impl Input {
    fn open() -> Result<Self, ReadlineError> {
        Ok(match stdin().is_terminal() {
            true => Self::Terminal(Box::new(DefaultEditor::new()?)),
            false => Self::Lines(BufReader::new(tokio::io::stdin()).lines()),
        })
    }

    /// `None` at the end.
    async fn next(&mut self) -> Result<Option<String>, BoxError> {
        let editor = match self {
            Self::Terminal(editor) => editor,
            Self::Lines(lines) => {
                return tokio::select! {
                    line = lines.next_line() => Ok(line?),
                    // The line that is waited for would keep the process.
                    _ = ctrl_c() => std::process::exit(INTERRUPTED),
                };
            }
        };
        match block_in_place(|| editor.readline("> ")) {
            Ok(line) => {
                editor.add_history_entry(line.as_str())?;
                Ok(Some(line))
            }
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Answers what is said; an answer that fails does not end the conversation.
async fn converse(say: impl AsyncFn(String) -> Result<(), BoxError>) -> Result<(), BoxError> {
    let mut input = Input::open()?;
    while let Some(line) = input.next().await? {
        if line.trim().is_empty() {
            continue;
        }
        if let Err(error) = say(line).await {
            eprintln!("error: {}", error_chain(error.as_ref()));
        }
    }
    Ok(())
}

/// Says something to the agent, the answer to what it asks or else a message, and shows what it comes
/// to.
async fn say(
    turns: &TurnEngine,
    conversation: ConversationId,
    text: String,
) -> Result<(), BoxError> {
    // From now on Ctrl-C does not end the process.
    let mut pressed = pin!(ctrl_c());
    drop(futures::poll!(&mut pressed));
    let turn = match turns.asking(conversation).await? {
        Some((turn, asked)) => turns.resume(conversation, turn, asked.id, text).await?,
        None => {
            let message = Message::new(conversation, Role::User, text);
            turns.start(message, SendOptions::default()).await?
        }
    };
    let mut telling = Telling::default();
    let id = turn.turn_id();
    let outcome = {
        let mut outcome = pin!(follow(turn, &mut telling));
        tokio::select! {
            outcome = &mut outcome => outcome?,
            _ = pressed => {
                match turns.cancel(conversation, id).await {
                    Ok(_) | Err(TurnError::Ended) => {}
                    Err(error) => return Err(error.into()),
                }
                outcome.await?
            }
        }
    };
    telling.end(outcome.map(Into::into).map_err(Into::into))
}

/// Shows what happens in a turn until it has an outcome.
async fn follow(
    turn: TurnHandle,
    telling: &mut Telling,
) -> Result<Result<TurnOutcome, TurnError>, BoxError> {
    let mut events = pin!(turn.events().fuse());
    let mut outcome = pin!(turn.outcome());
    loop {
        tokio::select! {
            biased;
            Some(batch) = events.next() => {
                for event in &batch?.events {
                    telling.tell(event)?;
                }
            }
            outcome = &mut outcome => return Ok(outcome),
        }
    }
}
