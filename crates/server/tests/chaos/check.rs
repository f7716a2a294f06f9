//! What must hold in the end, from the database and the ledger.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::json;
use yai_agentkit_agents::tools::FAILED;
use yai_agentkit_core::{
    CheckpointQuery, CheckpointTuple, ListQuery, Message, Role, Storage, ThreadState, Turn,
    TurnStatus,
    conversation::{ConversationFilter, MessageFilter},
    turn::TurnFilter,
};
use yai_agentkit_engine::{
    TurnEvent,
    agent::{AgentState, ChatMessage, ToolCall},
};

use crate::{
    client::{Chat, SETTLED},
    eraser::{Erased, GONE},
    ledger::{Entry, WORKS},
    plan::{APPROVED, EDITED, MCP, Plan, SAFE, answer, done, is, says},
};

/// More than a chat has of anything.
const ALL: u64 = 1000;

/// What was found, and what was wrong.
#[derive(Default)]
pub(crate) struct Findings {
    wrong: Vec<String>,
    pub(crate) checks: usize,
    pub(crate) chats: usize,
    pub(crate) turns: usize,
    pub(crate) checkpoints: usize,
    pub(crate) events: usize,
    /// How often a turn went on with another server, or with its own after an outage.
    pub(crate) taken_over: usize,
    pub(crate) safe_calls: usize,
    /// Safe calls that ran more than once.
    pub(crate) repeated: usize,
    pub(crate) unsafe_calls: usize,
    /// Unsafe calls that were cut short, for a person to settle or for the agent to go on: with an
    /// effect, and without.
    pub(crate) settled: (usize, usize),
    /// Calls that a person has approved of, also with other arguments, and refused.
    pub(crate) approvals: (usize, usize, usize),
}

impl Findings {
    fn expect(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds {
            self.wrong.push(otherwise());
        }
    }

    pub(crate) fn assert_nothing_wrong(&self) {
        let some: Vec<_> = self.wrong.iter().take(20).map(String::as_str).collect();
        let count = self.wrong.len();
        assert!(some.is_empty(), "{count} findings:\n{}", some.join("\n"));
    }
}

pub(crate) async fn check(
    storage: &dyn Storage,
    chats: &[Chat],
    erased: &[Erased],
    ledger: &[Entry],
) -> Findings {
    let mut findings = Findings::default();
    let mut effects = HashMap::<&str, usize>::new();
    for entry in ledger.iter().filter(|entry| entry.what != WORKS) {
        *effects.entry(&entry.id).or_default() += 1;
    }
    // Her tools were called all the same.
    effects.retain(|id, _| !id.starts_with(GONE));
    for chat in erased {
        check_erased(&mut findings, storage, chat).await;
    }
    for chat in chats {
        check_chat(&mut findings, storage, chat, &mut effects).await;
    }
    findings.expect(effects.is_empty(), || format!("of no message: {effects:?}"));
    let stored = storage.conversations();
    // Whoever made one more of hers may have been late.
    let of_gone = ConversationFilter::default().owned_by(Some(GONE.to_owned()));
    let of_gone = stored.count(&of_gone).await.unwrap();
    let stored = stored.count(&ConversationFilter::default()).await.unwrap() - of_gone;
    findings.expect(stored == chats.len() as u64, || {
        format!(
            "{} conversations were made, {stored} are there",
            chats.len()
        )
    });
    let unfinished = ListQuery::filtered(TurnFilter::unfinished());
    let unfinished = storage.turns().list(&unfinished).await.unwrap().items;
    findings.expect(unfinished.is_empty(), || {
        format!("unfinished: {unfinished:?}")
    });
    findings
}

