//! `cargo xtask check`: what needs no servers. `cargo xtask test`: most of that, and every test.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::chaos;
use crate::demo::{self, Options, Programs};
use crate::stage::{Stages, cargo};

const FORMAT: &[&str] = &["fmt", "--all", "--check"];

/// Format, lints, documentation, features, and dependencies' licences where cargo-deny is installed.
pub(crate) fn check() -> Result<()> {
    let mut stages = Stages::new();
    stages.cargo("format", FORMAT)?;
    lint(&mut stages)?;
    features(&mut stages)?;
    if has_deny() {
        stages.cargo("deny", &["deny", "check", "licenses", "bans", "sources"])?;
    } else {
        eprintln!(
            "\nlicences were not checked: cargo-deny is not installed (`cargo install --locked cargo-deny`)"
        );
    }
    stages.summary();
    Ok(())
}

/// How many tests run at once: most of the time they wait for servers, so more than there are processors.
const TEST_THREADS: &str = "4";

/// Everything that must hold before a change is merged.
pub(crate) async fn test() -> Result<()> {
    let mut stages = Stages::new();
    stages.cargo("format", FORMAT)?;
    // First, so that what cannot be got is said before minutes of compiling.
    stages.work("servers", crate::servers::run()).await?;
    lint(&mut stages)?;
    // The end-to-end tests start the bridge's own binary, the demo also the examples'. All targets at once, since then the tests use what is built
    // here: a build of one package alone would choose other features of its dependencies and compile them again.
    let mut built = None;
    let all = ["--workspace", "--all-targets", "--all-features"];
    let building = async { Programs::build(&all, None).await.map(|programs| built = Some(programs)) };
    stages.work("build", building).await?;
    let programs = built.context("nothing was built")?;
    let chaos = programs.chaos.clone().context("the fault injection was not built")?;
    let bridge = programs.bridge.clone();
    stages.work("demo, MySQL", Box::pin(demo::run(Options::rehearsal(false, programs.clone())))).await?;
    stages.work("demo, MariaDB", Box::pin(demo::run(Options::rehearsal(true, programs)))).await?;
    stages.work("chaos", async { chaos::rehearsal(&chaos, &bridge) }).await?;
    // All of them, so that one run tells everything that is wrong.
    let mut tests = cargo();
    tests.env("RUST_TEST_THREADS", TEST_THREADS);
    stages.command("tests", tests.args(["test", "--workspace", "--all-features", "--no-fail-fast"]))?;
    stages.summary();
    Ok(())
}

fn lint(stages: &mut Stages) -> Result<()> {
    stages.cargo(
        "lints",
        &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
    )?;
    let mut documentation = cargo();
    documentation.env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--workspace",
        "--all-features",
        "--no-deps",
    ]);
    stages.command("documentation", &mut documentation)
}

/// The features of `outbox-saga`, and none: services choose them singly, and all at once hide what is missing.
const SAGA_FEATURES: [&str; 7] = ["", "cli", "http", "inspect", "opentelemetry", "page", "postgres"];

/// Not a part of `test`: each compiles some dependencies again, two minutes from nothing.
fn features(stages: &mut Stages) -> Result<()> {
    for feature in SAGA_FEATURES {
        let name =
            format!("lints, outbox-saga with {}", if feature.is_empty() { "nothing" } else { feature });
        let alone = ["clippy", "-p", "outbox-saga", "--no-default-features", "--features", feature];
        stages.command(&name, cargo().args(alone).args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

fn has_deny() -> bool {
    let mut command: Command = cargo();
    command.args(["deny", "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
