//! By OpenAI's responses in place of chat completions.

use yai_agentkit_agents::openai::Api;
use yai_agentkit_core::conversation::{Part, Source};

use super::*;

fn config(endpoint: &Endpoint) -> OpenAiConfig {
    OpenAiConfig {
        api: Api::Responses,
        reasoning_effort: Some("low".to_owned()),
        ..endpoint.config()
    }
}

/// Events, as the real API streams them: each has its name in its data too.
fn stream(events: &[Json]) -> Reply {
    let events = events.iter().map(|event| {
        format!(
            "event: {}\ndata: {event}\n\n",
            event["type"].as_str().unwrap()
        )
    });
    Reply {
        content_type: "text/event-stream; charset=utf-8",
        ..Reply::new(200, events.collect::<String>())
    }
}

fn whole(status: &str, output: &Json) -> Json {
    json!({
        "id": "resp_1", "object": "response", "created_at": 1_760_000_000, "status": status,
        "error": null, "incomplete_details": null, "output": output, "model": "test-model",
        "usage": {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
    })
}

fn completed(output: &Json) -> Json {
    json!({"type": "response.completed", "response": whole("completed", output)})
}

fn words(text: &str) -> Json {
    json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}]})
}

fn thought() -> Json {
    json!({"type": "reasoning", "id": "rs_1", "encrypted_content": "c2VhbGVk",
        "summary": [{"type": "summary_text", "text": "Two and two"}]})
}

fn call(id: &str, name: &str, arguments: &str) -> Json {
    json!({"type": "function_call", "id": format!("fc_{id}"), "call_id": id, "name": name,
        "arguments": arguments, "status": "completed"})
}

fn done(item: Json) -> Json {
    json!({"type": "response.output_item.done", "output_index": 0, "item": item})
}

fn delta(kind: &str, delta: &str) -> Json {
    json!({"type": format!("response.{kind}.delta"), "item_id": "msg_1", "delta": delta})
}

