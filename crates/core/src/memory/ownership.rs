//! The protocol by which owners of a turn follow each other, searched through exhaustively: every
//! order of what two or three owners, the clock, a person and misfortune can do.
//!
//! The database is [`MemoryStorage`] itself, which the conformance suites hold the others to. The
//! owners are what the turn engine does (`crates/engine/src`), a call of the storage or a unit
//! of work at a time: between any two of them an owner may sleep as long as it likes. No owner looks
//! at a clock, and the database's may end any lease at any moment, so that every skew is among the
//! orders. A thread goes with its conversation only: who deletes it alone, under a turn, is not
//! among what is searched.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{MemoryStorage, Shared, State};
use crate::{
    ChannelWrite, CheckpointKey, CheckpointMetadata, CheckpointQuery, CheckpointSelector,
    CheckpointSource, CheckpointTuple, Checkpointer, Conversation, Error, Fence, ListQuery,
    Message, MessageId, Namespace, NewWrites, OwnerId, Result, Role, Storage, ThreadId,
    ThreadState, Turn, TurnFilter, TurnId, TurnStatus, Value,
};

/// How much is searched.
#[derive(Clone, Copy)]
struct Bounds {
    owners: usize,
    /// They wait in the queue of one conversation.
    turns: usize,
    /// Checkpoints of a turn between its first and its last.
    steps: usize,
    /// Crashes, lost answers of the storage, and leases that end although their owner lives.
    faults: usize,
}

/// A mistake, so that the search has something to find.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mistake {
    None,
    /// Checkpoints are written without a fence.
    WritesWithoutFence,
    /// Who takes a turn over reads its state, and only then keeps the other one out.
    ReadsBeforeRaising,
    /// Who completes a turn does not ask whether it is still its own.
    CompletesBlindly,
    /// The lease of an owner that has died stays.
    LeasesNeverEnd,
}

/// What an owner does next, or what happens to it or to the turns.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Read(usize),
    Begin(usize),
    Take(usize),
    Raise(usize),
    ReadAgain(usize),
    Fail(usize),
    Record(usize),
    Step(usize),
    Complete(usize),
    Renew(usize),
    /// The process dies, and another one starts.
    Crash(usize),
    /// The storage does not answer: the owner gives up, and keeps its leases.
    GiveUp(usize),
    LeaseEnds,
    Cancel,
    Delete,
}

/// What an owner remembers.
#[derive(Clone)]
enum Memory {
    Nothing,
    /// The turns that have not ended, and the state.
    Seen(Vec<Turn>, ThreadState, u64),
    Taken(Turn),
    /// It has read the state of a turn that it has not raised: a mistake.
    ReadTooEarly(Turn, Latest),
    Raised(Turn),
    /// It has a turn without a thread.
    Orphaned(Turn),
    /// It works on the turn, then on those behind it; whether a tool's result is recorded, and how
    /// many steps it has taken.
    Works {
        turn: Turn,
        behind: Vec<Turn>,
        thread: ThreadState,
        recorded: bool,
        steps: usize,
    },
}

#[derive(Clone)]
struct Owner {
    id: OwnerId,
    memory: Memory,
}

/// One state of everything.
#[derive(Clone)]
struct World {
    tables: State,
    owners: Vec<Owner>,
    faults: usize,
    is_cancelled: bool,
    /// The greatest epoch that the thread was raised to.
    raised: u64,
    /// Who has written with this epoch.
    writer: Option<OwnerId>,
    completed: BTreeMap<TurnId, usize>,
}

/// What the model is about.
struct Model {
    bounds: Bounds,
    mistake: Mistake,
    conversation: Conversation,
    person: OwnerId,
}

/// What a search has found.
struct Search {
    states: usize,
    steps: usize,
}

/// What went wrong, and the shortest way there.
#[derive(Debug)]
struct Violation {
    what: String,
    way: Vec<Action>,
}

/// The field of a checkpoint's metadata that holds the epoch with which it was written.
const EPOCH: &str = "epoch";

const LEASE: Duration = Duration::from_secs(3600);

/// When a lease was renewed that has ended.
const LONG_AGO: Option<Instant> = None;

#[tokio::test]
async fn no_order_of_two_owners_and_two_turns_breaks_a_rule() {
    let bounds = Bounds {
        owners: 2,
        turns: 2,
        steps: 1,
        faults: 2,
    };
    explore(bounds).await;
}

