//! Waits until everything that a server showed is stored.

use std::time::Duration;

use outbox_event::log_file_number;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::CleanupError;
use crate::pipeline::Covered;
use crate::source::connection::Connection;
use crate::source::{identity_of, log_place};

/// A page is given up after this: what it says gets old, and a connection that idles is closed.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    covered: watch::Receiver<Option<Covered>>,
}

/// Where a server's log ends.
#[derive(Debug)]
struct End {
    /// As in [`Covered::server`].
    server: String,
    file: String,
    offset: u64,
}

impl Gate {
    pub(crate) fn new(covered: watch::Receiver<Option<Covered>>) -> Self {
        Self { covered }
    }

    /// Since when `table` has been read without a gap. Waits until a pipeline is at work.
    pub(crate) async fn since(&mut self, table: &str) -> Result<u64, CleanupError> {
        let known = |covered: &Option<Covered>| {
            covered.as_ref().and_then(|covered| covered.since.get(table).copied())
        };
        let waiting = self.covered.wait_for(|covered| known(covered).is_some());
        match timeout_at(Instant::now() + PATIENCE, waiting).await {
            Ok(Ok(covered)) => known(&covered).ok_or(CleanupError::NotCovered),
            Ok(Err(_)) | Err(_) => Err(CleanupError::NotCovered),
        }
    }

    /// Comes back when everything is stored that `connection` has shown so far.
    pub(crate) async fn pass(&mut self, connection: &mut Connection) -> Result<(), CleanupError> {
        let end = end(connection).await?;
        // Only what is said from now on counts, so that nothing of a log that was reset before can be meant.
        self.covered.mark_unchanged();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match timeout_at(deadline, self.covered.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(CleanupError::NotCovered),
            }
            if self.covered.borrow_and_update().as_ref().is_some_and(|covered| covers(covered, &end)) {
                return Ok(());
            }
        }
    }
}

async fn end(connection: &mut Connection) -> Result<End, CleanupError> {
    let server = identity_of(connection).await?;
    let (file, offset) = log_place(connection).await?.ok_or(CleanupError::NotCovered)?;
    Ok(End { server, file, offset })
}

fn covers(covered: &Covered, end: &End) -> bool {
    let base = |file: &str| file.rsplit_once('.').map(|(base, _)| base.to_owned());
    let (Some(reached), Some(wanted)) = (log_file_number(&covered.file), log_file_number(&end.file)) else {
        return false;
    };
    covered.server == end.server
        && base(&covered.file) == base(&end.file)
        && (reached, covered.offset) >= (wanted, end.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_compared_on_one_server_only() {
        let end = End { server: "a".into(), file: "binlog.000009".into(), offset: 500 };
        for (server, file, offset, expected) in [
            ("a", "binlog.000009", 500, true),
            ("a", "binlog.000009", 499, false),
            ("a", "binlog.000010", 4, true),
            ("a", "binlog.000008", 900, false),
            ("b", "binlog.000010", 4, false),
            ("a", "other.000010", 4, false),
            ("a", "", 0, false),
        ] {
            let covered =
                Covered { server: server.into(), file: file.into(), offset, since: Default::default() };
            assert_eq!(covers(&covered, &end), expected, "{server} {file}:{offset}");
        }
    }
}
