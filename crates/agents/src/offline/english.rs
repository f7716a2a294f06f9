//! How people ask in English.

use std::sync::LazyLock;

use regex::Captures;

use super::{
    grammar::{Grammar, pattern, patterns},
    request::{Language, Topic},
};

pub(super) static ENGLISH: LazyLock<Grammar> = LazyLock::new(|| Grammar {
    language: Language::English,
    opening: pattern(
        r"^(?:(?:hi|hello|hey|ok|okay|please|and|also|so|well|then|now|but|by the way|can you|could you)\b[\s,:!]*)+",
    ),
    closing: pattern(r"[\s,]*(?:please|thanks|thank you)?\s*$"),
    arithmetic: pattern(
        r"^(?:(?:tell me )?(?:what(?:['’]?s| is)?|how much is)|calculate|compute|work out)?\s*(?<sum>.*?)\s*(?:is|equals?|=)?$",
    ),
    time: pattern(
        r"^(?:(?:tell me |do you know )?what time (?:is it|it is)|what day is (?:it|today)|(?:what(?:['’]?s| is) |tell me )(?:the|today['’]s) (?:current )?(?:time|date))(?: now| today)*$",
    ),
    recall_all: pattern(
        r"^what (?:do you (?:know|remember)(?: about me)?|(?:did|have) i (?:tell|told) you(?: about (?:me|myself))?)$",
    ),
    recall_person: pattern("^(?:do you know )?who (?:am i|i am)$"),
    search: patterns(&[
        r"^what (?:did|have) (?:i|we) (?:say|said|tell you|told you|mention|talk|talked) about (?:my |the |an? )?(?<words>.+)$",
        r"^did (?:i|we) (?:ever )?(?:mention|say anything about|talk about) (?:my |the |an? )?(?<words>.+)$",
        r"^search (?:the |my |our )?(?:history|chat|messages) for (?<words>.+)$",
    ]),
    recall: patterns(&[
        r"^(?:what|who|where|when)(?:['’]?s| is| was| (?<plural>are|were)) (?<owner>my|the) (?<name>[^,:]+?)(?: called| named)?(?: again)?$",
        r"^(?:tell me|do you (?:know|remember)) (?:what|who|where|when) (?<owner>my|the) (?<name>[^,:]+?) (?:is|(?<plural>are))$",
        r"^(?:tell me|do you (?:know|remember)) (?<owner>my) (?<name>[^,:]+)$",
    ]),
    remember_person: pattern(
        r"^(?:remember (?:that )?)?(?:my name(?:['’]s| is)|call me|i(?:['’]m| am) called) (?<value>[^,]+?)(?:,.*|\s(?:and|but)\s.*)?$",
    ),
    remember: patterns(&[
        r"^(?:remember|note|keep in mind|don['’]t forget)(?: that|:)? (?:(?<owner>my|the) )?(?<name>[^,:]+?) (?:is|(?<plural>are)) (?<value>.+)$",
        r"^(?<owner>my) (?<name>[^,:]+?) (?:is|(?<plural>are)) (?<value>.+)$",
    ]),
    topic,
    not_a_name: pattern(r"^(?:not|what)\b"),
    not_a_value: pattern(r"^(?:not\b|what$|who$)"),
});

fn topic(found: &Captures<'_>) -> Option<Topic> {
    let name = found["name"].trim().to_owned();
    let is_short = name.split_whitespace().count() <= 6 && name.len() <= 80;
    is_short.then(|| Topic {
        own: found
            .name("owner")
            .is_some_and(|owner| owner.as_str().eq_ignore_ascii_case("my")),
        plural: found.name("plural").is_some_and(|verb| !verb.is_empty()),
        name,
    })
}
