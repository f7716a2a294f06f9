//! Which of a chat's messages the model sees.

use std::{ops::Range, sync::Arc};

use yai_agentkit_core::Role;
use yai_agentkit_engine::agent::{AgentState, ChatMessage};

use crate::tools::Summary;

/// Tokens are not counted but estimated.
pub(super) const BYTES_OF_A_TOKEN: usize = 4;
/// What stands around each message.
const AROUND: usize = 16;
/// Bytes that stand for a picture or a file, whose own say nothing about its tokens.
const PART: usize = 4_000;
/// Bytes of a result that are told whatever the budget is.
pub(super) const SHORT_RESULT: usize = 500;

pub(super) struct Context<'a> {
    /// The instructions that stand before the messages.
    pub(super) instructions: &'a [String],
    /// What is told in place of the messages before.
    pub(super) summary: Option<&'a str>,
    /// What the user has asked, where the messages begin in the middle of the turn.
    pub(super) question: Option<&'a ChatMessage>,
    pub(super) messages: &'a [Arc<ChatMessage>],
    /// Bytes of a tool's result that are told.
    pub(super) longest_result: usize,
}

/// What fits into so many `tokens`: of the instructions, before all else, the newest, in half of
/// them; of the messages that the summary does not cover the newest, the turn under way in any case, a
/// tool's result never without its call.
pub(super) fn of<'a, S: Default>(
    state: &'a AgentState<S>,
    summary: Option<&'a Summary>,
    tokens: usize,
) -> Context<'a> {
    let budget = tokens.saturating_mul(BYTES_OF_A_TOKEN);
    let instructions = newest(&state.instructions, budget / 2, |text| text.len() + AROUND);
    let bytes: usize = instructions.iter().map(|text| text.len() + AROUND).sum();
    let left = budget.saturating_sub(bytes + size_of_summary(summary));
    let (turn, covered) = (turn(state), covered(state, summary));
    let of_turn = &state.messages[turn.max(covered)..];
    let earlier = &state.messages[covered.min(turn)..turn];
    let left_for_earlier = left.saturating_sub(size_of(of_turn));
    let earlier = newest(earlier, left_for_earlier, |message| size(message));
    let is_no_result = |message: &Arc<ChatMessage>| message.role != Role::Tool;
    let first = earlier.iter().position(is_no_result);
    let first = turn - earlier.len() + first.unwrap_or(earlier.len());
    let messages = &state.messages[first.max(covered)..];
    // Those among the messages are told in their place.
    let among = messages
        .iter()
        .filter(|message| message.role == Role::System);
    let before = instructions.len().saturating_sub(among.count());
    Context {
        instructions: &instructions[..before],
        summary: summary.map(|summary| summary.text.as_str()),
        question: (covered > turn).then(|| &*state.messages[turn]),
        messages,
        longest_result: longest_result(messages, left),
    }
}

/// The messages that have to be summarised for the others to fit: the newest stay in half of what
/// there is, the last step in any case.
pub(super) fn overflow<S: Default>(
    state: &AgentState<S>,
    summary: Option<&Summary>,
    tokens: usize,
) -> Option<Range<usize>> {
    let budget = tokens.saturating_mul(BYTES_OF_A_TOKEN);
    let budget = budget.saturating_sub(size_of_summary(summary));
    let first = covered(state, summary);
    let open = &state.messages[first..];
    if size_of(open) <= budget {
        return None;
    }
    let wanted = open.len() - newest(open, budget / 2, |message| size(message)).len();
    // Between a call and its result nothing is cut.
    let mut cuts = (1..open.len()).filter(|at| open[*at].role != Role::Tool);
    let cut = cuts.clone().find(|at| *at >= wanted).or(cuts.next_back())?;
    Some(first..first + cut)
}

/// Where the first message is that the summary does not cover.
fn covered<S: Default>(state: &AgentState<S>, summary: Option<&Summary>) -> usize {
    let covers = summary.map_or(0, |summary| summary.covers);
    let covered = covers.saturating_sub(state.messages.before());
    covered.min(state.messages.len())
}

