use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use yai_agentkit_core::{
    CheckpointSelector, Conversation, ConversationId, Entity, Error, ListQuery, Message, MessageId,
    Role, Turn, TurnId, TurnStatus,
    checkpoint::Values,
    conversation::MessageFilter,
    turn::{Interrupt, InterruptId, Place, TurnFilter},
};
use yai_agentkit_engine::{Answer, RequestKey, SendOptions, TurnError, TurnEvent, agent::AGENT};

use super::{
    Shown,
    event::Outcome,
    history::{History, MAX_SNAPSHOT},
    input::{Input, ResumeStatus, named},
};
use crate::http::{App, caller::Caller, page::MAX_LIMIT, problem::Problem};

/// The channel of an agent's own state.
const STATE: &str = "state";

/// How many bytes of messages are read beyond what a client sends: more than a snapshot has.
const BEYOND: usize = 2 * MAX_SNAPSHOT;

/// What a message takes beside its text.
const AROUND: usize = 128;

/// Among how many turns that is looked for which has asked something.
const LATELY: u64 = 10;

/// How many batches of events are read at once.
const BATCHES: u64 = 32;

/// What is stored of a client's thread, and what becomes of it.
impl App {
    /// The conversation of the client's thread, if there is one, and the id that it has or would have.
    pub(super) async fn find(
        &self,
        caller: &Caller,
        thread_id: &str,
    ) -> Result<(ConversationId, Option<Conversation>), Problem> {
        let conversations = self.storage.conversations();
        if let Ok(id) = thread_id.parse() {
            let found = conversations.get(&id).await?;
            // It may be another tenant's, which nobody is to find out: then it is a name as others.
            if found.is_some() || caller.tenant().is_none() {
                return Ok((id, found));
            }
        }
        let id = named(caller, thread_id);
        Ok((id, conversations.get(&id).await?))
    }

    /// The conversation of the client's thread, created where there is none, in which `agent` answers if
    /// one is named.
    pub(super) async fn conversation_of(
        &self,
        caller: &Caller,
        input: &Input,
        agent: Option<&str>,
    ) -> Result<Conversation, Problem> {
        let found = match self.find(caller, &input.thread_id).await? {
            (_, Some(found)) => found,
            (id, None) => {
                let mut metadata = Map::new();
                if input.thread_id.parse() != Ok(id) {
                    metadata.insert("agui_thread_id".to_owned(), json!(input.thread_id));
                }
                metadata.extend(agent.map(|agent| (AGENT.to_owned(), json!(agent))));
                let metadata = (!metadata.is_empty()).then(|| metadata.into());
                let mut new = Conversation::new(None, metadata);
                new.id = id;
                new.owner = caller.owner();
                match self.turns.conversations().create(new).await {
                    // Another request was faster.
                    Err(Error::Conflict(_)) => self.turns.conversations().get(id).await?,
                    created => created?,
                }
            }
        };
        caller.may_see(&found)?;
        let own = found.metadata.as_ref().and_then(|all| all[AGENT].as_str());
        if agent.is_some() && own != agent {
            let detail = "the thread is another agent's";
            return Err(Problem::new(StatusCode::CONFLICT, "other-agent", detail));
        }
        Ok(found)
    }

    pub(super) async fn history(
        &self,
        conversation: &Conversation,
        input: &Input,
    ) -> Result<History, Problem> {
        self.newest(conversation.id, input.messages.clone()).await
    }

    /// The newest messages: as many as those that were `said` have bytes, and those of a snapshot.
    pub(super) async fn newest(
        &self,
        conversation: ConversationId,
        said: Vec<Value>,
    ) -> Result<History, Problem> {
        let bytes = said.iter().map(|message| message.to_string().len());
        let mut wanted = BEYOND + bytes.sum::<usize>();
        let mut stored: Vec<Message> = Vec::new();
        let mut query = ListQuery::filtered(MessageFilter::of(conversation)).limit(MAX_LIMIT);
        loop {
            query = query.max_bytes(wanted as u64);
            let page = self.storage.messages().list(&query).await?;
            let read = page.items.iter().map(|message| message.bytes() + AROUND);
            wanted = wanted.saturating_sub(read.sum());
            stored.extend(page.items);
            match page.next {
                Some(next) if wanted > 0 => query = query.after(next),
                next => {
                    stored.reverse();
                    let history = History::new(conversation, stored, said)?;
                    return Ok(history.cut(next.is_some()));
                }
            }
        }
    }

