//! Where the programs of Postgres come from.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::account::Account;
use crate::cache::{self, Shelf, progress};
use crate::packages::{self, PrivateRoot};
use crate::process::{find_program, run};
use crate::version::Version;

const VARIABLE: &str = "OUTBOX_TESTBED_POSTGRES";
const SHELF: &str = "postgres";
const OLDEST: Version = Version::new(13, 0, 0);
const SUITE: &str = "bookworm";
const PACKAGES: [&str; 1] = ["postgresql-15"];
/// Where distributions keep their versions of Postgres, none of which is on a user's `PATH`.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The cache where we are root and the usual one is closed to the user who the server runs as.
const ROOTS_CACHE: &str = "/var/cache/outbox-bridge-testbed";
/// What the unpacked packages name the server once a script stands in its place.
const REAL_SERVER: &str = "postgres.real";

/// A Postgres installation.
#[derive(Debug, Clone)]
pub(crate) struct Software {
    version: Version,
    programs: PathBuf,
}

impl Software {
    /// Finds the server, or gets it. Blocks, for a minute where it has to be downloaded.
    pub(crate) fn get(account: Account) -> Result<Self> {
        const REMEDY: &str = "install it where all may read it, or do not run as root";
        if let Some(named) = env::var_os(VARIABLE) {
            let server = PathBuf::from(named);
            let software = Self::installed(&server)
                .and_then(|software| software.with_context(|| format!("it is older than {OLDEST}")))
                .with_context(|| format!("{VARIABLE} names {}", server.display()))?;
            account.check_reach(&software.server(), REMEDY)?;
            return Ok(software);
        }
        for server in candidates() {
            // A program of the machine that cannot be used is as good as none.
            if let Ok(Some(software)) = Self::installed(&server)
                && account.reaches(&software.server())
            {
                return Ok(software);
            }
        }
        Self::private(account).with_context(|| {
            format!(
                "no Postgres server: put `postgres` {OLDEST} or newer on PATH with `initdb` beside it, or name it \
                 in {VARIABLE}, or use a machine whose apt can reach Debian's archive"
            )
        })
    }

    /// A server program of the machine, if it is new enough.
    fn installed(server: &Path) -> Result<Option<Self>> {
        let server = server.canonicalize()?;
        let programs = server.parent().context("the server is in no folder")?;
        if !programs.join("initdb").is_file() {
            bail!("there is no `initdb` beside {}", server.display());
        }
        let version = version(&server)?;
        Ok((version >= OLDEST).then(|| Self { version, programs: programs.to_owned() }))
    }

    /// The server from Debian's packages, from the cache if it is there.
    fn private(account: Account) -> Result<Self> {
        let mut cache = cache::root()?;
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        if !account.reaches(&cache) {
            cache = PathBuf::from(ROOTS_CACHE);
        }
        let folder = Shelf::open_in(&cache, SHELF)?.find_or_build(
            |shelf| shelf.newest(|version| version >= OLDEST),
            |folder| {
                progress(&format!("getting Postgres from Debian's packages ({SUITE})"));
                packages::unpack(SUITE, &PACKAGES, folder)?;
                let version = version(&arrange(folder)?.join("postgres"))?;
                progress(&format!("got Postgres {version}"));
                Ok(version.to_string())
            },
        )?;
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let software = Self { version: name.parse()?, programs: programs(&folder)? };
        account.check_reach(&software.server(), "name a folder that all may read in OUTBOX_TESTBED_CACHE")?;
        Ok(software)
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Where the server program is.
    pub(crate) fn server(&self) -> PathBuf {
        self.programs.join("postgres")
    }

    /// A command that runs one of the programs as `account`.
    pub(crate) fn command(&self, program: &str, account: Account) -> Command {
        let mut command = Command::new(self.programs.join(program));
        account.apply(&mut command);
        // Messages in English, times in UTC; and a working folder that every user may enter.
        command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
        command
    }
}

/// Where the machine may have a server, best first.
fn candidates() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(VERSIONS)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    versions.sort();
    let beyond = versions.into_iter().rev().map(|(_, folder)| folder.join("bin/postgres"));
    find_program("postgres").into_iter().chain(beyond.filter(|server| server.is_file())).collect()
}

fn version(server: &Path) -> Result<Version> {
    let text = run(Command::new(server).arg("--version"))?;
    parse_version(&text).with_context(|| format!("no version in `{}`", text.trim()))
}

/// Postgres' versions have two numbers; the third is ours.
fn parse_version(text: &str) -> Option<Version> {
    text.split_whitespace().find_map(|word| {
        let mut parts = word.split('.');
        let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then(|| Version::new(major, minor, 0))
    })
}

/// The folder with the programs in unpacked packages.
fn programs(folder: &Path) -> Result<PathBuf> {
    let versions = folder.join("usr/lib/postgresql");
    let entries = fs::read_dir(&versions).with_context(|| format!("no {}", versions.display()))?;
    let found = entries.flatten().map(|entry| entry.path().join("bin"));
    found.into_iter().find(|bin| bin.is_dir()).with_context(|| format!("nothing in {}", versions.display()))
}

/// Makes unpacked packages runnable; returns the folder with the programs.
///
/// `initdb` starts the server by itself, without the loader of the private root. So a script that does stands in the
/// place of each of the two.
fn arrange(folder: &Path) -> Result<PathBuf> {
    let root = PrivateRoot::open(folder)?;
    let programs = programs(folder)?;
    for (program, real) in [("postgres", REAL_SERVER), ("initdb", "initdb.real")] {
        fs::rename(programs.join(program), programs.join(real))?;
        let inside = programs.join(real);
        let inside = inside.strip_prefix(folder)?.to_str().context("a path that is not UTF-8")?;
        let mut words = Vec::new();
        let command = root.command(inside);
        for word in std::iter::once(command.get_program()).chain(command.get_args()) {
            let word = word.to_str().context("the path of the cache is not UTF-8")?;
            // The folder is renamed when it is done.
            words.push(word.replace(&folder.display().to_string(), "$root"));
        }
        // From `usr/lib/postgresql/15/bin` five levels up.
        let script = format!(
            "#!/bin/sh\nroot=$(cd \"$(dirname \"$0\")/../../../../..\" && pwd)\nexec \"{}\" \"$@\"\n",
            words.join("\" \"")
        );
        fs::write(programs.join(program), script)?;
        fs::set_permissions(programs.join(program), fs::Permissions::from_mode(0o755))?;
    }
    // Of use to the just-in-time compiler alone, and larger than all the rest.
    for library in root.libraries() {
        for entry in fs::read_dir(library)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("libLLVM") {
                fs::remove_file(entry.path())?;
            }
        }
    }
    // A folder that was made for a temporary purpose is closed to others.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_of_two_numbers() {
        let cases = [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some(Version::new(15, 18, 0))),
            ("postgres (PostgreSQL) 17.2", Some(Version::new(17, 2, 0))),
            ("postgres (PostgreSQL) 19devel", None),
        ];
        for (text, version) in cases {
            assert_eq!(parse_version(text), version, "{text}");
        }
    }
}
