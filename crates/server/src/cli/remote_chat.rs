//! A chat with the agent of a server.

use std::{pin::pin, time::Duration};

use reqwest::{Method, RequestBuilder, header::HeaderName};
use serde_json::{Value as Json, json};
use tokio::{signal::ctrl_c, time::sleep};
use uuid::Uuid;
use yai_agentkit_core::{MessageId, error::BoxError};
use yai_agentkit_engine::{TurnEvent, agent::ToolCall};

use super::{
    remote::{Events, Lost, Remote, Told},
    telling::{Outcome, Telling},
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How often a server that went away is looked for, and how many times.
const PAUSE: Duration = Duration::from_millis(500);
const ATTEMPTS: u32 = 120;

/// How many of the newest turns may wait behind one that asks.
const TURNS: u32 = 100;

pub(super) struct RemoteChat {
    remote: Remote,
    conversation: Uuid,
}

impl RemoteChat {
    pub(super) async fn begin(remote: Remote) -> Result<Self, BoxError> {
        let new = remote
            .json(remote.post("/conversations", &json!({})))
            .await?;
        let id = new["id"].as_str().and_then(|id| id.parse().ok());
        let conversation = id.ok_or("the server has made no conversation")?;
        Ok(Self {
            remote,
            conversation,
        })
    }

    /// Shows what the turn comes to that is under way, if there is one.
    pub(super) async fn go_on(remote: Remote, id: Uuid) -> Result<Self, BoxError> {
        let conversation = remote.conversation(id).await?;
        let chat = Self {
            remote,
            conversation,
        };
        for turn in chat.unfinished().await? {
            eprintln!("Still due:");
            let telling = Telling::default();
            match turn["status"].as_str() {
                Some("waiting") => telling.end(Ok(asked(&turn)))?,
                _ => chat.follow(None, text(&turn["id"]), telling).await?,
            }
        }
        Ok(chat)
    }

    pub(super) fn conversation(&self) -> Uuid {
        self.conversation
    }

    /// Says something to the agent, the answer to what it asks or else a message, and shows what it
    /// comes to.
    pub(super) async fn say(&self, said: String) -> Result<(), BoxError> {
        // From now on Ctrl-C does not end the process.
        let mut pressed = pin!(ctrl_c());
        drop(futures::poll!(&mut pressed));
        let waiting = self.unfinished().await?;
        let waiting = waiting.iter().find(|turn| turn["status"] == "waiting");
        let key = Uuid::new_v4().to_string();
        let (request, turn) = match waiting {
            Some(turn) => {
                let id = text(&turn["id"]);
                let answer = json!({"interrupt_id": turn["interrupt"]["id"], "answer": said});
                let path = self.path(&format!("/turns/{id}/resume"));
                (self.remote.post(&path, &answer), id)
            }
            None => {
                let message = json!({ "content": said });
                let request = self.remote.post(&self.path("/messages"), &message);
                (request.header(IDEMPOTENCY_KEY, key), String::new())
            }
        };
        let mut following = pin!(self.follow(Some(request), turn, Telling::default()));
        tokio::select! {
            outcome = &mut following => outcome,
            _ = pressed => {
                self.cancel().await?;
                following.await
            }
        }
    }

    /// Ends the turn that runs.
    async fn cancel(&self) -> Result<(), BoxError> {
        for turn in self.unfinished().await? {
            let path = self.path(&format!("/turns/{}/cancel", text(&turn["id"])));
            self.remote
                .send(self.remote.post(&path, &json!({})))
                .await?;
        }
        Ok(())
    }

    /// The turns that have not ended, the first one first.
    async fn unfinished(&self) -> Result<Vec<Json>, BoxError> {
        let page = [("limit", TURNS.to_string())];
        let mut turns = self.remote.get(&self.path("/turns"), &page).await?;
        let Json::Array(turns) = turns["items"].take() else {
            return Ok(Vec::new());
        };
        let is_unfinished = |turn: &Json| {
            matches!(
                turn["status"].as_str(),
                Some("queued" | "running" | "waiting")
            )
        };
        Ok(turns.into_iter().rev().filter(is_unfinished).collect())
    }

    /// Shows what happens in a turn, which `request` begins, or which is known, until it has an
    /// outcome: also where the server goes away and another comes back in its place.
    async fn follow(
        &self,
        request: Option<RequestBuilder>,
        mut turn: String,
        mut telling: Telling,
    ) -> Result<(), BoxError> {
        let (mut last, mut is_said) = (None::<String>, false);
        let (mut attempts, mut tool) = (0, String::new());
        let again = |turn: &str| self.remote.request(Method::GET, &self.events(turn), &[]);
        let mut next = match request {
            Some(request) => request,
            None => again(&turn),
        };
        loop {
            let repeated = next.try_clone();
            let mut request = self.remote.watch(next);
            if let Some(last) = &last {
                request = request.header(LAST_EVENT_ID, last);
            }
            match self.remote.send(request).await {
                Ok(response) => {
                    attempts = 0;
                    let mut events = Events::of(response);
                    while let Some(Told { id, event }) = events.next().await {
                        last = id.or(last);
                        if let Some(run) = event["runId"].as_str() {
                            run.clone_into(&mut turn);
                        }
                        if let Some(outcome) = outcome(&event) {
                            return telling.end(outcome);
                        }
                        if let Some(name) = event["toolCallName"].as_str() {
                            name.clone_into(&mut tool);
                        }
                        telling.tell(&read(&event, &tool))?;
                    }
                }
                Err(error) if !error.is::<Lost>() || attempts == ATTEMPTS => return Err(error),
                Err(_) => attempts += 1,
            }
            if !std::mem::replace(&mut is_said, true) {
                eprintln!("The server went away: waiting for it.");
            }
            sleep(PAUSE).await;
            // A message comes once, by its key; what is known of the turn is not said again.
            next = match (turn.is_empty() || last.is_none(), repeated) {
                (true, Some(repeated)) => repeated,
                _ => again(&turn),
            };
        }
    }

    fn path(&self, path: &str) -> String {
        format!("/chats/{}{path}", self.conversation)
    }

    fn events(&self, turn: &str) -> String {
        self.path(&format!("/turns/{turn}/events"))
    }
}

/// What a turn comes to by this event, if it ends the run.
fn outcome(event: &Json) -> Option<Result<Outcome, BoxError>> {
    match event["type"].as_str()? {
        "RUN_ERROR" => Some(Err(text(&event["message"]).into())),
        "RUN_FINISHED" => Some(match event["outcome"]["type"].as_str() {
            Some("cancelled") => Err("the turn was cancelled".into()),
            Some("interrupt") => {
                let question = text(&event["outcome"]["interrupts"][0]["message"]);
                Ok(Outcome::Asks(question))
            }
            _ => Ok(Outcome::Answered(text(&event["result"]["content"]))),
        }),
        _ => None,
    }
}

/// As much of an event as is shown; `tool` was called last.
fn read(event: &Json, tool: &str) -> TurnEvent {
    let message_id = || {
        text(&event["messageId"])
            .parse()
            .unwrap_or(MessageId(Uuid::nil()))
    };
    match event["type"].as_str() {
        Some("TEXT_MESSAGE_START") => TurnEvent::TextStarted {
            message_id: message_id(),
        },
        Some("TEXT_MESSAGE_CONTENT") => TurnEvent::TextSaid {
            message_id: message_id(),
            delta: text(&event["delta"]),
        },
        Some("CUSTOM") if event["name"] == "agentkit.discarded" => TurnEvent::TextEnded {
            message_id: MessageId(Uuid::nil()),
            is_void: true,
        },
        Some("TOOL_CALL_ARGS") => {
            let arguments = serde_json::from_str(&text(&event["delta"]));
            let arguments = arguments.unwrap_or_default();
            TurnEvent::ToolCalled {
                call: ToolCall::new(text(&event["toolCallId"]), tool, arguments),
                message_id: None,
            }
        }
        _ => TurnEvent::Unknown,
    }
}

fn asked(turn: &Json) -> Outcome {
    Outcome::Asks(text(&turn["interrupt"]["question"]))
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
