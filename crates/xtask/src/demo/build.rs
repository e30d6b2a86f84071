//! The programs of the demo, built by cargo.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::stage::{cargo, repository};

/// The example services that the demo runs.
pub(super) const SERVICES: [&str; 7] = [
    "loyalty-points",
    "ship-orders",
    "order-service",
    "inventory-service",
    "payment-service",
    "order-saga",
    "order-tcc",
];

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) bridge: PathBuf,
    pub(super) loyalty_points: PathBuf,
    pub(super) ship_orders: PathBuf,
    pub(super) order_service: PathBuf,
    pub(super) inventory_service: PathBuf,
    pub(super) payment_service: PathBuf,
    pub(super) saga_orders: PathBuf,
    pub(super) saga_inventory: PathBuf,
    pub(super) saga_payments: PathBuf,
    pub(super) order_tcc: PathBuf,
    /// The fault injection, where it was built with them.
    pub(crate) chaos: Option<PathBuf>,
}

impl Programs {
    /// Builds what `selection` says, with cargo's progress on standard error. `bridge` is used in place of a bridge that is
    /// built.
    pub(crate) async fn build(selection: &[&str], bridge: Option<&Path>) -> Result<Self> {
        let built = build(selection).await?;
        let find = |name: &str| {
            built
                .get(name)
                .cloned()
                .with_context(|| format!("cargo does not say where the program {name} is"))
        };
        Ok(Self {
            bridge: bridge.map_or_else(|| find("outbox-bridge"), |bridge| Ok(bridge.to_owned()))?,
            loyalty_points: find("loyalty-points")?,
            ship_orders: find("ship-orders")?,
            order_service: find("order-service")?,
            inventory_service: find("inventory-service")?,
            payment_service: find("payment-service")?,
            saga_orders: find("saga-orders")?,
            saga_inventory: find("saga-inventory")?,
            saga_payments: find("saga-payments")?,
            order_tcc: find("order-tcc")?,
            chaos: built.get("outbox-chaos").cloned(),
        })
    }
}

/// Builds what `selection` says; the programs by name.
pub(crate) async fn build(selection: &[&str]) -> Result<HashMap<String, PathBuf>> {
    let mut command = Command::from(cargo());
    command
        .arg("build")
        .args(selection)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(repository()?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let output = command.spawn().context("cannot run cargo")?.wait_with_output().await?;
    ensure!(output.status.success(), "the programs cannot be built ({})", output.status);
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let program = |line| {
        let message: Value = serde_json::from_str(line).ok()?;
        // A program's unit tests are an executable of the same name.
        let tests = message.pointer("/profile/test")?.as_bool()?;
        let name = message.pointer("/target/name")?.as_str()?.to_owned();
        let executable = message.get("executable")?.as_str().map(PathBuf::from)?;
        (!tests).then_some((name, executable))
    };
    Ok(messages.lines().filter_map(program).collect())
}
