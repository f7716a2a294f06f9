//! One conversation: what its client does, and what must hold in the end.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use yai_agentkit_core::{
    CheckpointQuery, Conversation, ConversationId, ListQuery, Message, Role, Storage, ThreadState,
    Turn, TurnStatus, conversation::MessageFilter, turn::TurnFilter,
};
use yai_agentkit_engine::{
    RequestKey, SendOptions, TurnEngine, TurnError, TurnEvent, TurnLimits, TurnOutcome,
    agent::AgentState,
    test_kit::{Watched, answered, reply, send_with},
};

use crate::{
    agent::{BoundedAgent, Ledger, Person, Script},
    process::Process,
};

/// More requests than any turn here needs.
const REQUESTS: usize = 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) conversation: ConversationId,
    pub(crate) script: Script,
    pub(crate) person: Person,
    pub(crate) ledger: PathBuf,
}

/// What is left of a turn, the same whatever happened to it.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    checkpoints: usize,
    state: AgentState,
}

impl Case {
    /// A new conversation.
    pub(crate) async fn begin(
        storage: &dyn Storage,
        script: Script,
        person: Person,
        ledger: PathBuf,
    ) -> Self {
        let conversation = Conversation::titled("test");
        let conversation = storage.conversations().add(conversation).await.unwrap();
        Self {
            conversation: conversation.id,
            script,
            person,
            ledger,
        }
    }

    /// An engine of its own, as every server process has one. Its leases end at once, as they do
    /// when enough time has passed: who dies is found dead, and who is stopped wakes too late.
    pub(crate) fn engine(&self, storage: Arc<dyn Storage>, process: &Process) -> TurnEngine {
        let agent = BoundedAgent {
            process: process.clone(),
            ledger: self.ledger(),
        };
        let storage = Watched::new(storage, process.clone());
        TurnEngine::new(Arc::new(storage), Arc::new(agent)).with_limits(TurnLimits {
            lease: Duration::ZERO,
            ..TurnLimits::default()
        })
    }

    fn ledger(&self) -> Ledger {
        Ledger::new(&self.ledger)
    }

    /// What a client does until it has its answer: it sends the message with its key, answers what
    /// it is asked, and sends it again.
    pub(crate) async fn converse(&self, engine: &TurnEngine) -> Message {
        for _ in 0..REQUESTS {
            match self.send(engine, self.script).await {
                Ok(TurnOutcome::Answered(answer)) => return answer,
                Ok(TurnOutcome::Waiting(turn)) => self.reply(engine, &turn).await,
                Err(error) => panic!("{error:?}"),
            }
        }
        panic!("no answer to {REQUESTS} requests");
    }

    async fn send(&self, engine: &TurnEngine, script: Script) -> Result<TurnOutcome, TurnError> {
        let key = RequestKey {
            key: script.words().to_owned(),
            request: script.words().as_bytes().to_vec(),
        };
        let options = SendOptions {
            key: Some(key),
            ..SendOptions::default()
        };
        let message = Message::new(self.conversation, Role::User, script.words());
        send_with(engine, message, options).await
    }

