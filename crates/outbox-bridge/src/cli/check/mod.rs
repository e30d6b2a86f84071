//! `outbox-bridge check`: everything that would keep `run` from working, each with its remedy.
//!
//! A probe asks a server and hands what it learnt to pure functions that judge it. A probe that fails is a finding, and
//! the others go on, so that one run shows all there is to do.

mod claim_check;
mod instances;
mod letters;
pub(super) mod nats;
pub(super) mod permissions;
mod progress;
mod servers;
pub(super) mod source;
pub(super) mod stream;
mod together;

use std::fmt;

use super::{block_on, print_out};
use crate::config::Config;
use crate::diagnosis::Code;
use crate::exit::Exit;

/// How bad a finding is; the worst decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// Good to know.
    Note,
    /// `run` works, but not as well or as safely as it could.
    Warning,
    /// A server cannot be asked.
    Unavailable,
    /// `run` would not work.
    Error,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// How bad it is.
    pub(super) severity: Severity,
    /// What it is about: `stream ORDERS`, `nats.url`.
    pub(super) subject: String,
    /// What was found.
    pub(super) problem: String,
    /// What to do about it; empty for notes.
    pub(super) remedy: String,
    /// What `run` calls it, if it is something that ends `run` too.
    code: Option<Code>,
}

impl Finding {
    pub(super) fn new(
        severity: Severity,
        subject: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity, subject: subject.into(), problem: problem.into(), remedy: remedy.into(), code: None }
    }

    /// With the code that `run` has for it.
    pub(super) fn coded(self, code: Code) -> Self {
        Self { code: Some(code), ..self }
    }

    pub(super) fn note(subject: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::new(Severity::Note, subject, problem, "")
    }
}

impl Finding {
    /// What errors of this kind are called, unless the problem is an error's text with a code in it.
    fn code(&self) -> Option<Code> {
        if self.severity < Severity::Unavailable || self.problem.contains("[OB-") {
            return None;
        }
        Some(self.code.unwrap_or_else(|| match self.subject.split(' ').next() {
            Some("table") => Code::CHECK_TABLE,
            Some("stream") => Code::CHECK_STREAM,
            Some("nats" | "object") => Code::CHECK_NATS,
            Some("bucket") => Code::CHECK_PROGRESS,
            _ => Code::CHECK_SOURCE,
        }))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Note => "ok",
            Severity::Warning => "warning",
            Severity::Unavailable | Severity::Error => "ERROR",
        };
        write!(f, "{word:8} {}: {}", self.subject, self.problem)?;
        if let Some(code) = self.code() {
            write!(f, " [{code}]")?;
        }
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "\n         -> {}", self.remedy) }
    }
}

pub(super) fn execute(config: &Config) -> Exit {
    report_findings(Box::pin(probe(config)))
}

/// Prints what `findings` finds; the worst decides the exit code.
pub(super) fn report_findings(findings: impl Future<Output = Vec<Finding>>) -> Exit {
    let findings = match block_on(findings) {
        Ok(findings) => findings,
        Err(exit) => return exit,
    };
    match print_out(&render(&findings)) {
        Exit::Success => exit(&findings),
        failure => failure,
    }
}

/// Asks both sides, whatever the other says.
async fn probe(config: &Config) -> Vec<Finding> {
    let (mut source, mut target) =
        tokio::join!(Box::pin(source::probe(config)), Box::pin(nats::probe(config)));
    let together = together::assess(config, &source, &target);
    let point = match &target.progress.start {
        progress::Start::At(point) => Some(&**point),
        progress::Start::Unknown | progress::Start::First => None,
    };
    let servers = Box::pin(servers::probe(config, point)).await;
    let mut findings = std::mem::take(&mut source.findings);
    findings.extend(servers);
    findings.append(&mut target.findings);
    findings.append(&mut target.progress.findings);
    findings.extend(together);
    findings
}

fn exit(findings: &[Finding]) -> Exit {
    match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Error) => Exit::Configuration,
        Some(Severity::Unavailable) => Exit::Unavailable,
        Some(Severity::Warning | Severity::Note) | None => Exit::Success,
    }
}

/// All findings, and a line that sums them up.
fn render(findings: &[Finding]) -> String {
    let count = |severities: &[Severity]| {
        findings.iter().filter(|finding| severities.contains(&finding.severity)).count()
    };
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let lines: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    let errors = plural(count(&[Severity::Error, Severity::Unavailable]), "error");
    let warnings = plural(count(&[Severity::Warning]), "warning");
    format!("{lines}\n{errors}, {warnings}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides() {
        let of = |severity| Finding::new(severity, "stream S", "does not exist", "create it");
        let note = Finding::note("nats", "connected");
        assert_eq!(exit(&[]), Exit::Success);
        assert_eq!(exit(&[note.clone(), of(Severity::Warning)]), Exit::Success);
        assert_eq!(exit(&[of(Severity::Unavailable), note.clone()]), Exit::Unavailable);
        assert_eq!(exit(&[of(Severity::Error), of(Severity::Unavailable)]), Exit::Configuration);
        assert_eq!(
            render(&[note, of(Severity::Error)]),
            "ok       nats: connected\nERROR    stream S: does not exist [OB-7004]\n         -> create it\n\n1 error, 0 warnings\n"
        );
    }
}