/// Where the turn under way begins.
fn turn<S: Default>(state: &AgentState<S>) -> usize {
    let is_user = |message: &Arc<ChatMessage>| message.role == Role::User;
    state.messages.iter().rposition(is_user).unwrap_or_default()
}

/// As much as all results may have so that they fit together, where that is needed.
fn longest_result(messages: &[Arc<ChatMessage>], budget: usize) -> usize {
    if size_of(messages) <= budget {
        return usize::MAX;
    }
    let results = messages.iter().filter(|message| message.role == Role::Tool);
    (budget / results.count().max(1)).max(SHORT_RESULT)
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

fn size_of_summary(summary: Option<&Summary>) -> usize {
    summary.map_or(0, |summary| summary.text.len() + AROUND)
}

fn size_of(messages: &[Arc<ChatMessage>]) -> usize {
    messages.iter().map(|message| size(message)).sum()
}

fn size(message: &ChatMessage) -> usize {
    let calls = message.tool_calls.iter();
    let calls = calls.map(|call| {
        let thoughts = call.reasoning.iter();
        let thoughts: usize = thoughts.map(|thought| thought.to_string().len()).sum();
        call.name.len() + call.arguments.to_string().len() + thoughts + AROUND
    });
    message.content.len() + message.parts.len() * PART + calls.sum::<usize>() + AROUND
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
        let context = of(&state, None, tokens);
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

    /// A turn with so many steps, of about 200 bytes each.
    fn working(steps: usize) -> AgentState {
        let mut state: AgentState = AgentState::default();
        state
            .messages
            .push(ChatMessage::new(Role::User, "asked before"));
        state
            .messages
            .push(ChatMessage::new(Role::Assistant, "answer"));
        state.messages.push(ChatMessage::new(Role::User, "asked"));
        for _ in 0..steps {
            state.messages.push(ChatMessage {
                tool_calls: vec![call()],
                ..ChatMessage::new(Role::Assistant, format!("{:84}", "call"))
            });
            state.messages.push(ChatMessage {
                tool_call_id: Some("call".to_owned()),
                ..ChatMessage::new(Role::Tool, format!("{:84}", "result"))
            });
        }
        state
    }

    #[test]
    fn what_overflows_ends_between_steps_and_leaves_half_of_the_budget() {
        assert_eq!(overflow(&working(100), None, 100_000), None);
        for tokens in 1..3000 {
            let state = working(50);
            let Some(range) = overflow(&state, None, tokens) else {
                assert!(tokens > 2500, "in {tokens}");
                continue;
            };
            assert_eq!(range.start, 0);
            assert_ne!(state.messages[range.end].role, Role::Tool, "in {tokens}");
            let left = size_of(&state.messages[range.end..]);
            let is_last_step = range.end == state.messages.len() - 2;
            assert!(left <= tokens * BYTES_OF_A_TOKEN / 2 || is_last_step);
        }
    }

    #[test]
    fn a_summary_stands_for_what_it_covers_and_the_question_of_the_turn_stays() {
        let state = working(50);
        let range = overflow(&state, None, 1000).expect("too much");
        let summary = Summary {
            text: "They talked.".to_owned(),
            covers: range.end,
        };
        assert_eq!(overflow(&state, Some(&summary), 1000), None);
        let context = of(&state, Some(&summary), 1000);
        assert_eq!(context.summary, Some("They talked."));
        assert_eq!(context.question.expect("a question").content, "asked");
        assert_eq!(context.messages.len(), state.messages.len() - range.end);
        let of_next_turn = Summary {
            covers: 2,
            ..summary
        };
        let context = of(&state, Some(&of_next_turn), 10_000);
        assert!(context.question.is_none());
        assert_eq!(context.messages[0].content, "asked");
    }

    #[test]
    fn results_that_do_not_fit_are_told_shortened() {
        let mut state = working(1);
        assert_eq!(of(&state, None, 1000).longest_result, usize::MAX);
        for _ in 0..3 {
            state.messages.push(ChatMessage {
                tool_call_id: Some("call".to_owned()),
                ..ChatMessage::new(Role::Tool, "x".repeat(60_000))
            });
        }
        assert_eq!(of(&state, None, 1000).longest_result, 1000);
        assert_eq!(of(&state, None, 1).longest_result, SHORT_RESULT);
    }
}
