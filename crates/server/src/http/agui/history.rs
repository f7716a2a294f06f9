use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem,
};

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;
use yai_agentkit_core::{
    ConversationId, Message, MessageId, Role, conversation::Part, turn::Place,
};

use super::part;
use crate::http::problem::Problem;

/// How many bytes of JSON a client is sent of the messages before a run. It sends them back in the
/// body of the next, which may have twice as many by default.
pub(super) const MAX_SNAPSHOT: usize = 512 * 1024;

/// What a client says was said, beside what is stored.
pub(super) struct History {
    conversation: ConversationId,
    /// The newest, in order.
    stored: Vec<Message>,
    /// Whether there are older ones.
    is_cut: bool,
    said: Vec<Said>,
}

/// The messages before a run as a client is shown them.
pub(super) struct Snapshot {
    /// JSON, with a comma behind each.
    pub(super) messages: String,
    /// The stored message before which there are more.
    pub(super) older: Option<MessageId>,
    /// The calls whose results are among them.
    pub(super) results: HashSet<String>,
}

/// A message as the client has it.
struct Said {
    role: String,
    text: String,
    /// Where there is more than text.
    parts: Vec<Part>,
    /// All of it.
    message: Value,
    /// Under which it is stored, or would be.
    stored_as: MessageId,
    /// The place of the message of which it has the id and not the words.
    edits: Option<usize>,
    /// The place of the same message among those that are stored.
    known: Option<usize>,
}

/// What a client wants to be answered.
pub(super) enum Asked {
    /// These messages, the last of them a user's, which are not stored, and where they stand.
    New(Vec<Message>, Place),
    /// A stored message, which is the last one of a user, with what the agent has come to.
    Known(MessageId),
    /// A stored message, as if nothing had been said behind it.
    Again(MessageId),
    /// Nothing.
    Nothing,
}

#[derive(Deserialize)]
struct Fields {
    id: String,
    role: String,
    /// Text or parts; of an activity, the client's own.
    #[serde(default)]
    content: Value,
}

impl History {
    pub(super) fn new(
        conversation: ConversationId,
        stored: Vec<Message>,
        said: Vec<Value>,
    ) -> Result<Self, Problem> {
        let places = stored.iter().enumerate();
        let places = places.map(|(place, message)| (message.id, (place, message)));
        let places = places.collect();
        let said = said.into_iter().enumerate();
        let said = said.map(|(place, message)| read(conversation, &places, place, message));
        let said: Vec<_> = said.collect::<Result<_, _>>()?;
        Ok(Self {
            conversation,
            said,
            stored,
            is_cut: false,
        })
    }

    /// The same where there may be older messages.
    pub(super) fn cut(mut self, is_cut: bool) -> Self {
        self.is_cut = is_cut;
        self
    }

    /// What is to be answered. Refuses what would be another past than the one that is stored.
    pub(super) fn asked(&self) -> Result<Asked, Problem> {
        let last_known = self.said.iter().rposition(|said| said.known.is_some());
        let last_user = self.said.iter().rposition(|said| said.role == "user");
        let mut new = Vec::new();
        for (place, said) in self.said.iter().enumerate() {
            if said.known.is_some() {
                continue;
            }
            match said.role.as_str() {
                "user"
                    if Some(place) == last_user && last_known.is_none_or(|last| last < place) =>
                {
                    new.push(self.message(said, Role::User));
                }
                "user" => return Err(other_past(place, "is not stored, and not the last one")),
                "system" | "developer" => new.push(self.message(said, Role::System)),
                // The agent's words and calls as they were told, which have ids of the run.
                _ if self.stored.is_empty() => {
                    return Err(other_past(place, "was not said here"));
                }
                _ => {}
            }
        }
        let Some(asked) = last_user else {
            return Ok(Asked::Nothing);
        };
        let Some(known) = self.said[asked].known else {
            let place = self.place(&self.said[asked], last_known);
            return Ok(Asked::New(new, place));
        };
        let id = self.stored[known].id;
        let is_latest = !self.stored[known + 1..].iter().any(is_user);
        // Who has what the agent has said to it asks for nothing new.
        let is_last = !self.said[asked + 1..]
            .iter()
            .any(|said| matches!(&*said.role, "assistant" | "tool"));
        match (is_last, is_latest) {
            (true, _) => Ok(Asked::Again(id)),
            (false, true) => Ok(Asked::Known(id)),
            (false, false) => Err(other_past(asked, "was answered, and more was said since")),
        }
    }

