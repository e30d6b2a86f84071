//! `cargo xtask servers`: gets MySQL, MariaDB, Postgres and nats-server.

use anyhow::Result;

/// Gets all servers and prints their names, versions and places.
pub(crate) async fn run() -> Result<()> {
    for server in testbed::prefetch_all().await? {
        println!("{:<12} {:<9} {}", server.name, server.version.to_string(), server.path.display());
    }
    Ok(())
}
