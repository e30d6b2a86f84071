//! Programs that check files for other programs: Prometheus' `promtool` and `systemd-analyze`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cache::{Shelf, progress};
use crate::packages::{self, PrivateRoot};
use crate::process::{find_program, run};

const SUITE: &str = "bookworm";

/// What is known beforehand about a tool.
struct Facts {
    name: &'static str,
    variable: &'static str,
    package: &'static str,
    /// Libraries that are not where the others are.
    libraries: &'static str,
}

const PROMTOOL: Facts =
    Facts { name: "promtool", variable: "OUTBOX_TESTBED_PROMTOOL", package: "prometheus", libraries: "" };
const SYSTEMD_ANALYZE: Facts = Facts {
    name: "systemd-analyze",
    variable: "OUTBOX_TESTBED_SYSTEMD_ANALYZE",
    package: "systemd",
    libraries: "systemd",
};
/// Where the unpacked package keeps the units that others name.
const UNITS: [&str; 2] = ["usr/lib/systemd/system", "lib/systemd/system"];

/// A command that runs Prometheus' `promtool`; got if need be. Blocks while downloading.
///
/// # Errors
///
/// When it can neither be found nor got; the error says what to do.
pub fn promtool() -> Result<Command> {
    Ok(get(&PROMTOOL)?.0)
}

/// A command that runs `systemd-analyze`; got if need be. Blocks while downloading.
///
/// # Errors
///
/// When it can neither be found nor got; the error says what to do.
pub fn systemd_analyze() -> Result<Command> {
    let (mut command, root) = get(&SYSTEMD_ANALYZE)?;
    if let Some(root) = root {
        // A colon at the end: and where systemd itself looks.
        let units: Vec<String> = UNITS.iter().map(|units| root.path(units).display().to_string()).collect();
        command.env("SYSTEMD_UNIT_PATH", units.join(":") + ":");
    }
    Ok(command)
}

/// Gets both, and says where they are.
pub(crate) fn prefetch() -> Result<Vec<(&'static str, PathBuf)>> {
    let place = |facts: &'static Facts| {
        let (command, root) = get(facts)?;
        let inside = root.map(|root| root.path(&format!("usr/bin/{}", facts.name)));
        Ok((facts.name, inside.unwrap_or_else(|| command.get_program().into())))
    };
    [&PROMTOOL, &SYSTEMD_ANALYZE].into_iter().map(place).collect()
}

fn get(facts: &Facts) -> Result<(Command, Option<PrivateRoot>)> {
    let named = env::var_os(facts.variable).map(PathBuf::from);
    if let Some(named) = named.filter(|path| !path.as_os_str().is_empty()) {
        if !named.is_file() {
            bail!("{} names {}, which is no file", facts.variable, named.display());
        }
        return Ok((Command::new(named), None));
    }
    if let Some(found) = find_program(facts.name) {
        return Ok((Command::new(found), None));
    }
    let (command, root) = private(facts).with_context(|| {
        format!(
            "no {}: put it on PATH, or name it in {}, or use a machine whose apt can reach Debian's archive",
            facts.name, facts.variable
        )
    })?;
    Ok((command, Some(root)))
}

fn private(facts: &Facts) -> Result<(Command, PrivateRoot)> {
    let place = Shelf::open("tools")?.entry(&format!("{}-{SUITE}", facts.name), |folder| {
        progress(&format!("getting {} from Debian's packages ({SUITE})", facts.name));
        packages::unpack(SUITE, &[facts.package], folder)?;
        prune(folder, facts.name)?;
        run(command(facts, &PrivateRoot::open(folder)?).arg("--version"))?;
        Ok(())
    })?;
    let root = PrivateRoot::open(&place)?;
    Ok((command(facts, &root), root))
}

/// Removes the programs that the tool came with, which are larger than all the rest.
fn prune(folder: &Path, tool: &str) -> Result<()> {
    for needless in ["usr/sbin", "usr/share"] {
        let path = folder.join(needless);
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
    }
    for entry in fs::read_dir(folder.join("usr/bin"))? {
        let entry = entry?;
        if entry.file_name() != tool {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn command(facts: &Facts, root: &PrivateRoot) -> Command {
    let mut command = root.command(&format!("usr/bin/{}", facts.name));
    if !facts.libraries.is_empty() {
        let folders = root.libraries().iter().map(|library| library.join(facts.libraries));
        let path = env::join_paths(folders).unwrap_or_else(|_| OsString::new());
        command.env("LD_LIBRARY_PATH", path);
    }
    command
}
