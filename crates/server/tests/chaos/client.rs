//! Those who talk to the servers: each retries with its key, anywhere, until it has an answer.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    PATIENCE,
    http::request_with,
    plan::{EDITED, Plan, REMOTE},
    random::Random,
    servers::Servers,
};

/// What a person answers, whatever the question.
pub(crate) const SETTLED: &str = "settled by a person";

/// After so many messages a client goes on with a new chat.
const MESSAGES: usize = 12;
/// A client sends at least so many.
const FEWEST: usize = 3;

/// A chat as its client knows it.
pub(crate) struct Chat {
    pub(crate) id: String,
    /// Whether the agent is a program of its own.
    pub(crate) is_remote: bool,
    pub(crate) exchanges: Vec<Exchange>,
}

/// A message, and the answer that came.
pub(crate) struct Exchange {
    pub(crate) message: String,
    pub(crate) answer: String,
}

/// What the clients of a run share.
pub(crate) struct Clients<'a> {
    seed: u64,
    pub(crate) servers: &'a Servers,
    /// When the faults were over: no client begins anything new, and all soon have their answers.
    over: OnceLock<Instant>,
    pub(crate) requests: AtomicUsize,
    /// Of them, those without a response.
    pub(crate) unanswered: AtomicUsize,
    /// Answers to questions that were taken.
    pub(crate) resumes: AtomicUsize,
}

/// Ends a run, also when it panics.
pub(crate) struct Ending<'a>(pub(crate) &'a Clients<'a>);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.over.get_or_init(Instant::now);
    }
}