#[tokio::test]
async fn no_order_of_three_owners_breaks_a_rule() {
    let bounds = Bounds {
        owners: 3,
        turns: 1,
        steps: 1,
        faults: 2,
    };
    explore(bounds).await;
}

#[tokio::test]
async fn the_search_finds_every_mistake() {
    let bounds = Bounds {
        owners: 2,
        turns: 1,
        steps: 1,
        faults: 1,
    };
    for (mistake, rule) in [
        (Mistake::WritesWithoutFence, "after a greater epoch"),
        (Mistake::ReadsBeforeRaising, "forked"),
        (Mistake::CompletesBlindly, "shrunk"),
        (Mistake::LeasesNeverEnd, "nobody can finish"),
    ] {
        let found = Model::new(bounds, mistake).search().await;
        let violation = found
            .err()
            .unwrap_or_else(|| panic!("{mistake:?} is not found"));
        println!("{mistake:?}: {} by {:?}", violation.what, violation.way);
        assert!(violation.what.contains(rule), "{violation:?}");
    }
}

async fn explore(bounds: Bounds) {
    let Bounds {
        owners,
        turns,
        faults,
        ..
    } = bounds;
    let searched = Model::new(bounds, Mistake::None).search().await;
    let Search { states, steps } = searched.unwrap_or_else(|violation| panic!("{violation:?}"));
    println!(
        "{owners} owners, {turns} turns, {faults} faults: {states} states, {steps} steps between them"
    );
    assert!(states > 1000, "{states} states are not all");
}

impl Model {
    fn new(bounds: Bounds, mistake: Mistake) -> Self {
        Self {
            bounds,
            mistake,
            conversation: Conversation::titled("model"),
            person: OwnerId::new(),
        }
    }

    /// Takes every step from every state that can be reached, the nearest first.
    async fn search(&self) -> Result<Search, Violation> {
        let first = self.first().await;
        let mut numbers = HashMap::from([(self.key(&first, &[]), 0)]);
        let mut ways = vec![None];
        // From which states each is reached by what owners and clocks do by themselves.
        let mut before: Vec<Vec<usize>> = vec![Vec::new()];
        let (mut finished, mut steps) = (Vec::new(), 0);
        let mut waiting = VecDeque::from([(0, first)]);
        while let Some((number, world)) = waiting.pop_front() {
            if self.is_finished(&world) {
                finished.push(number);
            }
            for action in self.actions(&world) {
                let Some(next) = self.step(&world, action).await else {
                    continue;
                };
                steps += 1;
                let violation = |what| Violation {
                    what,
                    way: way(&ways, number).chain([action]).collect(),
                };
                let next = next.map_err(violation)?;
                let line = self.line(&storage(&next.tables)).await;
                check(&world, &next, &line).map_err(violation)?;
                let known = numbers.len();
                let to = *numbers.entry(self.key(&next, &line)).or_insert(known);
                if to == known {
                    ways.push(Some((number, action)));
                    before.push(Vec::new());
                    waiting.push_back((to, next.clone()));
                }
                if world.faults == next.faults && !matches!(action, Action::Cancel | Action::Delete)
                {
                    before[to].push(number);
                }
            }
        }
        let states = ways.len();
        let mut can_finish = vec![false; states];
        while let Some(number) = finished.pop() {
            if !std::mem::replace(&mut can_finish[number], true) {
                finished.extend(&before[number]);
            }
        }
        match can_finish.iter().position(|can| !can) {
            None => Ok(Search { states, steps }),
            Some(number) => Err(Violation {
                what: "nobody can finish the turns".to_owned(),
                way: way(&ways, number).collect(),
            }),
        }
    }

    /// All turns wait.
    async fn first(&self) -> World {
        let storage = MemoryStorage::default();
        let conversations = storage.conversations();
        conversations.add(self.conversation.clone()).await.unwrap();
        for _ in 0..self.bounds.turns {
            let message = Message::new(self.conversation.id, Role::User, "hi");
            let message = storage.messages().add(message).await.unwrap();
            let turn = Turn {
                status: TurnStatus::Queued,
                ..Turn::new(self.conversation.id, message.id)
            };
            storage.turns().add(turn).await.unwrap();
        }
        let owner = || Owner {
            id: OwnerId::new(),
            memory: Memory::Nothing,
        };
        World {
            tables: tables(&storage),
            owners: (0..self.bounds.owners).map(|_| owner()).collect(),
            faults: self.bounds.faults,
            is_cancelled: false,
            raised: 0,
            writer: None,
            completed: BTreeMap::new(),
        }
    }

