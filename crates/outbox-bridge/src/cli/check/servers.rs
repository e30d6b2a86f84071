//! The servers of `source.urls`: whether each could be read in place of the others.

use super::{Finding, Severity};
use crate::{
    checkpoint::LogPoint,
    config::Config,
    exit::report,
    run::all_servers,
    source::{LogError, Standing, standing},
};

/// Asks all servers, if there are several.
pub(super) async fn probe(config: &Config, point: Option<&LogPoint>) -> Vec<Finding> {
    let servers = all_servers(&config.source);
    let mut findings = Vec::new();
    if servers.len() > 1 {
        for server in servers {
            findings.push(assess(&server.address(), standing(&server, point).await, point));
        }
    }
    findings
}

fn assess(address: &str, standing: Result<Standing, LogError>, point: Option<&LogPoint>) -> Finding {
    let subject = format!("server {address}");
    let standing = match standing {
        Ok(standing) => standing,
        Err(error) => {
            let remedy = "as long as that is so, it cannot take the place of another one";
            return Finding::new(Severity::Warning, subject, report(&error), remedy);
        }
    };
    let role = if standing.follows { "a replica" } else { "follows no other server" };
    let Standing { server, missing, .. } = &standing;
    let read = if point.is_some_and(|point| point.server == *server) { ", the one that is read" } else { "" };
    match (missing.as_str(), standing.follows) {
        ("", _) => Finding::note(subject, format!("{server}, {role}, has all that the checkpoint has{read}")),
        (missing, true) => {
            let remedy = "see why it is behind: if it had to be read now, the bridge would wait for it (source.behind)";
            Finding::new(
                Severity::Warning,
                subject,
                format!("{server}, {role}, does not have {missing} yet"),
                remedy,
            )
        }
        (missing, false) => {
            let remedy = "bring them there, or take it out of source.urls: it can never be read in place of another one";
            Finding::new(Severity::Warning, subject, format!("{server}, {role}, has lost {missing}"), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_lacks_is_a_warning() {
        for (follows, missing, words) in [
            (true, "", "has all"),
            (false, "", "follows no other server"),
            (true, "a:1-2", "does not have a:1-2 yet"),
            (false, "a:1-2", "has lost a:1-2"),
        ] {
            let standing = Standing { server: "s".into(), follows, missing: missing.into() };
            let finding = assess("db:3306", Ok(standing), None);
            assert!(finding.to_string().contains(words), "{finding}");
            assert_eq!(finding.severity == Severity::Warning, !missing.is_empty());
        }
    }
}
