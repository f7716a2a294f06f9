//! AgentKit as an MCP server: agents of others recall, remember and search what was said.

use std::sync::Arc;

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
        ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool as McpTool,
        ToolAnnotations,
    },
    service::RequestContext,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use yai_agentkit_agents::tools::FAILED;
use yai_agentkit_core::{
    Error, ListQuery, Message, Result, Role, Storage,
    conversation::{ConversationFilter, MessageFilter},
    store::{Answer, Filter, ItemKey, Labels, MemoryStoreExt, NewItem, Operation, Search},
};
use yai_agentkit_engine::{
    agent::{AgentState, Context, Tool, ToolCall, ToolOutcome, Toolbox, Tools},
    error_chain,
};

use crate::owner;

const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 4_000;
/// How many facts are recalled at once.
const RECALLED: u64 = 100;

/// How many messages a search finds,
const FOUND: usize = 10;
/// how many it looks through, the newest first,
const LOOKED_AT: usize = 5_000;
/// how many it reads at once, and how many bytes of them.
const AT_ONCE: u64 = 200;
const BYTES_AT_ONCE: u64 = 1 << 20;
/// How many characters of each are told.
const QUOTED: usize = 500;

/// What other agents may do with what is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum McpAccess {
    /// Nothing.
    Off,
    /// Read it.
    Read,
    /// Remember too.
    Write,
}

