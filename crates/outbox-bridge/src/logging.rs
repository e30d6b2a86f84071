//! Log lines, on standard error. What is logged never holds a row's values; that is up to each call.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{Log, LogFormat};

/// Logging cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("logging cannot be set up")]
pub struct LoggingError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Sets the process's logging up; once in its life.
///
/// # Errors
///
/// If it has been set up before, or the level is no filter, which [`crate::config::Config::load`] rules out.
pub fn init(log: &Log) -> Result<(), LoggingError> {
    let filter = EnvFilter::builder().parse(&log.level).map_err(|error| LoggingError(error.into()))?;
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Text => {
            fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).boxed()
        }
        LogFormat::Json => fmt::layer().with_writer(std::io::stderr).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(|error| LoggingError(error.into()))
}
