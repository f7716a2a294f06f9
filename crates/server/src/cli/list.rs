//! Lists of what is stored, in the database or behind a server.

use std::{
    fmt::Display,
    io::{Write, stderr, stdout},
    str::FromStr,
};

use chrono::{DateTime, SecondsFormat, Utc};
use futures::future::try_join_all;
use serde::Serialize;
use serde_json::Value as Json;
use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ConversationId, Error, ListQuery, Storage, Stores,
    conversation::{ConversationFilter, HitCursor, MessageFilter, SearchQuery},
    error::BoxError,
    storage,
    turn::TurnFilter,
};
use yai_agentkit_persistence::Database;

use super::{
    inspect::open,
    remote::Remote,
    table::{Table, print_json},
};
use crate::{
    http::{ConversationBody, MessageBody, ThreadBody, TurnBody},
    settings::Settings,
};

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
    /// Only those with a message that has all these words, or a title that has
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

/// What is listed.
pub(super) enum List {
    Conversations { search: Option<String> },
    Messages(Uuid),
    Turns(Uuid),
    Threads,
}

/// Rows as HTTP has them, and where the next ones begin.
struct Rows {
    items: Vec<Json>,
    next: Option<String>,
}

pub(super) async fn conversations(
    settings: Settings,
    arguments: ArgumentsOfConversations,
) -> Result<(), BoxError> {
    let search = arguments.search;
    show(settings, &List::Conversations { search }, &arguments.page).await
}

pub(super) async fn messages(
    settings: Settings,
    arguments: ArgumentsOfConversation,
) -> Result<(), BoxError> {
    let list = List::Messages(arguments.conversation);
    show(settings, &list, &arguments.page).await
}

pub(super) async fn turns(
    settings: Settings,
    arguments: ArgumentsOfConversation,
) -> Result<(), BoxError> {
    let list = List::Turns(arguments.conversation);
    show(settings, &list, &arguments.page).await
}

pub(super) async fn threads(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    show(settings, &List::Threads, &arguments.page).await
}

async fn show(settings: Settings, list: &List, page: &Page) -> Result<(), BoxError> {
    let rows = match Remote::of(&settings)? {
        Some(remote) => asked(&remote, list, page).await?,
        None => {
            let database = open(settings).await?;
            let rows = stored(&database, list, page).await?;
            database.close().await;
            rows
        }
    };
    let items = &rows.items;
    match list {
        List::Conversations { .. } => {
            page.print(["CONVERSATION", "UPDATED", "TITLE"], items, |row| {
                [text(row, "id"), time(row, "updated_at"), text(row, "title")]
            })
        }
        List::Messages(_) => page.print(["MESSAGE", "CREATED", "ROLE", "CONTENT"], items, |row| {
            let content = excerpt(&text(row, "content"));
            [
                text(row, "id"),
                time(row, "created_at"),
                text(row, "role"),
                content,
            ]
        }),
        List::Turns(_) => {
            let headings = ["TURN", "CREATED", "STATUS", "ATTEMPT", "WHY"];
            page.print(headings, items, |row| {
                let why = match &row["error"] {
                    Json::Null => text(&row["interrupt"], "question"),
                    _ => text(row, "error"),
                };
                let attempt = row["attempt"].to_string();
                let (id, status) = (text(row, "id"), text(row, "status"));
                [id, time(row, "created_at"), status, attempt, excerpt(&why)]
            })
        }
        List::Threads => page.print(["THREAD", "UPDATED", "COPIED FROM"], items, |row| {
            let parent = text(row, "parent_id");
            [text(row, "thread_id"), time(row, "updated_at"), parent]
        }),
    }?;
    Ok(page.say_next(rows.next)?)
}

