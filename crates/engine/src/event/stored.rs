//! Events as they are stored. Each step stores some, so what nearly all of them consist of is short;
//! and what the answer says, which is stored as a message, is not stored here again.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;
use yai_agentkit_core::{ConversationId, Entity, Message, MessageId, Role};

use super::{StepKind, TurnEvent};

/// One event or several. All others are stored as they are.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Short {
    /// A text begins, is said and ends.
    Said(MessageId, Words),
    /// What is said next.
    More(MessageId, Words),
    /// A step is recorded, and the other begins.
    Next(StepKind, StepKind),
    /// The turn is completed with this message.
    Answered(MessageId),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Words {
    Own(String),
    /// What the answer that is told in the same batch says behind so many bytes.
    OfAnswer(usize),
}

/// Events that are stored together, each that is not short as `other` writes it.
pub(crate) fn write(events: &[TurnEvent], other: impl Fn(&TurnEvent) -> Json) -> Vec<Json> {
    use TurnEvent::{Answered, StepFinished, StepStarted, TextEnded, TextSaid, TextStarted};

    let answer = match events.last() {
        Some(Answered { answer }) => answer.content.as_str(),
        _ => "",
    };
    let words = |said: &String| match answer.strip_suffix(said.as_str()) {
        Some(before) => Words::OfAnswer(before.len()),
        None => Words::Own(said.clone()),
    };
    let mut stored = Vec::new();
    let mut rest = events;
    loop {
        let (event, behind) = match rest {
            [] => break,
            [
                TextStarted { message_id: id },
                TextSaid { message_id, delta },
                TextEnded {
                    message_id: ended,
                    is_void: false,
                },
                behind @ ..,
            ] if [message_id, ended] == [id; 2] => (json(&Short::Said(*id, words(delta))), behind),
            [TextSaid { message_id, delta }, behind @ ..] => {
                (json(&Short::More(*message_id, words(delta))), behind)
            }
            [
                StepFinished { step },
                StepStarted { step: next },
                behind @ ..,
            ] => (json(&Short::Next(*step, *next)), behind),
            [Answered { answer }] => (json(&Short::Answered(answer.id)), &[][..]),
            [event, behind @ ..] => (other(event), behind),
        };
        stored.push(event);
        rest = behind;
    }
    stored
}

/// The event as it is.
pub(crate) fn json(event: &impl Serialize) -> Json {
    serde_json::to_value(event).expect("an event has names for keys")
}

/// The answer that a batch tells, without which it can't be read.
pub(crate) fn answer_of(stored: &[Json]) -> Option<MessageId> {
    match Short::deserialize(stored.last()?) {
        Ok(Short::Answered(id)) => Some(id),
        _ => None,
    }
}

impl TurnEvent {
    /// The events of a batch as it was stored. Where that tells the answer of its turn, its
    /// [`answer`](TurnEvent::Answered) and what it says are those of the message; without one it is
    /// an empty message.
    pub fn read(stored: Vec<Json>, answer: Option<&Message>) -> Vec<Self> {
        let mut events = Vec::new();
        for stored in stored {
            let Ok(short) = Short::deserialize(&stored) else {
                events.push(serde_json::from_value(stored).unwrap_or(Self::Unknown));
                continue;
            };
            match short {
                Short::Said(message_id, words) => {
                    events.push(Self::TextStarted { message_id });
                    events.push(Self::said(message_id, words, answer));
                    events.push(Self::TextEnded {
                        message_id,
                        is_void: false,
                    });
                }
                Short::More(message_id, words) => {
                    events.push(Self::said(message_id, words, answer));
                }
                Short::Next(step, next) => {
                    events.push(Self::StepFinished { step });
                    events.push(Self::StepStarted { step: next });
                }
                Short::Answered(id) => events.push(Self::Answered {
                    answer: answer.cloned().unwrap_or_else(|| empty(id)),
                }),
            }
        }
        events
    }

    fn said(message_id: MessageId, words: Words, answer: Option<&Message>) -> Self {
        let delta = match words {
            Words::Own(said) => said,
            Words::OfAnswer(from) => {
                let said = answer.and_then(|answer| answer.content.get(from..));
                said.unwrap_or_default().to_owned()
            }
        };
        Self::TextSaid { message_id, delta }
    }
}

/// In place of a message that was not read, or is deleted.
fn empty(id: MessageId) -> Message {
    let nowhere = ConversationId(Uuid::nil());
    Message::new(nowhere, Role::Assistant, "").with(|message| message.id = id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(id: MessageId, delta: &str) -> TurnEvent {
        TurnEvent::TextSaid {
            message_id: id,
            delta: delta.to_owned(),
        }
    }

    fn whole(id: MessageId, text: &str) -> [TurnEvent; 3] {
        [
            TurnEvent::TextStarted { message_id: id },
            said(id, text),
            TurnEvent::TextEnded {
                message_id: id,
                is_void: false,
            },
        ]
    }

    #[test]
    fn what_the_answer_says_is_not_stored_with_the_events_that_tell_it() {
        let step = StepKind::Agent;
        let id = MessageId::new();
        let long = "what is said. ".repeat(100);
        let answer = Message::new(ConversationId::new(), Role::Assistant, long.as_str());
        let end = [
            TurnEvent::StepFinished { step },
            TurnEvent::Answered {
                answer: answer.clone(),
            },
        ];
        let at_once: Vec<_> = whole(id, &long).into_iter().chain(end.clone()).collect();
        let the_rest = [said(id, &long[700..])].into_iter().chain(end).collect();
        for events in [at_once, the_rest] {
            let stored = write(&events, json);
            assert!(
                Json::from(stored.clone()).to_string().len() < 200,
                "{stored:?}"
            );
            assert_eq!(answer_of(&stored), Some(answer.id));
            assert_eq!(TurnEvent::read(stored.clone(), Some(&answer)), events);
            let without = TurnEvent::read(stored, None);
            assert_eq!(without.last().map(TurnEvent::ends_run), Some(true));
        }
    }

    #[test]
    fn a_step_is_stored_in_little_more_than_what_it_says() {
        let (agent, tools) = (StepKind::Agent, StepKind::Tools);
        let steps = [
            TurnEvent::StepFinished { step: agent },
            TurnEvent::StepStarted { step: tools },
        ];
        let text = whole(MessageId::new(), "hm");
        let events: Vec<_> = text.into_iter().chain(steps).collect();
        let stored = write(&events, json);
        assert!(
            Json::from(stored.clone()).to_string().len() < 90,
            "{stored:?}"
        );
        assert_eq!(answer_of(&stored), None);
        assert_eq!(TurnEvent::read(stored, None), events);
    }

    #[test]
    fn what_a_newer_version_adds_does_not_keep_an_older_one_from_reading() {
        let with_more = json!({"type": "resumed", "attempt": 2, "because": "of a crash"});
        let new = json!({"type": "thought", "text": "hm"});
        let changed = json!({"type": "resumed", "attempt": "two"});
        let short = json!({"thought": "hm"});
        assert_eq!(
            TurnEvent::read(vec![with_more, new, changed, short], None),
            [
                TurnEvent::Resumed { attempt: 2 },
                TurnEvent::Unknown,
                TurnEvent::Unknown,
                TurnEvent::Unknown
            ]
        );
    }
}
