//! CopilotKit in front of the server: its front end, by its runtime, as applications have them.
//!
//! The runtime speaks AG-UI as it was before 1.0. It keeps streams in its own memory, and ends one without telling
//! the agent: what an application adds for chats that outlive the runtime, and for cancelling, stands at the top of
//! `tests/copilotkit/client.cjs`. It has no way to name the last event that a front end has seen, so that this one is
//! shown the thread anew; and it shows no branches but the chosen one.

use crate::{clients::COPILOTKIT as CLIENT, crash::Installation};

#[test]
fn a_chat_by_copilotkit_is_what_is_stored_also_with_another_runtime() {
    CLIENT.passes_offline("chat", "0");
}

#[test]
fn a_front_end_that_comes_back_is_told_what_goes_on() {
    CLIENT.passes_offline("reconnect", "300");
}

#[test]
fn who_stops_the_agent_in_copilotkit_cancels_the_turn() {
    CLIENT.passes_offline("cancel", "300");
}

#[test]
fn a_front_end_goes_on_with_another_server_when_the_first_is_killed() {
    for installation in [Installation::sqlite, Installation::postgres] {
        CLIENT.survives_a_kill(&installation(), "kill", "1500");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_asked_and_answered_by_copilotkit() {
    CLIENT.passes_scripted("interrupt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_approved_in_copilotkit() {
    CLIENT.passes_scripted("approval").await;
}

#[test]
fn pictures_go_by_copilotkit_and_come_back() {
    CLIENT.passes_offline("parts", "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_of_the_front_end_run_there() {
    CLIENT.passes_scripted("tools").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copilotkit_is_told_why_a_run_has_failed() {
    CLIENT.passes_scripted("failure").await;
}
