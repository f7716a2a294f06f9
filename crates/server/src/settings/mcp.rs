//! `[mcp.NAME]`: servers of the Model Context Protocol, whose tools agents have as `NAME__TOOL`.

use std::{path::PathBuf, time::Duration};

use yai_agentkit_agents::{
    Url,
    mcp::{McpConfig, McpTransport, ToolRules},
};
use yai_agentkit_core::{Error, Result};
use yai_agentkit_persistence::setting::{FilePath, Setting, Sources, Text, Texts, settings};

use super::{SWITCH, URL, WHOLE_SECONDS, secret};

pub(super) const KEY: &str = "mcp";
pub(super) const SETTINGS: &[Setting] = Declared::SETTINGS;

const MAX_NAME: usize = 32;

settings! {
    /// What a table holds.
    struct Declared {
        /// the program to start, and its arguments; it is talked to over its standard input and output
        command: Option<Vec<String>> | "none", Texts("WORDS"), "command", "command", "";
        /// variables of the environment that it gets besides `PATH`, `HOME` and the like
        env: Option<Vec<String>> | "none", Texts("NAMES"), "env", "env", "";
        /// or where the server is, by streamable HTTP
        url: Option<Url> | "none", URL, "url", "url", "";
        /// the environment variable with its bearer token
        secret_env: Option<String> | "none", Text("NAME"), "secret_env", "secret_env", "";
        /// or the file with it
        secret_file: Option<PathBuf> | "none", FilePath, "secret_file", "secret_file", "";
        /// seconds that a call may take, retries included
        timeout: Duration = "60", WHOLE_SECONDS, "timeout", "timeout", "";
        /// its tools, by their names on the server
        tools: Option<Vec<String>> | "all", Texts("NAMES"), "tools", "tools", "";
        /// whether to believe what it says of them: read-only, harmless, may run again
        trust_annotations: bool = "true", SWITCH, "trust_annotations", "trust_annotations", "";
        /// those that may run again; `*` is all, here and below
        repeatable: Option<Vec<String>> | "as it says", Texts("NAMES"), "repeatable", "repeatable", "";
        /// those of which a person has to approve each time
        needs_approval: Option<Vec<String>> | "all that it does not call harmless", Texts("NAMES"),
            "needs_approval", "needs_approval", "";
        /// those of the others of which nobody has to
        no_approval: Option<Vec<String>> | "none", Texts("NAMES"), "no_approval", "no_approval", "";
    }
}

/// The servers, in the order of their names.
pub(super) fn read(
    sources: &Sources,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<McpConfig>> {
    let servers = sources.tables(KEY).map(|(name, table)| {
        let refused =
            |key: &str, reason: String| Error::configuration(format!("{KEY}.{name}{key}"), reason);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.len() > MAX_NAME || name.contains("__") || !name.chars().all(is_plain) {
            let reason = "must be named by at most 32 letters, digits, - and single _";
            return Err(refused("", reason.to_owned()));
        }
        let declared = Declared::read(table)?;
        let token = secret(
            table,
            declared.secret_env.as_deref(),
            declared.secret_file.as_deref(),
            &variable,
        )?;
        let transport = match (declared.command, declared.url) {
            (Some(command), None) => {
                let variables = declared.env.unwrap_or_default().into_iter().map(|name| {
                    let value = variable(&name);
                    let value = value.ok_or_else(|| refused(".env", format!("{name} is not set")));
                    Ok((name, value?))
                });
                let mut words = command.into_iter();
                McpTransport::Stdio {
                    program: words
                        .next()
                        .ok_or_else(|| refused(".command", "must name a program".to_owned()))?,
                    arguments: words.collect(),
                    variables: variables.collect::<Result<_>>()?,
                }
            }
            (None, Some(url)) => McpTransport::Http { url, token },
            _ => {
                let reason = "must have one of `command` and `url`";
                return Err(refused("", reason.to_owned()));
            }
        };
        Ok(McpConfig {
            name: name.to_owned(),
            transport,
            timeout: declared.timeout,
            rules: ToolRules {
                only: declared.tools,
                trusts_annotations: declared.trust_annotations,
                repeatable: declared.repeatable.unwrap_or_default(),
                needs_approval: declared.needs_approval.unwrap_or_default(),
                no_approval: declared.no_approval.unwrap_or_default(),
            },
        })
    });
    servers.collect()
}
