use std::{fmt::Display, path::PathBuf, str::FromStr, time::Duration};

/// What a setting may be, for people.
pub trait Described: Sync {
    /// The place of the value in `--help`, as in `SECONDS`.
    fn placeholder(&self) -> &'static str;

    /// What is allowed, to end the sentence "it must be …".
    fn allowed(&self) -> String;

    /// What is allowed, beside the text of the help; `None` where that says it.
    fn range(&self) -> Option<String> {
        Some(self.allowed())
    }

    /// Whether it is a list in a file.
    fn is_list(&self) -> bool {
        false
    }
}

/// What a setting may be, and how it is read.
pub trait Kind: Described {
    /// Its type in the program.
    type Value;

    /// Reads what is allowed; `None` for all else.
    fn parse(&self, text: &str) -> Option<Self::Value>;
}

/// A whole number.
#[derive(Clone, Copy)]
pub struct Number<T> {
    /// The least.
    pub from: T,
    /// The greatest.
    pub to: T,
    /// Of what, as in `bytes`.
    pub unit: &'static str,
}

impl<T: PartialOrd> Number<T> {
    /// Whether `number` is allowed.
    pub fn holds(&self, number: T) -> bool {
        self.from <= number && number <= self.to
    }
}

impl<T: Display + Sync> Described for Number<T> {
    fn placeholder(&self) -> &'static str {
        "NUMBER"
    }

    fn allowed(&self) -> String {
        let Self { from, to, unit } = self;
        format!("a number of {unit} from {from} to {to}")
    }

    fn range(&self) -> Option<String> {
        Some(format!("{} to {}", self.from, self.to))
    }
}

impl<T: Display + FromStr + PartialOrd + Copy + Sync> Kind for Number<T> {
    type Value = T;

    fn parse(&self, text: &str) -> Option<T> {
        text.parse().ok().filter(|number| self.holds(*number))
    }
}

/// A length of time, given in seconds.
#[derive(Clone, Copy)]
pub struct Seconds {
    /// The shortest.
    pub from: f64,
    /// The longest.
    pub to: f64,
}

impl Seconds {
    /// `seconds`, where that is allowed.
    pub fn check(&self, seconds: f64) -> Option<Duration> {
        let is_allowed = (self.from..=self.to).contains(&seconds);
        is_allowed.then(|| Duration::from_secs_f64(seconds))
    }
}

impl Described for Seconds {
    fn placeholder(&self) -> &'static str {
        "SECONDS"
    }

    fn allowed(&self) -> String {
        format!("a number of seconds from {} to {}", self.from, self.to)
    }

    fn range(&self) -> Option<String> {
        Some(format!("{} to {}", self.from, self.to))
    }
}

impl Kind for Seconds {
    type Value = Duration;

    fn parse(&self, text: &str) -> Option<Duration> {
        self.check(text.parse().ok()?)
    }
}

/// One of some words.
#[derive(Clone, Copy)]
pub struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Sync> Described for Choice<T> {
    fn placeholder(&self) -> &'static str {
        "NAME"
    }

    fn allowed(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(word, _)| format!("`{word}`")).collect();
        match words.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

impl<T: Clone + Sync> Kind for Choice<T> {
    type Value = T;

    fn parse(&self, text: &str) -> Option<T> {
        let (_, value) = self.0.iter().find(|(word, _)| *word == text)?;
        Some(value.clone())
    }
}

/// What a type reads itself, as an address.
#[derive(Clone, Copy)]
pub struct Parsed<T> {
    /// Its place in `--help`.
    pub placeholder: &'static str,
    /// What is allowed, to end the sentence "it must be …".
    pub allowed: &'static str,
    /// How it is read.
    pub parse: fn(&str) -> Option<T>,
}

impl<T> Described for Parsed<T> {
    fn placeholder(&self) -> &'static str {
        self.placeholder
    }

    fn allowed(&self) -> String {
        self.allowed.to_owned()
    }
}

impl<T> Kind for Parsed<T> {
    type Value = T;

    fn parse(&self, text: &str) -> Option<T> {
        (self.parse)(text)
    }
}

/// Any text, in place of which `--help` has the word.
#[derive(Clone, Copy)]
pub struct Text(pub &'static str);

impl Described for Text {
    fn placeholder(&self) -> &'static str {
        self.0
    }

    fn allowed(&self) -> String {
        "a text".to_owned()
    }

    fn range(&self) -> Option<String> {
        None
    }
}

impl Kind for Text {
    type Value = String;

    fn parse(&self, text: &str) -> Option<String> {
        Some(text.to_owned())
    }
}

/// The path of a file.
#[derive(Clone, Copy)]
pub struct FilePath;

impl Described for FilePath {
    fn placeholder(&self) -> &'static str {
        "FILE"
    }

    fn allowed(&self) -> String {
        "the path of a file".to_owned()
    }

    fn range(&self) -> Option<String> {
        None
    }
}

impl Kind for FilePath {
    type Value = PathBuf;

    fn parse(&self, text: &str) -> Option<PathBuf> {
        Some(text.into())
    }
}

/// Texts, in place of which `--help` has the word. In a file they are a list; one text is a list of
/// one.
#[derive(Clone, Copy)]
pub struct Texts(pub &'static str);

/// Behind each text of a list.
pub(super) const END: char = '\0';

impl Described for Texts {
    fn placeholder(&self) -> &'static str {
        self.0
    }

    fn allowed(&self) -> String {
        "a list of texts".to_owned()
    }

    fn range(&self) -> Option<String> {
        None
    }

    fn is_list(&self) -> bool {
        true
    }
}

impl Kind for Texts {
    type Value = Vec<String>;

    fn parse(&self, text: &str) -> Option<Vec<String>> {
        Some(text.split_terminator(END).map(str::to_owned).collect())
    }
}
