//! Getting every server beforehand.

use std::path::PathBuf;

use anyhow::Result;

use crate::browser;
use crate::cache::progress;
use crate::mysql::{self, Flavour, Release};
use crate::nats;
use crate::postgres;
use crate::tools;
use crate::version::Version;

/// A server that is at hand.
#[derive(Debug, Clone)]
pub struct Server {
    /// What it is called.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// Where its program is.
    pub path: PathBuf,
}

/// Gets every server and tool that the tests use, and says on standard error what it does. What is at hand already is left as
/// it is.
///
/// # Errors
///
/// When one can neither be found nor got; the error says what to do.
pub async fn prefetch_all() -> Result<Vec<Server>> {
    tokio::task::spawn_blocking(|| {
        let mut servers = Vec::new();
        for (flavour, release) in [
            (Flavour::MySql, Release::Usual),
            (Flavour::MariaDb, Release::Usual),
            (Flavour::MariaDb, Release::Next),
        ] {
            let software = mysql::prefetch(flavour, release)?;
            servers.push(Server {
                name: flavour.to_string(),
                version: software.version(),
                path: software.path(),
            });
        }
        let software = postgres::prefetch()?;
        servers.push(Server {
            name: "Postgres".to_owned(),
            version: software.version(),
            path: software.server(),
        });
        for minor in [None, Some("2.12"), Some("2.10")] {
            let software = nats::Software::get(minor)?;
            servers.push(Server {
                name: "nats-server".to_owned(),
                version: software.version,
                path: software.path,
            });
        }
        for (name, path) in tools::prefetch()? {
            progress(&format!("{name} is at {}", path.display()));
        }
        progress(&format!("Chromium is at {}", browser::prefetch()?.display()));
        Ok(servers)
    })
    .await?
}