    fn is_finished(&self, world: &World) -> bool {
        world
            .tables
            .turns
            .values()
            .all(|turn| turn.status.is_final())
    }

    /// What can happen next.
    fn actions(&self, world: &World) -> Vec<Action> {
        let mut actions = Vec::new();
        for (number, owner) in world.owners.iter().enumerate() {
            actions.push(match &owner.memory {
                Memory::Nothing => Action::Read(number),
                Memory::Seen(turns, ..) => match turns.first().map(|turn| turn.status) {
                    Some(TurnStatus::Running) => Action::Take(number),
                    _ => Action::Begin(number),
                },
                Memory::Taken(_) if self.mistake == Mistake::ReadsBeforeRaising => {
                    Action::ReadAgain(number)
                }
                Memory::Taken(_) | Memory::ReadTooEarly(..) => Action::Raise(number),
                Memory::Raised(_) => Action::ReadAgain(number),
                Memory::Orphaned(_) => Action::Fail(number),
                Memory::Works { steps, .. } if *steps == self.bounds.steps => {
                    Action::Complete(number)
                }
                Memory::Works { recorded: true, .. } => Action::Step(number),
                Memory::Works { .. } => Action::Record(number),
            });
            actions.push(Action::Renew(number));
            if world.faults > 0 {
                actions.push(Action::Crash(number));
                actions.push(Action::GiveUp(number));
            }
        }
        if self.mistake != Mistake::LeasesNeverEnd {
            actions.push(Action::LeaseEnds);
        }
        actions.extend([Action::Cancel, Action::Delete]);
        actions
    }

    /// What comes of an action: nothing where it changes nothing, or a broken rule.
    async fn step(&self, world: &World, action: Action) -> Option<Result<World, String>> {
        let mut next = world.clone();
        let storage = storage(&world.tables);
        let happened = match action {
            Action::Crash(number) => {
                next.faults -= 1;
                next.owners[number] = Owner {
                    id: OwnerId::new(),
                    memory: Memory::Nothing,
                };
                Ok(())
            }
            Action::GiveUp(number) => {
                next.faults -= 1;
                next.owners[number].memory = Memory::Nothing;
                Ok(())
            }
            Action::LeaseEnds => {
                let running = next.running()?;
                let running_id = running.id;
                let owner_lives = next
                    .owners
                    .iter()
                    .any(|owner| Some(owner.id) == running.lease_owner);
                if owner_lives {
                    next.faults = next.faults.checked_sub(1)?;
                }
                let renewed_at = next.tables.renewed_at.insert(running_id, LONG_AGO);
                return (renewed_at != Some(LONG_AGO)).then_some(Ok(next));
            }
            Action::Cancel => {
                if std::mem::replace(&mut next.is_cancelled, true) {
                    return None;
                }
                match self.cancel(&storage, &mut next).await {
                    Ok(()) => Ok(()),
                    Err(Outcome::Lost) => return None,
                    Err(Outcome::Broken(rule)) => Err(rule),
                }
            }
            Action::Delete => {
                let unit = storage.begin().await.ok()?;
                if !unit
                    .conversations()
                    .delete(&self.conversation.id)
                    .await
                    .ok()?
                {
                    return None;
                }
                unit.checkpointer()
                    .delete_thread(&self.thread())
                    .await
                    .ok()?;
                unit.commit().await.ok()?;
                Ok(())
            }
            Action::Renew(number) => {
                let ended = next
                    .running()
                    .is_some_and(|turn| next.tables.renewed_at.get(&turn.id) == Some(&LONG_AGO));
                let renewed = storage.leases().renew(next.owners[number].id).await.ok()?;
                if !ended || renewed.is_empty() {
                    return None;
                }
                Ok(())
            }
            Action::Read(number)
            | Action::Begin(number)
            | Action::Take(number)
            | Action::Raise(number)
            | Action::ReadAgain(number)
            | Action::Fail(number)
            | Action::Record(number)
            | Action::Step(number)
            | Action::Complete(number) => {
                let memory = std::mem::replace(&mut next.owners[number].memory, Memory::Nothing);
                match self.act(&storage, &mut next, number, memory).await {
                    Ok(memory) => {
                        next.owners[number].memory = memory;
                        Ok(())
                    }
                    // It has lost the turn, and looks again.
                    Err(Outcome::Lost) => Ok(()),
                    Err(Outcome::Broken(rule)) => Err(rule),
                }
            }
        };
        if !matches!(action, Action::LeaseEnds) {
            next.tables = tables(&storage);
        }
        Some(happened.map(|()| next))
    }