impl<'a> Clients<'a> {
    pub(crate) fn new(seed: u64, servers: &'a Servers) -> Self {
        Self {
            seed,
            servers,
            over: OnceLock::new(),
            requests: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
            resumes: AtomicUsize::new(0),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.get().is_some()
    }

    /// Whether it should all have come to an end.
    pub(crate) fn has_no_patience(&self) -> bool {
        let over = self.over.get();
        over.is_some_and(|over| over.elapsed() > PATIENCE)
    }

    /// Talks until the run is over, and returns all that was said.
    pub(crate) fn talk(&self, client: usize) -> Vec<Chat> {
        let mut random = Random::of(self.seed, &format!("client {client}"));
        // Some send two messages at once.
        let at_once = if client.is_multiple_of(3) { 2 } else { 1 };
        let is_remote = client.is_multiple_of(2);
        let mut chats: Vec<Chat> = Vec::new();
        let mut sent = 0;
        while self.over.get().is_none() || sent < FEWEST {
            if chats
                .last()
                .is_none_or(|chat| chat.exchanges.len() >= MESSAGES)
            {
                let id = self.create(&format!("c{client}-{sent}"), is_remote, &mut random);
                chats.push(Chat {
                    id,
                    is_remote,
                    exchanges: Vec::new(),
                });
            }
            let chat = chats.last_mut().expect("one is there");
            let messages = (sent..sent + at_once).map(|number| {
                let token = format!("c{client}-m{number}");
                let plan = Plan::draw(&mut random, token.clone(), is_remote);
                (plan.message(), Random::of(self.seed, &token))
            });
            let messages: Vec<_> = messages.collect();
            sent += at_once;
            let id = &chat.id;
            let exchanges = thread::scope(|scope| {
                let say = |(message, random)| scope.spawn(|| self.say(id, message, random));
                let said: Vec<_> = messages.into_iter().map(say).collect();
                let said = said.into_iter().map(|said| said.join().expect("an answer"));
                said.collect::<Vec<_>>()
            });
            chat.exchanges.extend(exchanges);
            pause(&mut random, 0..100);
        }
        chats
    }

    fn create(&self, key: &str, is_remote: bool, random: &mut Random) -> String {
        let path = "/conversations";
        let body = match is_remote {
            true => json!({"metadata": {"agent": REMOTE}}),
            false => json!({}),
        };
        self.until_done(key, path, &body, random, |status, body| {
            assert_eq!(status, 200, "{body}");
            body["id"].as_str().map(str::to_owned)
        })
    }

    fn say(&self, chat: &str, message: String, mut random: Random) -> Exchange {
        let path = format!("/chats/{chat}/messages");
        let body = json!({"content": message, "on_busy": random.pick(&["reject", "enqueue"])});
        let mut other = Random::of(self.seed, &format!("{message} resume"));
        let answer =
            self.until_done(
                &message,
                &path,
                &body,
                &mut random,
                |status, body| match status {
                    200 => body["content"].as_str().map(str::to_owned),
                    202 => self.resume(chat, body, &mut other),
                    _ => panic!("{message}: {status} {body}"),
                },
            );
        Exchange { message, answer }
    }

    /// Answers what a turn asks; its answer, if it comes at once. Some answer late, some twice: another
    /// word on another server.
    fn resume(&self, chat: &str, turn: &Value, random: &mut Random) -> Option<String> {
        let turn_id = turn["id"].as_str().expect("a turn");
        let path = format!("/chats/{chat}/turns/{turn_id}/resume");
        let interrupt = &turn["interrupt"];
        let answers = [reply(interrupt, random), reply(interrupt, random)];
        let is_twice = random.between(0..3) == 0;
        if random.between(0..5) == 0 {
            pause(random, 100..1500);
        }
        let mut other = Random::of(random.between(0..u64::MAX), "other");
        let resume = |answer: &Value, random: &mut Random| {
            let answer = json!({"interrupt_id": interrupt["id"], "answer": answer});
            let (status, body) = self.request("", &path, &answer, random)?;
            match (status, problem(&body)) {
                (200 | 202, _) => {
                    self.resumes.fetch_add(1, Relaxed);
                    body["content"].as_str().map(str::to_owned)
                }
                // The answer was taken before, although nobody has said so, or that of another.
                (409, "not-asked" | "turn-running") | (503, _) => None,
                _ => panic!("{path}: {status} {body}"),
            }
        };
        thread::scope(|scope| {
            let twice = is_twice.then(|| scope.spawn(|| resume(&answers[1], &mut other)));
            let once = resume(&answers[0], random);
            once.or(twice.and_then(|twice| twice.join().expect("a response")))
        })
    }

    /// Sends a request with its key until `done` makes something of the response.
    fn until_done(
        &self,
        key: &str,
        path: &str,
        body: &Value,
        random: &mut Random,
        mut done: impl FnMut(u16, &Value) -> Option<String>,
    ) -> String {
        let headers = format!("idempotency-key: {key}\r\n");
        loop {
            let response = self.request(&headers, path, body, random);
            if let Some((status, body)) = &response {
                let again = *status == 503 || *status == 409 && problem(body) == "turn-running";
                if !again && let Some(done) = done(*status, body) {
                    return done;
                }
            }
            if let Some(over) = self.over.get() {
                let patience = PATIENCE.saturating_sub(over.elapsed());
                assert!(
                    !patience.is_zero(),
                    "stuck: POST {path} {key}: {response:?}"
                );
            }
            pause(random, 5..100);
        }
    }

    fn request(
        &self,
        headers: &str,
        path: &str,
        body: &Value,
        random: &mut Random,
    ) -> Option<(u16, Value)> {
        let server = random.between(0..self.servers.count() as u64);
        let patience = Duration::from_millis(*random.pick(&[200, 2_000, 10_000]));
        let address = self.servers.address(usize::try_from(server).unwrap())?;
        self.requests.fetch_add(1, Relaxed);
        let (head, body) = (format!("POST {path}"), body.to_string());
        let response = request_with(&address, patience, &head, headers, &body);
        if response.is_none() {
            self.unanswered.fetch_add(1, Relaxed);
        }
        response
    }
}

/// What a person says to a question, or to a call that waits for approval.
fn reply(interrupt: &Value, random: &mut Random) -> Value {
    let proposed = &interrupt["proposed"];
    if proposed.is_null() {
        return SETTLED.into();
    }
    let mut edited = proposed["arguments"].clone();
    edited[EDITED] = true.into();
    let edited = json!({"approved": true, "arguments": edited}).to_string();
    (*random.pick(&["approve", "reject: not today", &edited])).into()
}

fn pause(random: &mut Random, milliseconds: std::ops::Range<u64>) {
    thread::sleep(Duration::from_millis(random.between(milliseconds)));
}

/// The last part of a problem's name; empty where it is none.
pub(crate) fn problem(body: &Value) -> &str {
    let name = body["type"].as_str().unwrap_or_default();
    name.rsplit(':').next().unwrap_or_default()
}
