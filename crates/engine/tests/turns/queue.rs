//! Chats that are busy: who waits, for how long, at what cost.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::StreamExt;
use yai_agentkit_core::{
    Conversation, ListQuery, Message, Role, Stores, ThreadState, TurnStatus,
    conversation::MessageFilter, turn::TurnFilter,
};
use yai_agentkit_engine::{
    OnBusy, SendOptions, TurnEngine, TurnError, TurnLimits,
    agent::AgentState,
    test_kit::{FailingStorage, ScriptedAgent, answered, limits, said, send_with},
};

/// An engine with a chat.
struct Chat {
    storage: FailingStorage,
    engine: TurnEngine,
    agent: ScriptedAgent,
    conversation: Conversation,
}

impl Chat {
    /// Whose agent hangs after so many calls.
    async fn new(calls: usize, limits: TurnLimits) -> Self {
        let (storage, agent) = (
            FailingStorage::default(),
            ScriptedAgent::hanging_after(calls),
        );
        let engine =
            TurnEngine::new(Arc::new(storage.clone()), Arc::new(agent.clone())).with_limits(limits);
        let conversation = Conversation::titled("test");
        let conversation = storage.conversations().add(conversation).await.unwrap();
        Self {
            storage,
            engine,
            agent,
            conversation,
        }
    }

    fn send(
        &self,
        content: &str,
        on_busy: OnBusy,
    ) -> tokio::task::JoinHandle<Result<Message, TurnError>> {
        let message = Message::new(self.conversation.id, Role::User, content);
        let engine = self.engine.clone();
        let options = SendOptions {
            on_busy: Some(on_busy),
            ..SendOptions::default()
        };
        tokio::spawn(async move { answered(send_with(&engine, message, options)).await })
    }

