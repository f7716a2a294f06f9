//! Tools of servers that speak the Model Context Protocol (MCP), over a program's standard input and
//! output or over HTTP.
//!
//! A server that dies is the result of a call, not the end of a turn: it is started or connected to
//! again by the next one. See `docs/mcp.md`.

mod config;
mod connection;
mod content;

use std::{
    borrow::Cow,
    sync::{Arc, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use rmcp::model::{CallToolRequestParams, CallToolResult, JsonObject};
use serde_json::Value as Json;
use tokio::sync::Mutex;
use yai_agentkit_engine::agent::{
    AgentState, Context, ToolCall, ToolOutcome, ToolSpec, ToolTraits, Tools,
};

pub use self::config::{McpConfig, McpTransport, ToolRules};
use self::connection::Connection;
use crate::asking::{Failure, Patience};

/// How often the tools are asked for again, and a server that is away is looked for.
const LOOK: Duration = Duration::from_secs(30);
/// For how long a server that fails is asked again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between the name of a server and that of a tool.
const SEPARATOR: &str = "__";
/// What models take for a name.
const MAX_NAME: usize = 64;

/// The tools of a server, as `SERVER__TOOL`.
pub struct McpServer {
    config: McpConfig,
    /// `None` until it is needed, and again once it is known to be broken.
    connection: Mutex<Option<Arc<Connection>>>,
    /// The last that were listed: those of a server that is away are told of all the same.
    tools: RwLock<Vec<Listed>>,
}

struct Listed {
    /// Its name on the server.
    name: Cow<'static, str>,
    spec: ToolSpec,
}

impl McpServer {
    /// Connects, and goes on looking for the tools of the server while the result lives. A server
    /// that can't be reached yet has no tools yet; the log says so.
    pub async fn start(config: McpConfig) -> Arc<Self> {
        let server = Arc::new(Self {
            config,
            connection: Mutex::default(),
            tools: RwLock::default(),
        });
        let mut is_there = server.look(true).await;
        let looker = Arc::downgrade(&server);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(server) = looker.upgrade() else {
                    return;
                };
                is_there = server.look(is_there).await;
            }
        });
        server
    }

    /// Lists the tools, and returns whether the server is there.
    async fn look(&self, was_there: bool) -> bool {
        let listed = async {
            let connection = self.connection().await?;
            let tools = connection.tools().await;
            if tools.is_err() {
                self.give_up(&connection).await;
            }
            tools
        };
        match listed.await {
            Ok(tools) => {
                let mut listed: Vec<Listed> = Vec::new();
                for tool in tools {
                    let spec = self.spec(&tool);
                    if self.config.rules.allows(&tool.name)
                        && listed.iter().all(|known| known.spec.name != spec.name)
                    {
                        let name = tool.name;
                        listed.push(Listed { name, spec });
                    }
                }
                *self.tools.write().expect("nobody panics with it") = listed;
                true
            }
            Err(failure) => {
                if was_there {
                    let (server, reason) = (&self.config.name, failure.reason);
                    tracing::warn!(server, reason, "an MCP server can't be used");
                }
                false
            }
        }
    }

    fn spec(&self, tool: &rmcp::model::Tool) -> ToolSpec {
        let name = format!("{}{SEPARATOR}{}", self.config.name, tool.name);
        let is_taken = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let name = name.chars().map(|c| if is_taken(c) { c } else { '_' });
        ToolSpec {
            name: name.take(MAX_NAME).collect::<String>().into(),
            description: tool.description.clone().unwrap_or_default(),
            parameters: Json::Object((*tool.input_schema).clone()),
            traits: self.config.rules.traits(tool),
        }
    }

    /// The connection, made anew where there is none that works.
    async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = connection.as_ref().filter(|open| open.is_open()) {
            return Ok(Arc::clone(open));
        }
        *connection = None;
        let opened = Arc::new(Connection::open(&self.config).await?);
        *connection = Some(Arc::clone(&opened));
        Ok(opened)
    }

    async fn give_up(&self, broken: &Arc<Connection>) {
        let mut connection = self.connection.lock().await;
        if connection
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, broken))
        {
            *connection = None;
        }
    }

    /// Calls until there is a result. A call that `is_repeatable` is made again whatever happened,
    /// another only where the server can't have heard of it.
    async fn call(
        &self,
        params: CallToolRequestParams,
        is_repeatable: bool,
    ) -> Result<CallToolResult, Failure> {
        let mut patience = Patience::new(PATIENCE);
        loop {
            let failure = match self.connection().await {
                Ok(connection) => match connection.call(params.clone()).await {
                    Ok(result) => return Ok(result),
                    Err(failure) => {
                        if failure.can_help {
                            self.give_up(&connection).await;
                        }
                        failure
                    }
                },
                Err(failure) => failure,
            };
            patience.after(failure, is_repeatable).await?;
        }
    }

    /// What the server calls the tool that a model calls by `name`.
    fn own_name(&self, name: &str) -> Option<Cow<'static, str>> {
        let tools = self.tools.read().expect("nobody panics with it");
        let tool = tools.iter().find(|tool| tool.spec.name == name)?;
        Some(tool.name.clone())
    }
}

#[async_trait]
impl<S: Default + Send + Sync> Tools<S> for McpServer {
    fn specs(&self) -> Vec<ToolSpec> {
        let tools = self.tools.read().expect("nobody panics with it");
        tools.iter().map(|tool| tool.spec.clone()).collect()
    }

    /// Also of a server whose tools are not known yet: what it may have done must not be forgotten.
    fn has(&self, name: &str) -> bool {
        let own = name.strip_prefix(self.config.name.as_str());
        own.is_some_and(|own| own.starts_with(SEPARATOR))
    }

    /// As when the call was decided on: servers may change what they say of themselves.
    fn traits(&self, call: &ToolCall) -> ToolTraits {
        let tools = self.tools.read().expect("nobody panics with it");
        let tool = tools.iter().find(|tool| tool.spec.name == call.name);
        let known = call.traits.or(tool.map(|tool| tool.spec.traits));
        known.unwrap_or(ToolTraits {
            needs_approval: true,
            ..ToolTraits::default()
        })
    }

    async fn run(
        &self,
        _: &Context,
        call: &ToolCall,
        _: &mut AgentState<S>,
        _: Option<&str>,
    ) -> ToolOutcome {
        let arguments: JsonObject = match &call.arguments {
            Json::Object(arguments) => arguments.clone(),
            Json::Null => JsonObject::new(),
            _ => return ToolOutcome::failed("the arguments are no object"),
        };
        if self.own_name(&call.name).is_none() {
            // It may have come since.
            self.look(true).await;
        }
        let Some(name) = self.own_name(&call.name) else {
            let reason = format!("the server `{}` has no such tool now", self.config.name);
            return ToolOutcome::failed(reason);
        };
        let is_repeatable = Tools::<S>::traits(self, call).is_repeatable;
        let params = CallToolRequestParams::new(name).with_arguments(arguments);
        let called = tokio::time::timeout(self.config.timeout, self.call(params, is_repeatable));
        let failure = match called.await {
            Ok(Ok(result)) => return content::outcome(result),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::broken(format!(
                "it did not answer within {:?}",
                self.config.timeout
            )),
        };
        match failure.was_heard && failure.can_help && !is_repeatable {
            true => ToolOutcome::failed(format_args!(
                "{}; whether the tool has taken effect is not known",
                failure.reason
            )),
            false => ToolOutcome::failed(failure.reason),
        }
    }
}
