//! `[agents.NAME]`: who answers in the conversations whose metadata say `{"agent": "NAME"}`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use yai_agentkit_agents::{Url, remote::RemoteConfig};
use yai_agentkit_core::{Error, Result};
use yai_agentkit_persistence::setting::{Choice, FilePath, Setting, Sources, Text, settings};

use super::{NamedAgent, OFFLINE, OPENAI, URL, WHOLE_SECONDS, secret};

pub(super) const KEY: &str = "agents";
pub(super) const SETTINGS: &[Setting] = Declared::SETTINGS;

const KIND: Choice<Kind> = Choice(&[("remote", Kind::Remote), ("agui", Kind::Agui)]);
#[derive(Clone, Copy)]
enum Kind {
    Remote,
    Agui,
}

settings! {
    /// What a table holds.
    struct Declared {
        /// whether it answers step by step, or by whole runs of AG-UI
        kind: Kind = "remote", KIND, "kind", "kind", "";
        /// where it is
        url: Option<Url> | "needed", URL, "url", "url", "";
        /// the environment variable with the secret that signs requests, for AG-UI the bearer token
        secret_env: Option<String> | "none", Text("NAME"), "secret_env", "secret_env", "";
        /// or the file with it
        secret_file: Option<PathBuf> | "none", FilePath, "secret_file", "secret_file", "";
        /// seconds that an answer may take
        timeout: Duration = "60", WHOLE_SECONDS, "timeout", "timeout", "";
        /// seconds for which one that does not answer is asked again
        patience: Duration = "30", WHOLE_SECONDS, "patience", "patience", "";
    }
}

/// The agents by name.
pub(super) fn read(
    sources: &Sources,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, NamedAgent>> {
    let agents = sources.tables(KEY).map(|(name, sources)| {
        let refused = |key: &str, reason: &'static str| {
            Error::configuration(format!("{KEY}.{name}{key}"), reason)
        };
        if [OFFLINE, OPENAI].contains(&name) {
            return Err(refused("", "must have another name: this one is built in"));
        }
        let declared = Declared::read(sources)?;
        let config = RemoteConfig {
            secret: secret(
                sources,
                declared.secret_env.as_deref(),
                declared.secret_file.as_deref(),
                &variable,
            )?,
            timeout: declared.timeout,
            patience: declared.patience,
            url: declared
                .url
                .ok_or_else(|| refused(".url", "must be given"))?,
        };
        let agent = match declared.kind {
            Kind::Remote => NamedAgent::Remote(config),
            Kind::Agui => NamedAgent::Agui(config),
        };
        Ok((name.to_owned(), agent))
    });
    agents.collect()
}
