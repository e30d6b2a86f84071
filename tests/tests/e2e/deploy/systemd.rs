//! The unit for systemd.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use outbox_bridge::config::{Config, KEYS, Kind};
use outbox_bridge::exit::Exit;

use crate::deploy::read;

const UNIT: &str = "systemd/outbox-bridge.service";
/// What `systemd-analyze security` may say at most, in tenths: deploy/README.md states it.
const EXPOSURE_MAX: u32 = 15;

/// The values of a setting, in their order.
fn values<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

fn analyze(arguments: &[&str], unit: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("outbox-bridge.service");
    // The binary has to be there, whichever it is.
    std::fs::write(&path, unit.replace("/usr/local/bin/outbox-bridge", "/bin/sh"))?;
    let mut command: Command = testbed::systemd_analyze()?;
    let output = command.args(arguments).arg(&path).stdin(Stdio::null()).env("LC_ALL", "C").output()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "systemd-analyze {arguments:?} ended with {}:\n{text}", output.status);
    Ok(text)
}

#[test]
fn systemd_accepts_it() -> Result<()> {
    let unit = read(UNIT)?;
    let said = analyze(&["verify", "--man=no", "--recursive-errors=no"], &unit)?;
    ensure!(said.is_empty(), "{said}");
    let misspelled =
        analyze(&["verify", "--man=no", "--recursive-errors=no"], &unit.replace("UMask", "UMsk"));
    ensure!(format!("{misspelled:?}").contains("UMsk"), "{misspelled:?}");
    Ok(())
}

#[test]
fn it_is_hardened_as_stated() -> Result<()> {
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    analyze(&["security", "--offline=true", "--no-pager", &threshold], &read(UNIT)?)?;
    let stated = format!("at most {}.{}", EXPOSURE_MAX / 10, EXPOSURE_MAX % 10);
    ensure!(read("README.md")?.contains(&stated), "README.md should say {stated:?}");
    Ok(())
}

/// What the unit says of exit codes, times and secrets is what the bridge does.
#[test]
fn it_fits_the_bridge() -> Result<()> {
    let unit = read(UNIT)?;
    let never = values(&unit, "RestartPreventExitStatus");
    ensure!(never == [format!("{} {}", Exit::Usage.code(), Exit::Configuration.code())], "{never:?}");

    let credentials: Vec<_> =
        values(&unit, "LoadCredential").iter().filter_map(|value| value.split(':').next()).collect();
    let folder = tempfile::tempdir()?;
    let mut variables = Vec::new();
    for variable in values(&unit, "Environment") {
        let (name, value) = variable.split_once('=').context("no value")?;
        let file = value.strip_prefix("%d/").context("no credential")?;
        ensure!(credentials.contains(&file), "{file} is not loaded");
        let key = name.trim_start_matches("OUTBOX_BRIDGE__").replace("__", ".").to_lowercase();
        ensure!(
            KEYS.iter().any(|known| known.name == key && matches!(known.kind, Kind::File)),
            "no key {key}"
        );
        let path = folder.path().join(file);
        std::fs::write(&path, "secret")?;
        variables.push((name.to_owned(), path.display().to_string()));
    }
    variables.push(("OUTBOX_BRIDGE__NATS__USER".to_owned(), "bridge".to_owned()));
    let config = folder.path().join("bridge.toml");
    std::fs::write(&config, read("outbox-bridge.toml")?.replace("password_file", "# password_file"))?;
    let config = Config::load_with(&config, variables)?;

    let seconds = values(&unit, "TimeoutStopSec");
    let seconds: u64 = seconds.first().context("no TimeoutStopSec")?.trim_end_matches('s').parse()?;
    ensure!(seconds > config.shutdown.deadline.as_secs() + 5, "the deadline does not fit into {seconds} s");
    Ok(())
}
