//! Tools that a crash cuts short, and questions to a person.

use serde_json::json;
use yai_agentkit_engine::test_kit;

use super::*;

/// An engine that has died while the tools of a turn about `content` hang after `calls` calls.
async fn died_in_tools(servers: &Servers, content: &str, calls: usize) {
    let hanging = ScriptedAgent::hanging_after(calls);
    let engine = servers.engine_with(&hanging, limits());
    let running = servers.send(&engine, content, SendOptions::default());
    until_done(&hanging, calls).await;
    // What is done is recorded before the next hangs.
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(running);
}

#[tokio::test]
async fn a_tool_that_has_ended_before_a_crash_does_not_run_again() {
    let servers = Servers::new().await;
    // The decision, and the tool `a`, which must not run twice; `b` hangs.
    died_in_tools(&servers, "once", 2).await;
    let agent = ScriptedAgent::default();
    servers.engine(&agent).settle_all().await.unwrap();
    assert_eq!(agent.done(), ["tool b", "step 1"]);
    assert_eq!(servers.said().await[1], "assistant: result-a result-b");
}

#[tokio::test]
async fn a_tool_that_was_cut_short_and_may_have_had_an_effect_is_a_question_to_a_person() {
    for (answer, expected, done) in [
        ("it worked", "it worked result-b", &["tool b", "step 1"][..]),
        (
            "retry",
            "result-a result-b",
            &["tool b", "tool a", "step 1"],
        ),
    ] {
        let servers = Servers::new().await;
        // The decision; then `a` has begun and hangs.
        died_in_tools(&servers, "once", 1).await;
        let agent = ScriptedAgent::default();
        servers.engine(&agent).settle_all().await.unwrap();
        assert_eq!(agent.done(), ["tool b"]);
        let (turn, id) = asked(&servers).await;
        let question = &turn.interrupt.as_ref().unwrap().question;
        assert!(question.contains("`once` was cut short"), "{question}");

        // On another server, days later.
        let other = servers.engine(&agent);
        let answered = answered(reply(&other, &turn, id, answer)).await;
        assert_eq!(answered.unwrap().content, expected);
        assert_eq!(agent.done(), done);
        assert!(servers.is_one_line().await);
    }
}

#[tokio::test]
async fn a_step_asks_a_person_and_goes_on_with_the_answer() {
    let servers = Servers::new().await;
    let agent = ScriptedAgent::default();
    let engine = servers.engine(&agent);
    let asks = engine.send(servers.message("ask")).await;
    let Ok(TurnOutcome::Waiting(asking)) = asks else {
        panic!("{asks:?}");
    };
    let (turn, id) = asked(&servers).await;
    assert_eq!(*asking, turn);
    assert_eq!(turn.interrupt.as_ref().unwrap().question, "Which one?");
    assert_eq!(turn.lease_owner, None);
    // Nobody goes on without the answer, and no message comes between.
    engine.settle_all().await.unwrap();
    let refused = engine.send(servers.message("hi")).await;
    assert!(matches!(refused, Err(TurnError::Busy(_))), "{refused:?}");

    let other = servers.engine(&agent);
    let stale = reply(&other, &turn, InterruptId::new(), "?").await;
    assert!(matches!(stale, Err(TurnError::NotAsked)), "{stale:?}");
    let answered = answered(reply(&other, &turn, id, "the red one")).await;
    assert_eq!(answered.unwrap().content, "the red one");
    let again = reply(&other, &turn, id, "the blue one").await;
    assert!(matches!(again, Err(TurnError::NotAsked)), "{again:?}");
    assert_eq!(
        servers.said().await,
        ["user: ask", "assistant: the red one"]
    );
    assert!(servers.is_one_line().await);
    other.send(servers.message("hi")).await.unwrap();
}

#[tokio::test]
async fn a_tool_asks_a_person_and_runs_with_the_answer_the_others_stay_done() {
    let servers = Servers::new().await;
    let agent = ScriptedAgent::default();
    let engine = servers.engine(&agent);
    let asks = engine.send(servers.message("tool asks")).await;
    assert!(matches!(asks, Ok(TurnOutcome::Waiting(_))), "{asks:?}");
    let (turn, id) = asked(&servers).await;
    let answered = answered(reply(&engine, &turn, id, "yes")).await;
    assert_eq!(answered.unwrap().content, "result-a result-asks (yes)");
    assert_eq!(
        agent.done(),
        ["step 0", "tool a", "tool asks", "tool asks", "step 1"]
    );
}

