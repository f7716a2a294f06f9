//! What a shell and `man` know of the commands.

use std::{fs, io::stdout, path::PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;
use yai_agentkit_core::error::BoxError;

use super::Cli;

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// Where the pages are written, one a command
    directory: PathBuf,
}

pub(super) fn completions(arguments: &Completions) {
    clap_complete::generate(
        arguments.shell,
        &mut Cli::command(),
        "agentkit",
        &mut stdout().lock(),
    );
}

pub(super) fn man(arguments: &Man) -> Result<(), BoxError> {
    fs::create_dir_all(&arguments.directory)?;
    Ok(clap_mangen::generate_to(
        Cli::command(),
        &arguments.directory,
    )?)
}
