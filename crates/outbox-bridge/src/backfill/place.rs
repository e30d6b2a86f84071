//! Which server is read, and where on it the log takes over from the tables.

use super::{Backfill, BackfillError, held::Ids, key_of_row};
use crate::{
    checkpoint::{Checkpoint, LogPoint},
    run::{log_options, route_maker},
    source::{LogError, LogSource, RelocateError, Source as _},
};

const PURGED: &str = "the log is purged from the checkpoint on: rows that were deleted from the table since then cannot be published";

/// Where the checkpoint's point is on the server that is read, if its log reaches back to it, and whether the source has ever changed
/// its server.
pub(super) struct Found {
    pub(super) point: Option<LogPoint>,
    pub(super) switched: bool,
}

impl Backfill<'_> {
    pub(super) fn source(&self) -> LogSource {
        let mut options = log_options(self.config);
        // Neither the identity of the main dump nor of the one that looks for prepared transactions.
        options.server_id = (options.server_id ^ 0x2000_0000).max(1);
        LogSource::new(options, route_maker(self.config, &self.streams))
    }

    /// Lets `source` read the server that the checkpoint belongs to, or another one that has all of its transactions, and says where
    /// the checkpoint's point is there.
    pub(super) async fn find_server(
        &self,
        source: &mut LogSource,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Found, BackfillError> {
        let Some(Checkpoint { point, switched, .. }) = checkpoint else {
            return Ok(Found { point: None, switched: false });
        };
        if source.locate(point).await? {
            return Ok(Found { point: Some(point.clone()), switched: *switched });
        }
        match source.relocate(point, &[]).await {
            Ok(point) => Ok(Found { point: Some(point), switched: true }),
            Err(LogError::Relocate(RelocateError::Purged { server, missing })) => {
                tracing::warn!(server, missing, "{PURGED}");
                source.read_from(&server);
                Ok(Found { point: None, switched: true })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Where the log takes over, and what it shows from there on: at the checkpoint's `point` if the log reaches back so far, so that
    /// rows are not lost that were deleted from the table since; else at `fresh`.
    pub(super) async fn logged(
        &self,
        source: &mut LogSource,
        point: Option<LogPoint>,
        fresh: LogPoint,
        several: &[bool],
    ) -> Result<(LogPoint, Vec<Ids>), BackfillError> {
        if let Some(point) = point {
            match self.logged_from(source, &point, several).await {
                Ok(logged) => return Ok((point, logged)),
                Err(LogError::Purged { at, .. }) => tracing::warn!(at, "{PURGED}"),
                Err(error) => return Err(error.into()),
            }
        }
        let logged = self.logged_from(source, &fresh, several).await?;
        Ok((fresh, logged))
    }

    async fn logged_from(
        &self,
        source: &mut LogSource,
        point: &LogPoint,
        several: &[bool],
    ) -> Result<Vec<Ids>, LogError> {
        let mut logged: Vec<Ids> = self.streams.iter().map(|_| Ids::default()).collect();
        source
            .read_to_end(point, |stream, message| {
                if let Some(ids) = logged.get_mut(stream) {
                    ids.add(key_of_row(message, several.get(stream) == Some(&true)));
                }
            })
            .await?;
        logged.iter_mut().for_each(Ids::seal);
        Ok(logged)
    }
}
