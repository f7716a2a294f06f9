//! The tool calls of one step: run at once, recorded one by one as pending writes of the checkpoint
//! that decided on them, in LangGraph's special channels where it has one for that.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::join_all;
use json_patch::Patch;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;
use yai_agentkit_core::{
    CheckpointKey, Entity, Error, Fence, Namespace, NewWrites, Role, Turn, TurnStatus, Value,
    checkpoint::{ChannelWrite, PendingWrite},
    turn::{Interrupt, ProposedCall, TurnChange},
};

use super::{
    Approval, TurnError, TurnOutcome,
    chat::{Chat, Progress, guarded, log_of},
    event::{apply, changes},
    person::Answer as Given,
};
use crate::agent::{AgentState, ChatMessage, ToolCall, ToolOutcome, ToolTraits};

/// That a call has begun, with how many answers.
const BEGUN: &str = "__scheduled__";
/// What it asks a person.
const ASKED: &str = "__interrupt__";
/// The answers of people, oldest first.
const ANSWERED: &str = "__resume__";
/// What it has come to.
const RESULT: &str = "messages";
/// What it has changed.
const STATE: &str = "state";

/// The answer by which a call runs again although it may have taken effect.
const RETRY: &str = "retry";

/// How the result of a call begins that was not approved of, before the reason.
const REJECTED: &str = "Error: a person has refused this call. ";

/// A question that was recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) interrupt: Interrupt,
    about: About,
    /// How many answers there were before.
    answers: usize,
}

/// An answer that was recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    text: String,
    about: About,
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum About {
    /// What the call itself wants to know.
    Call,
    /// Whether the call may run.
    Approval,
    /// What came of a call that was cut short.
    Outcome,
}

/// What is recorded of one call.
#[derive(Debug, Default)]
struct Record {
    begun: Option<usize>,
    asked: Option<Question>,
    answers: Vec<Answer>,
    result: Option<(String, Patch)>,
}

