//! Answers in pieces, and the dialects of those who send them.

use super::*;

/// The end of a stream that is whole.
const DONE: &str = "data: [DONE]\n\n";

fn delta(delta: Json, finish_reason: Option<&str>) -> Json {
    json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason})
}

/// A step, and what was said while it was made.
async fn heard(endpoint: &Endpoint) -> (Result<Step, AgentError>, Vec<String>) {
    let agent = OpenAiAgent::new(endpoint.config()).unwrap();
    hear(&agent, &saying("Hello")).await
}

#[tokio::test]
async fn a_streamed_answer_is_heard_as_it_comes() {
    let deltas = [
        delta(json!({"role": "assistant", "content": ""}), None),
        delta(json!({"content": "Good "}), None),
        delta(json!({"content": "day, 世界"}), None),
        delta(json!({}), Some("stop")),
    ];
    let endpoint = Endpoint::start([Reply::stream(deltas, DONE)]).await;
    let (step, heard) = heard(&endpoint).await;
    assert_eq!(step.unwrap(), Step::Answer("Good day, 世界".to_owned()));
    assert_eq!(heard, ["Good ", "day, 世界"]);
    assert_eq!(endpoint.body(0)["stream"], true);
}

#[tokio::test]
async fn streamed_tool_calls_are_put_together_by_their_index() {
    let call = |call: Json| delta(json!({"tool_calls": [call]}), None);
    let deltas = [
        delta(json!({"role": "assistant", "content": "Let me see."}), None),
        call(json!({"index": 0, "id": "a", "function": {"name": "recall", "arguments": ""}})),
        call(
            json!({"index": 1, "id": "b", "function": {"name": "calculate", "arguments": "{\"ex"}}),
        ),
        call(json!({"index": 0, "function": {"arguments": "{}"}})),
        call(json!({"index": 1, "function": {"arguments": "pression\": \"1 + 1\"}"}})),
        delta(json!({}), Some("tool_calls")),
    ];
    let endpoint = Endpoint::start([Reply::stream(deltas, DONE)]).await;
    let (step, heard) = heard(&endpoint).await;
    let call = |id: &str, name: &str, arguments: Json| ToolCall::new(id, name, arguments);
    let expected = Step::ToolCalls {
        content: "Let me see.".to_owned(),
        calls: vec![
            call("a", "recall", json!({})),
            call("b", "calculate", json!({"expression": "1 + 1"})),
        ],
    };
    assert_eq!(step.unwrap(), expected);
    assert_eq!(heard, ["Let me see."]);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_unavailable() {
    let half = [delta(json!({"content": "Good "}), None)];
    let endpoint = Endpoint::start([Reply::stream(half.clone(), "")]).await;
    let (step, heard) = heard(&endpoint).await;
    assert_eq!(outcome(step), ("its answer broke off".to_owned(), true));
    assert_eq!(heard, ["Good "]);

    let error = json!({"error": {"message": format!("overloaded, {KEY}"), "type": "server_error"}});
    let end = format!("data: {error}\n\n");
    let endpoint = Endpoint::start([Reply::stream(half, &end)]).await;
    let (step, _) = self::heard(&endpoint).await;
    assert_eq!(outcome(step), ("overloaded, [key]".to_owned(), true));
}

/// What a person would understand of these streams is understood.
async fn step_of(chunks: &[&str]) -> Step {
    let body = chunks.iter().map(|chunk| format!("data: {chunk}\n\n"));
    let reply = Reply {
        content_type: "text/event-stream",
        ..Reply::new(200, body.collect::<String>())
    };
    let endpoint = Endpoint::start([reply]).await;
    endpoint.step(&saying("Hello")).await.unwrap()
}

fn calls_of(step: Step) -> Vec<(String, Json)> {
    let Step::ToolCalls { calls, .. } = step else {
        panic!("the model calls tools, it does not say {step:?}");
    };
    calls
        .into_iter()
        .map(|call| (call.name, call.arguments))
        .collect()
}

#[tokio::test]
async fn parallel_calls_that_share_an_index_are_several() {
    let two = vec![
        ("recall".to_owned(), json!({})),
        ("calculate".to_owned(), json!({"expression": "1 + 1"})),
    ];
    let with_ids = step_of(&[
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"recall","arguments":"{}"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"b","function":{"name":"calculate","arguments":""}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"expression\": "}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"1 + 1\"}"}}]},"finish_reason":"tool_calls"}]}"#,
    ])
    .await;
    assert_eq!(calls_of(with_ids), two);
    let without_ids = step_of(&[
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"recall","arguments":"{}"}},{"index":0,"function":{"name":"calculate","arguments":"{\"expression\": \"1 + 1\"}"}}]},"finish_reason":"tool_calls"}]}"#,
    ])
    .await;
    assert_eq!(calls_of(without_ids), two);
}

