use std::{error::Error, process::Stdio, sync::Arc, time::Duration};

use rmcp::{
    RoleClient, ServiceExt,
    model::{
        CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, Implementation,
        Tool,
    },
    service::{RunningService, ServiceError},
    transport::{
        StreamableHttpClientTransport, TokioChildProcess, common::client_side_sse::FixedInterval,
        streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

use super::{McpConfig, McpTransport};
use crate::asking::Failure;

/// How long it may take to start a server, to shake hands, and to list its tools.
const START: Duration = Duration::from_secs(20);
/// How often a stream of HTTP that broke is picked up again.
const RECONNECTIONS: usize = 2;
/// What a server that is started gets of the environment.
const VARIABLES: [&str; 8] = [
    "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER",
];

/// A session with a server. Dropping it ends the server that was started for it.
pub(super) struct Connection(RunningService<RoleClient, ClientConfig>);

impl Connection {
    pub(super) async fn open(config: &McpConfig) -> Result<Self, Failure> {
        let information = Implementation::new("agentkit", env!("CARGO_PKG_VERSION"));
        let client = ClientConfig::new(ClientCapabilities::default(), information);
        let connected = async {
            let client = match &config.transport {
                McpTransport::Stdio {
                    program,
                    arguments,
                    variables,
                } => {
                    let command = command(program, arguments, variables);
                    let process = TokioChildProcess::builder(command);
                    let (process, log) = process
                        .stderr(Stdio::piped())
                        .spawn()
                        .map_err(|error| format!("`{program}` can't be started: {error}"))?;
                    if let Some(log) = log {
                        tokio::spawn(pass_on(config.name.clone(), log));
                    }
                    client.serve(process).await
                }
                McpTransport::Http { url, token } => {
                    let mut http = StreamableHttpClientTransportConfig::with_uri(url.as_str());
                    http.auth_header.clone_from(token);
                    // It would look for its stream for ever.
                    let mut patience = FixedInterval::default();
                    patience.max_times = Some(RECONNECTIONS);
                    http.retry_config = Arc::new(patience);
                    let with = crate::http_client().map_err(|error| error.to_string())?;
                    let transport = StreamableHttpClientTransport::with_client(with, http);
                    client.serve(transport).await
                }
            };
            client.map_err(|error| format!("can't connect to it: {error}"))
        };
        match tokio::time::timeout(START, connected).await {
            Ok(connected) => connected.map(Self).map_err(Failure::unheard),
            Err(_) => Err(Failure::unheard(format!(
                "it does not answer within {START:?}"
            ))),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.0.is_closed() && !self.0.is_transport_closed()
    }

    pub(super) async fn tools(&self) -> Result<Vec<Tool>, Failure> {
        match tokio::time::timeout(START, self.0.list_all_tools()).await {
            Ok(listed) => listed.map_err(failure),
            Err(_) => Err(Failure::broken("it does not list its tools")),
        }
    }

    pub(super) async fn call(
        &self,
        params: CallToolRequestParams,
    ) -> Result<CallToolResult, Failure> {
        self.0.call_tool(params).await.map_err(failure)
    }
}

fn failure(error: ServiceError) -> Failure {
    match error {
        ServiceError::TransportSend(error) => {
            let causes =
                std::iter::successors(Some(&error as &dyn Error), |cause| (**cause).source());
            let mut causes = causes.filter_map(|cause| cause.downcast_ref::<reqwest::Error>());
            match causes.any(reqwest::Error::is_connect) {
                true => Failure::unheard("can't connect to it"),
                false => Failure::broken("the connection broke"),
            }
        }
        ServiceError::TransportClosed => Failure::broken("the connection broke"),
        ServiceError::McpError(error) => Failure::refused(error.message),
        error => Failure::refused(error.to_string()),
    }
}

fn command(program: &str, arguments: &[String], variables: &[(String, String)]) -> Command {
    let mut command = Command::new(program);
    let inherited = VARIABLES
        .iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    command
        .args(arguments)
        .env_clear()
        .envs(inherited)
        .envs(variables.iter().map(|(name, value)| (name, value)));
    // Ctrl-C is for who lets running turns finish, not for their tools.
    #[cfg(unix)]
    command.process_group(0);
    command
}

/// Logs what the server writes to its standard error.
async fn pass_on(server: String, mut log: impl AsyncRead + Unpin) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = log.read(&mut buffer).await {
        for line in String::from_utf8_lossy(&buffer[..length]).lines() {
            tracing::info!(server, "{line}");
        }
    }
}