async fn check_erased(findings: &mut Findings, storage: &dyn Storage, chat: &Erased) {
    let id = chat.id.parse().unwrap();
    let messages = storage.messages().count(&MessageFilter::of(id)).await;
    let turns = storage.turns().count(&TurnFilter::default().of(id)).await;
    let line = storage
        .checkpointer()
        .list(&CheckpointQuery::of(chat.thread.clone()))
        .await;
    let left = (messages.unwrap(), turns.unwrap(), line.unwrap().len());
    findings.expect(left == (0, 0, 0), || {
        format!("{} has come back: {left:?}", chat.id)
    });
}

async fn check_chat(
    findings: &mut Findings,
    storage: &dyn Storage,
    chat: &Chat,
    effects: &mut HashMap<&str, usize>,
) {
    findings.chats += 1;
    findings.turns += chat.exchanges.len();
    let id = chat.id.parse().unwrap();
    let conversation = storage.conversations().get(&id).await.unwrap();
    let conversation = conversation.unwrap_or_else(|| panic!("conversation {id} is gone"));
    let messages = ListQuery::filtered(MessageFilter::of(id))
        .limit(ALL)
        .oldest_first();
    let messages = storage.messages().list(&messages).await.unwrap().items;
    let turns = ListQuery::filtered(TurnFilter::default().of(id)).limit(ALL);
    let turns = storage.turns().list(&turns).await.unwrap().items;
    let line = CheckpointQuery::of(conversation.thread_id());
    let mut line = storage.checkpointer().list(&line).await.unwrap();
    line.reverse();

    let count = chat.exchanges.len();
    findings.expect(messages.len() == 2 * count, || {
        format!(
            "{id}: {count} messages were answered, {} are there",
            messages.len()
        )
    });
    findings.expect(turns.len() == count, || {
        format!("{id}: {count} messages, {} turns", turns.len())
    });
    for exchange in &chat.exchanges {
        let (message, answer) = (&exchange.message, &exchange.answer);
        let stored: Vec<_> = messages
            .iter()
            .filter(|stored| stored.content == *message)
            .collect();
        let [stored] = stored[..] else {
            findings.expect(false, || {
                format!("{id}: {message} is there {} times", stored.len())
            });
            continue;
        };
        let answers = messages
            .iter()
            .filter(|other| other.id == stored.id.answer())
            .map(|answer| (&answer.role, answer.content.as_str()));
        let answers: Vec<_> = answers.collect();
        findings.expect(answers == [(&Role::Assistant, answer.as_str())], || {
            format!("{id}: {message} was answered {answer}, stored are {answers:?}")
        });
        let turns: Vec<_> = turns
            .iter()
            .filter(|turn| turn.user_message_id == stored.id)
            .collect();
        let [turn] = turns[..] else {
            findings.expect(false, || format!("{id}: {message} has the turns {turns:?}"));
            continue;
        };
        check_turn(findings, storage, message, stored, turn, &line).await;
    }
    check_line(findings, &chat.id, &line);
    let latest = line.pop();
    let state = ThreadState::new(conversation.thread_id(), latest);
    let state: AgentState = state.state().unwrap().unwrap_or_default();
    check_state(findings, chat, &state, effects);
}