    /// One call of the storage, or one unit of work, of an owner.
    async fn act(
        &self,
        storage: &MemoryStorage,
        world: &mut World,
        number: usize,
        memory: Memory,
    ) -> Result<Memory, Outcome> {
        let owner = world.owners[number].id;
        let checkpointer = storage.checkpointer();
        Ok(match memory {
            Memory::Nothing => {
                let of_chat = TurnFilter::unfinished().of(self.conversation.id);
                let turns = ListQuery::filtered(of_chat).oldest_first();
                let mut turns = storage.turns().list(&turns).await?.items;
                turns.sort_by_key(|turn| turn.status == TurnStatus::Queued);
                if turns.is_empty() {
                    return Ok(Memory::Nothing);
                }
                let latest = self.latest(&*checkpointer).await?;
                Memory::Seen(turns, latest.thread, latest.epoch)
            }
            Memory::Seen(turns, ..) if turns[0].status == TurnStatus::Running => {
                let taken = storage.leases().take(&turns[0], owner, LEASE).await?;
                Memory::Taken(taken.ok_or(Outcome::Lost)?)
            }
            Memory::Seen(mut turns, mut thread, epoch) => {
                let queued = turns.remove(0);
                let begun = Turn {
                    status: TurnStatus::Running,
                    epoch: epoch + 1,
                    lease_owner: Some(owner),
                    lease: LEASE,
                    ..queued.clone()
                };
                let unit = storage.begin().await?;
                let turn = unit.leases().replace(&queued, begun).await?;
                let fence = Fence::Raise(turn.epoch);
                let answering = Work {
                    answering: Some(turn.user_message_id),
                    steps: 0,
                };
                let fenced = unit.checkpointer().fenced(fence);
                save(&mut thread, &*fenced, &answering, turn.epoch).await?;
                unit.commit().await?;
                world.wrote(owner, fence)?;
                Memory::Works {
                    turn,
                    behind: turns,
                    thread,
                    recorded: false,
                    steps: 0,
                }
            }
            Memory::Taken(turn) if self.mistake == Mistake::ReadsBeforeRaising => {
                let latest = self.latest(&*checkpointer).await?;
                Memory::ReadTooEarly(turn, latest)
            }
            Memory::Taken(turn) => match self.raise(&*checkpointer, world, owner, &turn).await? {
                true => Memory::Raised(turn),
                false => Memory::Orphaned(turn),
            },
            Memory::ReadTooEarly(turn, latest) => {
                match self.raise(&*checkpointer, world, owner, &turn).await? {
                    true => latest.go_on(turn),
                    false => Memory::Orphaned(turn),
                }
            }
            Memory::Raised(turn) => {
                let latest = self.latest(&*checkpointer).await?;
                if latest.work.answering != Some(turn.user_message_id) {
                    let fence = Fence::Hold(turn.epoch);
                    self.fail(storage, world, owner, &turn, latest.thread, fence)
                        .await?;
                    let rule = "a turn has failed because its state is another's";
                    return Err(Outcome::Broken(rule.to_owned()));
                }
                latest.go_on(turn)
            }
            Memory::Orphaned(turn) => {
                let thread = self.latest(&*checkpointer).await?.thread;
                let fence = Fence::Raise(turn.epoch);
                self.fail(storage, world, owner, &turn, thread, fence)
                    .await?;
                Memory::Nothing
            }
            Memory::Works {
                turn,
                behind,
                mut thread,
                recorded,
                steps,
            } => {
                let hold = Fence::Hold(turn.epoch);
                if steps == self.bounds.steps {
                    let unit = storage.begin().await?;
                    let mut answer = Message::new(self.conversation.id, Role::Assistant, "hello");
                    answer.id = turn.user_message_id.answer();
                    unit.messages().add(answer).await?;
                    let fenced = self.holding(unit.checkpointer(), hold);
                    save(&mut thread, &*fenced, &Work::default(), turn.epoch).await?;
                    let ended = ended(&turn, TurnStatus::Completed);
                    if self.mistake == Mistake::CompletesBlindly {
                        let blindly = |stored: &mut Turn| {
                            stored.clone_from(&ended);
                            Ok(())
                        };
                        unit.turns().update(&turn.id, &blindly).await?;
                    } else {
                        unit.leases().replace(&turn, ended).await?;
                    }
                    unit.commit().await?;
                    *world.completed.entry(turn.id).or_default() += 1;
                    world.wrote(owner, hold)?;
                    return Ok(match behind.is_empty() {
                        true => Memory::Nothing,
                        false => Memory::Seen(behind, thread, turn.epoch),
                    });
                }
                let fenced = self.holding(Arc::clone(&checkpointer), hold);
                let steps = if recorded {
                    let answering = Some(turn.user_message_id);
                    let steps = steps + 1;
                    let work = Work { answering, steps };
                    save(&mut thread, &*fenced, &work, turn.epoch).await?;
                    steps
                } else {
                    fenced.put_writes(self.result(&thread)).await?;
                    steps
                };
                world.wrote(owner, hold)?;
                Memory::Works {
                    turn,
                    behind,
                    thread,
                    recorded: !recorded,
                    steps,
                }
            }
        })
    }

