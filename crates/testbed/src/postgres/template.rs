//! An initialised data folder, made once for each version and copied for every start.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::account::Account;
use super::software::Software;
use crate::cache::{Shelf, progress};
use crate::mysql::template::copy;
use crate::process::run;

/// Part of the cache entry's name; to be raised when the way a template is made changes.
const REVISION: u32 = 1;

/// The template for this server, made if it is not in the cache. Blocks for some seconds then.
pub(crate) fn get(software: &Software, account: Account) -> Result<PathBuf> {
    let name = format!("postgres-{}-{REVISION}", software.version());
    let entry = Shelf::open("templates")?.entry(&name, |folder| {
        progress(&format!("initialising a data folder of Postgres {}", software.version()));
        // Made where the server's user may write, then copied into the cache, which is ours.
        let place = tempfile::Builder::new().prefix("outbox-testbed-initdb-").tempdir()?;
        account.give(place.path())?;
        check_place(place.path(), account)?;
        let made = place.path().join("data");
        let mut command = software.command("initdb", account);
        command.arg("--pgdata").arg(&made);
        command.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        run(&mut command)?;
        copy(&made, &folder.join("data"))
    })?;
    Ok(entry.join("data"))
}

/// Makes a data folder for one server.
pub(crate) fn instantiate(template: &Path, data: &Path, account: Account) -> Result<()> {
    copy(template, data)?;
    // The server refuses a folder that others may read.
    fs::set_permissions(data, fs::Permissions::from_mode(0o700))?;
    let folder = data.parent().context("the data folder is in no folder")?;
    account.give(folder)?;
    check_place(folder, account)
}

fn check_place(folder: &Path, account: Account) -> Result<()> {
    account.check_reach(folder, "name a folder that all may enter in TMPDIR, or do not run as root")
}
