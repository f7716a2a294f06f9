use crate::{Error, Result, validate};

/// A namespace, from the outermost label on.
pub type Labels = Vec<String>;

/// Refuses labels that no namespace has.
pub(super) fn validate(labels: &[String]) -> Result<()> {
    for label in labels {
        validate::text("namespace", label)?;
        if label.is_empty() || label.contains('.') {
            return Err(Error::invalid(
                "namespace",
                format!("a label must not be empty or have a point, and one is {label:?}"),
            ));
        }
    }
    Ok(())
}

/// Labels at one end of a namespace; `*` is any label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespacePattern {
    /// At the outer end.
    Prefix(Labels),
    /// At the inner end.
    Suffix(Labels),
}

impl NamespacePattern {
    fn labels(&self) -> &Labels {
        match self {
            Self::Prefix(labels) | Self::Suffix(labels) => labels,
        }
    }

    fn matches(&self, namespace: &[String]) -> bool {
        let labels = self.labels();
        let Some(rest) = namespace.len().checked_sub(labels.len()) else {
            return false;
        };
        let namespace = match self {
            Self::Prefix(_) => &namespace[..labels.len()],
            Self::Suffix(_) => &namespace[rest..],
        };
        let mut pairs = labels.iter().zip(namespace);
        pairs.all(|(wanted, label)| wanted == "*" || wanted == label)
    }
}

/// Which namespaces [`Operation::Namespaces`](super::Operation::Namespaces) lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceQuery {
    /// Those that match all of these.
    pub patterns: Vec<NamespacePattern>,
    /// Cut to so many labels.
    pub max_depth: Option<u64>,
    /// How many at most.
    pub limit: u64,
    /// How many to pass over.
    pub offset: u64,
}

impl NamespaceQuery {
    pub(super) fn validate(&self) -> Result<()> {
        let mut patterns = self.patterns.iter();
        patterns.try_for_each(|pattern| validate(pattern.labels()))
    }

    /// The labels with which every namespace that matches begins.
    pub fn known_prefix(&self) -> &[String] {
        let known = |pattern: &NamespacePattern| match pattern {
            NamespacePattern::Prefix(labels) => {
                labels.iter().take_while(|label| *label != "*").count()
            }
            NamespacePattern::Suffix(_) => 0,
        };
        let longest = self.patterns.iter().max_by_key(|pattern| known(pattern));
        longest.map_or(&[], |pattern| &pattern.labels()[..known(pattern)])
    }

    /// What it lists of `namespaces`.
    pub fn page(&self, namespaces: impl IntoIterator<Item = Labels>) -> Vec<Labels> {
        let matches = |namespace: &Labels| {
            let mut patterns = self.patterns.iter();
            patterns.all(|pattern| pattern.matches(namespace))
        };
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let depth = self.max_depth.map_or(usize::MAX, size);
        let listed = namespaces.into_iter().filter(matches);
        let listed: std::collections::BTreeSet<Labels> = listed
            .map(|mut namespace| {
                namespace.truncate(depth);
                namespace
            })
            .collect();
        let listed = listed.into_iter().skip(size(self.offset));
        listed.take(size(self.limit)).collect()
    }
}