/// A page of a server, which gives as much at a time as it may.
async fn asked(remote: &Remote, list: &List, page: &Page) -> Result<Rows, BoxError> {
    const AT_ONCE: u64 = 1000;
    let mut query = Vec::new();
    let path = match list {
        List::Conversations { search } => {
            query.extend(search.iter().map(|text| ("text", text.clone())));
            "/conversations".to_owned()
        }
        List::Messages(id) => {
            let id = remote.conversation(*id).await?;
            format!("/conversations/{id}/messages")
        }
        List::Turns(id) => format!("/chats/{}/turns", remote.conversation(*id).await?),
        List::Threads => "/threads".to_owned(),
    };
    let mut rows = Rows {
        items: Vec::new(),
        next: page.after.clone(),
    };
    loop {
        let rest = page.limit.saturating_sub(rows.items.len() as u64);
        let mut query = query.clone();
        query.push(("limit", rest.clamp(1, AT_ONCE).to_string()));
        query.extend(rows.next.take().map(|cursor| ("cursor", cursor)));
        let mut found = remote.get(&path, &query).await?;
        if let Json::Array(items) = found["items"].take() {
            rows.items.extend(items);
        }
        rows.next = found["next_cursor"].as_str().map(str::to_owned);
        if rows.next.is_none() || rows.items.len() as u64 >= page.limit {
            return Ok(rows);
        }
    }
}

async fn stored(database: &Database, list: &List, page: &Page) -> Result<Rows, BoxError> {
    match list {
        List::Conversations { search: Some(text) } => {
            Rows::of::<ConversationBody, _, _>(search(database, text, page).await?)
        }
        List::Conversations { search: None } => {
            let mut query = ListQuery::<Conversation>::default().limit(page.limit);
            if let Some(cursor) = page.cursor::<storage::Cursor<ConversationId>>()? {
                query = query.after(cursor);
            }
            Rows::of::<ConversationBody, _, _>(database.conversations().list(&query).await?)
        }
        List::Messages(id) => {
            let id = conversation(database, *id).await?.id;
            let query = ListQuery::filtered(MessageFilter::of(id)).oldest_first();
            let mut query = query.limit(page.limit);
            if let Some(cursor) = page.cursor::<storage::Cursor<_>>()? {
                query = query.after(cursor.map(|message| id.key(message)));
            }
            let found = database.messages().list(&query).await?;
            Rows::of::<MessageBody, _, _>(found)
        }
        List::Turns(id) => {
            let id = conversation(database, *id).await?.id;
            let mut query = ListQuery::filtered(TurnFilter::default().of(id)).limit(page.limit);
            if let Some(cursor) = page.cursor::<storage::Cursor<_>>()? {
                query = query.after(cursor.map(|turn| id.key(turn)));
            }
            Rows::of::<TurnBody, _, _>(database.turns().list(&query).await?)
        }
        List::Threads => {
            let after = page.cursor()?;
            let checkpointer = database.checkpointer();
            let found = checkpointer.threads(page.limit, after.as_ref()).await?;
            Rows::of::<ThreadBody, _, _>(found)
        }
    }
}

impl Rows {
    fn of<Body: From<Row> + Serialize, Row, Cursor: Display>(
        page: storage::Page<Row, Cursor>,
    ) -> Result<Self, BoxError> {
        let items = page.items.into_iter();
        let items = items.map(|row| serde_json::to_value(Body::from(row)));
        Ok(Self {
            items: items.collect::<Result<_, _>>()?,
            next: page.next.map(|next| next.to_string()),
        })
    }
}

/// Takes in what no server has, first.
async fn search(
    database: &Database,
    text: &str,
    page: &Page,
) -> Result<storage::Page<Conversation, HitCursor>, Error> {
    let mut query = SearchQuery::text(text)?.limit(page.limit);
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
        next: found.next,
    })
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

fn text(row: &Json, field: &str) -> String {
    row[field].as_str().unwrap_or_default().to_owned()
}

fn time(row: &Json, field: &str) -> String {
    let time = text(row, field);
    let parsed = time.parse::<DateTime<Utc>>();
    parsed.map_or(time, |time| {
        time.to_rfc3339_opts(SecondsFormat::Micros, true)
    })
}

fn excerpt(text: &str) -> String {
    let mut excerpt: String = text.chars().take(EXCERPT).collect();
    if excerpt.len() < text.len() {
        excerpt.push('…');
    }
    excerpt
}
