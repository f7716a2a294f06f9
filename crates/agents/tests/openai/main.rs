//! The model's agent against a server on loopback that speaks the real wire format.

mod compaction;
mod responses;
mod streams;
mod strict;

use std::{
    convert::Infallible,
    error::Error,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use yai_agentkit_agents::{
    openai::{OpenAiAgent, OpenAiConfig},
    tools::Memory,
};
use yai_agentkit_core::Role;
use yai_agentkit_engine::agent::{
    Agent, AgentError, AgentState, ChatMessage, Context, Step, ToolCall, ToolOutcome,
};
use yai_agentkit_engine::{ClientContext, ClientInput, ClientTool};

const KEY: &str = "sk-secret-of-the-tests";

/// Gives the replies in turn, the last one for ever, and keeps what it was asked.
#[derive(Clone)]
struct Endpoint {
    base_url: String,
    replies: Arc<Mutex<Vec<Reply>>>,
    requests: Arc<Mutex<Vec<(HeaderMap, Json)>>>,
}

#[derive(Clone)]
struct Reply {
    status: StatusCode,
    retry_after: Option<&'static str>,
    delay: Duration,
    content_type: &'static str,
    body: String,
}

impl Reply {
    fn new(status: u16, body: impl ToString) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            delay: Duration::ZERO,
            content_type: "application/json",
            body: body.to_string(),
        }
    }

    /// A whole completion, with the fields that the real API sends.
    fn completion(message: Json, finish_reason: &str) -> Self {
        let choice = json!({
            "index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason
        });
        let completion = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1_760_000_000,
            "model": "test-model-2026", "choices": [choice], "service_tier": "of a later day",
            "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
        });
        Self::new(200, completion)
    }

    /// Chunks, as the real API streams them; what a broken server leaves out is up to `end`.
    fn stream(deltas: impl IntoIterator<Item = Json>, end: &str) -> Self {
        let chunks = deltas.into_iter().map(|choice| {
            let chunk = json!({
                "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_760_000_000,
                "model": "test-model-2026", "choices": [choice], "usage": null
            });
            format!("data: {chunk}\n\n")
        });
        Self {
            content_type: "text/event-stream; charset=utf-8",
            ..Self::new(200, chunks.collect::<String>() + end)
        }
    }

    fn text(content: &str) -> Self {
        let message = json!({"role": "assistant", "content": content, "refusal": null});
        Self::completion(message, "stop")
    }

    fn tool_calls(calls: &[(&str, &str, &str)]) -> Self {
        let calls: Vec<_> = calls
            .iter()
            .map(|(id, name, arguments)| {
                let function = json!({"name": name, "arguments": arguments});
                json!({"id": id, "type": "function", "function": function})
            })
            .collect();
        let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
        Self::completion(message, "tool_calls")
    }

    fn error(status: u16, kind: &str, message: &str) -> Self {
        let error = json!({"message": message, "type": kind, "param": null, "code": null});
        Self::new(status, json!({"error": error}))
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        let content_type = self.content_type.parse().unwrap();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        if let Some(wanted) = self.retry_after {
            let wanted = wanted.parse().unwrap();
            response.headers_mut().insert(header::RETRY_AFTER, wanted);
        }
        response
    }
}

impl Endpoint {
    async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Self {
            base_url: format!("http://{}/v1", listener.local_addr().unwrap()),
            replies: Arc::new(Mutex::new(replies.into_iter().collect())),
            requests: Arc::default(),
        };
        let app = Router::new()
            .route("/v1/chat/completions", post(Self::complete))
            .route("/v1/responses", post(Self::complete))
            .with_state(endpoint.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        endpoint
    }

    async fn complete(
        State(this): State<Self>,
        uri: Uri,
        headers: HeaderMap,
        body: String,
    ) -> Response {
        let body: Json = serde_json::from_str(&body).unwrap();
        let unfit = strict::refusal(uri.path(), &body);
        this.requests.lock().unwrap().push((headers, body));
        if let Some(reason) = unfit {
            return Reply::error(400, "invalid_request_error", &reason).into_response();
        }
        let reply = {
            let mut replies = this.replies.lock().unwrap();
            if replies.len() > 1 {
                replies.remove(0)
            } else {
                replies[0].clone()
            }
        };
        tokio::time::sleep(reply.delay).await;
        reply.into_response()
    }

