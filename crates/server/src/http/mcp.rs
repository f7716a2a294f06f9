//! The memory for agents of others, by MCP's streamable HTTP: without sessions, an answer a request.

use std::sync::Arc;

use axum::Router;
use rmcp::{
    ErrorData, RoleServer,
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
    },
};
use yai_agentkit_core::access::Scope;

use super::{App, Caller};
use crate::mcp::{McpAccess, McpMemory, Memory};

/// Where it is.
pub(super) const PATH: &str = "/mcp";

/// The route, where somebody may use it.
pub(super) fn routes(app: &App, access: McpAccess, body_limit: usize) -> Router<App> {
    if access == McpAccess::Off {
        return Router::new();
    }
    let storage = Arc::clone(&app.storage);
    let memory = move |context: &RequestContext<RoleServer>| {
        let parts = context.extensions.get::<axum::http::request::Parts>();
        let own = parts.and_then(|parts| parts.extensions.get::<App>());
        let caller = parts.and_then(|parts| parts.extensions.get::<Caller>());
        let caller = caller.ok_or_else(|| ErrorData::internal_error("nobody calls", None))?;
        Ok(Memory {
            storage: Arc::clone(own.map_or(&storage, |app| &app.storage)),
            owner: caller.owner(),
            may_write: access == McpAccess::Write && caller.may(Scope::Write),
        })
    };
    let handler = McpMemory(memory);
    let config = StreamableHttpServerConfig::default()
        // The server's own check comes first.
        .disable_allowed_hosts()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(body_limit);
    let sessions = Arc::new(NeverSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(handler.clone()), sessions, config);
    Router::new().route_service(PATH, service)
}
