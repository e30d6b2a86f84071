//! `outbox-bridge explain`: what a code stands for, and what to do.

use super::{complain, print_out};
use crate::diagnosis::{DIAGNOSES, Diagnosis, find};
use crate::exit::Exit;

/// What to explain.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Options {
    /// A code, as `OB-4003`; without one, all are listed
    #[arg(value_name = "CODE")]
    code: Option<String>,
}

pub(super) fn execute(options: &Options) -> Exit {
    let Some(text) = &options.code else {
        let line = |diagnosis: &Diagnosis| format!("{}  {}\n", diagnosis.code, diagnosis.title);
        return print_out(&DIAGNOSES.iter().map(line).collect::<String>());
    };
    match find(text) {
        Some(diagnosis) => print_out(&explained(diagnosis)),
        None => {
            complain(&format!("{text:?} is no code of this version; `outbox-bridge explain` lists all"));
            Exit::Usage
        }
    }
}

fn explained(diagnosis: &Diagnosis) -> String {
    let Diagnosis { code, title, cause, remedy } = diagnosis;
    format!("{code}: {title}\n\nCause:  {cause}\nRemedy: {remedy}\n")
}