async fn check_turn(
    findings: &mut Findings,
    storage: &dyn Storage,
    message: &str,
    stored: &Message,
    turn: &Turn,
    line: &[CheckpointTuple],
) {
    let is_over = turn.status == TurnStatus::Completed
        && turn.assistant_message_id == Some(stored.id.answer())
        && turn.interrupt.is_none()
        && turn.lease_owner.is_none();
    findings.expect(is_over, || format!("{message}: {turn:?}"));

    let plan = Plan::parse(message);
    let steps = plan.steps();
    let run = turn.id.to_string();
    let of_turn = |tuple: &&CheckpointTuple| tuple.metadata.run_id() == Some(run.as_str());
    let checkpoints = line.iter().filter(of_turn).count();
    // The input, each decision, the results of its tools, the answer.
    let expected = 2 + 2 * steps.len();
    findings.expect(checkpoints == expected, || {
        format!("{message}: {checkpoints} checkpoints of {expected}")
    });

    let turns = storage.turn_store();
    let batches = turns
        .events(turn.conversation_id, turn.id, 0, ALL)
        .await
        .unwrap();
    let sequences: Vec<_> = batches.iter().map(|batch| batch.sequence).collect();
    let consecutive: Vec<_> = (1..=batches.len() as u64).collect();
    findings.expect(sequences == consecutive, || {
        format!("{message}: the batches of its events are {sequences:?}")
    });
    let events = batches.into_iter().flat_map(|batch| batch.events);
    let events = TurnEvent::read(events.collect(), None);
    findings.events += events.len();
    findings.taken_over += events
        .iter()
        .filter(|event| matches!(event, TurnEvent::Resumed { .. }))
        .count();
    let ends = |event: &&TurnEvent| event.ends_run() && !matches!(event, TurnEvent::Waiting { .. });
    let ended: Vec<_> = events.iter().filter(ends).collect();
    let is_answer = |event: &TurnEvent| matches!(event, TurnEvent::Answered { answer } if answer.id == stored.id.answer());
    findings.expect(
        ended.len() == 1 && events.last() == ended.last().copied() && is_answer(ended[0]),
        || format!("{message}: its events end with {ended:?}"),
    );
    findings.expect(
        matches!(events.first(), Some(TurnEvent::Started { .. })),
        || format!("{message}: its events begin with {:?}", events.first()),
    );
    let mut told: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            TurnEvent::ToolReturned { call_id, .. } => Some(call_id.as_str()),
            _ => None,
        })
        .collect();
    told.sort_unstable();
    let mut calls: Vec<_> = steps
        .iter()
        .flatten()
        .map(|call| call.id.as_str())
        .collect();
    calls.sort_unstable();
    findings.expect(told == calls, || {
        format!("{message}: told were the results of {told:?}")
    });
}

/// Each checkpoint follows the one before.
fn check_line(findings: &mut Findings, chat: &str, line: &[CheckpointTuple]) {
    findings.checkpoints += line.len();
    let mut before = None;
    for tuple in line {
        findings.expect(tuple.parent.as_ref() == before, || {
            let id = &tuple.key.checkpoint_id;
            format!(
                "{chat}: checkpoint {id} follows {:?}, not {before:?}",
                tuple.parent
            )
        });
        before = Some(&tuple.key.checkpoint_id);
    }
}

/// The agent remembers each message, step, result and answer once, in order; and what its tools
/// have done agrees with the ledger.
fn check_state(
    findings: &mut Findings,
    chat: &Chat,
    state: &AgentState,
    effects: &mut HashMap<&str, usize>,
) {
    let mut facts = BTreeMap::new();
    let mut open: BTreeSet<_> = chat
        .exchanges
        .iter()
        .map(|exchange| exchange.message.as_str())
        .collect();
    let mut expected = Vec::new();
    for asked in state
        .messages
        .iter()
        .filter(|message| message.role == Role::User)
    {
        let message = asked.content.as_str();
        findings.expect(open.remove(message), || {
            format!(
                "{}: the agent knows {message} twice, or from nowhere",
                chat.id
            )
        });
        expected.push(ChatMessage::clone(asked));
        let plan = Plan::parse(message);
        let mut results = Vec::new();
        for (number, calls) in plan.steps().into_iter().enumerate() {
            expected.push(ChatMessage {
                tool_calls: calls.clone(),
                ..ChatMessage::new(Role::Assistant, says(&plan.token, number))
            });
            for call in calls {
                let result = result_of(state, &call);
                results.push(result.clone());
                expected.push(ChatMessage {
                    tool_call_id: Some(call.id.clone()),
                    ..ChatMessage::new(Role::Tool, result.as_str())
                });
                let count = effects.remove(call.id.as_str()).unwrap_or_default();
                let came_to = came_to(&call, &result, chat.is_remote);
                check_call(findings, &call, came_to, count, &result);
                if came_to == Some(CameTo::Done) && !call.name.starts_with(MCP) {
                    facts.insert(call.id, call.name);
                }
            }
        }
        let answer = answer(&plan.token, &results);
        expected.push(ChatMessage::new(Role::Assistant, answer));
    }
    findings.expect(open.is_empty(), || {
        format!("{}: the agent does not know {open:?}", chat.id)
    });
    let remembered = state.messages.iter().map(|message| {
        let mut message = ChatMessage::clone(message);
        // Those of a program are as it has said.
        message
            .tool_calls
            .iter_mut()
            .for_each(|call| call.traits = None);
        message
    });
    let remembered: Vec<_> = remembered.collect();
    findings.expect(remembered == expected, || {
        format!("{}: the agent remembers {remembered:#?}", chat.id)
    });
    findings.expect(state.own["facts"] == json!(facts), || {
        format!("{}: the facts are {:?}, not {facts:?}", chat.id, state.own)
    });
    findings.expect(state.answering.is_none(), || {
        format!("{}: still answering", chat.id)
    });
}