#[tokio::test]
async fn a_name_that_comes_with_every_chunk_is_one_name() {
    let step = step_of(&[
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"calculate","arguments":"{\"expr"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"calculate","arguments":"ession\": \"1"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"calculate","arguments":"\"}"}}]},"finish_reason":"tool_calls"}]}"#,
    ])
    .await;
    let expected = vec![("calculate".to_owned(), json!({"expression": "1"}))];
    assert_eq!(calls_of(step), expected);
}

#[tokio::test]
async fn dialects_of_an_answer_are_understood() {
    let answers: [(&str, &[&str]); 5] = [
        (
            "a 😀",
            &[
                r#"{"choices":[{"delta":{"content":"a \ud83d","tool_calls":null}}]}"#,
                r#"{"choices":[{"delta":{"content":"\ude00"},"finish_reason":"stop"}]}"#,
            ],
        ),
        (
            "Hello, Ada.",
            &[
                r#"{"choices":[{"delta":{"content":[{"type":"text","text":"Hello, "}]}}]}"#,
                r#"{"choices":[{"delta":{"content":[{"type":"text","text":"Ada."}]},"finish_reason":"stop"}]}"#,
            ],
        ),
        (
            "No finish reason.",
            &[
                r#"{"choices":[{"delta":{"content":"No finish reason."}}]}"#,
                "[DONE]",
            ],
        ),
        (
            "4.",
            &[
                r#"{"choices":[{"delta":{"reasoning_content":"Two and two","reasoning":"make"}}]}"#,
                r#"{"choices":[{"delta":{"content":"<thi"}}]}"#,
                r#"{"choices":[{"delta":{"content":"nk>four</think>\n\n4."},"finish_reason":"stop"}]}"#,
            ],
        ),
        (
            "Comments pass.",
            &[
                r#"{"choices":[],"usage":{"total_tokens":3}}"#,
                r#"{"choices":[{"delta":null}]}"#,
                r#"{"choices":[{"delta":{"content":"Comments pass."},"finish_reason":"stop"}]}"#,
            ],
        ),
    ];
    for (answer, chunks) in answers {
        assert_eq!(step_of(chunks).await, Step::Answer(answer.to_owned()));
    }
    let no_function = step_of(&[
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"recall","arguments":null}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":null}]},"finish_reason":"tool_calls"}]}"#,
    ])
    .await;
    assert_eq!(calls_of(no_function), [("recall".to_owned(), json!({}))]);
}

#[tokio::test]
async fn an_answer_without_end_is_refused() {
    let text = "word ".repeat(20_000);
    let chunk = format!(
        "data: {}\n\n",
        json!({"choices": [{"delta": {"content": text}}]})
    );
    let one_line = format!("data: {}", "x".repeat(100));
    let ping = ": still here\n".to_owned();
    for piece in [chunk, one_line, ping.repeat(1000)] {
        let piece = Bytes::from(piece);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let endless = move || async move {
            let pieces = futures::stream::repeat(Ok::<_, Infallible>(piece));
            let body = Body::from_stream(pieces);
            ([(header::CONTENT_TYPE, "text/event-stream")], body)
        };
        let app = Router::new().route("/v1/chat/completions", post(endless));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let config = OpenAiConfig {
            base_url,
            ..OpenAiConfig::new(KEY, "test-model")
        };
        let agent = OpenAiAgent::new(config).unwrap();
        let step = decide(&agent, &saying("Hello")).await;
        let (reason, can_help) = outcome(step);
        assert!(reason.starts_with("its answer has no end"), "{reason}");
        assert!(!can_help);
    }
}
