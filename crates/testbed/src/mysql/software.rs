//! Where the server programs of MySQL and MariaDB come from.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cache::{Shelf, progress};
use crate::packages::{self, PrivateRoot};
use crate::process::{find_program, run};
use crate::version::Version;

/// Which of the two dialects of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// Oracle's MySQL, 8.0 or newer.
    MySql,
    /// MariaDB.
    MariaDb,
}

/// Which release of a flavour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// The one that nearly all tests run on: MySQL 9, MariaDB 10.11.
    Usual,
    /// The next one that Debian has: MariaDB 11. For MySQL there is none.
    Next,
}

/// What is known beforehand about a flavour.
struct Facts {
    shelf: &'static str,
    variable: &'static str,
    programs: &'static [&'static str],
    oldest: Version,
    suite: &'static str,
    packages: &'static [&'static str],
    server: &'static str,
    binlog: &'static str,
}

impl Flavour {
    fn facts(self, release: Release) -> Facts {
        match self {
            Self::MariaDb if release == Release::Next => Facts {
                shelf: "mariadb-next",
                variable: "OUTBOX_TESTBED_MARIADBD_NEXT",
                oldest: Version::new(11, 0, 0),
                suite: "trixie",
                ..self.facts(Release::Usual)
            },
            // Only Debian's unstable suite has MySQL.
            Self::MySql => Facts {
                shelf: "mysql",
                variable: "OUTBOX_TESTBED_MYSQLD",
                programs: &["mysqld"],
                oldest: Version::new(8, 0, 0),
                suite: "sid",
                packages: &["mysql-server-core", "mysql-client-core"],
                server: "usr/sbin/mysqld",
                binlog: "mysqlbinlog",
            },
            Self::MariaDb => Facts {
                shelf: "mariadb",
                variable: "OUTBOX_TESTBED_MARIADBD",
                programs: &["mariadbd", "mysqld"],
                oldest: Version::new(10, 5, 0),
                suite: "bookworm",
                packages: &["mariadb-server-core", "mariadb-client"],
                server: "usr/sbin/mariadbd",
                binlog: "mariadb-binlog",
            },
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MySql => "MySQL",
            Self::MariaDb => "MariaDB",
        })
    }
}

/// A server's programs, ready to be run.
#[derive(Debug, Clone)]
pub(crate) struct Software {
    flavour: Flavour,
    release: Release,
    version: Version,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// Unpacked packages, run through their own loader.
    Private(PrivateRoot),
    /// A server program of the machine.
    Installed(PathBuf),
}

impl Software {
    /// Finds the server, or gets it. Blocks, for a minute where it has to be downloaded.
    pub(crate) fn get(flavour: Flavour, release: Release) -> Result<Self> {
        let facts = flavour.facts(release);
        if let Some(named) = env::var_os(facts.variable) {
            let server = PathBuf::from(named);
            return Self::installed(flavour, release, &server)
                .and_then(|software| software.with_context(|| format!("this is not {flavour}")))
                .with_context(|| format!("{} names {}", facts.variable, server.display()));
        }
        for program in facts.programs {
            let Some(server) = find_program(program) else { continue };
            // A program of the machine that cannot be used is as good as none.
            if let Ok(Some(software)) = Self::installed(flavour, release, &server) {
                return Ok(software);
            }
        }
        Self::private(flavour, release).with_context(|| {
            format!(
                "no {flavour} server: put `{}` {} or newer on PATH, or name it in {}, or use a machine whose \
                 apt can reach Debian's archive",
                facts.programs.first().unwrap_or(&"mysqld"),
                facts.oldest,
                facts.variable
            )
        })
    }

    /// A server program of the machine, if it is of this flavour and new enough.
    fn installed(flavour: Flavour, release: Release, server: &Path) -> Result<Option<Self>> {
        let text = run(Command::new(server).args(["--no-defaults", "--version"]))?;
        let version = Version::find(&text).with_context(|| format!("no version in `{}`", text.trim()))?;
        let fits = text.contains("MariaDB") == (flavour == Flavour::MariaDb)
            && version >= flavour.facts(release).oldest;
        Ok(fits.then(|| Self { flavour, release, version, place: Place::Installed(server.to_owned()) }))
    }