    /// Where a new message of a user stands: in place of the one that it edits, or behind the last that
    /// the client knows and what was answered to that. Who names no message of before does not know
    /// them, and goes on from the last.
    fn place(&self, said: &Said, last_known: Option<usize>) -> Place {
        let behind = match (said.edits, last_known) {
            // Of the oldest that is read the row says it.
            (Some(0), _) => return Place::Behind(self.stored[0].parent_id),
            (Some(edited), _) => Some(edited - 1),
            (None, Some(last)) => {
                let known = self.said[last].known.unwrap_or_default();
                let mut later = self.stored[known + 1..].iter();
                let next = later.position(is_user);
                next.map(|next| known + next)
            }
            (None, None) => None,
        };
        behind.map_or(Place::Last, |behind| {
            Place::Behind(Some(self.stored[behind].id))
        })
    }

    /// Leaves what was said behind the place of a message, which is on another branch from now on.
    pub(super) fn go_back(&mut self, place: Place) {
        let last = match place {
            Place::Behind(last) => last,
            _ => return,
        };
        let at = |id| self.stored.iter().position(|message| message.id == id);
        let kept = last.and_then(at).map_or(0, |at| at + 1);
        self.stored.truncate(kept);
        for said in &mut self.said {
            said.known = said.known.filter(|known| *known < kept);
        }
    }

    /// Whether nothing is stored yet.
    pub(super) fn is_new(&self) -> bool {
        self.stored.is_empty()
    }

    fn message(&self, said: &Said, role: Role) -> Message {
        let mut message = Message::new(self.conversation, role, &*said.text);
        message.id = said.stored_as;
        message.parts.clone_from(&said.parts);
        message
    }

    /// Adds what was stored meanwhile.
    pub(super) fn stored(&mut self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            for said in &mut self.said {
                if said.stored_as == message.id {
                    said.known = Some(self.stored.len());
                }
            }
            self.stored.push(message);
        }
    }

    /// The messages up to that with this id, as the protocol has them: those that the client has
    /// under its ids, and between them what it was told in the runs. Of many the newest.
    pub(super) fn snapshot(mut self, last: Option<MessageId>) -> Snapshot {
        if let Some(last) = self
            .stored
            .iter()
            .position(|message| Some(message.id) == last)
        {
            self.stored.truncate(last + 1);
        }
        let mut as_said = BTreeMap::new();
        let mut told: BTreeMap<usize, Vec<Said>> = BTreeMap::new();
        let mut after = None;
        for said in mem::take(&mut self.said) {
            match said.known {
                Some(known) => {
                    after = Some(known);
                    as_said.insert(known, said.message);
                }
                None => {
                    let is_told = !matches!(&*said.role, "user" | "system" | "developer");
                    if let Some(after) = after.filter(|_| is_told) {
                        told.entry(after).or_default().push(said);
                    }
                }
            }
        }
        // Each with the stored one that it is.
        let mut messages: Vec<(Option<MessageId>, String)> = Vec::new();
        let mut results = HashSet::new();
        let mut told_last: Vec<Said> = Vec::new();
        // A client keeps what it has under the same id, and puts all else behind it: from the first
        // message that it lacks, all come under our ids, so that they are in order.
        let mut is_known = true;
        let oldest = self.stored.first().map(|message| message.id);
        for (place, stored) in self.stored.into_iter().enumerate() {
            let is_told = |said: &Said| said.role == "assistant" && said.text == stored.content;
            if stored.role == Role::Assistant && told_last.iter().any(is_told) {
                continue;
            }
            let as_said = as_said.remove(&place).filter(|_| is_known);
            is_known = as_said.is_some();
            let id = stored.id;
            let message = as_said.or_else(|| shown(stored));
            messages.extend(message.map(|message| (Some(id), message.to_string())));
            told_last = told.remove(&place).filter(|_| is_known).unwrap_or_default();
            for said in &told_last {
                let call = said.message["toolCallId"].as_str();
                results.extend(call.map(str::to_owned));
                messages.push((None, said.message.to_string()));
            }
        }
        let newest = messages.split_off(newest(&messages));
        let older = (self.is_cut || !messages.is_empty()).then_some(oldest);
        let first = newest.first().and_then(|(id, _)| *id);
        Snapshot {
            older: older.and_then(|oldest| first.or(oldest)),
            messages: newest
                .into_iter()
                .map(|(_, message)| message + ",")
                .collect(),
            results,
        }
    }
}