    async fn reply(&self, engine: &TurnEngine, turn: &Turn) {
        let asked = turn.interrupt.as_ref().unwrap();
        let answer = self.person.reply(asked, &self.ledger());
        match reply(engine, turn, asked.id, answer).await {
            // An answer may have been taken although nobody has said so.
            Ok(_) | Err(TurnError::NotAsked) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    /// What a server does about a turn that its owner has left: it finds and finishes it, as far as
    /// it can without a person.
    pub(crate) async fn rescue(&self, storage: &dyn Storage, engine: &TurnEngine) {
        let Some(left) = self.turn(storage).await else {
            return;
        };
        let due = storage.turn_store().due(10_000).await.unwrap();
        let is_due = due.iter().any(|turn| turn.id == left.id);
        assert_eq!(is_due, left.status == TurnStatus::Running);
        engine.settle(self.conversation).await.unwrap();
        let status = self.turn(storage).await.map(|turn| turn.status);
        let is_rescued = matches!(status, Some(TurnStatus::Completed | TurnStatus::Waiting));
        assert!(is_rescued, "{status:?}");
    }

    /// Checks all that must hold once the client has its `answer`.
    pub(crate) async fn check(&self, storage: &dyn Storage, answer: &Message) -> Outcome {
        let newest_first = ListQuery::filtered(MessageFilter::of(self.conversation));
        let messages = storage.messages().list(&newest_first.oldest_first()).await;
        let messages = messages.unwrap().items;
        let [question, answered] = &messages[..] else {
            panic!("{messages:?}");
        };
        assert_eq!(
            (&question.role, question.content.as_str()),
            (&Role::User, self.script.words())
        );
        assert_eq!(answered, answer);

        let turn = self.only_turn(storage).await;
        assert_eq!(turn.status, TurnStatus::Completed);
        assert_eq!(turn.user_message_id, question.id);
        assert_eq!(turn.assistant_message_id, Some(answered.id));
        assert_eq!((turn.lease_owner, &turn.interrupt), (None, &None));

        let state = self.state(storage).await;
        assert_eq!(state.messages.last().unwrap().content, answer.content);
        self.check_events(storage, &turn, answer, &state).await;
        self.check_ledger();
        Outcome {
            checkpoints: self.one_line_of_checkpoints(storage).await,
            state,
        }
    }

    /// Checks that nothing is left to do, that the key still leads to `answer`, and that the chat
    /// goes on.
    pub(crate) async fn check_rest(
        &self,
        storage: &dyn Storage,
        engine: &TurnEngine,
        answer: &Message,
    ) {
        assert_eq!(
            answered(self.send(engine, self.script)).await.unwrap(),
            *answer
        );
        let due = storage.turn_store().due(10_000).await.unwrap();
        assert!(
            due.iter()
                .all(|turn| turn.conversation_id != self.conversation)
        );
        let next = answered(self.send(engine, Script::Hello)).await.unwrap();
        assert_eq!(next.content, "hello");
        self.one_line_of_checkpoints(storage).await;
    }

    /// The turn of the conversation, of which there is one at most.
    pub(crate) async fn turn(&self, storage: &dyn Storage) -> Option<Turn> {
        let turns = ListQuery::filtered(TurnFilter::default().of(self.conversation));
        let mut turns = storage.turns().list(&turns).await.unwrap().items;
        assert!(turns.len() < 2, "{turns:?}");
        turns.pop()
    }

    /// All that is stored of the conversation.
    pub(crate) async fn everything(&self, storage: &dyn Storage) -> String {
        let of = MessageFilter::of(self.conversation);
        let messages = storage.messages().list(&ListQuery::filtered(of)).await;
        let turns = TurnFilter::default().of(self.conversation);
        let turns = storage.turns().list(&ListQuery::filtered(turns)).await;
        let turns = turns.unwrap().items;
        let mut events = Vec::new();
        for turn in &turns {
            let batches = storage.turn_store();
            let batches = batches.events(self.conversation, turn.id, 0, 1000).await;
            events.extend(batches.unwrap());
        }
        let thread = self.conversation(storage).await.thread_id();
        let checkpoints = storage
            .checkpointer()
            .list(&CheckpointQuery::of(thread))
            .await;
        format!(
            "{:?}",
            (messages.unwrap(), turns, events, checkpoints.unwrap())
        )
    }

    async fn only_turn(&self, storage: &dyn Storage) -> Turn {
        self.turn(storage).await.expect("a turn")
    }

    async fn conversation(&self, storage: &dyn Storage) -> Conversation {
        let found = storage.conversations().get(&self.conversation).await;
        found.unwrap().expect("the conversation")
    }

    async fn state(&self, storage: &dyn Storage) -> AgentState {
        let thread = self.conversation(storage).await.thread_id();
        let latest = ThreadState::load(&*storage.checkpointer(), thread).await;
        latest.unwrap().state().unwrap().expect("a checkpoint")
    }

    /// How many checkpoints there are, each with the one before for its parent.
    async fn one_line_of_checkpoints(&self, storage: &dyn Storage) -> usize {
        let query = CheckpointQuery::of(self.conversation(storage).await.thread_id());
        let newest_first = storage.checkpointer().list(&query).await.unwrap();
        let ids = newest_first.iter().map(|found| Some(&found.checkpoint.id));
        let parents = newest_first.iter().map(|found| found.parent.as_ref());
        assert!(
            parents.eq(ids.skip(1).chain([None])),
            "the thread has forked: {newest_first:?}"
        );
        newest_first.len()
    }

    fn check_ledger(&self) {
        let (charges, looks) = (self.ledger().charges(), self.ledger().looks());
        // Who only believes may be wrong.
        let is_right = match self.person {
            Person::Looks => charges == 1,
            Person::Believes => charges <= 1,
        };
        assert!(is_right, "the unsafe tool ran {charges} times");
        let calls = match self.script {
            Script::Tools | Script::Approval => 2,
            Script::Questions => 1,
            Script::Hello => 0,
        };
        assert!(looks >= calls, "a safe tool ran {looks} times");
    }

    /// The events are without gap, end once, tell of every call once, and lead to the state.
    async fn check_events(
        &self,
        storage: &dyn Storage,
        turn: &Turn,
        answer: &Message,
        state: &AgentState,
    ) {
        let batches = storage.turn_store();
        let batches = batches.events(self.conversation, turn.id, 0, 1000).await;
        let batches = batches.unwrap();
        let sequences = batches.iter().map(|batch| batch.sequence);
        assert!(sequences.eq(1..=batches.len() as u64), "{batches:?}");
        let events = batches.into_iter().flat_map(|batch| batch.events);
        let events = TurnEvent::read(events.collect(), Some(answer));
        let count =
            |is: &dyn Fn(&TurnEvent) -> bool| events.iter().filter(|event| is(event)).count();

        let answer = answer.clone();
        assert_eq!(events.last(), Some(&TurnEvent::Answered { answer }));
        // Every other end is a question, behind which the run starts again.
        let starts = count(&|event| matches!(event, TurnEvent::Started { .. }));
        let questions = count(&|event| matches!(event, TurnEvent::Waiting { .. }));
        let ends = count(&TurnEvent::ends_run);
        assert_eq!((starts, ends), (questions + 1, questions + 1), "{events:?}");

        let calls = state
            .messages
            .iter()
            .flat_map(|message| &message.tool_calls);
        for wanted in calls {
            let called = count(
                &|event| matches!(event, TurnEvent::ToolCalled { call, .. } if call == wanted),
            );
            let returned = count(
                &|event| matches!(event, TurnEvent::ToolReturned { call_id, .. } if *call_id == wanted.id),
            );
            assert_eq!((called, returned), (1, 1), "{wanted:?}: {events:?}");
        }
        let mut own = serde_json::json!({"facts": {}});
        for event in events {
            match event {
                TurnEvent::Started { state: known } => assert_eq!(known.as_ref(), Some(&own)),
                TurnEvent::StateChanged { patch } => json_patch::patch(&mut own, &patch).unwrap(),
                _ => {}
            }
        }
        assert_eq!(own, state.own);
    }
}