    /// Sends the messages, and returns the turn that answers the last.
    pub(super) async fn send(
        &self,
        input: &Input,
        mut messages: Vec<Message>,
        place: Place,
    ) -> Result<Turn, Problem> {
        let asked = messages
            .iter()
            .rposition(|message| message.role == Role::User);
        let asked = messages.remove(asked.expect("what is new ends with a user's message"));
        if !messages.is_empty() && place != Place::Last {
            let reason = "a system message does not begin a branch";
            return Err(Problem::invalid("messages", reason));
        }
        for message in messages {
            let options = SendOptions::default();
            self.turns.instruct(message, options).await?;
        }
        let options = options(input, &asked, place);
        let conversation = asked.conversation_id;
        let turn = self.turns.start(asked, options).await;
        let turn = turn.map_err(|error| Problem::from(error).repeatable(true))?;
        Ok(self.turns.turn(conversation, turn.turn_id()).await?)
    }

    /// Answers a stored message anew, in a run that is not known; else the run is told again.
    pub(super) async fn answer_again(
        &self,
        conversation: &Conversation,
        input: &Input,
        message: MessageId,
    ) -> Result<Turn, Problem> {
        let earlier = self.turn_of(conversation, message).await?;
        if let Some(turn) = earlier.filter(|turn| !turn.status.is_final()) {
            return Ok(turn);
        }
        let messages = self.storage.messages();
        let asked = messages.get(&conversation.id.key(message)).await?;
        let asked = asked.ok_or_else(|| Error::not_found("message", message))?;
        let options = options(input, &asked, Place::Stored);
        let turn = self.turns.start(asked, options).await;
        let turn = turn.map_err(|error| Problem::from(error).repeatable(true))?;
        Ok(self.turns.turn(conversation.id, turn.turn_id()).await?)
    }

    /// Gives the turn that waits for the client's tools what they have come to. A turn that still waits
    /// is none of the client's any more where it says something else (`is_more`): then it is cancelled.
    /// `None` where there is more to answer.
    pub(super) async fn take_results(
        &self,
        conversation: &Conversation,
        input: &Input,
        is_more: bool,
    ) -> Result<Option<Shown>, Problem> {
        let asking = self.turns.asking(conversation.id).await?;
        let of_client = |(_, asked): &(_, Interrupt)| !asked.client_calls.is_empty();
        let Some((turn, asked)) = asking.filter(of_client) else {
            return Ok(None);
        };
        let results = input.results(&asked);
        let is_whole = results.len() == asked.client_calls.len();
        if is_more && !is_whole {
            self.turns.cancel(conversation.id, turn).await?;
            return Ok(None);
        }
        if results.is_empty() {
            return Ok(None);
        }
        let client = input.client();
        let answer = Answer::Results { results, client };
        let resumed = self
            .turns
            .resume(conversation.id, turn, asked.id, answer)
            .await?;
        if is_more {
            drop(resumed.outcome().await?);
            return Ok(None);
        }
        let after = resumed.after();
        let turn = self.turns.turn(conversation.id, turn).await?;
        Ok(Some(Shown::Turn(Box::new(turn), after)))
    }

    /// Answers the question of the turn that asks, or asked where this run has answered it before.
    /// `None` where the turn is cancelled and there is more to answer.
    pub(super) async fn resume(
        &self,
        conversation: &Conversation,
        input: &Input,
        is_more: bool,
    ) -> Result<Option<Shown>, Problem> {
        let [entry] = &*input.resume else {
            return Err(Problem::invalid(
                "resume",
                "must have one entry, for one question",
            ));
        };
        let asked = self.asked(conversation, &entry.interrupt_id).await?;
        let (turn, interrupt, asked_at) = asked.ok_or(TurnError::NotAsked)?;
        if entry.status == ResumeStatus::Cancelled {
            let is_over = match self.turns.cancel(conversation.id, turn).await {
                Err(TurnError::Ended) => {
                    let turn = self.turns.turn(conversation.id, turn).await?;
                    turn.status == TurnStatus::Cancelled
                }
                cancelled => cancelled.map(|_| true)?,
            };
            return match (is_over, is_more) {
                (false, _) => Err(TurnError::NotAsked.into()),
                (true, true) => Ok(None),
                (true, false) => Ok(Some(Shown::Settled(Outcome::Cancelled))),
            };
        }
        if is_more {
            let reason = "the answer to a question comes alone";
            return Err(Problem::invalid("messages", reason));
        }
        let answer = entry.answer();
        // A client may give a run that goes on the id of the run that asked.
        let key = RequestKey {
            key: format!("{} answers {interrupt}", input.run_id),
            request: answer.clone().into_bytes(),
        };
        let resumed = self
            .turns
            .resume_once(conversation.id, turn, interrupt, answer, &key);
        let after = resumed.await?.map_or(asked_at, |resumed| resumed.after());
        let turn = self.turns.turn(conversation.id, turn).await?;
        Ok(Some(Shown::Turn(Box::new(turn), after)))
    }

