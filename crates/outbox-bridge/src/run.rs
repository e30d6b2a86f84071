//! The bridge as a whole.

use std::future::Future;

use crate::admin::Readiness;
use crate::config::Config;
use crate::exit::Exit;

/// Why the bridge ended.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    message: String,
    exit: Exit,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl RunError {
    /// The exit code that says the same.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

/// Runs the bridge until `shutdown`, then drains and writes a last checkpoint within the configured deadline.
///
/// # Errors
///
/// [`RunError`] if it cannot go on and trying again would not help.
pub async fn run(
    config: Config,
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RunError> {
    // Replaced at integration.
    drop((config, readiness, shutdown));
    std::future::ready(Err(RunError {
        message: "the pipeline is not connected yet".to_owned(),
        exit: Exit::Unavailable,
        source: None,
    }))
    .await
}
