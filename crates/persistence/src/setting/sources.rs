use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use toml::de::{DeTable, DeValue};
use yai_agentkit_core::{Error, Result};

use super::{Kind, Setting, kind::END};

/// What was given for the settings, and by which name. Where one is given several times, that counts
/// which was added first: flags, then variables, then the file.
pub struct Sources {
    settings: Vec<Setting>,
    given: HashMap<&'static str, Given>,
    /// By key, the tables that a file may name freely.
    tables: BTreeMap<&'static str, Tables>,
}

struct Given {
    text: String,
    name: Cow<'static, str>,
}

struct Tables {
    settings: &'static [Setting],
    named: BTreeMap<String, Sources>,
}

/// A file that is being read.
struct File<'a> {
    name: &'a str,
    toml: &'a str,
}

impl File<'_> {
    /// Says which line is at fault, and never the line itself, which may hold a password.
    fn refused(&self, offset: usize, reason: impl std::fmt::Display) -> Error {
        let before = self.toml.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Error::configuration(self.name.to_owned(), format!("line {line}: {reason}"))
    }
}

impl Sources {
    /// Nothing given for `settings` yet.
    pub fn new(settings: &[Setting]) -> Self {
        Self {
            settings: settings.to_vec(),
            given: HashMap::new(),
            tables: BTreeMap::new(),
        }
    }

    /// The same, where a file may have tables `[key.NAME]` with `settings` too. These have neither
    /// variables nor flags: their keys name them in the program.
    #[must_use]
    pub fn with_tables(mut self, key: &'static str, settings: &'static [Setting]) -> Self {
        let named = BTreeMap::new();
        self.tables.insert(key, Tables { settings, named });
        self
    }

    /// What was given in the tables `[key.NAME]`, by name.
    pub fn tables(&self, key: &str) -> impl Iterator<Item = (&str, &Self)> {
        let tables = self.tables.get(key).into_iter();
        let named = tables.flat_map(|tables| &tables.named);
        named.map(|(name, sources)| (name.as_str(), sources))
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
        let file = File { name, toml };
        let document = DeTable::parse(toml).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            file.refused(offset, error.message())
        })?;
        for (key, value) in document.get_ref() {
            let (offset, key) = (key.span().start, &**key.get_ref());
            if table.is_some_and(|table| table != key) {
                continue;
            }
            let Some(tables) = self.tables.get_mut(key) else {
                self.add_value(&file, "", key.to_owned(), (value.get_ref(), offset))?;
                continue;
            };
            let not_named = || file.refused(offset, format!("`{key}` must be tables [{key}.NAME]"));
            for (name, value) in value.get_ref().as_table().ok_or_else(not_named)? {
                let name = name.get_ref();
                let mut sources = Self::new(tables.settings);
                for (own_key, value) in value.get_ref().as_table().ok_or_else(not_named)? {
                    let value = (value.get_ref(), own_key.span().start);
                    let own_key = own_key.get_ref().to_string();
                    sources.add_value(&file, &format!("{key}.{name}."), own_key, value)?;
                }
                tables.named.insert(name.to_string(), sources);
            }
        }
        Ok(())
    }

    /// Adds a value of a file, or all of a table, under its dotted `key` without the `prefix` that
    /// stands before it in the file.
    fn add_value(
        &mut self,
        file: &File<'_>,
        prefix: &str,
        key: String,
        (value, offset): (&DeValue<'_>, usize),
    ) -> Result<()> {
        if let DeValue::Table(table) = value {
            for (inner, value) in table {
                let offset = inner.span().start;
                let key = format!("{key}.{}", inner.get_ref());
                self.add_value(file, prefix, key, (value.get_ref(), offset))?;
            }
            return Ok(());
        }
        let known = self.settings.iter().find(|known| known.key == key);
        let Some(setting) = known.copied() else {
            let keys = self.settings.iter().map(|known| known.key);
            let meant = nearest(&key, keys).map(|key| format!("; did you mean `{prefix}{key}`?"));
            let meant = meant.unwrap_or_default();
            let reason = format!("`{prefix}{key}` is no setting{meant}");
            return Err(file.refused(offset, reason));
        };
        let text = match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(on) => on.to_string(),
            DeValue::Array(items) if setting.kind.is_list() => {
                let texts = items.iter().map(|item| item.get_ref().as_str());
                let texts = texts.map(|text| Some(format!("{}{END}", text?)));
                let not_texts =
                    || file.refused(offset, format!("`{prefix}{key}` must be a list of texts"));
                texts.collect::<Option<String>>().ok_or_else(not_texts)?
            }
            _ => {
                let reason = format!("`{prefix}{key}` must be a text or a number");
                return Err(file.refused(offset, reason));
            }
        };
        self.add(
            &setting,
            text,
            format!("`{prefix}{key}` in {}", file.name).into(),
        );
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

pub(crate) fn refused(
    name: impl Into<Cow<'static, str>>,
    value: impl std::fmt::Display,
    kind: &(impl Kind + ?Sized),
) -> Error {
    let reason = format!("`{value}` is not allowed; it must be {}", kind.allowed());
    Error::configuration(name, reason)
}
