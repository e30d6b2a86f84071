//! Services of the examples, as processes that a test can kill.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use testbed::{MySql, Port, eventually, request};

use crate::{Program, World};

/// How long a service may take to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);

/// An example's service with a schema of its own, which is called as it is, with `_` for `-`.
#[derive(Debug)]
pub struct Service {
    /// Its process.
    pub program: Program,
    /// Where it serves HTTP.
    pub address: SocketAddr,
    _port: Port,
}

impl Service {
    /// Starts the service of this name in a world.
    ///
    /// # Errors
    ///
    /// When it was not built, or cannot be started.
    pub fn start(world: &World, name: &'static str) -> Result<Self> {
        let port = Port::reserve()?;
        let address = port.address();
        let database = format!("{}/{}", world.database.url("root"), Self::schema(name));
        let variables =
            vec![("NATS_URL", world.nats.url()), ("DATABASE_URL", database), ("LISTEN", address.to_string())];
        Ok(Self { program: Program::start(name, &[], variables)?, address, _port: port })
    }

    /// The name of a service's schema, and in capitals of its stream.
    #[must_use]
    pub fn schema(name: &str) -> String {
        name.replace('-', "_")
    }

    /// Says what there is, though it may still be starting.
    ///
    /// # Errors
    ///
    /// When it does not take it in time.
    pub async fn put(&self, path: &str, body: Value) -> Result<()> {
        eventually("a service to answer", START_LIMIT, async || {
            let answer = request(self.address, "PUT", path, &[], Some(&body)).await;
            Ok(answer.ok().filter(|(status, _)| *status == 204).map(drop))
        })
        .await
    }

    /// Kills it as `kill -9` does if it runs, and starts it again.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.program.kill()?;
        self.program.start_again()
    }
}

/// Runs the checks of an example: queries that give 0 each behind a line that says what they count, with empty lines between them. Gives what
/// is not 0.
///
/// # Errors
///
/// When the database cannot be asked.
pub async fn problems(database: &MySql, checks: &str) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for check in checks.split("\n\n").skip(1) {
        let (what, statement) = check.split_once('\n').context("a check without a name")?;
        let found: Vec<i64> = database.query(statement.trim().trim_end_matches(';')).await?;
        let found = found.first().copied().context("a check without an answer")?;
        if found != 0 {
            problems.push(format!("{found} {}", what.trim_start_matches("-- ")));
        }
    }
    Ok(problems)
}