/// A turn of thoughts, words and two calls, and then an answer, as streams.
fn turn() -> [Reply; 2] {
    let first = [
        json!({"type": "response.created", "response": whole("in_progress", &json!([]))}),
        delta("reasoning_summary_text", "Two and two"),
        done(thought()),
        delta("output_text", "Let me "),
        delta("output_text", "see."),
        done(words("Let me see.")),
        delta("function_call_arguments", "{\"expression\""),
        done(call("call_a", "calculate", r#"{"expression": "2 + 2"}"#)),
        done(call("call_b", "recall", "{}")),
        completed(&json!([words("Let me see.")])),
    ];
    let second = [
        delta("output_text", "It is 4."),
        completed(&json!([words("It is 4.")])),
    ];
    [stream(&first), stream(&second)]
}

#[tokio::test]
async fn a_turn_by_responses_has_its_thoughts_before_it_and_nothing_is_kept_elsewhere() {
    let endpoint = Endpoint::start(turn()).await;
    let agent = OpenAiAgent::new(config(&endpoint)).unwrap();
    let mut state = saying("What is 2 + 2?");

    let (step, heard) = hear(&agent, &state).await;
    let Step::ToolCalls { content, calls } = step.unwrap() else {
        panic!("the model calls tools");
    };
    assert_eq!(
        (content.as_str(), heard),
        ("Let me see.", vec!["Let me ".into(), "see.".into()])
    );
    assert_eq!(calls[0].arguments, json!({"expression": "2 + 2"}));
    assert_eq!((calls[0].reasoning.len(), calls[1].reasoning.len()), (1, 0));
    run_all(&agent, &mut state, content, calls).await;
    // What went through the database is the same.
    let stored = serde_json::to_value(&state).unwrap();
    let mut state: AgentState<Memory> = serde_json::from_value(stored).unwrap();
    let (step, heard) = hear(&agent, &state).await;
    assert_eq!(
        (step.unwrap(), heard),
        (Step::Answer("It is 4.".into()), vec!["It is 4.".into()])
    );

    let request = endpoint.body(1);
    assert_eq!(
        (&request["store"], &request["stream"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(request["reasoning"], json!({"effort": "low"}));
    assert_eq!(request["include"], json!(["reasoning.encrypted_content"]));
    assert!(request.get("previous_response_id").is_none());
    let input = request["input"].as_array().unwrap();
    assert_eq!(
        input[1],
        json!({"role": "user", "content": "What is 2 + 2?"})
    );
    assert_eq!(
        input[2],
        json!({"role": "assistant", "content": "Let me see."})
    );
    assert_eq!(input[3], thought());
    let sum = json!({"type": "function_call", "call_id": "call_a", "name": "calculate",
        "arguments": r#"{"expression":"2 + 2"}"#});
    assert_eq!(input[4], sum);
    assert_eq!(input[5]["call_id"], "call_b");
    let result = json!({"type": "function_call_output", "call_id": "call_a", "output": "4"});
    assert_eq!(input[6], result);
    assert_eq!(input.len(), 8);
    let tool = &request["tools"][0];
    assert_eq!(
        (&tool["name"], &tool["strict"]),
        (&json!("calculate"), &json!(false))
    );

    // In the next turn they are of no use, nor to a model that is told not to reason.
    state
        .messages
        .push(ChatMessage::new(Role::Assistant, "It is 4."));
    state.messages.push(ChatMessage::new(Role::User, "Thanks"));
    decide(&agent, &state).await.unwrap();
    let input = endpoint.body(2)["input"].clone();
    let kinds = input.as_array().unwrap().iter().map(|item| &item["type"]);
    assert_eq!(kinds.filter(|kind| **kind == "reasoning").count(), 0);
    assert_eq!(input.as_array().unwrap().len(), 9);
}

#[tokio::test]
async fn a_response_that_comes_whole_is_understood() {
    let output = json!([thought(), words("Hello, Ada.")]);
    let endpoint = Endpoint::start([Reply::new(200, whole("completed", &output))]).await;
    let config = OpenAiConfig {
        reasoning_effort: None,
        temperature: Some(0.5),
        response_schema: Some(json!({"type": "object"})),
        ..config(&endpoint)
    };
    let agent = OpenAiAgent::new(config).unwrap();
    let (step, heard) = hear(&agent, &saying("Hello")).await;
    assert_eq!(
        (step.unwrap(), heard),
        (
            Step::Answer("Hello, Ada.".into()),
            vec!["Hello, Ada.".into()]
        )
    );
    let request = endpoint.body(0);
    assert!(request.get("include").is_none() && request.get("reasoning").is_none());
    assert_eq!(
        request["text"]["format"]["schema"],
        json!({"type": "object"})
    );
    assert_eq!(request["temperature"], 0.5);
}

#[tokio::test]
async fn the_ends_of_responses_are_told_apart() {
    let incomplete = |reason: &str, output: Json| {
        let mut response = whole("incomplete", &output);
        response["incomplete_details"] = json!({ "reason": reason });
        json!({"type": "response.incomplete", "response": response})
    };
    let refusal = json!([{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]);
    for (events, answer) in [
        (
            vec![incomplete("max_output_tokens", json!([words("Once")]))],
            "Once\n\n[The answer was cut off at the model's limit.]",
        ),
        (vec![completed(&refusal)], "No."),
        (vec![delta("refusal", "No."), completed(&refusal)], "No."),
    ] {
        let endpoint = Endpoint::start([stream(&events)]).await;
        let agent = OpenAiAgent::new(config(&endpoint)).unwrap();
        let step = decide(&agent, &saying("Hello")).await.unwrap();
        assert_eq!(step, Step::Answer(answer.to_owned()));
    }
    let mut failed = whole("failed", &json!([]));
    failed["error"] = json!({"code": "server_error", "message": format!("Oh no, {KEY}")});
    for (events, expected) in [
        (
            vec![delta("output_text", "Once")],
            ("its answer broke off", true),
        ),
        (
            vec![json!({"type": "response.failed", "response": failed})],
            ("Oh no, [key]", true),
        ),
        (
            vec![json!({"type": "error", "code": "server_error", "message": "Oh no"})],
            ("Oh no", true),
        ),
        (
            vec![incomplete("content_filter", json!([]))],
            (
                "its answer is empty (finish reason `content_filter`)",
                false,
            ),
        ),
        (
            vec![json!({"type": "nonsense"})],
            ("its answer is not a response", false),
        ),
    ] {
        let endpoint = Endpoint::start([stream(&events)]).await;
        let agent = OpenAiAgent::new(config(&endpoint)).unwrap();
        let (reason, can_help) = outcome(decide(&agent, &saying("Hello")).await);
        assert_eq!((reason.as_str(), can_help), expected);
    }
}

#[tokio::test]
async fn thoughts_without_end_are_refused() {
    let mut thought = thought();
    thought["encrypted_content"] = "x".repeat(1 << 20).into();
    let events = [done(thought.clone()), done(thought.clone()), done(thought)];
    let endpoint = Endpoint::start([stream(&events)]).await;
    let agent = OpenAiAgent::new(config(&endpoint)).unwrap();
    let (reason, can_help) = outcome(decide(&agent, &saying("Hello")).await);
    assert!(
        reason.starts_with("its answer has no end") && !can_help,
        "{reason}"
    );
}

#[tokio::test]
async fn a_model_sees_pictures_and_files_by_either_interface() {
    let data = || Source::Data {
        data: "iVBORw0KGgo=".to_owned(),
        media_type: "image/png".to_owned(),
    };
    let at = || Source::Url {
        url: "https://example.com/cat.png".to_owned(),
        media_type: None,
    };
    let kept = || Source::Provider {
        file: "file-1".to_owned(),
        provider: None,
        media_type: None,
    };
    let file = |source: Source| Part::File {
        name: Some("cat.pdf".to_owned()),
        source,
    };
    let sources = [data(), at(), kept()];
    let mut state = saying("What is it?");
    let mut asked = ChatMessage::new(Role::User, "What is it?");
    let pictures = sources.clone().map(|source| Part::Image { source });
    asked.parts = pictures.into_iter().chain(sources.map(file)).collect();
    state.messages = vec![asked].into();

    let endpoint = Endpoint::start([Reply::text("A cat.")]).await;
    endpoint.step(&state).await.unwrap();
    let url = "data:image/png;base64,iVBORw0KGgo=";
    let expected = json!([
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
        {"type": "text", "text": "[a picture, which you can't see]"},
        {"type": "file", "file": {"filename": "cat.pdf", "file_data": url}},
        {"type": "text",
         "text": "[cat.pdf, at https://example.com/cat.png, which you can't see]"},
        {"type": "file", "file": {"file_id": "file-1"}},
    ]);
    assert_eq!(endpoint.body(0)["messages"][1]["content"], expected);

    let answer = whole("completed", &json!([words("A cat.")]));
    let endpoint = Endpoint::start([Reply::new(200, answer)]).await;
    let agent = OpenAiAgent::new(config(&endpoint)).unwrap();
    decide(&agent, &state).await.unwrap();
    let expected = json!([
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "detail": "auto", "image_url": url},
        {"type": "input_image", "detail": "auto", "image_url": "https://example.com/cat.png"},
        {"type": "input_image", "detail": "auto", "file_id": "file-1"},
        {"type": "input_file", "filename": "cat.pdf", "file_data": url},
        {"type": "input_file", "file_url": "https://example.com/cat.png"},
        {"type": "input_file", "file_id": "file-1"},
    ]);
    assert_eq!(endpoint.body(0)["input"][1]["content"], expected);
}
