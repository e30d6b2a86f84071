//! What lies in `deploy/` is true: permissions suffice and none is idle, and what other programs read is checked with those
//! programs.

mod permissions;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A path inside `deploy/`.
fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(deploy(path)).with_context(|| format!("cannot read deploy/{path}"))
}
