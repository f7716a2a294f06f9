use std::time::Duration;

use chrono::{TimeZone, Utc};
use yai_agentkit_core::{Clock, Role};
use yai_agentkit_engine::agent::{
    Agent, AgentState, ChatMessage, Context, Step, ToolCall, ToolOutcome, Tools,
};

use super::OfflineAgent;
use crate::tools::{FAILED, Memory, builtin};

fn agent() -> OfflineAgent {
    let noon = Utc.with_ymd_and_hms(2026, 3, 1, 12, 5, 0).unwrap();
    OfflineAgent::new().with_toolbox(builtin(Clock::new(move || noon)))
}

/// One turn, as a turn engine runs it; returns the answer and the tools that ran.
async fn turn(state: &mut AgentState<Memory>, text: &str) -> (String, Vec<ToolCall>) {
    let agent = agent();
    let mut ran = Vec::new();
    state.messages.push(ChatMessage::new(Role::User, text));
    loop {
        match agent.step(&Context::detached(), state).await.unwrap() {
            Step::Answer(answer) => {
                state
                    .messages
                    .push(ChatMessage::new(Role::Assistant, &answer));
                return (answer, ran);
            }
            Step::Ask(question) => panic!("{question}"),
            Step::ToolCalls { content, calls } => {
                state.messages.push(ChatMessage {
                    tool_calls: calls.clone(),
                    ..ChatMessage::new(Role::Assistant, content)
                });
                for call in calls {
                    let context = Context::detached();
                    let outcome = agent.run(&context, &call, state, None).await;
                    let ToolOutcome::Result(result) = outcome else {
                        panic!("{outcome:?}");
                    };
                    state.messages.push(ChatMessage {
                        tool_call_id: Some(call.id.clone()),
                        ..ChatMessage::new(Role::Tool, result)
                    });
                    ran.push(call);
                }
            }
        }
    }
}

async fn answers(dialogue: &[(&str, &str)]) {
    let mut state = AgentState::default();
    for (text, expected) in dialogue {
        assert_eq!(turn(&mut state, text).await.0, *expected, "to: {text}");
    }
}

#[tokio::test]
async fn english_facts_are_remembered_over_turns() {
    answers(&[
        (
            "What is my name?",
            "I don't know your name yet. Tell me: \"Remember that my name is ...\"",
        ),
        (
            "My name is Ada.",
            "Nice to meet you, Ada. I'll remember that.",
        ),
        ("What is my name?", "Your name is Ada."),
        ("hey, what's my name again", "Your name is Ada."),
        ("Do you remember my name?", "Your name is Ada."),
        ("Who am I?", "Your name is Ada."),
        (
            "Call me Countess",
            "Nice to meet you, Countess. I'll remember that.",
        ),
        ("WHAT is MY name", "Your name is Countess."),
        (
            "Remember that my favourite colour is green.",
            "I'll remember that your favourite colour is green.",
        ),
        (
            "What is my favourite colour?",
            "Your favourite colour is green.",
        ),
        (
            "Please tell me what my favourite colour is",
            "Your favourite colour is green.",
        ),
        (
            "My hobbies are chess and tea.",
            "I'll remember that your hobbies are chess and tea.",
        ),
        ("What are my hobbies?", "Your hobbies are chess and tea."),
        (
            "Remember the wifi password is a1b2!",
            "I'll remember that the wifi password is a1b2.",
        ),
        ("My cat is called Tom.", "I'll remember that your cat is called Tom."),
        ("What is my cat called?", "Your cat is called Tom."),
        ("What is the wifi password?", "The wifi password is a1b2."),
        (
            "What do you know about me?",
            "This is what I remember:\n- cat: called Tom\n- favourite colour: green\n- hobbies: chess and tea\n\
             - name: Countess\n- wifi password: a1b2",
        ),
    ])
    .await;
}

#[tokio::test]
async fn chinese_facts_are_remembered_over_turns() {
    answers(&[
        ("你知道我什么？", "我还不知道关于你的任何事。"),
        ("我叫什么名字？", "我还不知道你的名字。请告诉我。"),
        ("我叫小明。", "很高兴认识你，小明。我会记住的。"),
        ("我叫什么名字？", "你叫小明。"),
        ("我的名字是小红", "很高兴认识你，小红。我会记住的。"),
        ("你还记得我的名字吗？", "你叫小红。"),
        ("What is my name?", "Your name is 小红."),
        (
            "请记住我最喜欢的颜色是绿色。",
            "我会记住你最喜欢的颜色是绿色。",
        ),
        ("我最喜欢的颜色是什么？", "你最喜欢的颜色是绿色。"),
        ("你记得我最喜欢的颜色吗？", "你最喜欢的颜色是绿色。"),
        ("我的生日是五月一日", "我会记住你的生日是五月一日。"),
        ("请问我的生日是哪天？谢谢", "你的生日是五月一日。"),
        (
            "你记得什么？",
            "我记得：\n- name: 小红\n- 最喜欢的颜色: 绿色\n- 生日: 五月一日",
        ),
    ])
    .await;
}

