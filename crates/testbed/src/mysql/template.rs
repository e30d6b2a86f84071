//! Initialised data folders, made once for each server version and copied for every start.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::software::{Flavour, Software, option};
use crate::cache::{Shelf, progress};
use crate::process::run;

/// Part of the cache entry's name; to be raised when the way a template is made changes.
const REVISION: u32 = 1;

/// A copy looks for zeros in blocks of this size.
const BLOCK_BYTES: usize = 64 * 1024;

/// The template for this server, made if it is not in the cache. Blocks for some seconds then.
pub(crate) fn get(software: &Software) -> Result<PathBuf> {
    let flavour = software.flavour();
    let name = format!("{flavour}-{}-{REVISION}", software.version()).to_lowercase();
    Shelf::open("templates")?.entry(&name, |folder| {
        progress(&format!("initialising a data folder of {flavour} {}", software.version()));
        match flavour {
            Flavour::MySql => initialise_mysql(software, folder),
            Flavour::MariaDb => initialise_mariadb(software, folder),
        }
    })
}

/// Options that decide what is in the data folder, so they hold for template and server alike.
pub(super) fn storage_options(flavour: Flavour) -> &'static [&'static str] {
    match flavour {
        Flavour::MySql => &["--loose-innodb-redo-log-capacity=64M", "--innodb-buffer-pool-size=64M"],
        Flavour::MariaDb => &["--innodb-log-file-size=32M", "--innodb-buffer-pool-size=64M"],
    }
}

fn initialise_mysql(software: &Software, folder: &Path) -> Result<()> {
    let mut command = software.server();
    command.arg(option("--datadir=", folder)).args(storage_options(Flavour::MySql));
    run(command.args(["--initialize-insecure", "--secure-file-priv=NULL", "--skip-log-bin"]))?;
    // It holds the server's uuid, which must differ from server to server.
    fs::remove_file(folder.join("auto.cnf")).context("the new data folder has no auto.cnf")
}

/// Does what `mariadb-install-db` does, which as a shell script with fixed paths does not run from a private root.
fn initialise_mariadb(software: &Software, folder: &Path) -> Result<()> {
    fs::create_dir(folder.join("mysql"))?;
    // The anonymous users that MariaDB would make shadow `'user'@'%'` for local connections.
    let mut sql = String::from("USE mysql;\nSET @auth_root_socket=NULL;\nSET @skip_auth_anonymous=1;\n");
    for script in software.scripts()? {
        let text = fs::read_to_string(&script);
        sql.push_str(&text.with_context(|| format!("cannot read {}", script.display()))?);
    }
    let mut command = software.server();
    command.arg(option("--datadir=", folder)).args(storage_options(Flavour::MariaDb));
    command.args(["--bootstrap", "--skip-log-bin", "--skip-networking", "--max-allowed-packet=8M"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("the bootstrap has no standard input")?;
    let feeder = std::thread::spawn(move || stdin.write_all(sql.as_bytes()));
    let output = child.wait_with_output()?;
    let fed = feeder.join().is_ok_and(|written| written.is_ok());
    if !output.status.success() || !fed {
        bail!(
            "MariaDB's bootstrap ended with {}:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Copies a folder with all that is in it, leaving holes where there are zeros, of which a new data folder has many.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            copy_file(&entry.path(), &target)
                .with_context(|| format!("cannot copy {} to {}", entry.path().display(), target.display()))?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from)?;
    let mut target = File::create(to)?;
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let length = source.read(&mut block)?;
        let Some(read) = block.get(..length).filter(|read| !read.is_empty()) else { break };
        if read.iter().all(|byte| *byte == 0) {
            target.seek(SeekFrom::Current(i64::try_from(length)?))?;
        } else {
            target.write_all(read)?;
        }
    }
    let metadata = source.metadata()?;
    target.set_len(metadata.len())?;
    // The server refuses a private key that others may read.
    target.set_permissions(metadata.permissions())?;
    Ok(())
}