    /// The server from Debian's packages, from the cache if it is there.
    fn private(flavour: Flavour, release: Release) -> Result<Self> {
        let facts = flavour.facts(release);
        let folder = Shelf::open(facts.shelf)?.find_or_build(
            |shelf| shelf.newest(|version| version >= facts.oldest),
            |folder| {
                progress(&format!("getting {flavour} from Debian's packages ({})", facts.suite));
                packages::unpack(facts.suite, facts.packages, folder)?;
                let mut server = PrivateRoot::open(folder)?.command(facts.server);
                let text = run(server.args(["--no-defaults", "--version"]))?;
                let version = Version::find(&text).context("the unpacked server tells no version")?;
                progress(&format!("got {flavour} {version}"));
                Ok(version.to_string())
            },
        )?;
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let place = Place::Private(PrivateRoot::open(&folder)?);
        Ok(Self { flavour, release, version: name.parse()?, place })
    }

    pub(crate) fn flavour(&self) -> Flavour {
        self.flavour
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Where the server program is.
    pub(crate) fn path(&self) -> PathBuf {
        match &self.place {
            Place::Private(root) => root.path(self.flavour.facts(self.release).server),
            Place::Installed(server) => server.clone(),
        }
    }

    /// A command that runs the server without option files, and with its own files where it was moved.
    pub(crate) fn server(&self) -> Command {
        let mut command = match &self.place {
            Place::Private(root) => {
                let mut command = root.command(self.flavour.facts(self.release).server);
                let share = SHARES.map(|share| root.path(share)).into_iter().find(|share| share.is_dir());
                let share = share.unwrap_or_else(|| root.path("usr/share"));
                command.arg("--no-defaults");
                command.arg(option("--basedir=", &root.path("usr")));
                command.arg(option("--lc-messages-dir=", &share));
                command.arg(option("--character-sets-dir=", &share.join("charsets")));
                command.arg(option("--plugin-dir=", &root.path("usr/lib/mysql/plugin")));
                command
            }
            Place::Installed(server) => {
                let mut command = Command::new(server);
                command.arg("--no-defaults");
                command
            }
        };
        if rustix::process::geteuid().is_root() {
            // The server refuses to run as root unless told to.
            command.arg("--user=root");
        }
        command
    }

    /// A command that runs `mysqlbinlog`, if it is there.
    pub(crate) fn binlog(&self) -> Option<Command> {
        let name = self.flavour.facts(self.release).binlog;
        match &self.place {
            Place::Private(root) => {
                let program = format!("usr/bin/{name}");
                root.path(&program).is_file().then(|| root.command(&program))
            }
            Place::Installed(server) => {
                let beside = self.prefix(server).map(|prefix| prefix.join("bin").join(name));
                beside.filter(|path| path.is_file()).or_else(|| find_program(name)).map(Command::new)
            }
        }
    }

    /// The scripts that make MariaDB's system tables, in their order. Until 10.11 their names begin with `mysql`.
    pub(crate) fn scripts(&self) -> Result<[PathBuf; 3]> {
        let shares = match &self.place {
            Place::Private(root) => SHARES.map(|share| root.path(share)).to_vec(),
            Place::Installed(server) => {
                let share = self.prefix(server).unwrap_or_default().join("share");
                vec![share.join("mysql"), share.join("mariadb"), share]
            }
        };
        for share in &shares {
            for name in ["mariadb", "mysql"] {
                let scripts = ["system_tables", "performance_tables", "system_tables_data"]
                    .map(|script| share.join(format!("{name}_{script}.sql")));
                if scripts.iter().all(|script| script.is_file()) {
                    return Ok(scripts);
                }
            }
        }
        bail!("mariadb_system_tables.sql of MariaDB is in none of {shares:?}")
    }

    /// `/usr` for `/usr/sbin/mysqld`.
    fn prefix(&self, server: &Path) -> Option<PathBuf> {
        let real = server.canonicalize().ok()?;
        Some(real.parent()?.parent()?.to_owned())
    }
}

/// Where packages keep messages, character sets and scripts.
const SHARES: [&str; 2] = ["usr/share/mysql", "usr/share/mariadb"];

/// An option whose value is a path.
pub(crate) fn option(name: &str, path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(name);
    option.push(path);
    option
}

/// Refuses what the server would take for a second option.
pub(crate) fn check_option(option: &str) -> Result<()> {
    if !option.starts_with("--") {
        bail!("the server option `{option}` does not start with `--`");
    }
    Ok(())
}
