//! The HTTP interface: JSON over [`axum`], described by `/openapi.json`, to try at `/docs`.
#![expect(unused_qualifications, reason = "utoipa's macros write them")]

mod agui;
mod audit;
mod caller;
mod chat;
pub mod connection;
mod conversation;
mod document;
mod event;
mod export;
mod extract;
mod health;
pub mod host;
mod import;
mod jwt;
mod large;
mod mcp;
mod owner;
mod page;
mod problem;
mod rate;
mod state;
mod store;
pub mod tls;
mod turn;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{self, HeaderValue},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    timeout::RequestBodyDeadlineLayer,
    trace::TraceLayer,
};
use tracing::Span;
use utoipa_axum::router::OpenApiRouter;
use yai_agentkit_core::Storage;

use yai_agentkit_engine::TurnEngine;

use self::host::Access;

pub use caller::Caller;
pub(crate) use chat::MessageBody;
pub(crate) use conversation::ConversationBody;
pub use jwt::JwtConfig;
pub use rate::Quota;
pub(crate) use state::ThreadBody;
pub(crate) use turn::TurnBody;

/// How long a client may take to send a body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// What the handlers work on.
#[derive(Clone)]
pub struct App {
    /// What is remembered. Where that is divided among tenants, each request works on what its caller's
    /// tenant has.
    pub storage: Arc<dyn Storage>,
    /// What answers.
    pub turns: Arc<TurnEngine>,
}

/// Every route of the server, for those who have `access`; a body may have `body_limit` bytes.
pub fn router(app: App, access: Access, body_limit: usize) -> Router {
    let gate = caller::Gate::new(app.clone(), &access);
    let (router, api) = OpenApiRouter::with_openapi(document::base())
        .merge(conversation::routes())
        .merge(chat::routes())
        .merge(import::routes())
        .merge(export::routes())
        .merge(state::routes())
        .merge(turn::routes())
        .merge(event::routes())
        .merge(agui::routes())
        .merge(store::routes())
        .merge(owner::routes())
        .merge(audit::routes())
        .merge(health::routes())
        .split_for_parts();
    let mcp = mcp::routes(&app, access.mcp, body_limit);
    let origins = access.origins.layer();
    let frame = Frame {
        access,
        gate,
        room: large::Room::default(),
    };
    router
        .merge(document::routes(api))
        .merge(mcp)
        .fallback(problem::unknown_route)
        .method_not_allowed_fallback(problem::wrong_method)
        .with_state(app)
        .layer(
            // As one, since a router boxes every route anew for each of its layers.
            ServiceBuilder::new()
                .layer(SetRequestIdLayer::x_request_id(RandomId))
                .layer(PropagateRequestIdLayer::x_request_id())
                .layer(
                    TraceLayer::new_for_http()
                        .make_span_with(span)
                        .on_request(())
                        .on_response(log_response)
                        // The failure itself is logged where it is rendered.
                        .on_failure(()),
                )
                .option_layer(origins)
                .layer(middleware::from_fn_with_state(Arc::new(frame), around))
                .layer(CatchPanicLayer::custom(problem::panicked))
                .layer(RequestBodyDeadlineLayer::new(BODY_DEADLINE))
                .layer(DefaultBodyLimit::max(body_limit)),
        )
}

/// What every request goes through, and every answer.
struct Frame {
    access: Access,
    gate: caller::Gate,
    room: large::Room,
}

/// One for all of it, since each boxes the request's whole way anew.
async fn around(State(frame): State<Arc<Frame>>, mut request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().cloned();
    request.extensions_mut().insert(frame.room.clone());
    let response = match frame.access.admit(&request) {
        Ok(()) => match frame.gate.admit(request).await {
            Ok(request) => {
                let request = frame.room.admit(request);
                frame.room.bound(next.run(request).await).await
            }
            Err(refusal) => refusal.into_response(),
        },
        Err(problem) => problem.into_response(),
    };
    problem::render(id, response).await
}

/// Tells requests apart, and is no secret: it costs no call of the system.
#[derive(Clone)]
struct RandomId;

impl MakeRequestId for RandomId {
    fn make_request_id<B>(&mut self, _: &http::Request<B>) -> Option<RequestId> {
        let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
        HeaderValue::try_from(id.to_string())
            .ok()
            .map(RequestId::new)
    }
}

fn span(request: &Request) -> Span {
    let request_id = request
        .extensions()
        .get::<RequestId>()
        .and_then(|id| id.header_value().to_str().ok());
    tracing::info_span!(
        "request",
        method = %request.method(),
        path = request.uri().path(),
        request_id,
        caller = tracing::field::Empty,
    )
}

fn log_response(response: &Response, latency: Duration, _: &Span) {
    let (status, microseconds) = (response.status().as_u16(), latency.as_micros());
    tracing::info!(status, microseconds, "answered");
}
