//! Which of a chat's messages the model sees.

use std::sync::Arc;

use yai_agentkit_core::Role;
use yai_agentkit_engine::agent::{AgentState, ChatMessage};

/// Tokens are not counted but estimated.
const BYTES_OF_A_TOKEN: usize = 4;
/// What stands around each message.
const AROUND: usize = 16;

pub(super) struct Context<'a> {
    /// The instructions that stand before the messages.
    pub(super) instructions: &'a [String],
    pub(super) messages: &'a [Arc<ChatMessage>],
}

/// What fits into so many `tokens`: of the instructions, before all else, the newest, in half of
/// them; of the messages the newest, the turn under way in any case, a tool's result never without
/// its call.
pub(super) fn of<S: Default>(state: &AgentState<S>, tokens: usize) -> Context<'_> {
    let budget = tokens.saturating_mul(BYTES_OF_A_TOKEN);
    let instructions = newest(&state.instructions, budget / 2, |text| text.len() + AROUND);
    let bytes: usize = instructions.iter().map(|text| text.len() + AROUND).sum();
    let turn = state
        .messages
        .iter()
        .rposition(|message| message.role == Role::User)
        .unwrap_or_default();
    let (earlier, of_turn) = state.messages.split_at(turn);
    let taken = bytes + of_turn.iter().map(|message| size(message)).sum::<usize>();
    let earlier = newest(earlier, budget.saturating_sub(taken), |message| {
        size(message)
    });
    let first = earlier
        .iter()
        .position(|message| message.role != Role::Tool);
    let first = turn - earlier.len() + first.unwrap_or(earlier.len());
    let messages = &state.messages[first..];
    // Those among the messages are told in their place.
    let among = messages
        .iter()
        .filter(|message| message.role == Role::System);
    let before = instructions.len().saturating_sub(among.count());
    Context {
        instructions: &instructions[..before],
        messages,
    }
}

/// The last of `items` that have so many bytes together.
fn newest<T>(items: &[T], mut bytes: usize, size: impl Fn(&T) -> usize) -> &[T] {
    let fits = |item: &&T| {
        let left = bytes.checked_sub(size(item));
        bytes = left.unwrap_or(bytes);
        left.is_some()
    };
    let count = items.iter().rev().take_while(fits).count();
    &items[items.len() - count..]
}

fn size(message: &ChatMessage) -> usize {
    let calls = message.tool_calls.iter();
    let calls = calls.map(|call| call.name.len() + call.arguments.to_string().len() + AROUND);
    message.content.len() + calls.sum::<usize>() + AROUND
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use yai_agentkit_engine::agent::ToolCall;

    use super::*;

    /// A chat of turns with a call each, of about 100 bytes a message, and what the model sees of it.
    fn seen(turns: usize, instructed_in: usize, tokens: usize) -> (Vec<String>, Vec<String>) {
        let mut state: AgentState = AgentState::default();
        let mut push = |role: Role, text: &str| {
            state.messages.push(ChatMessage {
                tool_call_id: (role == Role::Tool).then(|| "call".to_owned()),
                tool_calls: if text == "call" {
                    vec![call()]
                } else {
                    Vec::new()
                },
                ..ChatMessage::new(role, format!("{text:84}"))
            });
        };
        for turn in 0..turns {
            if turn == instructed_in {
                push(Role::System, "heed");
            }
            push(Role::User, "asked");
            push(Role::Assistant, "call");
            push(Role::Tool, "result");
            if turn + 1 < turns {
                push(Role::Assistant, "answer");
            }
        }
        state.instructions = vec!["heed".to_owned()];
        let context = of(&state, tokens);
        let messages = context.messages.iter();
        let messages = messages.map(|message| message.content.trim_end().to_owned());
        (context.instructions.to_vec(), messages.collect())
    }

    fn call() -> ToolCall {
        ToolCall::new("call", "tool", json!({}))
    }

    #[test]
    fn a_model_sees_the_newest_messages_that_fit() {
        let (instructions, messages) = seen(100, 0, 1000);
        assert_eq!(instructions, ["heed"]);
        assert!((30..40).contains(&messages.len()), "{}", messages.len());
        assert!(messages.ends_with(&["asked", "call", "result"].map(str::to_owned)));
        let (instructions, messages) = seen(3, 0, 1000);
        assert_eq!((instructions.len(), messages.len()), (0, 12));
    }

    #[test]
    fn an_instruction_that_is_seen_in_its_place_is_not_told_twice() {
        let (instructions, messages) = seen(100, 98, 1000);
        assert!(instructions.is_empty());
        assert!(messages.contains(&"heed".to_owned()));
    }

    #[test]
    fn a_result_is_never_seen_without_its_call_and_the_turn_is_whole() {
        for tokens in 0..400 {
            let (_, messages) = seen(5, 0, tokens);
            assert_ne!(messages[0], "result", "in {tokens}");
            assert!(messages.ends_with(&["asked", "call", "result"].map(str::to_owned)));
        }
    }
}
