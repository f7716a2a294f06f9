//! Some servers on one storage, their clients, and whoever kills servers and puts them to sleep.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fastrand::Rng;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use yai_agentkit_core::{
    CheckpointQuery, Clock, Conversation, ConversationId, ListQuery, Message, Role, Storage,
    ThreadState, Turn, TurnStatus, conversation::MessageFilter, memory::MemoryStorage,
    turn::TurnFilter,
};
use yai_agentkit_engine::{
    OnBusy, RequestKey, SendOptions, TurnEngine, TurnError, TurnEvent, TurnLimits, TurnOutcome,
    agent::AgentState,
    test_kit::{Mistake, Watched, reply, send_with},
};

use crate::{
    agent::{BELIEVED, Ledger, SimulatedAgent, answer},
    process::Process,
};

const SERVERS: usize = 3;
const CONVERSATIONS: usize = 3;
/// Of each client; a conversation has two clients.
const MESSAGES: usize = 3;
const LEASE: Duration = Duration::from_secs(2);
/// How far the clock of a server is wrong, at most.
const SKEW: u64 = 24 * 3600;
/// Until then the world is hostile.
const HOSTILITIES: Duration = Duration::from_secs(60);
/// More than what is not stuck takes, in simulated time.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct World {
    storage: Arc<dyn Storage>,
    servers: Mutex<Vec<(TurnEngine, Process)>>,
    ledger: Ledger,
    hostile: watch::Sender<bool>,
    random: Mutex<Rng>,
    mistake: Option<Mistake>,
}

/// What a world has seen, for a test to know that it was hostile.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) turns: usize,
    pub(crate) attempts: usize,
    pub(crate) deaths: usize,
    pub(crate) sleeps: usize,
    /// Messages that are stored behind others, and that a clock says to be older.
    pub(crate) misdated: usize,
}

/// Lets the world of `seed` run to its end, and says what it finds wrong.
pub(crate) async fn run(seed: u64, mistake: Option<Mistake>) -> Result<Seen, String> {
    let world = Arc::new(World {
        storage: Arc::new(MemoryStorage::default()),
        servers: Mutex::default(),
        ledger: Ledger::default(),
        hostile: watch::Sender::new(true),
        random: Mutex::new(Rng::with_seed(seed)),
        mistake,
    });
    for _ in 0..SERVERS {
        let server = world.start();
        world.servers.lock().unwrap().push(server);
    }
    let mut conversations = Vec::new();
    let mut clients = JoinSet::new();
    for _ in 0..CONVERSATIONS {
        let conversation = Conversation::titled("simulated");
        let added = world.storage.conversations().add(conversation).await;
        let id = added.map_err(|error| error.to_string())?.id;
        conversations.push(id);
        for on_busy in [OnBusy::Reject, OnBusy::Enqueue] {
            clients.spawn(Arc::clone(&world).converse(id, on_busy));
        }
    }
    let nemesis = tokio::spawn(Arc::clone(&world).disturb());
    let talked = async {
        while let Some(client) = clients.join_next().await {
            client.map_err(|panic| panic.to_string())??;
        }
        Ok::<_, String>(())
    };
    timeout(PATIENCE, talked)
        .await
        .map_err(|_| "somebody has waited for ever".to_owned())??;
    let mut seen = nemesis.await.map_err(|panic| panic.to_string())?;
    for conversation in conversations {
        world.check(conversation, &mut seen).await?;
    }
    Ok(seen)
}

impl World {
    fn start(&self) -> (TurnEngine, Process) {
        let seed = self.random(|random| random.u64(..));
        let process = Process::new(seed, self.hostile.subscribe(), self.mistake);
        let agent = SimulatedAgent {
            process: process.clone(),
            ledger: self.ledger.clone(),
        };
        let storage = Watched::new(Arc::clone(&self.storage), process.clone());
        let engine = TurnEngine::new(Arc::new(storage), Arc::new(agent)).with_limits(TurnLimits {
            lease: LEASE,
            max_attempts: u32::MAX,
            deadline: 2 * PATIENCE,
            ..TurnLimits::default()
        });
        let engine = engine.with_clock(self.wrong_clock());
        tokio::spawn({
            let engine = engine.clone();
            async move { engine.keep().await }
        });
        (engine, process)
    }

    /// A clock of a server, which is right in no other way than that it goes on.
    fn wrong_clock(&self) -> Clock {
        let skew = self.random(|random| random.u64(0..2 * SKEW));
        let begun = Instant::now();
        Clock::new(move || {
            let noon: SystemTime = UNIX_EPOCH + Duration::from_secs(20_000 * SKEW + SKEW / 2);
            (noon + Duration::from_secs(skew) + begun.elapsed()).into()
        })
    }