    /// Keeps everybody else out; `false` where there is no thread.
    async fn raise(
        &self,
        checkpointer: &dyn Checkpointer,
        world: &mut World,
        owner: OwnerId,
        turn: &Turn,
    ) -> Result<bool, Outcome> {
        match checkpointer.raise_epoch(&self.thread(), turn.epoch).await {
            Ok(()) => {
                world.wrote(owner, Fence::Raise(turn.epoch))?;
                Ok(true)
            }
            Err(Error::Fenced { epoch, .. }) if epoch < turn.epoch => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn fail(
        &self,
        storage: &MemoryStorage,
        world: &mut World,
        owner: OwnerId,
        turn: &Turn,
        mut thread: ThreadState,
        fence: Fence,
    ) -> Result<(), Outcome> {
        let unit = storage.begin().await?;
        let fenced = unit.checkpointer().fenced(fence);
        save(&mut thread, &*fenced, &Work::default(), turn.epoch).await?;
        let failed = ended(turn, TurnStatus::Failed);
        unit.leases().replace(turn, failed).await?;
        unit.commit().await?;
        Ok(world.wrote(owner, fence)?)
    }

    /// A person cancels the first turn that has not ended.
    async fn cancel(&self, storage: &MemoryStorage, world: &mut World) -> Result<(), Outcome> {
        let mut turns = world.tables.turns.values();
        let turn = turns.find(|turn| !turn.status.is_final());
        let turn = turn.ok_or(Outcome::Lost)?.clone();
        let unit = storage.begin().await?;
        let mut cancelled = ended(&turn, TurnStatus::Cancelled);
        if turn.status == TurnStatus::Running {
            cancelled.epoch += 1;
            let fence = Fence::Hold(cancelled.epoch);
            let checkpointer = unit.checkpointer();
            self.raise(&*checkpointer, world, self.person, &cancelled)
                .await?;
            let mut thread = self.latest(&*checkpointer).await?.thread;
            let fenced = checkpointer.fenced(fence);
            save(&mut thread, &*fenced, &Work::default(), cancelled.epoch).await?;
        }
        unit.leases().replace(&turn, cancelled).await?;
        Ok(unit.commit().await?)
    }

    fn thread(&self) -> ThreadId {
        self.conversation.thread_id()
    }

    async fn latest(&self, checkpointer: &dyn Checkpointer) -> Result<Latest> {
        let latest = CheckpointSelector::latest(self.thread());
        let tuple = checkpointer.get(&latest).await?;
        let epoch = tuple
            .as_ref()
            .and_then(|tuple| tuple.metadata.0[EPOCH].as_u64());
        let recorded = tuple
            .as_ref()
            .is_some_and(|tuple| !tuple.pending_writes.is_empty());
        let thread = ThreadState::new(self.thread(), tuple);
        Ok(Latest {
            work: thread.state()?.unwrap_or_default(),
            thread,
            recorded,
            epoch: epoch.unwrap_or_default(),
        })
    }

    fn holding(&self, checkpointer: Arc<dyn Checkpointer>, hold: Fence) -> Arc<dyn Checkpointer> {
        match self.mistake {
            Mistake::WritesWithoutFence => checkpointer,
            _ => checkpointer.fenced(hold),
        }
    }

    /// What a tool has come to.
    fn result(&self, thread: &ThreadState) -> NewWrites {
        NewWrites {
            key: CheckpointKey {
                thread_id: self.thread(),
                namespace: Namespace::root(),
                checkpoint_id: thread.head().expect("a turn has a checkpoint").clone(),
            },
            task_id: "tool".to_owned(),
            task_path: String::new(),
            writes: vec![ChannelWrite {
                channel: "messages".to_owned(),
                value: Value::encode(&"result").expect("text"),
            }],
        }
    }

    /// The checkpoints, oldest first.
    async fn line(&self, storage: &MemoryStorage) -> Vec<CheckpointTuple> {
        let query = CheckpointQuery::of(self.thread());
        let mut line = storage.checkpointer().list(&query).await.unwrap();
        line.reverse();
        line
    }

    /// What tells a state from others as far as anything to come depends on it: not which owner is
    /// which, nor the ids of this one search, nor the history but for its end.
    fn key(&self, world: &World, line: &[CheckpointTuple]) -> String {
        let tables = &world.tables;
        let latest = line.last();
        let seen = |turn: &Turn| {
            let place = tables.turns.keys().position(|id| *id == turn.id);
            (place, turn.status.as_str(), turn.epoch)
        };
        let is_latest = |thread: &ThreadState| thread.head() == latest.map(|it| &it.checkpoint.id);
        let owners = world.owners.iter().map(|owner| {
            let memory = match &owner.memory {
                Memory::Nothing => String::new(),
                Memory::Seen(turns, thread, epoch) => {
                    let turns: Vec<_> = turns.iter().map(seen).collect();
                    format!("seen {turns:?} {} {epoch}", is_latest(thread))
                }
                Memory::Taken(turn) => format!("taken {:?}", seen(turn)),
                Memory::ReadTooEarly(turn, latest) => {
                    format!("early {:?} {}", seen(turn), is_latest(&latest.thread))
                }
                Memory::Raised(turn) => format!("raised {:?}", seen(turn)),
                Memory::Orphaned(turn) => format!("orphaned {:?}", seen(turn)),
                Memory::Works {
                    turn,
                    behind,
                    thread,
                    recorded,
                    steps,
                } => {
                    let behind: Vec<_> = behind.iter().map(seen).collect();
                    let place = (seen(turn), behind, is_latest(thread), recorded, steps);
                    format!("works {place:?}")
                }
            };
            let turns = tables.turns.values();
            let own = turns.map(|turn| turn.lease_owner == Some(owner.id));
            (
                memory,
                own.collect::<Vec<_>>(),
                world.writer == Some(owner.id),
            )
        });
        let mut owners: Vec<_> = owners.collect();
        owners.sort();
        let turns = tables.turns.values().map(|turn| {
            let has_ended = tables.renewed_at.get(&turn.id) == Some(&LONG_AGO);
            (seen(turn), turn.lease_owner.is_some(), has_ended)
        });
        let turns: Vec<_> = turns.collect();
        let latest = latest.map(|tuple| {
            let epoch = tuple.metadata.0[EPOCH].as_u64();
            let values = &tuple.checkpoint.channel_values;
            (epoch, values, tuple.pending_writes.len())
        });
        let left = (world.faults, world.is_cancelled, world.raised);
        format!("{left:?} {turns:?} {owners:?} {latest:?}")
    }
}

impl World {
    fn running(&self) -> Option<&Turn> {
        let mut turns = self.tables.turns.values();
        turns.find(|turn| turn.status == TurnStatus::Running)
    }

    /// A write of `owner` to the thread was accepted.
    fn wrote(&mut self, owner: OwnerId, fence: Fence) -> Result<(), String> {
        let epoch = fence.epoch();
        match fence {
            Fence::Raise(_) if epoch <= self.raised => {
                return Err(format!("epoch {epoch} was raised after {}", self.raised));
            }
            Fence::Hold(_) if epoch < self.raised => {
                return Err(format!(
                    "epoch {epoch} has written after a greater epoch was raised"
                ));
            }
            Fence::Hold(_) if self.writer.is_some_and(|writer| writer != owner) => {
                return Err(format!("two owners have written with epoch {epoch}"));
            }
            _ => {}
        }
        (self.raised, self.writer) = (epoch, Some(owner));
        Ok(())
    }
}

/// Checks the rules that every step keeps.
fn check(before: &World, after: &World, line: &[CheckpointTuple]) -> Result<(), String> {
    let rule = |holds: bool, broken: &str| holds.then_some(()).ok_or_else(|| broken.to_owned());
    let ids = line.iter().map(|tuple| Some(&tuple.checkpoint.id));
    let parents = line.iter().map(|tuple| tuple.parent.as_ref());
    let parents_of_all = [None].into_iter().chain(ids).take(line.len());
    rule(parents.eq(parents_of_all), "the thread has forked")?;
    let epochs = line.iter().map(|tuple| tuple.metadata.0[EPOCH].as_u64());
    rule(
        epochs.is_sorted(),
        "the epochs of the checkpoints have shrunk",
    )?;

    let (old, new) = (&before.tables.turns, &after.tables.turns);
    for (id, old) in old {
        let Some(new) = new.get(id) else {
            continue;
        };
        rule(new.epoch >= old.epoch, "the epoch of a turn has shrunk")?;
        let has_ended = old.status.is_final();
        rule(
            !has_ended || new == old,
            "a turn that has ended has changed",
        )?;
    }
    if let Some(running) = after.running() {
        let others = || new.values().filter(|other| other.id != running.id);
        let runs = |other: &Turn| other.status == TurnStatus::Running;
        rule(!others().any(runs), "two turns run")?;
        let is_less = |other: &Turn| other.epoch < running.epoch;
        rule(
            others().all(is_less),
            "a turn has the epoch of an earlier one",
        )?;
    }
    let is_once = after.completed.values().all(|times| *times == 1);
    rule(is_once, "a turn was completed twice")?;
    if after.tables.conversations.is_empty() {
        let is_gone = new.is_empty() && after.tables.messages.is_empty() && line.is_empty();
        rule(is_gone, "something of a deleted conversation is there")?;
    }
    Ok(())
}

/// Why an owner could not do what it wanted.
enum Outcome {
    /// Somebody else was faster.
    Lost,
    /// It could, and should not.
    Broken(String),
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        match error {
            Error::Fenced { .. } | Error::Conflict(_) | Error::NotFound { .. } => Self::Lost,
            error => panic!("{error:?}"),
        }
    }
}

impl From<String> for Outcome {
    fn from(rule: String) -> Self {
        Self::Broken(rule)
    }
}

/// The agent's state.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Work {
    answering: Option<MessageId>,
    steps: usize,
}

