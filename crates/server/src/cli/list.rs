//! Lists of what is stored.

use std::{
    fmt::Display,
    io::{Write, stderr, stdout},
    str::FromStr,
};

use chrono::{DateTime, SecondsFormat, Utc};
use futures::future::try_join_all;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ConversationId, Error, ListQuery, MessageId, Storage, Stores, ThreadId, TurnId,
    checkpoint::ThreadCursor,
    conversation::{ConversationFilter, HitCursor, MessageFilter, TextQuery},
    error::BoxError,
    storage::{self, Cursor},
    turn::TurnFilter,
};
use yai_agentkit_persistence::Database;

use super::{
    inspect::open,
    table::{Table, print_json},
};
use crate::settings::Settings;

/// How much of a text a table shows, in characters.
const EXCERPT: usize = 100;

#[derive(Debug, clap::Args)]
pub(super) struct Page {
    /// How many at most
    #[arg(long, default_value_t = 20)]
    limit: u64,
    /// Go on behind this place, which the page before has named
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    page: Page,
}

#[derive(Debug, clap::Args)]
pub(super) struct ArgumentsOfConversations {
    /// Only those with a message that has all these words
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    #[command(flatten)]
    page: Page,
}

#[derive(Debug, clap::Args)]
pub(super) struct ArgumentsOfConversation {
    /// The conversation, by its id or that of its thread
    conversation: Uuid,
    #[command(flatten)]
    page: Page,
}

pub(super) async fn conversations(
    settings: Settings,
    arguments: ArgumentsOfConversations,
) -> Result<(), BoxError> {
    let database = open(settings).await?;
    let mut query = ListQuery::<Conversation>::default().limit(arguments.page.limit);
    if let Some(cursor) = arguments.page.cursor::<Cursor<ConversationId>>()? {
        query = query.after(cursor);
    }
    let page = match &arguments.search {
        Some(text) => search(&database, text, &arguments.page).await?,
        None => database.conversations().list(&query).await?,
    };
    let headings = ["CONVERSATION", "UPDATED", "TITLE"];
    arguments
        .page
        .print(headings, &page.items, |conversation| {
            let title = conversation.title.clone().unwrap_or_default();
            [
                conversation.id.to_string(),
                time(conversation.updated_at),
                title,
            ]
        })?;
    arguments.page.say_next(page.next)?;
    database.close().await;
    Ok(())
}

/// Takes in what no server has, first.
async fn search(
    database: &Database,
    text: &str,
    page: &Page,
) -> Result<storage::Page<Conversation, Cursor<ConversationId>>, Error> {
    let mut query = TextQuery::new(text)?.limit(page.limit);
    if let Some(cursor) = page.cursor::<HitCursor>()? {
        query = query.after(&cursor)?;
    }
    let search = database.search();
    while search.index(1000).await? > 0 {}
    let found = search.find(&query).await?;
    let conversations = database.conversations();
    let ids = found.items.iter().map(|hit| &hit.conversation_id);
    let rows = try_join_all(ids.map(|id| conversations.get(id))).await?;
    Ok(storage::Page {
        items: rows.into_iter().flatten().collect(),
        next: found.next.map(|next| next.map(|id| ConversationId(id.0))),
    })
}

pub(super) async fn messages(
    settings: Settings,
    arguments: ArgumentsOfConversation,
) -> Result<(), BoxError> {
    let database = open(settings).await?;
    let id = conversation(&database, arguments.conversation).await?.id;
    let filter = MessageFilter::of(id);
    let mut query = ListQuery::filtered(filter)
        .oldest_first()
        .limit(arguments.page.limit);
    if let Some(cursor) = arguments.page.cursor::<Cursor<MessageId>>()? {
        query = query.after(cursor.map(|message| id.key(message)));
    }
    let page = database.messages().list(&query).await?;
    let headings = ["MESSAGE", "CREATED", "ROLE", "CONTENT"];
    arguments.page.print(headings, &page.items, |message| {
        let (id, role) = (message.id.to_string(), message.role.to_string());
        [
            id,
            time(message.created_at),
            role,
            excerpt(&message.content),
        ]
    })?;
    arguments
        .page
        .say_next(page.next.map(|next| next.map(|message| message.id)))?;
    database.close().await;
    Ok(())
}

