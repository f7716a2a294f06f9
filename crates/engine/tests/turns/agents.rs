//! Agents with a state of their own, and several of them in one engine.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use yai_agentkit_core::{
    CheckpointQuery, Conversation, Message, Role, Stores, ThreadState, error::BoxError,
    memory::MemoryStorage,
};
use yai_agentkit_engine::{
    TurnEngine, TurnError,
    agent::{Agent, AgentError, AgentState, Agents, Context, Step, Tool, ToolCall, Toolbox, Tools},
    test_kit::{ScriptedAgent, answered},
};

/// An agent that fills a basket: two articles at once for each message, then it says what is in it.
struct Shop(Toolbox<Basket>);

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Basket {
    articles: BTreeMap<String, u32>,
    visits: u32,
    #[serde(default)]
    currency: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Add {
    /// What is bought
    article: String,
}

impl Shop {
    fn new() -> Self {
        let add = |Add { article }: Add, state: &mut AgentState<Basket>| {
            *state.own.articles.entry(article.clone()).or_default() += 1;
            Ok(format!("one {article}"))
        };
        Self(Toolbox::new([Tool::new(
            "add",
            "Puts an article into the basket",
            add,
        )
        .repeatable()]))
    }
}

#[async_trait]
impl Agent for Shop {
    type State = Basket;

    async fn step(
        &self,
        context: &Context,
        state: &mut AgentState<Basket>,
    ) -> Result<Step, AgentError> {
        assert_eq!(context.attempt(), 1);
        if state.turn().len() > 1 {
            context.say("You have").await;
            return Ok(Step::Answer(format!("You have {:?}", state.own)));
        }
        state.own.visits += 1;
        let total = state.messages.total();
        let add = |article: &str| {
            ToolCall::new(
                format!("{article}-{total}"),
                "add",
                json!({"article": article}),
            )
        };
        Ok(Step::ToolCalls {
            content: String::new(),
            calls: vec![add("tea"), add("milk")],
        })
    }

    fn tools(&self) -> &dyn Tools<Basket> {
        &self.0
    }

    fn state_version(&self) -> u32 {
        2
    }

    /// An earlier version kept a list.
    fn migrate(&self, _: u32, mut stored: Json) -> Result<Json, BoxError> {
        if let Some(list) = stored["articles"].as_array() {
            let counted = list
                .iter()
                .filter_map(|article| Some((article.as_str()?.to_owned(), json!(1))));
            stored["articles"] = Json::Object(counted.collect());
        }
        Ok(stored)
    }
}

struct Bench {
    storage: MemoryStorage,
    engine: TurnEngine,
    conversation: Conversation,
}

impl Bench {
    async fn new(agents: impl Into<Agents>, metadata: Option<Json>) -> Self {
        let storage = MemoryStorage::default();
        let conversation = Conversation::new(None, metadata);
        Self {
            engine: TurnEngine::new(Arc::new(storage.clone()), agents),
            conversation: storage.conversations().add(conversation).await.unwrap(),
            storage,
        }
    }

    async fn send(&self, text: &str) -> Result<String, TurnError> {
        let message = Message::new(self.conversation.id, Role::User, text);
        let answer = answered(self.engine.send(message)).await?;
        Ok(answer.content)
    }

    async fn own(&self) -> Json {
        let thread = self.conversation.thread_id();
        let latest = ThreadState::load(&*self.storage.checkpointer(), thread).await;
        let state: AgentState = latest.unwrap().state().unwrap().unwrap();
        state.own
    }

    /// Saves a state in the thread, as an earlier version would have.
    async fn save(&self, own: Json) {
        let checkpointer = self.storage.checkpointer();
        let state = AgentState::<Json> {
            own,
            ..AgentState::default()
        };
        let thread = self.conversation.thread_id();
        let saved =
            yai_agentkit_core::checkpoint::CheckpointerExt::save(&*checkpointer, &thread, &state);
        saved.await.unwrap();
    }
}

#[tokio::test]
async fn what_steps_and_tools_at_once_change_of_a_state_is_kept_and_none_is_lost() {
    let bench = Bench::new(Arc::new(Shop::new()), None).await;
    bench.send("tea and milk").await.unwrap();
    let answer = bench.send("the same again").await.unwrap();
    assert!(answer.contains(r#"{"milk": 2, "tea": 2}"#), "{answer}");
    let expected = json!({"articles": {"milk": 2, "tea": 2}, "visits": 2, "currency": null});
    assert_eq!(bench.own().await, expected);
}

#[tokio::test]
async fn a_state_of_an_earlier_version_is_migrated_and_one_that_cant_be_is_left_as_it_is() {
    let bench = Bench::new(Arc::new(Shop::new()), None).await;
    bench.save(json!({"articles": ["tea"], "visits": 7})).await;
    bench.send("tea and milk").await.unwrap();
    let expected = json!({"articles": {"milk": 1, "tea": 2}, "visits": 8, "currency": null});
    assert_eq!(bench.own().await, expected);

    bench.save(json!({"articles": 5, "visits": 7})).await;
    let failed = bench.send("tea and milk").await.unwrap_err();
    assert!(
        failed.to_string().contains("its state can't be read"),
        "{failed}"
    );
    // The chat goes on once the agent can read it.
    bench.save(json!({"articles": [], "visits": 7})).await;
    bench.send("tea and milk").await.unwrap();
}

#[tokio::test]
async fn a_conversation_is_answered_by_the_agent_that_its_metadata_name() {
    let agents = || {
        let scripted: Agents = Arc::new(ScriptedAgent::default()).into();
        scripted.with("shop", Arc::new(Shop::new()))
    };
    let shop = Bench::new(agents(), Some(json!({"agent": "shop"}))).await;
    let answer = shop.send("tea and milk").await.unwrap();
    assert!(answer.starts_with("You have"), "{answer}");
    let other = Bench::new(agents(), Some(json!({"colour": "red"}))).await;
    let answer = other.send("hi").await.unwrap();
    assert!(answer.starts_with("hi: result-a"), "{answer}");

    let unknown = Bench::new(agents(), Some(json!({"agent": "bank"}))).await;
    let refused = unknown.send("hi").await.unwrap_err();
    assert!(
        matches!(&refused, TurnError::NoAgent(name) if name == "bank"),
        "{refused}"
    );
    let all = yai_agentkit_core::ListQuery::default();
    assert!(
        unknown
            .storage
            .messages()
            .list(&all)
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[test]
fn a_tool_describes_its_arguments_as_its_type_does() {
    let specs = Shop::new().0.specs();
    assert_eq!(
        specs[0].parameters,
        json!({
            "type": "object",
            "properties": {"article": {"type": "string", "description": "What is bought"}},
            "required": ["article"],
        })
    );
}

/// Thinks aloud in two steps, then answers.
struct Thinker;

#[async_trait]
impl Agent for Thinker {
    type State = ();

    async fn step(&self, _: &Context, state: &mut AgentState<()>) -> Result<Step, AgentError> {
        let content = match state.turn().len() {
            1 => "first",
            2 => "then",
            _ => return Ok(Step::Answer("so".to_owned())),
        };
        Ok(Step::ToolCalls {
            content: content.to_owned(),
            calls: Vec::new(),
        })
    }
}

#[tokio::test]
async fn a_step_without_calls_is_stored_and_the_agent_is_asked_again() {
    let bench = Bench::new(Arc::new(Thinker), None).await;
    assert_eq!(bench.send("think").await.unwrap(), "so");
    let thread = bench.conversation.thread_id();
    let checkpointer = bench.storage.checkpointer();
    let query = CheckpointQuery::of(thread);
    assert_eq!(checkpointer.list(&query).await.unwrap().len(), 4);
    let latest = ThreadState::load(&*checkpointer, bench.conversation.thread_id()).await;
    let state: AgentState = latest.unwrap().state().unwrap().unwrap();
    let said: Vec<_> = state
        .messages
        .iter()
        .map(|message| &*message.content)
        .collect();
    assert_eq!(said, ["think", "first", "then", "so"]);
}
