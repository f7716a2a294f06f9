//! The AgentKit server: a turn engine over [`yai_agentkit_core::Storage`], agents, HTTP and CLI.

pub mod agent;
pub mod cli;
pub mod fork;
pub mod http;
pub mod inspect;
pub mod serve;
pub mod settings;
pub mod turn;

/// An error with all its causes, for a log line or a terminal.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |chain, cause| {
        let cause = cause.to_string();
        // Some libraries say the cause in the error too.
        if chain.ends_with(&cause) {
            chain
        } else {
            format!("{chain}: {cause}")
        }
    })
}