/// What is to be done about a call.
enum Due {
    /// It is done.
    Done(String, Patch),
    /// It is to run, with the answer that it has asked for.
    Run(ToolCall, Option<String>),
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
        let left = AtomicUsize::new(due.iter().filter(|due| matches!(due, Due::Run(..))).count());
        let waits = |due: &Due| matches!(due, Due::Ask(_) | Due::Client);
        let asks = AtomicBool::new(due.iter().any(waits));
        let permits = Semaphore::new(self.engine.limits.tools_at_once.max(1));
        let (left, asks, permits) = (&left, &asks, &permits);
        let runs = calls.iter().zip(due).map(|(call, due)| async move {
            match due {
                Due::Run(call, answer) => {
                    let call = &call;
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
                        let writes = vec![message, write(STATE, changes)?];
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
        state.own = self.agent()?.own(state.own)?;
        for (call, done) in calls.iter().zip(done) {
            match done? {
                Due::Done(result, changes) => {
                    apply(&changes, &mut state.own);
                    state.messages.push(ChatMessage {
                        tool_call_id: Some(call.id.clone()),
                        ..ChatMessage::new(Role::Tool, result)
                    });
                }
                Due::Ask(question) => drop(asked.get_or_insert(question.interrupt)),
                Due::Client => client_calls.push(call.id.clone()),
                Due::Run(..) => return Err(TurnError::AgentCrashed),
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
            let about = question.map_or(About::Call, |question| question.about);
            if about == About::Approval {
                text.parse::<Approval>()?;
            }
            record.answers.push(Answer {
                text: text.to_owned(),
                about,
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
        let answer = |about: About| {
            let mut newest_first = record.answers.iter().rev();
            newest_first.find(|answer| answer.about == about)
        };
        let own_answer = answer(About::Call).map(|answer| answer.text.clone());
        if call.is_question() {
            let question = call.arguments["question"].as_str().unwrap_or_default();
            return Ok(match own_answer {
                Some(answer) => Due::Done(answer, Patch::default()),
                None => Due::Ask(asked(call, question.to_owned(), About::Call, answers)),
            });
        }
        if self.state.client.has_tool(&call.name) {
            return Ok(match own_answer {
                Some(answer) => Due::Done(answer, Patch::default()),
                None => Due::Client,
            });
        }
        let traits = self.agent()?.traits(call);
        let call = match answer(About::Approval) {
            Some(answer) => match answer.text.parse()? {
                Approval::Approved { arguments } => ToolCall {
                    arguments: arguments.map_or(call.arguments.clone(), Into::into),
                    ..call.clone()
                },
                Approval::Rejected { reason } => {
                    let result = format!("{REJECTED}{}", reason.replace('\0', "\u{fffd}"));
                    return Ok(Due::Done(result.trim_end().to_owned(), Patch::default()));
                }
            },
            None if traits.needs_approval => return Ok(Due::Ask(proposed(call, answers))),
            None => call.clone(),
        };
        // Begun with as many answers as there are now: nothing has come of it.
        if record.begun == Some(answers) && !traits.is_repeatable {
            let question = format!(
                "The tool `{}` was cut short with {}: it may or may not have taken effect. Answer \
                 with the result to go on with, or `{RETRY}` to run it again.",
                call.name, call.arguments
            );
            return Ok(Due::Ask(asked(&call, question, About::Outcome, answers)));
        }
        Ok(match record.answers.last() {
            Some(answer) if answer.about == About::Outcome && answer.text.trim() != RETRY => {
                Due::Done(answer.text.clone(), Patch::default())
            }
            _ => Due::Run(call, own_answer),
        })
    }

    async fn run_tool(
        &self,
        turn: &Turn,
        call: &ToolCall,
        answer: Option<&str>,
    ) -> Result<Due, TurnError> {
        let agent = self.agent()?;
        let ToolTraits {
            is_repeatable,
            reads_all_messages,
            ..
        } = agent.traits(call);
        let record = self.record_of(&call.id)?;
        let answers = record.answers.len();
        if !is_repeatable {
            let begun = vec![write(BEGUN, &answers)?];
            self.record(turn, call, begun).await?;
        }
        let mut state = self.state.clone();
        if state.messages.before() > 0 && reads_all_messages {
            state = AgentState {
                own: state.own,
                ..self.whole_state().await?
            };
        }
        let before = agent.own(state.own)?;
        state.own = before.clone();
        let (context, _alive) = self.context(turn).alive();
        let (own_call, answer) = (call.clone(), answer.map(str::to_owned));
        let run = guarded(async move {
            let run = agent.run_tool(&context, &own_call, &mut state, answer.as_deref());
            (run.await, state.own)
        });
        Ok(match run.await {
            Ok((Ok(ToolOutcome::Result(result)), own)) => {
                let result = match record.answers.iter().any(Answer::edits) {
                    true => format!(
                        "[A person has changed the arguments to {}.]\n{result}",
                        call.arguments
                    ),
                    false => result,
                };
                Due::Done(result, changes(&before, &own))
            }
            Ok((Ok(ToolOutcome::Ask(question)), _)) => {
                let question = asked(call, question, About::Call, answers);
                self.record(turn, call, vec![write(ASKED, &question)?])
                    .await?;
                Due::Ask(question)
            }
            Ok((Err(error), _)) => Due::Done(error.to_string(), Patch::default()),
            Err(_) => Due::Done("the tool crashed".to_owned(), Patch::default()),
        })
    }

    fn record_of(&self, call_id: &str) -> Result<Record, TurnError> {
        let mut record = Record::default();
        let (mut result, mut changes) = (None, Patch::default());
        for write in self.writes.iter().filter(|write| write.task_id == call_id) {
            match write.channel.as_str() {
                BEGUN => record.begun = Some(read(write)?),
                ASKED => record.asked = Some(read(write)?),
                ANSWERED => record.answers = read(write)?,
                RESULT => result = Some(read(write)?),
                STATE => changes = read(write)?,
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

impl Answer {
    /// Whether it has a call run with other arguments than were proposed.
    fn edits(&self) -> bool {
        let approval = (self.about == About::Approval).then(|| self.text.parse());
        matches!(
            approval,
            Some(Ok(Approval::Approved { arguments: Some(_) }))
        )
    }
}

fn asked(call: &ToolCall, question: String, about: About, answers: usize) -> Question {
    Question {
        interrupt: Interrupt::new(&*call.id, question.replace('\0', "\u{fffd}")),
        about,
        answers,
    }
}

/// Whether the call may run.
fn proposed(call: &ToolCall, answers: usize) -> Question {
    let question = format!("May the tool `{}` run with {}?", call.name, call.arguments);
    let mut asked = asked(call, question, About::Approval, answers);
    asked.interrupt.proposed = Some(ProposedCall {
        name: call.name.clone(),
        arguments: call.arguments.clone(),
    });
    asked
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
