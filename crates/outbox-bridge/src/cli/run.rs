//! `outbox-bridge run`: sets logging, metrics, signals and the admin endpoint up, then runs the bridge.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{block_on, signals, start_logging};
use crate::admin::{Admin, Facts, Readiness};
use crate::config::Config;
use crate::exit::{Exit, report};
use crate::metrics;

/// How long requests to the admin endpoint may take to finish at the end.
const ADMIN_STOP_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) fn execute(config: Config) -> Exit {
    if let Err(exit) = start_logging(&config) {
        return exit;
    }
    let shutdown = match signals::install() {
        Ok(shutdown) => shutdown,
        Err(error) => return fail(&error, Exit::Internal),
    };
    block_on(Box::pin(supervise(config, shutdown))).unwrap_or_else(|exit| exit)
}

async fn supervise(config: Config, shutdown: CancellationToken) -> Exit {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), name = config.name, "starting");
    let admin_stop = CancellationToken::new();
    let (readiness, admin) = match start_admin(&config, &admin_stop).await {
        Ok(started) => started,
        Err(exit) => return exit,
    };
    let result = crate::run(config, readiness, shutdown.cancelled_owned()).await;
    admin_stop.cancel();
    if let Some(admin) = admin
        && tokio::time::timeout(ADMIN_STOP_TIMEOUT, admin).await.is_err()
    {
        tracing::debug!("requests to the admin endpoint were cut off");
    }
    match result {
        Ok(()) => {
            tracing::info!("stopped");
            Exit::Success
        }
        Err(error) => fail(&error, error.exit()),
    }
}

/// Binds and serves the admin endpoint, if one is configured. Metrics are recorded only then.
async fn start_admin(
    config: &Config,
    stop: &CancellationToken,
) -> Result<(Readiness, Option<JoinHandle<()>>), Exit> {
    let Some(address) = config.http.listen else { return Ok((Readiness::of_bridge(), None)) };
    let handle = metrics::install().map_err(|error| fail(&error, Exit::Internal))?;
    let readiness = Readiness::of_bridge();
    let admin = Admin::bind(address).await.map_err(|error| fail(&error, Exit::Configuration))?;
    tracing::info!(%address, "serving the status page, /status.json, /livez, /readyz and /metrics");
    let serving = admin.serve(readiness.clone(), handle, Facts::of(config), stop.clone().cancelled_owned());
    let task = tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(error = report(&error), "the admin endpoint has stopped");
        }
    });
    Ok((readiness, Some(task)))
}

fn fail(error: &(dyn std::error::Error + 'static), exit: Exit) -> Exit {
    tracing::error!(error = report(error), "the bridge has stopped");
    exit
}