    fn config(&self) -> OpenAiConfig {
        OpenAiConfig {
            base_url: self.base_url.clone(),
            ..OpenAiConfig::new(KEY, "test-model")
        }
    }

    async fn step(&self, state: &AgentState<Memory>) -> Result<Step, AgentError> {
        let agent = OpenAiAgent::new(self.config()).unwrap();
        decide(&agent, state).await
    }

    fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn body(&self, index: usize) -> Json {
        self.requests.lock().unwrap()[index].1.clone()
    }
}

async fn decide(agent: &OpenAiAgent, state: &AgentState<Memory>) -> Result<Step, AgentError> {
    agent.step(&Context::detached(), &mut state.clone()).await
}

async fn run(agent: &OpenAiAgent, call: &ToolCall, state: &mut AgentState<Memory>) -> String {
    let context = Context::detached();
    let outcome = agent.tools().run(&context, call, state, None);
    match outcome.await {
        ToolOutcome::Result(result) => result,
        ToolOutcome::Ask(question) => panic!("the tool asks {question}"),
    }
}

fn saying(text: &str) -> AgentState<Memory> {
    AgentState {
        messages: vec![ChatMessage::new(Role::User, text)].into(),
        ..AgentState::default()
    }
}

/// The reason of an error, and whether trying again can help. Nothing of it may show the key.
fn outcome(step: Result<Step, AgentError>) -> (String, bool) {
    let error = step.expect_err("the step fails");
    let mut shown = format!("{error:?}");
    let mut cause: Option<&dyn Error> = Some(&error);
    while let Some(error) = cause {
        shown.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(!shown.contains(KEY), "{shown}");
    match error {
        AgentError::Unavailable { reason, .. } => (reason, true),
        AgentError::Refused { reason, .. } => (reason, false),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_plain_answer_is_the_answer() {
    let endpoint = Endpoint::start([Reply::text("Hello, Ada.")]).await;
    let mut state = saying("Hello");
    state.own.facts.insert("name".to_owned(), "Ada".to_owned());

    let step = endpoint.step(&state).await.unwrap();
    assert_eq!(step, Step::Answer("Hello, Ada.".to_owned()));

    let headers = endpoint.requests.lock().unwrap()[0].0.clone();
    assert_eq!(headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(headers["content-type"], "application/json");
    let body = endpoint.body(0);
    assert_eq!(body["model"], "test-model");
    let system = body["messages"][0]["content"].as_str().unwrap();
    assert_eq!(body["messages"][0]["role"], "system");
    assert!(
        system.contains("`remember`") && system.contains("name: Ada"),
        "{system}"
    );
    assert_eq!(
        body["messages"][1],
        json!({"role": "user", "content": "Hello"})
    );
    let tools = body["tools"].as_array().unwrap();
    let names: Vec<_> = tools
        .iter()
        .map(|tool| tool["function"]["name"].as_str())
        .collect();
    let expected = [
        "calculate",
        "current_time",
        "remember",
        "recall",
        "search_history",
    ];
    assert_eq!(names, expected.map(Some));
    assert_eq!(tools[0]["type"], "function");
    let schema = &tools[0]["function"]["parameters"];
    assert_eq!(schema["required"], json!(["expression"]));
}

#[tokio::test]
async fn the_system_prompt_can_be_replaced() {
    let endpoint = Endpoint::start([Reply::text("Arr.")]).await;
    let config = OpenAiConfig {
        system_prompt: Some("Talk like a pirate.".to_owned()),
        base_url: format!("{}/", endpoint.base_url),
        ..endpoint.config()
    };
    let agent = OpenAiAgent::new(config).unwrap();
    decide(&agent, &saying("Hi")).await.unwrap();
    assert_eq!(
        endpoint.body(0)["messages"][0]["content"],
        "Talk like a pirate."
    );
}

#[tokio::test]
async fn a_model_is_told_of_the_tools_and_the_context_of_the_client() {
    let endpoint = Endpoint::start([Reply::text("Hello!")]).await;
    let tool = |name: &str| ClientTool {
        name: name.to_owned(),
        description: "What the client does".to_owned(),
        parameters: json!({"type": "object"}),
    };
    let mut state = saying("Hello");
    state.client = Arc::new(ClientInput {
        tools: vec![tool("pick"), tool("calculate")],
        context: vec![ClientContext {
            description: "The page".to_owned(),
            value: "Prices".to_owned(),
        }],
        forwarded: Json::Null,
        ..ClientInput::default()
    });
    endpoint.step(&state).await.unwrap();
    let body = endpoint.body(0);
    let prompt = body["messages"][0]["content"].as_str().unwrap();
    assert!(prompt.ends_with("The page:\nPrices"), "{prompt}");
    let tools = body["tools"].as_array().unwrap().iter();
    let tools = tools.map(|tool| &tool["function"]);
    let named = |name: &str| {
        let named = tools.clone().filter(|tool| tool["name"] == *name);
        named.cloned().collect::<Vec<_>>()
    };
    for name in ["pick", "calculate"] {
        let told = json!({
            "name": name,
            "description": "What the client does",
            "parameters": {"type": "object"},
        });
        assert_eq!(named(name), [told], "the client's comes before its own");
    }
    assert_eq!(named("remember").len(), 1);
}

/// What the model has said with its calls, and their results, as the engine adds them.
async fn run_all(
    agent: &OpenAiAgent,
    state: &mut AgentState<Memory>,
    content: String,
    calls: Vec<ToolCall>,
) {
    state.messages.push(ChatMessage {
        tool_calls: calls.clone(),
        ..ChatMessage::new(Role::Assistant, content)
    });
    for call in calls {
        let result = run(agent, &call, state).await;
        state.messages.push(ChatMessage {
            tool_call_id: Some(call.id),
            ..ChatMessage::new(Role::Tool, result)
        });
    }
}

/// A step, and what was said while it was made.
async fn hear(
    agent: &OpenAiAgent,
    state: &AgentState<Memory>,
) -> (Result<Step, AgentError>, Vec<String>) {
    let (context, mut receiver) = Context::detached().heard();
    let step = agent.step(&context, &mut state.clone()).await;
    drop(context);
    let mut heard = Vec::new();
    while let Some(delta) = receiver.recv().await {
        heard.push(delta);
    }
    (step, heard)
}

#[tokio::test]
async fn tool_calls_and_their_results_go_round() {
    let calls = Reply::tool_calls(&[
        ("call_a", "calculate", r#"{"expression": "17 * 23"}"#),
        ("call_b", "remember", r#"{"name": "name", "value": "Ada"}"#),
    ]);
    let endpoint = Endpoint::start([calls, Reply::text("391, Ada.")]).await;
    let agent = OpenAiAgent::new(endpoint.config()).unwrap();
    let mut state = saying("My name is Ada. What is 17 * 23?");

    let Step::ToolCalls { content, calls } = decide(&agent, &state).await.unwrap() else {
        panic!("the model calls tools");
    };
    assert_eq!(calls[0].arguments, json!({"expression": "17 * 23"}));
    run_all(&agent, &mut state, content, calls).await;
    let step = decide(&agent, &state).await.unwrap();
    assert_eq!(step, Step::Answer("391, Ada.".to_owned()));
    assert_eq!(state.own.facts["name"], "Ada");

    let body = endpoint.body(1);
    let messages = body["messages"].as_array().unwrap();
    let decision = json!({"role": "assistant", "tool_calls": [
        {"id": "call_a", "type": "function",
         "function": {"name": "calculate", "arguments": r#"{"expression":"17 * 23"}"#}},
        {"id": "call_b", "type": "function",
         "function": {"name": "remember", "arguments": r#"{"name":"name","value":"Ada"}"#}},
    ]});
    assert_eq!(messages[2], decision);
    let sum = json!({"role": "tool", "tool_call_id": "call_a", "content": "391"});
    assert_eq!(messages[3], sum);
    assert_eq!(messages[4]["tool_call_id"], "call_b");
    assert_eq!(messages.len(), 5);
}

#[tokio::test]
async fn broken_arguments_reach_the_tool_and_go_back_unchanged() {
    let calls = Reply::tool_calls(&[("call_a", "calculate", "{\"expression\": ")]);
    let endpoint = Endpoint::start([calls, Reply::text("Sorry.")]).await;
    let agent = OpenAiAgent::new(endpoint.config()).unwrap();
    let mut state = saying("What is 17 * 23?");
    let Step::ToolCalls { calls, .. } = decide(&agent, &state).await.unwrap() else {
        panic!("the model calls a tool");
    };
    let result = run(&agent, &calls[0], &mut state).await;
    assert!(
        result.starts_with("Error: the arguments do not fit"),
        "{result}"
    );
    state.messages.push(ChatMessage {
        tool_calls: calls,
        ..ChatMessage::new(Role::Assistant, "")
    });
    state.messages.push(ChatMessage {
        tool_call_id: Some("call_a".to_owned()),
        ..ChatMessage::new(Role::Tool, result)
    });
    decide(&agent, &state).await.unwrap();
    let call = &endpoint.body(1)["messages"][2]["tool_calls"][0];
    assert_eq!(call["function"]["arguments"], "{\"expression\": ");
}

#[tokio::test]
async fn call_ids_are_made_unique_in_the_thread() {
    let calls = Reply::tool_calls(&[
        ("call_a", "current_time", ""),
        ("call_b", "current_time", "{}"),
        ("call_b", "current_time", "{}"),
        ("", "current_time", "{}"),
    ]);
    let endpoint = Endpoint::start([calls]).await;
    let earlier = ToolCall::new("call_a", "current_time", json!({}));
    let mut state = saying("What time is it?");
    state.messages.push(ChatMessage {
        tool_calls: vec![earlier],
        ..ChatMessage::new(Role::Assistant, "")
    });
    state
        .messages
        .push(ChatMessage::new(Role::User, "And now?"));
    let Step::ToolCalls { calls, .. } = endpoint.step(&state).await.unwrap() else {
        panic!("the model calls tools");
    };
    let ids: Vec<_> = calls.iter().map(|call| call.id.as_str()).collect();
    assert_eq!(ids, ["call_3_1", "call_b", "call_3_3", "call_3_4"]);
    assert_eq!(calls[0].arguments, json!({}));
    // The call of a turn given up has no result, so the endpoint would refuse it.
    let roles: Vec<_> = endpoint.body(0)["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["role"].clone())
        .collect();
    assert_eq!(roles, ["system", "user", "user"]);
}

#[tokio::test]
async fn a_rate_limit_is_waited_for() {
    let mut limited = Reply::error(429, "requests", "Rate limit reached");
    limited.retry_after = Some("1");
    let endpoint = Endpoint::start([limited, Reply::text("Here I am.")]).await;
    let start = Instant::now();
    let step = endpoint.step(&saying("Hello")).await.unwrap();
    assert_eq!(step, Step::Answer("Here I am.".to_owned()));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(endpoint.asked(), 2);
}

#[tokio::test]
async fn a_lasting_rate_limit_is_unavailable_after_a_few_retries() {
    let endpoint = Endpoint::start([Reply::new(429, "slow down")]).await;
    let (reason, can_help) = outcome(endpoint.step(&saying("Hello")).await);
    assert_eq!(reason, "429 Too Many Requests: slow down");
    assert!(can_help);
    assert_eq!(endpoint.asked(), 3);
}

#[tokio::test]
async fn a_long_rate_limit_is_not_waited_for() {
    let mut limited = Reply::error(429, "requests", "Rate limit reached");
    limited.retry_after = Some("3600");
    let endpoint = Endpoint::start([limited]).await;
    assert!(outcome(endpoint.step(&saying("Hello")).await).1);
    assert_eq!(endpoint.asked(), 1);
}

#[tokio::test]
async fn a_date_until_which_to_wait_is_heeded() {
    let mut limited = Reply::error(503, "overloaded", "Later");
    limited.retry_after = Some("Wed, 21 Oct 2015 07:28:00 GMT");
    let endpoint = Endpoint::start([limited.clone(), Reply::text("Here I am.")]).await;
    let step = endpoint.step(&saying("Hello")).await.unwrap();
    assert_eq!(step, Step::Answer("Here I am.".to_owned()));
    limited.retry_after = Some("Fri, 31 Dec 2399 23:59:59 GMT");
    let endpoint = Endpoint::start([limited]).await;
    assert!(outcome(endpoint.step(&saying("Hello")).await).1);
    assert_eq!(endpoint.asked(), 1);
}

#[tokio::test]
async fn temperature_and_format_are_told_where_they_are_given() {
    let endpoint = Endpoint::start([Reply::text("{}")]).await;
    endpoint.step(&saying("Hello")).await.unwrap();
    let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let config = OpenAiConfig {
        temperature: Some(0.5),
        response_schema: Some(schema.clone()),
        ..endpoint.config()
    };
    let agent = OpenAiAgent::new(config).unwrap();
    decide(&agent, &saying("Hello")).await.unwrap();
    let (plain, given) = (endpoint.body(0), endpoint.body(1));
    assert!(plain.get("temperature").is_none() && plain.get("response_format").is_none());
    assert_eq!(given["temperature"], 0.5);
    let format = &given["response_format"];
    assert_eq!(
        (&format["type"], &format["json_schema"]["schema"]),
        (&json!("json_schema"), &schema)
    );
}

#[tokio::test]
async fn an_exhausted_quota_is_refused_at_once() {
    let endpoint =
        Endpoint::start([Reply::error(429, "insufficient_quota", "No money left")]).await;
    let (reason, can_help) = outcome(endpoint.step(&saying("Hello")).await);
    assert_eq!(reason, "429 Too Many Requests: No money left");
    assert!(!can_help);
    assert_eq!(endpoint.asked(), 1);
}

#[tokio::test]
async fn a_server_error_is_unavailable_after_a_few_retries() {
    let endpoint = Endpoint::start([Reply::error(500, "server_error", "Oh no")]).await;
    let (reason, can_help) = outcome(endpoint.step(&saying("Hello")).await);
    assert_eq!(reason, "500 Internal Server Error: Oh no");
    assert!(can_help);
    assert_eq!(endpoint.asked(), 3);
}

#[tokio::test]
async fn a_server_error_that_passes_is_not_seen() {
    let endpoint = Endpoint::start([Reply::new(503, ""), Reply::text("Back.")]).await;
    let step = endpoint.step(&saying("Hello")).await.unwrap();
    assert_eq!(step, Step::Answer("Back.".to_owned()));
}

#[tokio::test]
async fn a_slow_answer_is_unavailable_within_the_timeout() {
    let mut slow = Reply::text("At last.");
    slow.delay = Duration::from_secs(60);
    let endpoint = Endpoint::start([slow]).await;
    let config = OpenAiConfig {
        timeout: Duration::from_millis(300),
        ..endpoint.config()
    };
    let start = Instant::now();
    let step = decide(&OpenAiAgent::new(config).unwrap(), &saying("Hello")).await;
    let (reason, can_help) = outcome(step);
    assert_eq!(reason, "it did not answer within 300ms");
    assert!(can_help);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_refused_connection_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = OpenAiConfig {
        base_url: format!("http://{address}/v1"),
        ..OpenAiConfig::new(KEY, "test-model")
    };
    let step = decide(&OpenAiAgent::new(config).unwrap(), &saying("Hello")).await;
    assert_eq!(outcome(step), ("can't connect to it".to_owned(), true));
}

#[tokio::test]
async fn nonsense_is_refused() {
    for body in ["not json", "{}", "[]", "{\"choices\": 7}", "\u{0}"] {
        let endpoint = Endpoint::start([Reply::new(200, body)]).await;
        let (reason, can_help) = outcome(endpoint.step(&saying("Hello")).await);
        assert_eq!(reason, "its answer is not a chat completion");
        assert!(!can_help);
        assert_eq!(endpoint.asked(), 1);
    }
    let endpoint = Endpoint::start([Reply::new(200, json!({"choices": []}))]).await;
    let (reason, _) = outcome(endpoint.step(&saying("Hello")).await);
    assert_eq!(reason, "its answer has no choices");
}

#[tokio::test]
async fn an_empty_answer_is_refused() {
    let empty = json!({"role": "assistant", "content": ""});
    let endpoint = Endpoint::start([Reply::completion(empty, "content_filter")]).await;
    let (reason, can_help) = outcome(endpoint.step(&saying("Hello")).await);
    assert_eq!(
        reason,
        "its answer is empty (finish reason `content_filter`)"
    );
    assert!(!can_help);
}

#[tokio::test]
async fn a_refusal_in_words_is_an_answer() {
    let refusal = json!({"role": "assistant", "content": null, "refusal": "I can't help with it."});
    let endpoint = Endpoint::start([Reply::completion(refusal, "stop")]).await;
    let step = endpoint.step(&saying("Hello")).await.unwrap();
    assert_eq!(step, Step::Answer("I can't help with it.".to_owned()));
}

#[tokio::test]
async fn an_answer_cut_off_says_so() {
    let half = json!({"role": "assistant", "content": "Once upon a"});
    let endpoint = Endpoint::start([Reply::completion(half, "length")]).await;
    let Step::Answer(answer) = endpoint.step(&saying("A tale")).await.unwrap() else {
        panic!("the model answers");
    };
    assert_eq!(
        answer,
        "Once upon a\n\n[The answer was cut off at the model's limit.]"
    );
}

#[tokio::test]
async fn client_errors_are_refused_at_once_without_the_key() {
    let repeated = format!("Incorrect API key provided: {KEY}.");
    for (reply, expected) in [
        (
            Reply::error(401, "invalid_request_error", &repeated),
            "401 Unauthorized: Incorrect API key provided: [key].",
        ),
        (
            Reply::new(400, json!({"error": {"message": "Bad", "code": 400}})),
            "400 Bad Request: Bad",
        ),
        (
            Reply::new(404, json!({"error": "no such model"})),
            "404 Not Found: no such model",
        ),
        (
            Reply::new(403, "<html>no</html>"),
            "403 Forbidden: <html>no</html>",
        ),
        (Reply::new(422, ""), "422 Unprocessable Entity"),
    ] {
        let endpoint = Endpoint::start([reply]).await;
        let (reason, can_help) = outcome(endpoint.step(&saying("Hello")).await);
        assert_eq!(reason, expected);
        assert!(!can_help);
        assert_eq!(endpoint.asked(), 1);
    }
}

#[test]
fn settings_that_cannot_work_are_named() {
    let config = OpenAiConfig::new(KEY, "test-model");
    for (setting, config) in [
        (
            "OPENAI_BASE_URL",
            OpenAiConfig {
                base_url: "localhost:1".to_owned(),
                ..config.clone()
            },
        ),
        (
            "OPENAI_BASE_URL",
            OpenAiConfig {
                base_url: format!("http://user:{KEY}@localhost/v1"),
                ..config.clone()
            },
        ),
        (
            "OPENAI_API_KEY",
            OpenAiConfig {
                api_key: format!("{KEY}\n"),
                ..config.clone()
            },
        ),
        (
            "OPENAI_MODEL",
            OpenAiConfig {
                model: " ".to_owned(),
                ..config.clone()
            },
        ),
    ] {
        let error = OpenAiAgent::new(config)
            .err()
            .expect("the setting is refused");
        assert!(error.to_string().starts_with(setting), "{error}");
        assert!(!error.to_string().contains(KEY), "{error}");
    }
    assert!(!format!("{config:?}").contains(KEY));
}