#[tokio::test]
async fn a_call_that_needs_approval_runs_once_a_person_says_so_with_what_the_person_makes_of_it() {
    for (answer, expected, ran) in [
        ("approve", "result-pay result-b", true),
        (
            r#"{"approved": true, "arguments": {"euro": 5}}"#,
            "[A person has changed the arguments to {\"euro\":5}.]\n\
             result-pay{\"euro\":5} result-b",
            true,
        ),
        (
            "reject: too dear",
            "Error: a person has refused this call. too dear result-b",
            false,
        ),
    ] {
        let servers = Servers::new().await;
        let agent = ScriptedAgent::default();
        let asks = servers.engine(&agent).send(servers.message("pay")).await;
        assert!(matches!(asks, Ok(TurnOutcome::Waiting(_))), "{asks:?}");
        assert_eq!(agent.done(), ["step 0", "tool b"]);
        let (turn, id) = asked(&servers).await;
        let proposed = turn.interrupt.as_ref().unwrap().proposed.as_ref().unwrap();
        assert_eq!(
            (proposed.name.as_str(), &proposed.arguments),
            ("pay", &json!({}))
        );

        // What is no approval leaves the turn waiting.
        let other = servers.engine(&agent);
        let unclear = reply(&other, &turn, id, "go ahead, but").await;
        let invalid = matches!(unclear, Err(TurnError::Storage(Error::InvalidInput { .. })));
        assert!(invalid, "{unclear:?}");
        assert_eq!(asked(&servers).await.1, id);

        let answered = answered(reply(&other, &turn, id, answer)).await;
        assert_eq!(answered.unwrap().content, expected);
        let twice = reply(&servers.engine(&agent), &turn, id, "approve").await;
        assert!(matches!(twice, Err(TurnError::NotAsked)), "{twice:?}");
        let paid = agent
            .done()
            .iter()
            .filter(|done| *done == "tool pay")
            .count();
        assert_eq!(paid, usize::from(ran));
    }
}

#[tokio::test]
async fn an_approved_call_that_was_cut_short_is_not_run_again_by_the_same_approval() {
    let servers = Servers::new().await;
    let agent = ScriptedAgent::default();
    let asks = servers.engine(&agent).send(servers.message("pay")).await;
    assert!(matches!(asks, Ok(TurnOutcome::Waiting(_))), "{asks:?}");
    let (turn, approval) = asked(&servers).await;

    let hanging = ScriptedAgent::hanging_after(0);
    let dying = servers.engine_with(&hanging, limits());
    let resumed = dying.resume(turn.conversation_id, turn.id, approval, "yes".to_owned());
    drop(resumed.await.unwrap());
    tokio::time::sleep(Duration::from_millis(200)).await;

    let other = servers.engine(&agent);
    other.settle_all().await.unwrap();
    let (turn, outcome) = asked(&servers).await;
    assert_ne!(outcome, approval);
    let question = &turn.interrupt.as_ref().unwrap().question;
    assert!(question.contains("`pay` was cut short"), "{question}");
    let answered = answered(reply(&other, &turn, outcome, "retry")).await;
    assert_eq!(answered.unwrap().content, "result-pay result-b");
}

#[tokio::test]
async fn an_answer_waits_for_who_looks_at_the_chat() {
    let servers = Servers::new().await;
    let agent = ScriptedAgent::default();
    let engine = servers.engine(&agent);
    let asks = engine.send(servers.message("ask")).await;
    assert!(matches!(asks, Ok(TurnOutcome::Waiting(_))), "{asks:?}");
    let (turn, id) = asked(&servers).await;
    let look = test_kit::claim(&engine, turn.conversation_id)
        .await
        .unwrap();
    let answer = answered(reply(&engine, &turn, id, "yes"));
    let mut answer = std::pin::pin!(answer);
    let early = tokio::time::timeout(Duration::from_millis(20), &mut answer).await;
    assert!(early.is_err(), "{early:?}");
    drop(look);
    assert_eq!(answer.await.unwrap().content, "yes");
}

#[tokio::test]
async fn who_sends_to_a_chat_or_deletes_it_waits_for_who_looks_at_it() {
    let servers = Servers::new().await;
    let engine = servers.engine(&ScriptedAgent::default());
    let message = servers.message("hi");
    let conversation = message.conversation_id;
    let look = test_kit::claim(&engine, conversation).await.unwrap();
    let mut sent = std::pin::pin!(answered(engine.send(message)));
    let early = tokio::time::timeout(Duration::from_millis(20), &mut sent).await;
    assert!(early.is_err(), "{early:?}");
    drop(look);
    sent.await.unwrap();
    let look = test_kit::claim(&engine, conversation).await.unwrap();
    let conversations = engine.conversations();
    let mut deleted = std::pin::pin!(conversations.delete(conversation));
    let early = tokio::time::timeout(Duration::from_millis(20), &mut deleted).await;
    assert!(early.is_err(), "{early:?}");
    drop(look);
    deleted.await.unwrap();
}

#[tokio::test]
async fn who_repeats_a_request_follows_its_turn_only_as_long_as_it_waits() {
    let servers = Servers::new().await;
    let hanging = ScriptedAgent::hanging_after(1);
    let engine = servers.engine(&hanging);
    let first = servers.send(&engine, "hi", keyed("key", "hi"));
    until_done(&hanging, 1).await;

    let agent = Arc::new(ScriptedAgent::default());
    let other = TurnEngine::new(Arc::new(servers.storage.clone()), agent.clone());
    let repeated = servers.send(&other, "hi", keyed("key", "hi"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!repeated.is_finished());
    repeated.abort();
    // The agent is ours and the engine's: no task of the engine has it.
    until(async || Arc::strong_count(&agent) == 2).await;
    hanging.permits.add_permits(100);
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_question_can_be_cancelled_and_the_chat_goes_on() {
    let servers = Servers::new().await;
    let agent = ScriptedAgent::default();
    let engine = servers.engine(&agent);
    assert!(engine.send(servers.message("ask")).await.is_ok());
    let (turn, id) = asked(&servers).await;
    engine.cancel(turn.conversation_id, turn.id).await.unwrap();
    let late = reply(&engine, &turn, id, "yes").await;
    assert!(matches!(late, Err(TurnError::NotAsked)), "{late:?}");
    engine.send(servers.message("hi")).await.unwrap();
    assert!(servers.is_one_line().await);
}