/// What is read of a thread.
#[derive(Clone)]
struct Latest {
    thread: ThreadState,
    work: Work,
    recorded: bool,
    epoch: u64,
}

impl Latest {
    fn go_on(self, turn: Turn) -> Memory {
        Memory::Works {
            turn,
            behind: Vec::new(),
            thread: self.thread,
            recorded: self.recorded,
            steps: self.work.steps,
        }
    }
}

async fn save(
    thread: &mut ThreadState,
    checkpointer: &dyn Checkpointer,
    work: &Work,
    epoch: u64,
) -> Result<()> {
    let metadata = CheckpointMetadata::new(CheckpointSource::Loop, thread.next_step());
    let metadata = metadata.with(EPOCH, epoch);
    thread.save(checkpointer, work, metadata).await.map(drop)
}

fn ended(turn: &Turn, status: TurnStatus) -> Turn {
    Turn {
        status,
        lease_owner: None,
        ..turn.clone()
    }
}

/// The actions that lead to a state.
fn way(ways: &[Option<(usize, Action)>], number: usize) -> impl Iterator<Item = Action> {
    let mut way = Vec::new();
    let mut step = ways[number];
    while let Some((from, action)) = step {
        way.push(action);
        step = ways[from];
    }
    way.into_iter().rev()
}

fn storage(tables: &State) -> MemoryStorage {
    MemoryStorage(Arc::new(Shared {
        committed: RwLock::new(tables.clone()),
        ..Shared::default()
    }))
}

fn tables(storage: &MemoryStorage) -> State {
    storage.0.committed.read().unwrap().clone()
}
