//! The tool calls of one step: run at once, recorded one by one as pending writes of the checkpoint
//! that decided on them, in LangGraph's special channels where it has one for that.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use futures::future::join_all;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;
use yai_agentkit_core::{
    CheckpointKey, Entity, Error, Fence, Namespace, NewWrites, Role, Turn, TurnStatus, Value,
    checkpoint::{ChannelWrite, PendingWrite},
    turn::{Interrupt, TurnChange},
};

use super::{
    TurnError, TurnOutcome,
    chat::{ASK, Chat, Progress, guarded, log_of},
    event::{FactChanges, apply, changes},
    person::Answer as Given,
};
use crate::agent::{ChatMessage, ToolCall, ToolOutcome};

/// That a call has begun, with how many answers.
const BEGUN: &str = "__scheduled__";
/// What it asks a person.
const ASKED: &str = "__interrupt__";
/// The answers of people, oldest first.
const ANSWERED: &str = "__resume__";
/// What it has come to.
const RESULT: &str = "messages";
/// What it has changed.
const FACTS: &str = "facts";

/// The answer by which a call runs again although it may have taken effect.
const RETRY: &str = "retry";

/// A question that was recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) interrupt: Interrupt,
    /// Whether it asks what came of a call that was cut short, and not what the call wants to know.
    of_outcome: bool,
    /// How many answers there were before.
    answers: usize,
}

/// An answer that was recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    text: String,
    of_outcome: bool,
}

/// What is recorded of one call.
#[derive(Debug, Default)]
struct Record {
    begun: Option<usize>,
    asked: Option<Question>,
    answers: Vec<Answer>,
    result: Option<(String, FactChanges)>,
}

/// What is to be done about a call.
enum Due {
    /// It is done.
    Done(String, FactChanges),
    /// It is to run, with the answer that it has asked for.
    Run(Option<String>),
    Ask(Question),
    /// The client is to run it.
    Client,
}

impl Chat {
    /// Runs the calls that have no result yet, many at once: leads to the state with all results, or
    /// to the question of the first that asks, else to the calls that are the client's.
    pub(super) async fn run_tools(
        &self,
        turn: &Turn,
        calls: &[ToolCall],
    ) -> Result<Progress, TurnError> {
        let mut due = Vec::new();
        for call in calls {
            due.push(self.due(call)?);
        }
        // The last one is recorded by the checkpoint that holds all results.
        let left = AtomicUsize::new(due.iter().filter(|due| matches!(due, Due::Run(_))).count());
        let waits = |due: &Due| matches!(due, Due::Ask(_) | Due::Client);
        let asks = AtomicBool::new(due.iter().any(waits));
        let permits = Semaphore::new(self.engine.limits.tools_at_once.max(1));
        let (left, asks, permits) = (&left, &asks, &permits);
        let runs = calls.iter().zip(due).map(|(call, due)| async move {
            match due {
                Due::Run(answer) => {
                    let _permit = permits.acquire().await.ok();
                    let done = self.run_tool(turn, call, answer.as_deref()).await?;
                    if let Due::Ask(_) = done {
                        asks.store(true, Ordering::SeqCst);
                    }
                    let is_last = left.fetch_sub(1, Ordering::SeqCst) == 1;
                    if let Due::Done(result, changes) = &done
                        && (!is_last || asks.load(Ordering::SeqCst))
                    {
                        let message = write(RESULT, result)?;
                        let writes = vec![message, write(FACTS, changes)?];
                        self.record(turn, call, writes).await?;
                    }
                    Ok::<_, TurnError>(done)
                }
                Due::Ask(question) => {
                    self.record(turn, call, vec![write(ASKED, &question)?])
                        .await?;
                    Ok(Due::Ask(question))
                }
                done @ (Due::Done(..) | Due::Client) => Ok(done),
            }
        });
        let done = join_all(runs).await;
        let mut state = self.state.clone();
        let mut client_calls = Vec::new();
        let mut asked = None;
        for (call, done) in calls.iter().zip(done) {
            match done? {
                Due::Done(result, changes) => {
                    apply(changes, &mut state.facts);
                    state.messages.push(ChatMessage {
                        tool_call_id: Some(call.id.clone()),
                        ..ChatMessage::new(Role::Tool, result)
                    });
                }
                Due::Ask(question) => drop(asked.get_or_insert(question.interrupt)),
                Due::Client => client_calls.push(call.id.clone()),
                Due::Run(_) => return Err(TurnError::AgentCrashed),
            }
        }
        // A question first: who answers it may not be the client that runs the calls.
        let asked = asked.or_else(|| {
            let asks = Interrupt::new(&**client_calls.first()?, "");
            Some(asks.for_client(client_calls))
        });
        Ok(asked.map_or(Progress::Checkpoint(state), Progress::Ask))
    }

