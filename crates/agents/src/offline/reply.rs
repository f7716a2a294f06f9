//! What the offline agent says.

use chrono::{DateTime, Datelike, Utc};

use super::request::{Intent, Language, Request, Topic};
use crate::tools::FAILED;

/// The answer to `request`, from what its tool said.
pub(super) fn reply(request: &Request, result: &str) -> String {
    match request.language {
        Language::English => english(&request.intent, result),
        Language::Chinese => chinese(&request.intent, result),
    }
}

/// What the agent can do, for a text in which it finds nothing to do.
pub(super) fn help(language: Language) -> &'static str {
    match language {
        Language::English => ENGLISH_HELP,
        Language::Chinese => CHINESE_HELP,
    }
}

const ENGLISH_HELP: &str = "I am the offline agent: there is no language model behind me, but my \
memory is real and survives restarts. You can say:
- My name is Ada.
- What is my name?
- Remember that my favourite colour is green.
- What do you know about me?
- What is 17 * 23?
- What time is it?
- What did I say about green?";

const CHINESE_HELP: &str =
    "我是离线助手：背后没有语言模型，但我的记忆是真实的，重启后也不会丢失。你可以说：
- 我叫小明。
- 我叫什么名字？
- 请记住我最喜欢的颜色是绿色。
- 你知道我什么？
- 17 乘以 23 是多少？
- 现在几点？
- 我说过关于绿色的什么？";

fn english(intent: &Intent, result: &str) -> String {
    let failure = result.strip_prefix(FAILED);
    match (intent, failure) {
        (Intent::Remember { topic, value }, None) if topic.is_person() => {
            format!("Nice to meet you, {value}. I'll remember that.")
        }
        (Intent::Remember { topic, value }, None) => {
            let is = is(topic);
            format!(
                "I'll remember that {} {is} {}",
                english_subject(topic),
                sentence(value)
            )
        }
        (Intent::Recall(topic), None) => {
            let fact = format!("{} {} {result}", english_subject(topic), is(topic));
            sentence(&capitalised(&fact))
        }
        (Intent::Recall(topic), Some(_)) => format!(
            "I don't know {} yet. Tell me: \"Remember that {} {} ...\"",
            english_subject(topic),
            english_owner(topic),
            is(topic)
        ),
        (Intent::RecallAll, None) => format!("This is what I remember:\n{}", list(result)),
        (Intent::RecallAll, Some(_)) => "I don't know anything about you yet.".to_owned(),
        (Intent::Calculate { expression }, None) => match result.strip_prefix("approx. ") {
            Some(value) => format!("{expression} ≈ {value}."),
            None => format!("{expression} = {result}."),
        },
        (Intent::Calculate { expression }, Some(reason)) => {
            format!("I can't compute {expression}: {reason}.")
        }
        (Intent::TellTime, None) => match time(result) {
            Some(time) => format!("It is {} UTC.", time.format("%H:%M on %A, %-d %B %Y")),
            None => sentence(&format!("It is {result}")),
        },
        (Intent::Search { words }, None) => {
            format!("You said about \"{words}\":\n{}", quotes(result))
        }
        (Intent::Search { words }, Some(_)) => {
            format!("I find nothing that you said about \"{words}\".")
        }
        (Intent::Remember { .. } | Intent::TellTime, Some(reason)) => {
            format!("That did not work: {reason}.")
        }
    }
}

fn chinese(intent: &Intent, result: &str) -> String {
    let failure = result.strip_prefix(FAILED);
    match (intent, failure) {
        (Intent::Remember { topic, value }, None) if topic.is_person() => {
            format!("很高兴认识你，{value}。我会记住的。")
        }
        (Intent::Remember { topic, value }, None) => {
            format!("我会记住{}是{value}。", chinese_subject(topic))
        }
        (Intent::Recall(topic), None) if topic.is_person() => format!("你叫{result}。"),
        (Intent::Recall(topic), None) => format!("{}是{result}。", chinese_subject(topic)),
        (Intent::Recall(topic), Some(_)) => {
            format!("我还不知道{}。请告诉我。", chinese_subject(topic))
        }
        (Intent::RecallAll, None) => format!("我记得：\n{}", list(result)),
        (Intent::RecallAll, Some(_)) => "我还不知道关于你的任何事。".to_owned(),
        (Intent::Calculate { expression }, None) => match result.strip_prefix("approx. ") {
            Some(value) => format!("{expression} ≈ {value}。"),
            None => format!("{expression} = {result}。"),
        },
        (Intent::Calculate { expression }, Some(reason)) => {
            format!("我算不出 {expression}：{reason}。")
        }
        (Intent::TellTime, None) => match time(result) {
            Some(time) => {
                let weekday = WEEKDAYS[time.weekday().num_days_from_monday() as usize];
                let date = time.format("%Y年%-m月%-d日");
                format!(
                    "现在是{date}星期{weekday} {}（UTC）。",
                    time.format("%H:%M")
                )
            }
            None => format!("现在是 {result}。"),
        },
        (Intent::Search { words }, None) => format!("关于“{words}”，你说过：\n{}", quotes(result)),
        (Intent::Search { words }, Some(_)) => format!("我没有找到你说过的关于“{words}”的话。"),
        (Intent::Remember { .. } | Intent::TellTime, Some(reason)) => {
            format!("没有成功：{reason}。")
        }
    }
}

const WEEKDAYS: [&str; 7] = ["一", "二", "三", "四", "五", "六", "日"];

fn english_subject(topic: &Topic) -> String {
    format!("{} {}", if topic.own { "your" } else { "the" }, topic.name)
}

fn english_owner(topic: &Topic) -> String {
    format!("{} {}", if topic.own { "my" } else { "the" }, topic.name)
}

fn is(topic: &Topic) -> &'static str {
    if topic.plural { "are" } else { "is" }
}

fn chinese_subject(topic: &Topic) -> String {
    match topic.name.as_str() {
        _ if topic.is_person() => "你的名字".to_owned(),
        name if !topic.own => name.to_owned(),
        name if name.starts_with('最') => format!("你{name}"),
        name => format!("你的{name}"),
    }
}

fn time(rfc3339: &str) -> Option<DateTime<Utc>> {
    rfc3339.parse().ok()
}

/// With a full stop, unless it brings its own end.
fn sentence(text: &str) -> String {
    let stop = if text.ends_with(['.', '!', '?', '…', '。', '！', '？']) {
        ""
    } else {
        "."
    };
    format!("{text}{stop}")
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(char::to_uppercase).into_iter().flatten();
    first.chain(letters).collect()
}

fn list(lines: &str) -> String {
    let items = lines.lines().map(|line| format!("- {line}"));
    items.collect::<Vec<_>>().join("\n")
}

/// The messages, without their role.
fn quotes(found: &str) -> String {
    let texts = found
        .lines()
        .map(|line| line.split_once(": ").map_or(line, |(_, text)| text));
    list(&texts.collect::<Vec<_>>().join("\n"))
}
