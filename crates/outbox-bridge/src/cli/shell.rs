//! What a shell and a manual know of the commands, made of their definition.

use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, complain, print_out};
use crate::exit::{Exit, report};

const NAME: &str = "outbox-bridge";

/// Prints the completions for a shell.
pub(super) fn completions(shell: Shell) -> Exit {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
    print_out(&String::from_utf8_lossy(&text))
}

/// Where the pages go.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ManOptions {
    /// Writes a page for each command into this folder, in place of one page to standard output
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Prints the manual page, or writes all of them.
pub(super) fn man(options: &ManOptions) -> Exit {
    let mut text = Vec::new();
    let done = match &options.folder {
        Some(folder) => clap_mangen::generate_to(Cli::command(), folder),
        None => clap_mangen::Man::new(Cli::command()).render(&mut text),
    };
    match done {
        Ok(()) => print_out(&String::from_utf8_lossy(&text)),
        Err(error) => {
            complain(&format!("the manual cannot be written: {}", report(&error)));
            Exit::Configuration
        }
    }
}