pub(super) async fn turns(
    settings: Settings,
    arguments: ArgumentsOfConversation,
) -> Result<(), BoxError> {
    let database = open(settings).await?;
    let id = conversation(&database, arguments.conversation).await?.id;
    let filter = TurnFilter::default().of(id);
    let mut query = ListQuery::filtered(filter).limit(arguments.page.limit);
    if let Some(cursor) = arguments.page.cursor::<Cursor<TurnId>>()? {
        query = query.after(cursor.map(|turn| id.key(turn)));
    }
    let page = database.turns().list(&query).await?;
    let headings = ["TURN", "CREATED", "STATUS", "ATTEMPT", "WHY"];
    arguments.page.print(headings, &page.items, |turn| {
        let asked = turn.interrupt.as_ref().map(|asked| &*asked.question);
        let why = turn.error.as_deref().or(asked).unwrap_or_default();
        let (id, status) = (turn.id.to_string(), turn.status.as_str().to_owned());
        [
            id,
            time(turn.created_at),
            status,
            turn.attempt.to_string(),
            excerpt(why),
        ]
    })?;
    arguments
        .page
        .say_next(page.next.map(|next| next.map(|turn| turn.id)))?;
    database.close().await;
    Ok(())
}

pub(super) async fn threads(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    let database = open(settings).await?;
    let after = arguments
        .page
        .after
        .as_deref()
        .map(thread_cursor)
        .transpose()?;
    let checkpointer = database.checkpointer();
    let page = checkpointer
        .threads(arguments.page.limit, after.as_ref())
        .await?;
    let rows: Vec<_> = page
        .items
        .iter()
        .map(|thread| {
            let parent = thread.parent.as_ref().map(ThreadId::as_str);
            let updated_at = thread.updated_at.to_rfc3339();
            json!({"thread_id": thread.id.as_str(), "parent_id": parent, "updated_at": updated_at})
        })
        .collect();
    let headings = ["THREAD", "UPDATED", "COPIED FROM"];
    arguments.page.print(headings, &rows, |row| {
        ["thread_id", "updated_at", "parent_id"]
            .map(|field| row[field].as_str().unwrap_or_default().to_owned())
    })?;
    let next = page
        .next
        .map(|next| format!("{},{}", time(next.updated_at), next.id));
    arguments.page.say_next(next)?;
    database.close().await;
    Ok(())
}

/// The conversation with this id, or of the thread with this id.
pub(super) async fn conversation(database: &Database, id: Uuid) -> Result<Conversation, Error> {
    let conversations = database.conversations();
    if let Some(found) = conversations.get(&ConversationId(id)).await? {
        return Ok(found);
    }
    let of_thread = ListQuery::filtered(ConversationFilter::default().thread(id)).limit(1);
    let found = conversations.list(&of_thread).await?.items.pop();
    found.ok_or_else(|| Error::not_found("conversation", id))
}

impl Page {
    fn cursor<C: FromStr<Err: Display>>(&self) -> Result<Option<C>, Error> {
        let parse = |text: &String| text.parse::<C>().map_err(cursor_error);
        self.after.as_ref().map(parse).transpose()
    }

    fn print<T: Serialize, const N: usize>(
        &self,
        headings: [&'static str; N],
        rows: &[T],
        cells: impl Fn(&T) -> [String; N],
    ) -> std::io::Result<()> {
        if self.json {
            let mut out = stdout().lock();
            return rows.iter().try_for_each(|row| print_json(&mut out, row));
        }
        let mut table = Table::new(headings);
        rows.iter().for_each(|row| table.add(cells(row)));
        table.print()
    }

    /// Where the next page begins, beside what is printed for programs.
    fn say_next(&self, next: Option<impl Display>) -> std::io::Result<()> {
        match next {
            Some(next) => writeln!(stderr(), "There is more: --after {next}"),
            None => Ok(()),
        }
    }
}

fn cursor_error(error: impl Display) -> Error {
    Error::configuration("--after", format!("is no place in this list: {error}"))
}

/// A time and a thread, whose id may be anything.
fn thread_cursor(text: &str) -> Result<ThreadCursor, Error> {
    let (updated_at, id) = text
        .split_once(',')
        .ok_or_else(|| cursor_error("no comma"))?;
    Ok(ThreadCursor {
        updated_at: updated_at.parse().map_err(cursor_error)?,
        id: id.into(),
    })
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn excerpt(text: &str) -> String {
    let mut excerpt: String = text.chars().take(EXCERPT).collect();
    if excerpt.len() < text.len() {
        excerpt.push('…');
    }
    excerpt
}