    async fn until_turns(&self, filter: TurnFilter, count: u64) {
        let turns = self.storage.inner.turns();
        let waiting = async {
            while turns.count(&filter).await.unwrap() != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        waited.expect("so many turns");
    }

    fn calls(&self) -> u64 {
        self.storage.watch.calls.load(Ordering::SeqCst)
    }
}

fn lasting() -> TurnLimits {
    TurnLimits {
        lease: Duration::from_secs(3600),
        ..limits()
    }
}

#[tokio::test]
async fn messages_whose_senders_left_cost_nothing_while_they_wait_and_are_answered() {
    let chat = Chat::new(1, lasting()).await;
    let running = chat.send("first", OnBusy::Reject);
    chat.until_turns(TurnFilter::running(), 1).await;
    let waiting: Vec<_> = (0..20)
        .map(|_| chat.send("later", OnBusy::Enqueue))
        .collect();
    chat.until_turns(TurnFilter::queued(), 20).await;
    waiting.iter().for_each(tokio::task::JoinHandle::abort);

    let before = chat.calls();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let calls = chat.calls() - before;
    assert!(calls <= 10, "{calls} calls of the storage in a second");

    chat.agent.permits.add_permits(1000);
    running.await.unwrap().unwrap();
    chat.until_turns(TurnFilter::unfinished(), 0).await;
    let said = said(&*chat.storage.inner, &chat.conversation).await;
    assert_eq!(said.len(), 42);
}

#[tokio::test]
async fn who_cancels_what_waits_does_not_cut_short_what_runs() {
    let chat = Chat::new(1, lasting()).await;
    let running = chat.send("first", OnBusy::Reject);
    chat.until_turns(TurnFilter::running(), 1).await;
    let waiting: Vec<_> = (0..7)
        .map(|_| chat.send("later", OnBusy::Enqueue))
        .collect();
    chat.until_turns(TurnFilter::queued(), 7).await;
    let turns = chat.storage.inner.turns();
    let queued = ListQuery::filtered(TurnFilter::queued());
    for turn in turns.list(&queued).await.unwrap().items {
        let cancelled = chat.engine.cancel(chat.conversation.id, turn.id).await;
        assert_eq!(cancelled.unwrap().status, TurnStatus::Cancelled);
        // Who was cut short would be taken up again meanwhile.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    chat.agent.permits.add_permits(1000);
    running.await.unwrap().unwrap();
    for task in waiting {
        assert!(matches!(task.await.unwrap(), Err(TurnError::Cancelled)));
    }
    let oldest = ListQuery::default().oldest_first();
    let all = turns.list(&oldest).await.unwrap().items;
    let first = &all[0];
    assert_eq!((first.status, first.attempt), (TurnStatus::Completed, 1));
}

#[tokio::test]
async fn a_full_queue_refuses_a_message_and_stores_nothing() {
    let limits = TurnLimits {
        max_enqueued: 2,
        ..lasting()
    };
    let chat = Chat::new(1, limits).await;
    let running = chat.send("one", OnBusy::Reject);
    chat.until_turns(TurnFilter::running(), 1).await;
    let waiting: Vec<_> = (0..5).map(|_| chat.send("more", OnBusy::Enqueue)).collect();
    chat.until_turns(TurnFilter::queued(), 2).await;
    chat.agent.permits.add_permits(1000);
    running.await.unwrap().unwrap();
    let mut refused = 0;
    for task in waiting {
        match task.await.unwrap() {
            Ok(answer) => assert!(answer.content.starts_with("more")),
            Err(TurnError::QueueFull(2)) => refused += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    let stored = said(&*chat.storage.inner, &chat.conversation).await;
    assert_eq!((refused, stored.len()), (3, 6));
}

#[tokio::test]
async fn who_knows_that_a_turn_has_ended_finds_the_chat_free() {
    let often = TurnLimits {
        lease: Duration::from_millis(20),
        ..limits()
    };
    let chat = Chat::new(10_000, often).await;
    let keeper = chat.engine.clone();
    tokio::spawn(async move { keeper.keep().await });
    for count in 0..45 {
        let message = Message::new(chat.conversation.id, Role::User, "hi");
        let begun = chat.engine.start(message, SendOptions::default());
        let turn = begun
            .await
            .unwrap_or_else(|error| panic!("message {count}: {error}"));
        // The last event is read before the task of the turn is over.
        turn.events()
            .for_each(async |event| drop(event.unwrap()))
            .await;
    }
    let said = said(&*chat.storage.inner, &chat.conversation).await;
    assert_eq!(said.len(), 90);
}

#[tokio::test]
async fn a_message_that_rolls_back_takes_the_place_of_those_that_it_cancels() {
    let chat = Chat::new(ScriptedAgent::SCRIPT.len(), lasting()).await;
    let first = chat.send("one", OnBusy::Reject).await.unwrap().unwrap();
    let running = chat.send("two", OnBusy::Reject);
    chat.until_turns(TurnFilter::running(), 1).await;
    let waiting = chat.send("three", OnBusy::Enqueue);
    chat.until_turns(TurnFilter::queued(), 1).await;
    let instead = chat.send("two!", OnBusy::Rollback);
    for cancelled in [running, waiting] {
        let cancelled = cancelled.await.unwrap();
        assert!(
            matches!(cancelled, Err(TurnError::Cancelled)),
            "{cancelled:?}"
        );
    }
    chat.agent.permits.add_permits(ScriptedAgent::SCRIPT.len());
    let answer = instead.await.unwrap().unwrap();

    let contents = async |filter: MessageFilter| -> Vec<String> {
        let query = ListQuery::filtered(filter).oldest_first();
        let page = chat.storage.messages().list(&query).await.unwrap();
        page.items
            .into_iter()
            .map(|message| message.content)
            .collect()
    };
    let chosen = MessageFilter::of(chat.conversation.id);
    let others = contents(chosen.clone().of_other_branches()).await;
    assert_eq!(others, ["two", "three"]);
    let now = ["one", &first.content, "two!", &answer.content];
    assert_eq!(contents(chosen).await, now);
    let thread = chat.conversation.thread_id();
    let state = ThreadState::load(&*chat.storage.checkpointer(), thread).await;
    let state: AgentState = state.unwrap().state().unwrap().unwrap();
    let known = state
        .messages
        .iter()
        .filter(|known| known.role == Role::User);
    let known: Vec<_> = known.map(|known| known.content.as_str()).collect();
    assert_eq!(known, ["one", "two!"]);
}
