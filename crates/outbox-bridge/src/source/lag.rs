//! How far the bridge is behind the end of the log, in bytes: asked for every few seconds over a connection of its own.

use std::time::{Duration, SystemTime};

use outbox_event::log_file_number;
use tokio::sync::watch;

use super::connection::{ConnectOptions, Connection, ConnectionError};
use crate::{admin::Board, metrics::BridgeMetrics};

const INTERVAL: Duration = Duration::from_secs(5);

/// Keeps the metric of the lag in bytes for the place that `stored` tells: file and offset up to which everything is
/// stored, on the server that is read. Never ends; where the server does not answer, the metric stays as it is.
pub(crate) async fn watch_lag(
    server: watch::Receiver<ConnectOptions>,
    stored: watch::Receiver<(String, u64)>,
    metrics: BridgeMetrics,
    board: Board,
) {
    let mut server = server;
    let mut connection = None;
    loop {
        tokio::time::sleep(INTERVAL).await;
        if server.has_changed().unwrap_or(false) {
            connection = None;
        }
        let options = server.borrow_and_update().clone();
        let (file, offset) = stored.borrow().clone();
        let Some(file) = log_file_number(&file) else { continue };
        match lag(&options, &mut connection, file, offset).await {
            Ok(bytes) => {
                metrics.lag_bytes.set(bytes as f64);
                board.note(|notes| notes.log_behind = Some((bytes, SystemTime::now())));
            }
            Err(error) => {
                tracing::debug!(%error, "the lag cannot be asked for");
                connection = None;
            }
        }
    }
}

async fn lag(
    options: &ConnectOptions,
    connection: &mut Option<Connection>,
    file: u64,
    offset: u64,
) -> Result<u64, ConnectionError> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::connect(options).await?,
    };
    let bytes = bytes_behind(&mut open, file, offset).await?;
    *connection = Some(open);
    Ok(bytes)
}

/// How many bytes of log stand behind a place.
pub(crate) async fn bytes_behind(
    connection: &mut Connection,
    file: u64,
    offset: u64,
) -> Result<u64, ConnectionError> {
    let rows = connection.query("SHOW BINARY LOGS").await?;
    let sizes = rows.iter().filter_map(|row| {
        let number = log_file_number(row.get("Log_name")?)?;
        let size: u64 = row.get("File_size")?.parse().ok()?;
        Some(if number < file {
            0
        } else if number == file {
            size.saturating_sub(offset)
        } else {
            size
        })
    });
    Ok(sizes.sum())
}