    /// Kills servers, which are started again, and puts them to sleep for longer than a lease.
    async fn disturb(self: Arc<Self>) -> Seen {
        let mut seen = Seen::default();
        let peace = Instant::now() + HOSTILITIES;
        while Instant::now() < peace {
            let (wait, length, server, kills) = self.random(|random| {
                let server = random.usize(0..SERVERS);
                (
                    random.u64(50..1000),
                    random.u64(1000..7000),
                    server,
                    random.u8(0..3) == 0,
                )
            });
            sleep(Duration::from_millis(wait)).await;
            let process = self.servers.lock().unwrap()[server].1.clone();
            if kills {
                process.die();
            } else {
                process.fall_asleep();
                seen.sleeps += 1;
                tokio::spawn(async move {
                    sleep(Duration::from_millis(length)).await;
                    process.wake();
                });
            }
            seen.deaths += self.restart();
        }
        self.hostile.send_replace(false);
        sleep(Duration::from_secs(10)).await;
        seen.deaths += self.restart();
        seen
    }

    /// Starts another server for each that is dead, and says how many.
    fn restart(&self) -> usize {
        let mut dead = 0;
        for server in &mut *self.servers.lock().unwrap() {
            if server.1.is_dead() {
                *server = self.start();
                dead += 1;
            }
        }
        dead
    }

    /// What a client does: it says one thing after the other, each until it is answered.
    async fn converse(
        self: Arc<Self>,
        conversation: ConversationId,
        on_busy: OnBusy,
    ) -> Result<(), String> {
        for number in 0..MESSAGES {
            let words = format!("{conversation} {on_busy:?} {number}");
            let answered = self.say(conversation, on_busy, &words).await?;
            if answered != answer(&words) {
                return Err(format!("`{words}` was answered by `{answered}`"));
            }
        }
        Ok(())
    }

    async fn say(
        &self,
        conversation: ConversationId,
        on_busy: OnBusy,
        words: &str,
    ) -> Result<String, String> {
        loop {
            let engine = self.any_server();
            let message = Message::new(conversation, Role::User, words);
            let options = SendOptions {
                key: Some(RequestKey {
                    key: words.to_owned(),
                    request: words.as_bytes().to_vec(),
                }),
                on_busy: Some(on_busy),
                ..SendOptions::default()
            };
            match timeout(
                Duration::from_secs(20),
                send_with(&engine, message, options),
            )
            .await
            {
                Ok(Ok(TurnOutcome::Answered(answer))) => return Ok(answer.content),
                Ok(Ok(TurnOutcome::Waiting(turn))) => self.reply(&turn).await,
                Ok(Err(
                    error @ (TurnError::KeyReused
                    | TurnError::Failed(_)
                    | TurnError::AgentCrashed
                    | TurnError::ForeignState
                    | TurnError::Ended
                    | TurnError::Cancelled),
                )) => {
                    return Err(format!("`{words}` has failed: {error}"));
                }
                // Its server is gone, the chat is busy, or the storage has failed.
                Ok(Err(_)) | Err(_) => {}
            }
            let pause = self.random(|random| random.u64(10..1000));
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// A person who is asked whether a tool took effect believes that it did. Of a call that waits for
    /// approval two are asked, who may be of two minds, late, and on two servers.
    async fn reply(&self, turn: &Turn) {
        let interrupt = turn.interrupt.as_ref().expect("a question");
        let answer = async || {
            let late = self.random(|random| random.u64(0..4_000));
            let approves = self.random(|random| random.bool());
            let words = match interrupt.proposed {
                None => BELIEVED,
                Some(_) if approves => "approve",
                Some(_) => "reject: not today",
            };
            if interrupt.proposed.is_some() {
                sleep(Duration::from_millis(late)).await;
            }
            let engine = self.any_server();
            let answered = reply(&engine, turn, interrupt.id, words);
            // Whether it was taken shows when the message is sent again.
            drop(timeout(Duration::from_secs(20), answered).await);
        };
        tokio::join!(answer(), async {
            if interrupt.proposed.is_some() {
                answer().await;
            }
        });
    }

    fn any_server(&self) -> TurnEngine {
        let server = self.random(|random| random.usize(0..SERVERS));
        self.servers.lock().unwrap()[server].0.clone()
    }

    fn random<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.random.lock().unwrap())
    }

