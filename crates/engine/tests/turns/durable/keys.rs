//! Requests that are sent again, by their key.

use super::*;

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_from_any_server() {
    let servers = Servers::new().await;
    let agent = ScriptedAgent::hanging_after(1);
    let (first, second) = (servers.engine(&agent), servers.engine(&agent));
    let running = servers.send(&first, "hi", keyed("key", "hi"));
    until_done(&agent, 1).await;
    // While it runs, there and elsewhere.
    let repeats = [
        servers.send(&first, "hi", keyed("key", "hi")),
        servers.send(&second, "hi", keyed("key", "hi")),
    ];
    let differs = servers
        .send(&second, "ho", keyed("key", "ho"))
        .await
        .unwrap();
    assert!(matches!(differs, Err(TurnError::KeyReused)), "{differs:?}");
    agent.permits.add_permits(1000);
    let answer = running.await.unwrap().unwrap();
    for repeat in repeats {
        assert_eq!(repeat.await.unwrap().unwrap(), answer);
    }
    // And later.
    let later = servers
        .send(&second, "hi", keyed("key", "hi"))
        .await
        .unwrap();
    assert_eq!(later.unwrap(), answer);
    assert_eq!(servers.said().await.len(), 2);
    assert_eq!(agent.done(), ScriptedAgent::SCRIPT);
}

#[tokio::test]
async fn of_many_equal_requests_at_once_one_is_stored_and_all_get_its_answer() {
    let servers = Servers::new().await;
    let agent = ScriptedAgent::default();
    let engines = [(); 3].map(|()| servers.engine(&agent));
    for round in 0..20 {
        let key = format!("key {round}");
        let tasks: Vec<_> = (0..12)
            .map(|count| servers.send(&engines[count % 3], "hi", keyed(&key, "hi")))
            .collect();
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await.unwrap().unwrap());
        }
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(servers.said().await.len(), 2 * (round + 1));
    }
    assert_eq!(agent.done().len(), 20 * ScriptedAgent::SCRIPT.len());
}

#[tokio::test]
async fn an_equal_request_waits_although_the_first_has_stored_nothing_yet() {
    let servers = Servers::new().await;
    let died = servers.engine_with(&ScriptedAgent::hanging_after(1), limits());
    let dying = servers.send(&died, "before", SendOptions::default());
    until(async || servers.turns().await.len() == 1).await;
    dying.abort();
    // The first has to finish the turn before.
    let agent = ScriptedAgent::hanging_after(2);
    let [engine, other, third] = [(); 3].map(|()| servers.engine(&agent));
    let first = servers.send(&engine, "hi", keyed("key", "hi"));
    until_done(&agent, 2).await;
    let equal = [&engine, &other].map(|engine| servers.send(engine, "hi", keyed("key", "hi")));
    let differs = servers
        .send(&third, "hi", keyed("key", "ho"))
        .await
        .unwrap();
    assert!(matches!(differs, Err(TurnError::KeyReused)), "{differs:?}");
    // Nobody waits for the answer to another request.
    let rejected = servers
        .send(&third, "ho", keyed("other", "ho"))
        .await
        .unwrap();
    assert!(matches!(rejected, Err(TurnError::Busy(_))), "{rejected:?}");
    tokio::time::sleep(Duration::from_millis(20)).await;
    agent.permits.add_permits(1000);
    let answer = first.await.unwrap().unwrap();
    for equal in equal {
        assert_eq!(equal.await.unwrap().unwrap(), answer);
    }
    assert_eq!(servers.said().await.len(), 4);
}

#[tokio::test]
async fn a_request_whose_server_died_over_the_turn_before_is_answered_by_the_next_that_gets_it() {
    let servers = Servers::new().await;
    let died = servers.engine_with(&ScriptedAgent::hanging_after(1), limits());
    let dying = servers.send(&died, "before", SendOptions::default());
    until(async || servers.turns().await.len() == 1).await;
    dying.abort();
    let agent = ScriptedAgent::hanging_after(2);
    let engine = servers.engine_with(&agent, limits());
    let first = servers.send(&engine, "hi", keyed("key", "hi"));
    until_done(&agent, 2).await;
    first.abort();
    // As a server that is killed: its turn is left with a lease that ends.
    let agent = ScriptedAgent::default();
    let other = servers.engine(&agent);
    let answer = servers
        .send(&other, "hi", keyed("key", "hi"))
        .await
        .unwrap();
    let again = servers
        .send(&other, "hi", keyed("key", "hi"))
        .await
        .unwrap();
    assert_eq!(answer.unwrap(), again.unwrap());
    assert_eq!(servers.said().await.len(), 4);
}

#[tokio::test]
async fn a_request_that_is_refused_after_the_turn_before_asks_leaves_no_key() {
    let servers = Servers::new().await;
    let died = servers.engine_with(&ScriptedAgent::hanging_after(0), limits());
    let dying = servers.send(&died, "ask", SendOptions::default());
    until(async || servers.turns().await.len() == 1).await;
    dying.abort();
    let engine = servers.engine(&ScriptedAgent::default());
    let refused = servers
        .send(&engine, "hi", keyed("key", "hi"))
        .await
        .unwrap();
    assert!(matches!(refused, Err(TurnError::Busy(_))), "{refused:?}");
    let keys = servers.storage.idempotency_keys();
    assert_eq!(keys.count(&Default::default()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_failed_turn_is_not_repeated_under_its_key() {
    let servers = Servers::new().await;
    let agent = ScriptedAgent::default();
    let engine = servers.engine(&agent);
    let failed = servers
        .send(&engine, "refuse", keyed("key", "refuse"))
        .await
        .unwrap();
    let failed = failed.unwrap_err().to_string();
    let again = servers
        .send(&engine, "refuse", keyed("key", "refuse"))
        .await
        .unwrap();
    assert_eq!(again.unwrap_err().to_string(), failed);
    assert_eq!(agent.done(), ["step 0"]);
    assert_eq!(servers.said().await, ["user: refuse"]);
}

#[tokio::test]
async fn a_system_message_with_a_key_is_stored_once() {
    let servers = Servers::new().await;
    let engine = servers.engine(&ScriptedAgent::default());
    let mut stored = Vec::new();
    for _ in 0..2 {
        let message = Message::new(servers.conversation.id, Role::System, "Be brief.");
        stored.push(
            engine
                .instruct(message, keyed("key", "Be brief."))
                .await
                .unwrap(),
        );
    }
    assert_eq!(stored[0], stored[1]);
    assert_eq!(servers.said().await, ["system: Be brief."]);
}
