//! Reaches the database. The password is in a file or the environment, never in the URL, where a list of processes would show it.

use std::str::FromStr as _;
use std::time::Duration;

use outbox_saga::inspect::InspectError;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, MySqlPool};
use url::Url;

use crate::arguments::Database;
use crate::exit::{Exit, Failure};

const PASSWORD: &str = "OUTBOX_SAGA_PASSWORD";
const PATIENCE: Duration = Duration::from_secs(10);

/// A pool of few connections.
pub(crate) async fn connect(database: &Database) -> Result<MySqlPool, Failure> {
    let options = options(database)?;
    // Once without the pool, which would try again and hide why it cannot.
    let once = tokio::time::timeout(PATIENCE, options.connect()).await;
    let connection = once
        .map_err(|_| {
            let line = format!(
                "the database does not answer within {} s: check host and port in --url",
                PATIENCE.as_secs()
            );
            Failure::new(Exit::Unavailable, line)
        })?
        .map_err(|error| InspectError::of_database("cannot connect to the database", error))?;
    connection
        .close()
        .await
        .map_err(|error| InspectError::of_database("cannot connect to the database", error))?;
    Ok(MySqlPoolOptions::new().max_connections(4).acquire_timeout(PATIENCE).connect_lazy_with(options))
}

/// What is wrong with the URL is said without quoting it.
fn options(database: &Database) -> Result<MySqlConnectOptions, Failure> {
    let wrong = |what: &str| Failure::new(Exit::Configuration, what);
    const EXAMPLE: &str =
        "use mysql://USER@HOST:PORT/DATABASE, with the password in --password-file or OUTBOX_SAGA_PASSWORD";
    let text = database.url.as_deref().filter(|url| !url.is_empty());
    let text =
        text.ok_or_else(|| wrong(&format!("no database is named: set --url or OUTBOX_SAGA_URL; {EXAMPLE}")))?;
    let url = Url::parse(text).map_err(|error| wrong(&format!("--url is no URL ({error}): {EXAMPLE}")))?;
    if url.scheme() != "mysql" && url.scheme() != "mariadb" {
        return Err(wrong(&format!("--url does not begin with mysql:// : {EXAMPLE}")));
    }
    if url.password().is_some() {
        return Err(wrong(&format!(
            "--url contains a password, which a list of processes would show: {EXAMPLE}"
        )));
    }
    if url.path().trim_matches('/').is_empty() {
        return Err(wrong(&format!("--url names no database, the one of the service: {EXAMPLE}")));
    }
    let options = MySqlConnectOptions::from_str(text);
    let options = options
        .map_err(|_| wrong(&format!("--url has an option that is not known, or a wrong one: {EXAMPLE}")))?;
    Ok(match password(database)? {
        Some(password) => options.password(&password),
        None => options,
    })
}

fn password(database: &Database) -> Result<Option<String>, Failure> {
    let Some(file) = &database.password_file else {
        return Ok(std::env::var(PASSWORD).ok().filter(|password| !password.is_empty()));
    };
    let what = format!("cannot read the password file {}", file.display());
    let text =
        std::fs::read_to_string(file).map_err(|error| Failure::with(Exit::Configuration, &what, &error))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::new(
            Exit::Configuration,
            format!("the password file {} is empty", file.display()),
        ));
    }
    Ok(Some(password.to_owned()))
}
