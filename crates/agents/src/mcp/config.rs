use std::{fmt, time::Duration};

use reqwest::Url;
use rmcp::model::Tool;
use yai_agentkit_engine::agent::ToolTraits;

/// A server, and how much it is trusted.
#[derive(Clone, Debug)]
pub struct McpConfig {
    /// What its tools' names begin with: letters, digits, `_` and `-`.
    pub name: String,
    /// Where it is.
    pub transport: McpTransport,
    /// How long a call may take, retries included.
    pub timeout: Duration,
    /// What is said of its tools here.
    pub rules: ToolRules,
}

/// Where a server is. `Debug` shows neither the URL nor a secret.
#[derive(Clone)]
pub enum McpTransport {
    /// A program that is started, and talked to over its standard input and output. Of the environment
    /// it gets where programs and the home are, and `variables`.
    Stdio {
        /// The program.
        program: String,
        /// Its arguments.
        arguments: Vec<String>,
        /// Names and values.
        variables: Vec<(String, String)>,
    },
    /// Streamable HTTP.
    Http {
        /// The endpoint.
        url: Url,
        /// The bearer token.
        token: Option<String>,
    },
}

impl fmt::Debug for McpTransport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio { program, .. } => write!(formatter, "Stdio({program})"),
            Self::Http { .. } => write!(formatter, "Http"),
        }
    }
}

/// What is said of a server's tools by who runs it, by their names; `*` is all of them.
#[derive(Clone, Debug, Default)]
pub struct ToolRules {
    /// Those that there are; all of the server's, unless given.
    pub only: Option<Vec<String>>,
    /// Whether to believe what the server says of its tools: that they change nothing, destroy nothing,
    /// or may run again.
    pub trusts_annotations: bool,
    /// Those that may run again.
    pub repeatable: Vec<String>,
    /// Those of which a person has to approve each time,
    pub needs_approval: Vec<String>,
    /// and those of the others of which nobody has to. What is left needs it unless the server says
    /// that it destroys nothing.
    pub no_approval: Vec<String>,
}

impl ToolRules {
    pub(super) fn allows(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| lists(only, name))
    }

    pub(super) fn traits(&self, tool: &Tool) -> ToolTraits {
        let hints = tool.annotations.as_ref();
        let hints = hints.filter(|_| self.trusts_annotations);
        let is_read_only = hints.is_some_and(|hints| hints.read_only_hint == Some(true));
        let is_harmless = is_read_only || hints.is_some_and(|hints| !hints.is_destructive());
        let is_repeatable = is_read_only || hints.is_some_and(|hints| hints.is_idempotent());
        ToolTraits {
            is_repeatable: is_repeatable || lists(&self.repeatable, &tool.name),
            needs_approval: lists(&self.needs_approval, &tool.name)
                || !is_harmless && !lists(&self.no_approval, &tool.name),
            ..ToolTraits::default()
        }
    }
}

fn lists(names: &[String], name: &str) -> bool {
    names.iter().any(|listed| listed == "*" || listed == name)
}
