use chrono::DateTime;
use std::collections::BTreeSet;

use super::*;
use serde_json::{Value as Json, json};
use yai_agentkit_engine::agent::{ChatMessage, Context, ToolCall, ToolOutcome, Tools};

fn run(state: &mut AgentState<Memory>, name: &str, arguments: Json) -> String {
    let call = ToolCall::new("call_1", name, arguments);
    let toolbox = builtin(Clock::new(|| DateTime::UNIX_EPOCH));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let context = Context::detached();
    let ran = toolbox.run(&context, &call, state, None);
    match runtime.expect("a runtime").block_on(ran) {
        ToolOutcome::Result(result) => result,
        ToolOutcome::Ask(question) => panic!("{question}"),
    }
}

#[test]
fn arithmetic_is_exact() {
    for (expression, value) in [
        ("17 * 23", "391"),
        ("0.1 + 0.2", "0.3"),
        ("(1 + 2) * -3", "-9"),
        (
            "2^200",
            "1606938044258990275541962092341162602522202993782792835301376",
        ),
        ("1/7*7", "1"),
        ("10 / 4", "2.5"),
        ("（6 ÷ 2）× 5 − 1", "14"),
        ("1/3", "approx. 0.3333333333"),
    ] {
        let result = run(
            &mut AgentState::default(),
            "calculate",
            json!({"expression": expression}),
        );
        assert_eq!(result, value, "{expression}");
    }
}

#[test]
fn hostile_arithmetic_ends_in_a_readable_error() {
    let deep = format!("{}1{}", "(".repeat(99), ")".repeat(99));
    assert_eq!(
        run(
            &mut AgentState::default(),
            "calculate",
            json!({"expression": deep})
        ),
        "1"
    );
    for (expression, reason) in [
        ("1/0", "division by zero"),
        ("9^9^9", "the calculation takes too long"),
        ("99999!", "the calculation takes too long"),
        ("2^10000", "the result has more than 1000 digits"),
        ("", "the expression is empty"),
        ("1 +", "unexpected input found"),
        ("(\\x. x x) (\\x. x x)", "`\\` is not arithmetic"),
        ("@noon + today", "`@` is not arithmetic"),
        (
            &"1+".repeat(200),
            "an expression has at most 200 characters",
        ),
    ] {
        let result = run(
            &mut AgentState::default(),
            "calculate",
            json!({"expression": expression}),
        );
        assert_eq!(result, format!("{FAILED}{reason}"), "{expression}");
    }
}

#[test]
fn the_clock_is_the_one_passed_in() {
    let result = run(&mut AgentState::default(), "current_time", json!({}));
    assert_eq!(result, "1970-01-01T00:00:00Z");
}

#[test]
fn facts_are_found_by_any_spelling_of_their_name() {
    let mut state = AgentState::default();
    let fact = json!({"name": " Favourite  Colour ", "value": " green "});
    run(&mut state, "remember", fact);
    assert_eq!(state.own.facts["favourite colour"], "green");
    let recall = json!({"name": "favourite COLOUR"});
    assert_eq!(run(&mut state, "recall", recall), "green");
    assert_eq!(
        run(&mut state, "recall", json!({})),
        "favourite colour: green"
    );
    let unknown = run(&mut state, "recall", json!({"name": "x"}));
    assert_eq!(unknown, "Error: nothing is remembered by the name `x`");
}

#[test]
fn facts_are_bounded() {
    let mut state = AgentState::default();
    for (name, value) in [
        ("", "v"),
        ("n", " "),
        (&"n".repeat(101), "v"),
        ("n", &"v".repeat(1_001)),
    ] {
        let result = run(
            &mut state,
            "remember",
            json!({"name": name, "value": value}),
        );
        assert!(result.starts_with(FAILED), "{result}");
    }
    assert!(state.own.facts.is_empty());

    for number in 0..100 {
        let fact = json!({"name": number.to_string(), "value": "é".repeat(1_000)});
        run(&mut state, "remember", fact);
    }
    let all = run(&mut state, "recall", json!({}));
    assert_eq!(all.chars().count(), MAX_RESULT + 1);
}

#[test]
fn history_is_searched_newest_first_without_the_question() {
    let mut state = AgentState::default();
    for number in 1..=7 {
        let text = format!("Paris\nin spring {number}");
        state.messages.push(ChatMessage::new(Role::User, text));
        state
            .messages
            .push(ChatMessage::new(Role::Tool, "Paris spring"));
    }
    state
        .messages
        .push(ChatMessage::new(Role::Assistant, "PARIS in Spring!"));
    state
        .messages
        .push(ChatMessage::new(Role::User, "Paris spring?"));

    let found = run(
        &mut state,
        "search_history",
        json!({"words": "SPRING paris"}),
    );
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(
        lines,
        [
            "assistant: PARIS in Spring!",
            "user: Paris in spring 7",
            "user: Paris in spring 6",
            "user: Paris in spring 5",
            "user: Paris in spring 4",
        ]
    );
    let of_user = json!({"words": "paris", "role": "user"});
    let found = run(&mut state, "search_history", of_user);
    assert!(found.starts_with("user: Paris in spring 7"), "{found}");
    let nothing = run(&mut state, "search_history", json!({"words": "rome"}));
    assert_eq!(nothing, "Error: no earlier message holds `rome`");
}

#[test]
fn unfit_calls_get_a_readable_error() {
    let mut state = AgentState::default();
    for (name, arguments, reason) in [
        ("fly", json!({}), "there is no tool `fly`"),
        ("calculate", json!({}), "missing field `expression`"),
        ("calculate", json!("{not json"), "invalid type: string"),
        ("calculate", json!(null), "invalid type: null"),
        (
            "current_time",
            json!({"zone": "CET"}),
            "unknown field `zone`",
        ),
        (
            "remember",
            json!({"name": 1, "value": 2}),
            "invalid type: integer",
        ),
        ("search_history", json!({"words": " "}), "there is no word"),
    ] {
        let result = run(&mut state, name, arguments);
        assert!(
            result.starts_with(FAILED) && result.contains(reason),
            "{result}"
        );
    }
    assert_eq!(state, AgentState::default());
}

#[test]
fn schemas_name_every_argument() {
    for tool in builtin(Clock::default()).specs() {
        let properties: BTreeSet<_> = tool.parameters["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        let required = tool.parameters["required"].as_array();
        for name in required.into_iter().flatten() {
            assert!(properties.contains(name.as_str().unwrap()), "{}", tool.name);
        }
        assert_eq!(tool.parameters["type"], "object");
    }
}

#[tokio::test]
async fn calculations_leave_the_runtime_free() {
    let toolbox = builtin(Clock::default());
    let call = ToolCall::new("call_1", "calculate", json!({"expression": "9^9^9"}));
    let context = Context::detached();
    let mut states = vec![AgentState::default(); 8];
    let calculations = states
        .iter_mut()
        .map(|state| toolbox.run(&context, &call, state, None));
    let mut calculations = std::pin::pin!(futures::future::join_all(calculations));
    // Whoever blocks the only thread of this runtime is done when it is polled for the first time.
    assert!(futures::poll!(&mut calculations).is_pending());
    let too_long = ToolOutcome::failed("the calculation takes too long");
    for result in calculations.await {
        assert_eq!(result, too_long);
    }
}
