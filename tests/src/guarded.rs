//! Processes that cannot outlive the test that started them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Kills the process (`$0`) when the pipe from us ends without a line.
const GUARD: &str = r#"read -r line || kill -KILL "$0""#;

/// A process and what kills it when the test is killed.
#[derive(Debug)]
pub(crate) struct Guarded {
    pub(crate) child: Child,
    guard: Child,
}

impl Guarded {
    /// Starts the process.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let program = command.get_program().display().to_string();
        let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let guard = Command::new("sh")
            .args(["-c", GUARD, &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match guard {
            Ok(guard) => Ok(Self { child, guard }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error).with_context(|| format!("cannot start `sh`, which guards {program}"))
            }
        }
    }

    /// Kills the process as `kill -9` does, if it has not ended yet.
    pub(crate) fn kill(mut self) -> Result<()> {
        // The guard first: later the number may be another's.
        self.guard.kill()?;
        self.guard.wait()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Where the program of this name was built: beside the tests.
///
/// # Errors
///
/// When it was not built; the error says how to.
pub fn built(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // Tests lie in `deps` beside the binaries.
    let folder = test.parent().and_then(Path::parent).context("the test's executable lies nowhere")?;
    let path = folder.join(name);
    ensure!(
        path.exists(),
        "there is no {}: run `cargo build --workspace --all-features --bins`",
        path.display()
    );
    Ok(path)
}