    /// Lets the turn wait for the answer to its question.
    pub(super) async fn wait(
        &mut self,
        turn: Turn,
        interrupt: Interrupt,
    ) -> Result<TurnOutcome, TurnError> {
        let waiting = turn.clone().with(|turn| {
            turn.status = TurnStatus::Waiting;
            turn.interrupt = Some(interrupt.clone());
            turn.lease_owner = None;
        });
        self.set_running(false);
        let log = log_of(&mut self.log);
        let batch = log.waiting(&self.state, interrupt);
        let (events, unpublished) = log.stage(batch);
        let change = TurnChange::new(turn, waiting).with_events(events);
        let waits = self.engine.storage.turn_store().change(change).await;
        let turn = waits.map_err(TurnError::of_owner)?;
        unpublished.publish();
        Ok(TurnOutcome::Waiting(Box::new(turn)))
    }

    /// The writes that record what a turn waits for.
    pub(super) fn answer_writes(
        &self,
        interrupt: &Interrupt,
        given: &Given,
    ) -> Result<Vec<NewWrites>, TurnError> {
        let mut writes = Vec::new();
        for (call, text) in given.to(interrupt) {
            let mut record = self.record_of(call)?;
            let is_of_client = interrupt.client_calls.iter().any(|own| own == call);
            let question = record
                .asked
                .filter(|asked| asked.interrupt.id == interrupt.id);
            if !is_of_client && question.is_none() {
                return Err(TurnError::NotAsked);
            }
            record.answers.push(Answer {
                text: text.to_owned(),
                of_outcome: question.is_some_and(|question| question.of_outcome),
            });
            let answered = vec![write(ANSWERED, &record.answers)?];
            let answered = self.new_writes(call, answered);
            writes.push(answered.ok_or(TurnError::NotAsked)?);
        }
        match writes.is_empty() {
            true => Err(TurnError::NotAsked),
            false => Ok(writes),
        }
    }

    fn due(&self, call: &ToolCall) -> Result<Due, TurnError> {
        let record = self.record_of(&call.id)?;
        if let Some((result, changes)) = record.result {
            return Ok(Due::Done(result, changes));
        }
        let answers = record.answers.len();
        // It has asked, and the turn was cut short before it waited.
        if let Some(question) = record.asked.filter(|asked| asked.answers == answers) {
            return Ok(Due::Ask(question));
        }
        let last = record.answers.last();
        let own_answer = record
            .answers
            .iter()
            .rev()
            .find(|answer| !answer.of_outcome);
        let own_answer = own_answer.map(|answer| answer.text.clone());
        if call.name == ASK {
            let question = call.arguments["question"].as_str().unwrap_or_default();
            return Ok(match own_answer {
                Some(answer) => Due::Done(answer, FactChanges::new()),
                None => Due::Ask(asked(call, question.to_owned(), false, answers)),
            });
        }
        if self.state.client.has_tool(&call.name) {
            return Ok(match own_answer {
                Some(answer) => Due::Done(answer, FactChanges::new()),
                None => Due::Client,
            });
        }
        // Begun with as many answers as there are now: nothing has come of it.
        if record.begun == Some(answers) && !self.engine.agent.is_repeatable(call) {
            let question = format!(
                "The tool `{}` was cut short with {}: it may or may not have taken effect. Answer \
                 with the result to go on with, or `{RETRY}` to run it again.",
                call.name, call.arguments
            );
            return Ok(Due::Ask(asked(call, question, true, answers)));
        }
        Ok(match last {
            Some(answer) if answer.of_outcome && answer.text.trim() != RETRY => {
                Due::Done(answer.text.clone(), FactChanges::new())
            }
            _ => Due::Run(own_answer),
        })
    }

