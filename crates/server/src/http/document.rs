use axum::Router;
use utoipa::{
    OpenApi,
    openapi::{
        ContentBuilder, OpenApi as Document, Ref, ResponseBuilder,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{
    App, caller,
    problem::{Problem, ProblemBody},
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "AgentKit",
        description = "The durable memory of stateful AI agents: conversations, and chats whose \
            turns survive a crash. Errors are RFC 9457 problems.",
    ),
    tags(
        (name = "conversations", description = "What was said"),
        (name = "chats", description = "Turns of the agent, and what it was doing"),
        (name = "threads", description = "What agents work in, of conversations and of LangGraph"),
        (name = "store", description = "Items that threads share, as LangGraph's clients know them"),
        (name = "health", description = "For operators"),
    ),
    components(schemas(ProblemBody)),
)]
struct Base;

/// The document without its paths.
pub(super) fn base() -> Document {
    Base::openapi()
}

/// `/openapi.json`, and `/docs` to read and try it, without any other site.
pub(super) fn routes(mut api: Document) -> Router<App> {
    add_keys(&mut api);
    for (path, item) in &mut api.paths.paths {
        let operations = [
            &mut item.get,
            &mut item.post,
            &mut item.put,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            let needs_key = !caller::is_open(path);
            if !needs_key {
                operation.security = Some(Vec::new());
            }
            add_problems(operation, path.contains('{'), needs_key);
        }
    }
    let page = Config::default()
        .try_it_out_enabled(true)
        .validator_url("none");
    SwaggerUi::new("/docs")
        .url("/openapi.json", api)
        .config(page)
        .into()
}

/// The keys, which every operation asks for but those that say otherwise.
fn add_keys(api: &mut Document) {
    const KEY: &str = "key";
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A key that `agentkit keys create` has made. While there is none, a server that \
             listens on loopback asks for none. With a key of no owner the header \
             `agentkit-owner` names for whom one acts: whose conversations one has.",
        ))
        .build();
    let components = api.components.get_or_insert_default();
    components.add_security_scheme(KEY, SecurityScheme::Http(scheme));
    api.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(
        KEY,
        [],
    )]);
}

/// The problems that every operation of its kind can answer with.
fn add_problems(operation: &mut Operation, names_one: bool, needs_key: bool) {
    let has_body = operation.request_body.is_some();
    let takes_input = has_body || operation.parameters.is_some();
    let problems = [
        (
            "400",
            takes_input,
            "The input is invalid; `field` says where",
        ),
        (
            "401",
            needs_key,
            "There are keys, and the request has none that is valid",
        ),
        ("403", needs_key, "The key does not allow this"),
        ("404", names_one, "It does not exist"),
        ("408", has_body, "The body did not arrive in time"),
        ("413", has_body, "The body is too large"),
        ("415", has_body, "The body is not JSON"),
        (
            "429",
            needs_key,
            "The owner has sent as many requests as the settings allow",
        ),
        ("500", true, "The server failed"),
        (
            "503",
            true,
            "The storage or the agent is unavailable, or the server is shutting down",
        ),
    ];
    for (status, _, description) in problems.into_iter().filter(|(_, applies, _)| *applies) {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .build();
        let response = ResponseBuilder::new()
            .description(description)
            .content(Problem::CONTENT_TYPE, content)
            .build();
        let responses = &mut operation.responses.responses;
        responses
            .entry(status.to_owned())
            .or_insert(response.into());
    }
}