/// From which on the messages fit: from a stored one, behind which stands what was told with it.
fn newest(messages: &[(Option<MessageId>, String)]) -> usize {
    let mut from = messages.len();
    let mut bytes = 0;
    for (place, (stored, message)) in messages.iter().enumerate().rev() {
        bytes += message.len() + 1;
        if bytes > MAX_SNAPSHOT && from < messages.len() {
            break;
        }
        if stored.is_some() {
            from = place;
        }
    }
    from
}

fn read(
    conversation: ConversationId,
    stored: &HashMap<MessageId, (usize, &Message)>,
    place: usize,
    message: Value,
) -> Result<Said, Problem> {
    let field = format!("messages[{place}]");
    let fields = Fields::deserialize(&message).map_err(|error| Problem::invalid(&field, error))?;
    super::input::check_id(&format!("{field}.id"), &fields.id)?;
    let is_read = matches!(&*fields.role, "user" | "system" | "developer");
    let (text, parts) = match fields.content {
        Value::String(text) => (text, Vec::new()),
        Value::Array(parts) => match part::read(&parts) {
            Ok((_, _)) if is_read && parts.is_empty() => {
                return Err(Problem::invalid(format!("{field}.content"), "is empty"));
            }
            Err(reason) if is_read => {
                return Err(Problem::invalid(format!("{field}.content"), reason));
            }
            read => read.unwrap_or_default(),
        },
        _ => Default::default(),
    };
    // Its own id, that of a client's message, and that of one that the client has edited.
    let own = fields.id.parse().map(MessageId);
    let first = derived(conversation, &fields.id);
    let edit = match parts.is_empty() {
        true => format!("{}\0{text}", fields.id),
        false => format!("{}\0{text}\0{}", fields.id, json!(parts)),
    };
    let edited = derived(conversation, &edit);
    let ids = own.ok().into_iter().chain([first, edited]);
    let named = ids.filter_map(|id| Some((id, *stored.get(&id)?)));
    let named: Vec<_> = named.collect();
    let is_same = |(_, (_, stored)): &&(_, (_, &Message))| {
        let shown = |parts: &Vec<Part>| part::content(String::new(), parts.clone());
        !is_read || (stored.content == text && shown(&stored.parts) == shown(&parts))
    };
    let same = named.iter().find(is_same);
    let edits = named.first().filter(|_| same.is_none());
    Ok(Said {
        stored_as: match (same, edits) {
            (Some((id, _)), _) => *id,
            (None, Some(_)) => edited,
            (None, None) => first,
        },
        edits: edits.map(|(_, (place, _))| *place),
        known: same.map(|(_, (place, _))| *place),
        role: fields.role,
        text,
        parts,
        message,
    })
}

fn is_user(message: &Message) -> bool {
    message.role == Role::User
}

/// The id under which a client's message is stored: a client may use the same in two chats.
fn derived(conversation: ConversationId, id: &str) -> MessageId {
    MessageId(Uuid::new_v5(&conversation.0, id.as_bytes()))
}

/// A stored message as the protocol has it.
fn shown(message: Message) -> Option<Value> {
    let role = match message.role {
        Role::User | Role::Assistant | Role::System => message.role.as_str(),
        // Nothing says which call it answers.
        Role::Tool | Role::Other(_) => return None,
    };
    let content = part::content(message.content, message.parts);
    Some(json!({"id": message.id, "role": role, "content": content}))
}

fn other_past(place: usize, reason: &str) -> Problem {
    let detail = format!("messages[{place}] {reason}: connect to see what is stored");
    Problem::new(StatusCode::CONFLICT, "history-differs", detail)
}