/// The memory of one owner, or of all, for the agents of others.
#[derive(Clone)]
pub(crate) struct Memory {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) owner: Option<String>,
    pub(crate) may_write: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Recall {
    /// Of one fact; all are told without it
    name: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Remember {
    /// Such as: favourite colour
    name: String,
    /// Such as: green
    value: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchHistory {
    /// All of them are in each message that is found
    words: String,
}

/// What is stored of a fact.
#[derive(Deserialize, Serialize)]
struct Fact {
    value: String,
}

impl Memory {
    fn tools(&self) -> Toolbox<()> {
        let (recall, search, remember) = (self.clone(), self.clone(), self.clone());
        let recall = Tool::outside(
            "recall",
            "Tells a remembered fact, or the newest 100 when no name is given.",
            move |_, asked: Recall| {
                let memory = recall.clone();
                async move { memory.recall(asked).await }
            },
        );
        let search = Tool::outside(
            "search_history",
            "Finds what was said in earlier conversations with all the words, newest first, at most 10.",
            move |_, query: SearchHistory| {
                let memory = search.clone();
                async move { memory.search(query).await }
            },
        );
        let remember = Tool::outside(
            "remember",
            "Remembers a fact for all later conversations, in place of any of that name.",
            move |_, fact: Remember| {
                let memory = remember.clone();
                async move { memory.remember(fact).await }
            },
        );
        let reading = [recall.repeatable(), search.repeatable()];
        Toolbox::new(
            reading
                .into_iter()
                .chain(self.may_write.then_some(remember)),
        )
    }

    fn namespace(&self) -> Labels {
        match &self.owner {
            Some(owner) => owner::namespace(owner::MEMORIES, owner),
            None => vec![owner::MEMORIES.to_owned()],
        }
    }

    fn key(&self, name: &str) -> Result<ItemKey, String> {
        let name = name.trim();
        if name.is_empty() || name.chars().count() > MAX_NAME {
            return Err(format!("a name has 1 to {MAX_NAME} characters"));
        }
        Ok(ItemKey {
            namespace: self.namespace(),
            key: name.to_lowercase(),
        })
    }

    async fn recall(&self, asked: Recall) -> Result<String, String> {
        let store = self.storage.memory_store();
        if let Some(name) = asked.name {
            let item = store.get(self.key(&name)?).await.map_err(unavailable)?;
            let item = item.ok_or_else(|| format!("nothing is remembered by the name `{name}`"))?;
            let fact = item.decode::<Fact>();
            return fact.map(|fact| fact.value).map_err(unavailable);
        }
        let search = Search {
            namespace: self.namespace(),
            filter: Filter::default(),
            text: None,
            vector: None,
            limit: RECALLED,
            offset: 0,
            renews: false,
        };
        let answers = store.batch(vec![Operation::Search(search)]).await;
        let facts = answers
            .map_err(unavailable)?
            .into_iter()
            .flat_map(|answer| match answer {
                Answer::Items(items) => items,
                _ => Vec::new(),
            });
        let lines = facts.filter_map(|item| {
            let fact: Fact = item.decode().ok()?;
            Some(format!("{}: {}", item.key.key, fact.value))
        });
        let lines: Vec<String> = lines.collect();
        match lines.is_empty() {
            true => Err("nothing is remembered yet".to_owned()),
            false => Ok(lines.join("\n")),
        }
    }

    async fn remember(&self, fact: Remember) -> Result<String, String> {
        let key = self.key(&fact.name)?;
        let value = fact.value.trim().to_owned();
        if value.is_empty() || value.chars().count() > MAX_VALUE {
            return Err(format!("a value has 1 to {MAX_VALUE} characters"));
        }
        let done = format!("Remembered: {} = {value}", key.key);
        let item = NewItem::new(key, &Fact { value }).map_err(unavailable)?;
        self.storage
            .memory_store()
            .put(item)
            .await
            .map_err(unavailable)?;
        Ok(done)
    }

    async fn search(&self, query: SearchHistory) -> Result<String, String> {
        let words = query.words.to_lowercase();
        let words: Vec<&str> = words.split_whitespace().collect();
        if words.is_empty() {
            return Err("there is no word to search for".to_owned());
        }
        let (found, looked_at) = self.find(&words).await.map_err(unavailable)?;
        match (found.is_empty(), looked_at >= LOOKED_AT) {
            (true, true) => Err(format!(
                "none of the newest {LOOKED_AT} messages has these words"
            )),
            (true, false) => Err("no message has these words".to_owned()),
            _ => Ok(found.join("\n")),
        }
    }

    async fn find(&self, words: &[&str]) -> Result<(Vec<String>, usize)> {
        let (mut found, mut looked_at) = (Vec::new(), 0);
        let own = ConversationFilter::default().owned_by(self.owner.clone());
        let mut conversations = ListQuery::filtered(own).limit(AT_ONCE);
        loop {
            let page = self.storage.conversations().list(&conversations).await?;
            for conversation in page.items {
                let of_chat = MessageFilter::of(conversation.id);
                let mut messages = ListQuery::filtered(of_chat)
                    .limit(AT_ONCE)
                    .max_bytes(BYTES_AT_ONCE);
                loop {
                    let page = self.storage.messages().list(&messages).await?;
                    looked_at += page.items.len();
                    let matching = page.items.iter().filter(|message| matches(message, words));
                    found.extend(matching.map(quoted));
                    if found.len() >= FOUND || looked_at >= LOOKED_AT {
                        found.truncate(FOUND);
                        return Ok((found, looked_at));
                    }
                    let Some(next) = page.next else { break };
                    messages = messages.after(next);
                }
            }
            let Some(next) = page.next else {
                return Ok((found, looked_at));
            };
            conversations = conversations.after(next);
        }
    }
}

fn matches(message: &Message, words: &[&str]) -> bool {
    let content = message.content.to_lowercase();
    matches!(message.role, Role::User | Role::Assistant)
        && words.iter().all(|word| content.contains(word))
}

fn quoted(message: &Message) -> String {
    let words: Vec<_> = message.content.split_whitespace().collect();
    let words = words.join(" ");
    let quote: String = words.chars().take(QUOTED).collect();
    let (conversation, role) = (message.conversation_id, &message.role);
    let day = message.created_at.format("%F");
    format!("{conversation} {day} {role}: {quote}")
}

/// What the caller is told; of what is not the caller's fault the log says more.
fn unavailable(error: Error) -> String {
    if let Error::InvalidInput { .. } = error {
        return error.to_string();
    }
    tracing::error!(error = error_chain(&error), "memory not reached");
    "the memory can't be reached, try again".to_owned()
}

/// The tools as the protocol describes them.
fn described(tools: &Toolbox<()>) -> Vec<McpTool> {
    let specs = tools.specs().into_iter().map(|spec| {
        let reads = spec.traits.is_repeatable;
        let Json::Object(schema) = spec.parameters else {
            return McpTool::new(spec.name, spec.description, serde_json::Map::new());
        };
        let annotations = ToolAnnotations::new()
            .read_only(reads)
            .destructive(false)
            .idempotent(true)
            .open_world(false);
        McpTool::new(spec.name, spec.description, schema).with_annotations(annotations)
    });
    specs.collect()
}

/// Answers by the protocol; `memory` says whose memory a request is about.
#[derive(Clone)]
pub(crate) struct McpMemory<F>(pub(crate) F);

impl<F> ServerHandler for McpMemory<F>
where
    F: Fn(&RequestContext<RoleServer>) -> Result<Memory, ErrorData> + Clone + Send + Sync + 'static,
{
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("agentkit", env!("CARGO_PKG_VERSION")))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = self.0(&context)?.tools();
        Ok(ListToolsResult::with_all_items(described(&tools)))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tools = self.0(&context)?.tools();
        if !Tools::<()>::has(&tools, &request.name) {
            let reason = format!("there is no tool `{}`", request.name);
            return Err(ErrorData::invalid_params(reason, None));
        }
        let arguments = Json::Object(request.arguments.unwrap_or_default());
        let call = ToolCall::new("call", request.name, arguments);
        let mut state = AgentState::default();
        let outcome = tools
            .run(&Context::detached(), &call, &mut state, None)
            .await;
        let (ToolOutcome::Result(text) | ToolOutcome::Ask(text)) = outcome;
        let result = match text.strip_prefix(FAILED) {
            Some(reason) => CallToolResult::error(vec![ContentBlock::text(reason)]),
            None => CallToolResult::success(vec![ContentBlock::text(text)]),
        };
        Ok(result.into())
    }
}