/// The end of a tool call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum CameTo {
    Done,
    /// It was cut short, and a person has said what came of it.
    Settled,
    /// It was cut short in another program, of which the agent was told.
    Failed,
    /// A person has refused it.
    Rejected,
}

fn result_of(state: &AgentState, call: &ToolCall) -> String {
    let mut results = state.messages.iter();
    let result = results.find(|result| result.tool_call_id.as_ref() == Some(&call.id));
    result.map_or_else(String::new, |result| result.content.clone())
}

/// `None` where the result is none that the call may have.
fn came_to(call: &ToolCall, result: &str, is_remote: bool) -> Option<CameTo> {
    let is_unsafe = !is(&call.name, SAFE);
    let is_approved = is(&call.name, APPROVED);
    let mut edited = call.clone();
    edited.arguments[EDITED] = true.into();
    let told = result.strip_prefix("[A person has changed the arguments to ");
    let told = told.and_then(|told| told.split_once("]\n"));
    let (call, result) = match told {
        Some((_, result)) if is_approved => (&edited, result),
        _ => (call, result),
    };
    match result {
        _ if result == done(call) => Some(CameTo::Done),
        SETTLED if is_unsafe => Some(CameTo::Settled),
        REJECTED if is_approved => Some(CameTo::Rejected),
        _ if result.starts_with(FAILED) && result != REJECTED && is_unsafe && is_remote => {
            Some(CameTo::Failed)
        }
        _ => None,
    }
}

const REJECTED: &str = "Error: a person has refused this call. not today";

fn check_call(
    findings: &mut Findings,
    call: &ToolCall,
    came_to: Option<CameTo>,
    count: usize,
    result: &str,
) {
    let is_right = match came_to {
        Some(CameTo::Done) if is(&call.name, SAFE) => count >= 1,
        Some(CameTo::Done) => count == 1,
        Some(CameTo::Settled | CameTo::Failed) => count <= 1,
        Some(CameTo::Rejected) => count == 0,
        None => false,
    };
    findings.expect(is_right, || {
        let (id, name) = (&call.id, &call.name);
        format!("{id}, {name}, ran {count} times and came to {came_to:?}: {result}")
    });
    if is(&call.name, APPROVED) {
        let approvals = &mut findings.approvals;
        match came_to {
            Some(CameTo::Done) if *result != done(call) => approvals.1 += 1,
            Some(CameTo::Done) => approvals.0 += 1,
            Some(CameTo::Rejected) => approvals.2 += 1,
            _ => {}
        }
    }
    match (came_to, count) {
        (Some(CameTo::Done), count) if is(&call.name, SAFE) => {
            findings.safe_calls += 1;
            findings.repeated += usize::from(count > 1);
        }
        (Some(CameTo::Done), _) => findings.unsafe_calls += 1,
        (Some(CameTo::Settled | CameTo::Failed), 0) => findings.settled.1 += 1,
        (Some(CameTo::Settled | CameTo::Failed), _) => findings.settled.0 += 1,
        _ => {}
    }
}