    async fn run_tool(
        &self,
        turn: &Turn,
        call: &ToolCall,
        answer: Option<&str>,
    ) -> Result<Due, TurnError> {
        let agent = Arc::clone(&self.engine.agent);
        let answers = self.record_of(&call.id)?.answers.len();
        if !agent.is_repeatable(call) {
            let begun = vec![write(BEGUN, &answers)?];
            self.record(turn, call, begun).await?;
        }
        let mut state = self.state.clone();
        if state.messages.before() > 0 && agent.reads_all_messages(call) {
            state = self.whole_state().await?;
        }
        let (own_call, answer) = (call.clone(), answer.map(str::to_owned));
        let run = guarded(async move {
            let outcome = agent
                .run_tool(&own_call, &mut state, answer.as_deref())
                .await;
            (outcome, state)
        });
        Ok(match run.await {
            Ok((ToolOutcome::Result(result), state)) => {
                Due::Done(result, changes(&self.state.facts, &state.facts))
            }
            Ok((ToolOutcome::Ask(question), _)) => {
                let question = asked(call, question, false, answers);
                self.record(turn, call, vec![write(ASKED, &question)?])
                    .await?;
                Due::Ask(question)
            }
            Err(_) => Due::Done("the tool crashed".to_owned(), FactChanges::new()),
        })
    }

    fn record_of(&self, call_id: &str) -> Result<Record, TurnError> {
        let mut record = Record::default();
        let (mut result, mut changes) = (None, FactChanges::new());
        for write in self.writes.iter().filter(|write| write.task_id == call_id) {
            match write.channel.as_str() {
                BEGUN => record.begun = Some(read(write)?),
                ASKED => record.asked = Some(read(write)?),
                ANSWERED => record.answers = read(write)?,
                RESULT => result = Some(read(write)?),
                FACTS => changes = read(write)?,
                _ => {}
            }
        }
        record.result = result.map(|result| (result, changes));
        Ok(record)
    }

    async fn record(
        &self,
        turn: &Turn,
        call: &ToolCall,
        writes: Vec<ChannelWrite>,
    ) -> Result<(), TurnError> {
        let Some(writes) = self.new_writes(&call.id, writes) else {
            return Err(TurnError::ForeignState);
        };
        let checkpointer = self.engine.storage.checkpointer();
        let hold = Fence::Hold(turn.epoch);
        let recorded = checkpointer.put_writes(writes, Some(hold)).await;
        recorded.map_err(TurnError::of_owner)
    }

    fn new_writes(&self, call_id: &str, writes: Vec<ChannelWrite>) -> Option<NewWrites> {
        Some(NewWrites {
            key: CheckpointKey {
                thread_id: self.conversation.thread_id(),
                namespace: Namespace::root(),
                checkpoint_id: self.thread.head()?.clone(),
            },
            task_id: call_id.to_owned(),
            task_path: String::new(),
            writes,
        })
    }
}

fn asked(call: &ToolCall, question: String, of_outcome: bool, answers: usize) -> Question {
    Question {
        interrupt: Interrupt::new(&*call.id, question.replace('\0', "\u{fffd}")),
        of_outcome,
        answers,
    }
}

fn write<T: Serialize>(channel: &str, value: &T) -> Result<ChannelWrite, TurnError> {
    let value = Value::encode(value).map_err(|error| Error::backend("record tool call", error))?;
    Ok(ChannelWrite {
        channel: channel.to_owned(),
        value,
    })
}

fn read<T: DeserializeOwned>(write: &PendingWrite) -> Result<T, TurnError> {
    let value = write.value.decode();
    Ok(value.map_err(|error| Error::unreadable("a recorded tool call", error))?)
}
