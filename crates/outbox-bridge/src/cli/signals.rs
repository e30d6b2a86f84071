//! SIGTERM and SIGINT: the first drains, the second stops at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;

/// A token that the first signal cancels. The second ends the process.
///
/// The signals are awaited on a thread of their own, so that the second works however busy the bridge is.
///
/// # Errors
///
/// If the operating system gives neither thread nor signals.
pub(super) fn install() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = {
        let _guard = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let mut next = async || {
                tokio::select! {
                    _ = terminate.recv() => Exit::Terminated,
                    _ = interrupt.recv() => Exit::Interrupted,
                }
            };
            next().await;
            tracing::info!("stopping: what is in flight is drained; a second signal stops at once");
            cancelled.cancel();
            let exit = next().await;
            tracing::warn!("stopped at once; the next start goes on where the stream ends");
            std::process::exit(i32::from(exit.code()));
        });
    })?;
    Ok(token)
}
