//! Arithmetic in words.

use std::sync::LazyLock;

use regex::Regex;

use super::grammar::pattern;

/// `text` as an expression, such as `17 * 23` for "17 times 23", when it is nothing else.
pub(super) fn expression(text: &str) -> Option<String> {
    let mut expression = text.to_lowercase();
    for (word, symbol) in WORDS {
        expression = expression.replace(word, symbol);
    }
    let expression = expression.split_whitespace().collect::<Vec<_>>().join(" ");
    EXPRESSION.is_match(&expression).then_some(expression)
}

/// Two operands at least: a number alone asks for nothing.
static EXPRESSION: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[-+(. ]*\d[\d.,()! ]*[-+*/^%][-+*/^%()!., \d]*$"));

/// Longer words before those that they contain.
const WORDS: [(&str, &str); 28] = [
    ("multiplied by", "*"),
    ("times", "*"),
    ("divided by", "/"),
    ("plus", "+"),
    ("minus", "-"),
    ("modulo", "%"),
    ("to the power of", "^"),
    (" squared", "^2"),
    (" cubed", "^3"),
    ("乘以", "*"),
    ("乘", "*"),
    ("除以", "/"),
    ("加上", "+"),
    ("加", "+"),
    ("减去", "-"),
    ("减", "-"),
    ("的平方", "^2"),
    ("的立方", "^3"),
    ("的", "^"),
    ("次方", ""),
    ("x", "*"),
    ("×", "*"),
    ("÷", "/"),
    ("−", "-"),
    ("＋", "+"),
    ("－", "-"),
    ("（", "("),
    ("）", ")"),
];