    /// The turn that asks this, or did and is among the newest, and behind which of its events.
    async fn asked(
        &self,
        conversation: &Conversation,
        interrupt: &str,
    ) -> Result<Option<(TurnId, InterruptId, u64)>, Problem> {
        let of_chat = TurnFilter::default().of(conversation.id);
        let newest = ListQuery::filtered(of_chat).limit(LATELY);
        for turn in self.storage.turns().list(&newest).await?.items {
            if let Some(asked) = &turn.interrupt
                && asked.id.to_string() == interrupt
            {
                return Ok(Some((turn.id, asked.id, 0)));
            }
            let asks = |event: &TurnEvent| match event {
                TurnEvent::Waiting { interrupt: asked } => {
                    (asked.id.to_string() == interrupt).then_some(asked.id)
                }
                _ => None,
            };
            if let Some((asked, sequence)) = self.last_of(&turn, asks).await? {
                return Ok(Some((turn.id, asked, sequence)));
            }
        }
        Ok(None)
    }

    /// The newest turn that answers a stored message.
    pub(super) async fn turn_of(
        &self,
        conversation: &Conversation,
        message: MessageId,
    ) -> Result<Option<Turn>, Problem> {
        let of_chat = TurnFilter::default().of(conversation.id);
        let page = self
            .storage
            .turns()
            .list(&ListQuery::filtered(of_chat))
            .await?;
        let mut turns = page.items.into_iter();
        Ok(turns.find(|turn| turn.user_message_id == message))
    }

    /// Behind which of its events `turn` went on with the last results that the client has: who sends
    /// them again was told of the calls before, and would run them once more.
    pub(super) async fn answered(&self, turn: &Turn, input: &Input) -> Result<u64, Problem> {
        if !input.has_results() {
            return Ok(0);
        }
        let has_answer = |event: &TurnEvent| match event {
            TurnEvent::Waiting { interrupt } => !input.results(interrupt).is_empty(),
            _ => false,
        };
        let answered = self.last_of(turn, |event| has_answer(event).then_some(()));
        Ok(answered.await?.map_or(0, |((), sequence)| sequence))
    }

    /// What the last event of `turn` gives that gives something, and where it stands.
    async fn last_of<T>(
        &self,
        turn: &Turn,
        of: impl Fn(&TurnEvent) -> Option<T>,
    ) -> Result<Option<(T, u64)>, Problem> {
        let (mut read, mut found) = (0, None);
        loop {
            let turns = self.storage.turn_store();
            let batches = turns.events(turn.conversation_id, turn.id, read, BATCHES);
            let batches = batches.await?;
            let Some(last) = batches.last() else {
                return Ok(found);
            };
            read = last.sequence;
            for batch in batches {
                // Not of what the answer says.
                let events = TurnEvent::read(batch.events, None);
                if let Some(last) = events.iter().filter_map(&of).last() {
                    found = Some((last, batch.sequence));
                }
            }
        }
    }

    /// The turn that runs or asks, or is the next to run.
    pub(super) async fn unfinished(
        &self,
        conversation: &Conversation,
    ) -> Result<Option<Turn>, Problem> {
        let unfinished = TurnFilter::unfinished().of(conversation.id);
        let first = ListQuery::filtered(unfinished).oldest_first().limit(1);
        let page = self.storage.turns().list(&first).await?;
        Ok(page.items.into_iter().next())
    }

    /// The state as events make it.
    pub(super) async fn state(&self, conversation: &Conversation) -> Result<Value, Problem> {
        let latest = CheckpointSelector {
            values: Values::Of([STATE.to_owned()].into()),
            ..CheckpointSelector::latest(conversation.thread_id())
        };
        let found = self.storage.checkpointer().get(&latest).await?;
        let state = found.and_then(|mut tuple| tuple.checkpoint.channel_values.remove(STATE));
        let state = state.map(|state| state.to_json()).filter(Value::is_object);
        Ok(state.unwrap_or_else(|| json!({})))
    }
}

/// How what was `asked` is sent.
fn options(input: &Input, asked: &Message, place: Place) -> SendOptions {
    let said = json!([asked.id, asked.content]);
    SendOptions {
        on_busy: None,
        key: Some(RequestKey {
            key: input.run_id.clone(),
            request: said.to_string().into_bytes(),
        }),
        client: input.client(),
        place,
    }
}