    /// What must hold when everybody has an answer, and all is quiet.
    async fn check(&self, conversation: ConversationId, seen: &mut Seen) -> Result<(), String> {
        let text = |error: yai_agentkit_core::Error| error.to_string();
        let of = ListQuery::filtered(MessageFilter::of(conversation)).oldest_first();
        let messages = self.storage.messages().list(&of).await.map_err(text)?.items;
        let asked: Vec<_> = messages
            .iter()
            .filter(|message| message.role == Role::User)
            .collect();
        if asked.len() != 2 * MESSAGES || messages.len() != 2 * asked.len() {
            return Err(format!("messages lost or doubled: {messages:#?}"));
        }
        let dates = messages.iter().map(|message| message.created_at);
        let next = dates.clone().skip(1);
        seen.misdated += dates.zip(next).filter(|(date, next)| next < date).count();
        let order = messages.iter().map(|message| message.id);
        for message in &asked {
            let mut behind = order.clone().skip_while(|id| *id != message.id);
            if !behind.any(|id| id == message.id.answer()) {
                return Err(format!("`{}` has no answer behind it", message.content));
            }
            let answers = messages
                .iter()
                .filter(|other| other.content == answer(&message.content));
            if answers.count() != 1 {
                return Err(format!("`{}` has not one answer", message.content));
            }
            self.ledger.check(&message.content)?;
        }

        let turns = ListQuery::filtered(TurnFilter::default().of(conversation));
        let turns = self.storage.turns().list(&turns).await.map_err(text)?.items;
        if turns.len() != asked.len()
            || turns
                .iter()
                .any(|turn| turn.status != TurnStatus::Completed)
        {
            return Err(format!("turns that have not ended well: {turns:#?}"));
        }
        seen.turns += turns.len();
        seen.attempts += turns
            .iter()
            .map(|turn| turn.attempt as usize)
            .sum::<usize>();
        for turn in &turns {
            self.check_events(turn).await?;
        }
        self.check_thread(conversation, &asked).await
    }

    /// Its events are without gap, and the last one, and no other, is its end.
    async fn check_events(&self, turn: &Turn) -> Result<(), String> {
        let batches = self
            .storage
            .turn_store()
            .events(turn.conversation_id, turn.id, 0, 10_000)
            .await;
        let batches = batches.map_err(|error| error.to_string())?;
        let sequences = batches.iter().map(|batch| batch.sequence);
        let ends: Vec<bool> = batches
            .iter()
            .flat_map(|batch| &batch.events)
            .map(is_end)
            .collect();
        let one_end = ends.last() == Some(&true) && ends.iter().filter(|end| **end).count() == 1;
        if !sequences.eq(1..=batches.len() as u64) || !one_end {
            return Err(format!("the events of a turn: {batches:#?}"));
        }
        Ok(())
    }

    /// Its checkpoints are one line, and its state knows each message once.
    async fn check_thread(
        &self,
        conversation: ConversationId,
        asked: &[&Message],
    ) -> Result<(), String> {
        let text = |error: yai_agentkit_core::Error| error.to_string();
        let found = self
            .storage
            .conversations()
            .get(&conversation)
            .await
            .map_err(text)?;
        let thread = found.expect("the conversation").thread_id();
        let checkpointer = self.storage.checkpointer();
        let newest_first = checkpointer
            .list(&CheckpointQuery::of(thread.clone()))
            .await
            .map_err(text)?;
        let ids = newest_first.iter().map(|found| Some(&found.checkpoint.id));
        let parents = newest_first.iter().map(|found| found.parent.as_ref());
        if !parents.eq(ids.skip(1).chain([None])) {
            return Err("the thread has forked".to_owned());
        }
        let state = ThreadState::load(&*checkpointer, thread)
            .await
            .map_err(text)?;
        let state: AgentState = state.state().map_err(text)?.expect("a state");
        self.ledger.check_payments(&state.messages)?;
        let said = state
            .messages
            .iter()
            .filter(|message| message.role == Role::User);
        let mut said: Vec<_> = said.map(|message| message.content.as_str()).collect();
        let mut stored: Vec<_> = asked
            .iter()
            .map(|message| message.content.as_str())
            .collect();
        said.sort_unstable();
        stored.sort_unstable();
        if said != stored {
            return Err(format!("the state knows {said:#?}"));
        }
        Ok(())
    }
}

fn is_end(event: &serde_json::Value) -> bool {
    let told = TurnEvent::read(vec![event.clone()], None);
    matches!(&told[..], [TurnEvent::Answered { .. }])
}
