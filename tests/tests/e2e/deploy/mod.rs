//! What lies in `deploy/` is true: permissions suffice and none is idle, and what other programs read is checked with those
//! programs.

mod containers;
mod permissions;
mod prometheus;
mod systemd;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// A path inside `deploy/`.
fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(deploy(path)).with_context(|| format!("cannot read deploy/{path}"))
}

/// The documents of a YAML file.
fn yaml(path: &str) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(&read(path)?).with_context(|| format!("deploy/{path}"))
}