#[tokio::test]
async fn arithmetic_is_computed_in_both_languages() {
    answers(&[
        ("What is 17 * 23?", "17 * 23 = 391."),
        ("17*23", "17*23 = 391."),
        (
            "what's 2 to the power of 100",
            "2 ^ 100 = 1267650600228229401496703205376.",
        ),
        ("Calculate (1.5 + 0.7) x 2", "(1.5 + 0.7) * 2 = 4.4."),
        ("What is 1 divided by 3?", "1 / 3 ≈ 0.3333333333."),
        ("What is 1 / 0?", "I can't compute 1 / 0: division by zero."),
        ("17 乘以 23 是多少？", "17 * 23 = 391。"),
        ("17*23等于多少", "17*23 = 391。"),
        ("请计算 2的10次方", "2^10 = 1024。"),
        ("100除以8", "100/8 = 12.5。"),
    ])
    .await;
}

#[tokio::test]
async fn the_time_is_told_in_both_languages() {
    answers(&[
        (
            "What time is it?",
            "It is 12:05 on Sunday, 1 March 2026 UTC.",
        ),
        ("现在几点？", "现在是2026年3月1日星期日 12:05（UTC）。"),
    ])
    .await;
}

#[tokio::test]
async fn earlier_messages_are_found_in_both_languages() {
    answers(&[
        (
            "What did I say about Paris?",
            "I find nothing that you said about \"Paris\".",
        ),
        (
            "I was in Berlin: lovely.",
            super::reply::help(super::Language::English),
        ),
        (
            "What did I say about Berlin?",
            "You said about \"Berlin\":\n- I was in Berlin: lovely.",
        ),
        ("我去过上海。", super::reply::help(super::Language::Chinese)),
        (
            "我说过关于上海的什么？",
            "关于“上海”，你说过：\n- 我去过上海。",
        ),
        (
            "我说过关于北京的什么？",
            "我没有找到你说过的关于“北京”的话。",
        ),
    ])
    .await;
}

#[tokio::test]
async fn several_requests_in_one_message_are_all_answered() {
    let mut state = AgentState::default();
    let (answer, ran) = turn(
        &mut state,
        "My name is Ada. What is 17 * 23? What is my name?",
    )
    .await;
    assert_eq!(
        answer,
        "Nice to meet you, Ada. I'll remember that.\n17 * 23 = 391.\nYour name is Ada."
    );
    let names: Vec<_> = ran.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, ["remember", "calculate", "recall"]);
}

#[tokio::test]
async fn call_ids_are_unique_in_a_thread() {
    let mut state = AgentState::default();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (_, ran) = turn(&mut state, "My name is Ada. What is my name?").await;
        ids.extend(ran.into_iter().map(|call| call.id));
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6);
}

#[tokio::test]
async fn a_resumed_turn_runs_only_the_tools_without_result() {
    let agent = agent();
    let mut state = AgentState::default();
    state.messages.push(ChatMessage::new(
        Role::User,
        "My name is Ada. What is 17 * 23?",
    ));
    let Step::ToolCalls { calls, .. } = agent.step(&Context::detached(), &mut state).await.unwrap()
    else {
        panic!("tools come first");
    };
    state.messages.push(ChatMessage {
        tool_call_id: Some(calls[0].id.clone()),
        ..ChatMessage::new(Role::Tool, "Remembered: name = Ada")
    });
    let resumed = agent.step(&Context::detached(), &mut state).await.unwrap();
    let rest = Step::ToolCalls {
        content: String::new(),
        calls: vec![calls[1].clone()],
    };
    assert_eq!(resumed, rest);
}

#[tokio::test]
async fn a_tool_that_fails_is_reported() {
    let mut state = AgentState::default();
    let (answer, _) = turn(&mut state, &format!("My motto is {}", "é".repeat(450))).await;
    assert!(answer.starts_with("I'll remember"), "{answer}");

    state.own.facts = (0..1_000).map(|n| (n.to_string(), n.to_string())).collect();
    let (answer, _) = turn(&mut state, "My name is Ada.").await;
    assert_eq!(
        answer,
        "That did not work: 1000 facts are remembered already."
    );
    let result = &state.messages[state.messages.len() - 2].content;
    assert!(result.starts_with(FAILED), "{result}");
}

#[tokio::test]
async fn an_empty_chat_gets_help() {
    let step = agent()
        .step(&Context::detached(), &mut AgentState::default())
        .await
        .unwrap();
    assert!(matches!(step, Step::Answer(text) if text.contains("My name is Ada.")));
}

#[tokio::test]
async fn every_example_of_the_help_works() {
    for help in [super::Language::English, super::Language::Chinese].map(super::reply::help) {
        let mut state = AgentState::default();
        for example in help.lines().filter_map(|line| line.strip_prefix("- ")) {
            let (answer, ran) = turn(&mut state, example).await;
            assert_eq!(ran.len(), 1, "{example}: {answer}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn steps_and_tools_wait_for_the_delay() {
    let agent = agent().with_step_delay(Duration::from_secs(3));
    let mut state = AgentState::default();
    state
        .messages
        .push(ChatMessage::new(Role::User, "What time is it?"));
    let start = tokio::time::Instant::now();
    let Step::ToolCalls { calls, .. } = agent.step(&Context::detached(), &mut state).await.unwrap()
    else {
        panic!("a tool comes first");
    };
    let context = Context::detached();
    agent.run(&context, &calls[0], &mut state, None).await;
    assert_eq!(start.elapsed(), Duration::from_secs(6));
}
