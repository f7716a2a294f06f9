use std::{borrow::Cow, collections::HashMap};

use toml::de::{DeTable, DeValue};
use yai_agentkit_core::{Error, Result};

use super::{Kind, Setting};

/// What was given for the settings, and by which name. Where one is given several times, that counts
/// which was added first: flags, then variables, then the file.
pub struct Sources {
    settings: Vec<Setting>,
    given: HashMap<&'static str, Given>,
}

struct Given {
    text: String,
    name: Cow<'static, str>,
}

impl Sources {
    /// Nothing given for `settings` yet.
    pub fn new(settings: &[Setting]) -> Self {
        Self {
            settings: settings.to_vec(),
            given: HashMap::new(),
        }
    }

    /// Adds what the flags say; `flag` knows the value of a setting's flag.
    pub fn flags(&mut self, flag: impl Fn(&Setting) -> Option<String>) {
        for setting in self.settings.clone() {
            if let Some(text) = flag(&setting) {
                self.add(&setting, text, format!("--{}", setting.flag).into());
            }
        }
    }

    /// Adds the environment. A variable that is empty is not set.
    pub fn variables(&mut self, variable: impl Fn(&str) -> Option<String>) {
        for setting in self.settings.clone() {
            let text = variable(setting.variable).filter(|text| !text.is_empty());
            if let Some(text) = text {
                self.add(&setting, text, setting.variable.into());
            }
        }
    }

    /// Adds the file `name` with the text `toml`. A key that is unknown is an error; with `table`,
    /// all but that one table is left to others.
    pub fn file(&mut self, name: &str, toml: &str, table: Option<&str>) -> Result<()> {
        let line = |offset: usize| {
            let before = toml.get(..offset).unwrap_or_default();
            before.matches('\n').count() + 1
        };
        // Never the line itself, which may hold a password.
        let refused = |offset, reason: &str| {
            Error::configuration(name.to_owned(), format!("line {}: {reason}", line(offset)))
        };
        let document = DeTable::parse(toml).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            refused(offset, error.message())
        })?;
        let mut entries = Vec::new();
        flatten("", document.get_ref(), &mut entries);
        for (key, value, offset) in entries {
            if table.is_some_and(|table| !key.starts_with(&format!("{table}."))) {
                continue;
            }
            let known = self.settings.iter().find(|known| known.key == key);
            let Some(setting) = known.copied() else {
                let keys = self.settings.iter().map(|known| known.key);
                let meant = nearest(&key, keys).map(|key| format!("; did you mean `{key}`?"));
                let reason = format!("`{key}` is no setting{}", meant.unwrap_or_default());
                return Err(refused(offset, &reason));
            };
            let text = match value {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) if number.radix() == 10 => number.to_string(),
                DeValue::Float(number) => number.to_string(),
                DeValue::Boolean(on) => on.to_string(),
                _ => {
                    return Err(refused(
                        offset,
                        &format!("`{key}` must be a text or a number"),
                    ));
                }
            };
            self.add(&setting, text, format!("`{key}` in {name}").into());
        }
        Ok(())
    }

    /// The variables that have the `prefix` but belong to no setting, each with the one that may be
    /// meant.
    pub fn unknown<'a>(
        &self,
        prefix: &str,
        variables: impl IntoIterator<Item = &'a str>,
    ) -> Vec<(&'a str, Option<&'static str>)> {
        let known = || self.settings.iter().map(|setting| setting.variable);
        let ours = variables
            .into_iter()
            .filter(|name| name.starts_with(prefix));
        ours.filter(|name| known().all(|known| known != *name))
            .map(|name| (name, nearest(name, known())))
            .collect()
    }

    /// The value of the setting with this variable, or its default.
    pub fn get<K: Kind>(
        &self,
        variable: &'static str,
        kind: &K,
        default: &'static str,
    ) -> Result<K::Value> {
        match self.find(variable, kind)? {
            Some(value) => Ok(value),
            None => kind
                .parse(default)
                .ok_or_else(|| refused(variable, default, kind)),
        }
    }

    /// The value of the setting with this variable, where it is given.
    pub fn find<K: Kind>(&self, variable: &'static str, kind: &K) -> Result<Option<K::Value>> {
        let Some(given) = self.given.get(variable) else {
            return Ok(None);
        };
        let value = kind.parse(given.text.trim());
        let value = value.ok_or_else(|| refused(given.name.clone(), &given.text, kind));
        value.map(Some)
    }

    /// By which name the setting with this variable was given; the variable where it was not.
    pub fn name(&self, variable: &'static str) -> Cow<'static, str> {
        let given = self.given.get(variable);
        given.map_or(variable.into(), |given| given.name.clone())
    }

    fn add(&mut self, setting: &Setting, text: String, name: Cow<'static, str>) {
        let given = self.given.entry(setting.variable);
        given.or_insert(Given { text, name });
    }
}

/// The name of `names` that `name` may have been meant to be.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.85;
    names
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

/// The values of a table under their dotted keys, each with where its key stands in the text.
fn flatten<'a>(
    prefix: &str,
    table: &'a DeTable<'_>,
    into: &mut Vec<(String, &'a DeValue<'a>, usize)>,
) {
    for (key, value) in table {
        let offset = key.span().start;
        let key = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(table) => flatten(&format!("{key}."), table, into),
            value => into.push((key, value, offset)),
        }
    }
}

pub(crate) fn refused(
    name: impl Into<Cow<'static, str>>,
    value: impl std::fmt::Display,
    kind: &(impl Kind + ?Sized),
) -> Error {
    let reason = format!("`{value}` is not allowed; it must be {}", kind.allowed());
    Error::configuration(name, reason)
}
