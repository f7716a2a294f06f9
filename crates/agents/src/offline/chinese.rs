//! How people ask in Chinese.

use std::sync::LazyLock;

use regex::Captures;

use super::{
    grammar::{Grammar, pattern, patterns},
    request::{Language, Topic},
};

pub(super) static CHINESE: LazyLock<Grammar> = LazyLock::new(|| Grammar {
    language: Language::Chinese,
    opening: pattern(
        r"^(?:(?:你好|您好|嗨|请问|请你?|麻烦你?|帮我|那么|那|对了|另外|还有|然后|告诉我|你?能不能|你?可以)[，,！!\s]*)+",
    ),
    closing: pattern(r"[\s，,]*(?:谢谢你?)?\s*$"),
    arithmetic: pattern(
        r"^(?:计算一下|计算|算一下|算)?\s*(?<sum>.*?)\s*(?:的结果)?(?:是多少|等于多少|等于几|等于|是几|得多少|得几|=)?$",
    ),
    time: pattern(
        r"^(?:现在|今天)?(?:是|的)?(?:几点钟?|什么时间|时间(?:是多少|是几点)?|几号|几月几[号日]|星期几|周几|日期(?:是什么|是多少)?)[了啦呢]?$",
    ),
    recall_all: pattern(
        r"^(?:关于我[，,]?)?你[还都]*(?:知道|记得|记住了)(?:关于)?我?的?(?:什么|哪些事情?)$",
    ),
    recall_person: pattern(
        r"^(?:你?还?(?:知道|记得))?我(?:叫|的名字叫|的名字是|是)(?:什么|啥|谁)(?:名字)?[呢吗]?$",
    ),
    search: patterns(&[
        r"^我们?(?:以前|之前|刚才)?[说提讲聊谈][过到了]*(?:什么)?(?:有关|关于)(?<words>.+?)的?(?:什么|哪些|啥)?(?:事情?|话|内容)?[吗呢]?$",
        r"^关于(?<words>.+?)[，,]?我们?(?:以前|之前|刚才)?[说提讲聊谈][过到了]*(?:些?什么|啥|哪些.*)$",
        r"^我们?(?:以前|之前|刚才)?[说提讲聊谈]到?过(?<words>.+?)(?:吗|没有)$",
        r"^我们?有没有[说提讲聊谈]到?过(?<words>.+?)$",
        r"^(?:搜索|查找)(?:历史|聊天)?(?:记录)?[里中]?的?(?:关于)?(?<words>.+)$",
    ]),
    recall: patterns(&[
        r"^(?<owner>我的|我)?(?<name>[^，,]+?)[是叫在](?:什么|谁|哪|多少|几|啥).{0,6}$",
        r"^你?还?(?:知道|记得)(?<owner>我的|我)(?<name>[^，,]+?)(?:[是叫在](?:什么|谁|哪|多少|几|啥).{0,6})?吗$",
        r"^(?<owner>我的)(?<name>[^，,]+?)呢$",
    ]),
    remember_person: pattern(
        r"^(?:记住|记得)?[，,：:\s]*(?:我叫做?|我的名字[是叫]|我名叫)(?<value>[^，,]{1,40}?)(?:[，,].*)?$",
    ),
    remember: patterns(&[
        r"^(?:记住|记下|记一下|记得|别忘了)[，,：:\s]*(?<owner>我的|我)?(?<name>[^，,]+?)[是叫](?<value>.+)$",
        r"^(?<owner>我的|我)(?<name>[^，,]+?)[是叫](?<value>.+)$",
    ]),
    topic,
    // "我叫了外卖" names nobody.
    not_a_name: pattern("^[了他她它你您我过着]"),
    // What asks or denies is no fact.
    not_a_value: pattern("^(?:不|什么|谁|哪|几|多少|啥|怎么|否)|(?:吗|呢|什么|谁|多少|啥)$"),
});

fn topic(found: &Captures<'_>) -> Option<Topic> {
    let name = found["name"].trim();
    let is_own = match found.name("owner").map(|owner| owner.as_str()) {
        Some("我的") => true,
        // Anything but "我最…" would be a clause: "我觉得他是…".
        Some(_) => name.starts_with('最').then_some(true)?,
        None => false,
    };
    let is_pronoun = !is_own && name.starts_with(['我', '你', '他', '她', '它', '这', '那', '谁']);
    let is_verb = name.ends_with(['不', '也', '都', '就', '还']);
    if is_pronoun || is_verb || name.chars().count() > 30 {
        return None;
    }
    let is_person = is_own && matches!(name, "名字" | "姓名");
    let name = if is_person { Topic::PERSON } else { name };
    Some(Topic {
        own: is_own,
        ..Topic::own(name)
    })
}
