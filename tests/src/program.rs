//! Programs of this repository as processes that a test can kill.

use std::fs::File;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::guarded::{Guarded, built};

/// An example program, running; killed on drop.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    log: tempfile::NamedTempFile,
    running: Option<Guarded>,
}

impl Program {
    /// Starts the program of this name.
    ///
    /// # Errors
    ///
    /// When it was not built, or cannot be started.
    pub fn start(
        name: &'static str,
        arguments: &[&str],
        variables: Vec<(&'static str, String)>,
    ) -> Result<Self> {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let log = tempfile::NamedTempFile::new()?;
        let mut program = Self { name, arguments, variables, log, running: None };
        program.launch()?;
        Ok(program)
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(built(self.name)?);
        command.args(&self.arguments).envs(self.variables.iter().cloned()).stdin(Stdio::null());
        Ok(command)
    }

    fn launch(&mut self) -> Result<()> {
        let log = File::options().append(true).open(self.log.path())?;
        self.running = Some(Guarded::spawn(self.command()?.stdout(log.try_clone()?).stderr(log))?);
        Ok(())
    }

    /// Kills it as `kill -9` does.
    ///
    /// # Errors
    ///
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), Guarded::kill)
    }

    /// Kills it as `kill -9` does, and starts it again.
    ///
    /// # Errors
    ///
    /// When it had ended by itself, or cannot be started.
    pub fn replace(&mut self) -> Result<()> {
        self.check_running()?;
        self.kill()?;
        self.launch()
    }

    /// Starts it again after [`kill`](Self::kill).
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "{} runs already", self.name);
        self.launch()
    }

    /// Fails if it has ended by itself.
    ///
    /// # Errors
    ///
    /// When it has; then with its log.
    pub fn check_running(&mut self) -> Result<()> {
        let name = self.name;
        let running = self.running.as_mut().with_context(|| format!("{name} was killed"))?;
        let ended = running.child.try_wait()?;
        ensure!(ended.is_none(), "{name} has ended:\n{}", self.log());
        Ok(())
    }

    /// All that it has printed, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.log.path())
            .map_or_else(|error| error.to_string(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs a program of this name to its end, and gives what it prints.
    ///
    /// # Errors
    ///
    /// When it fails; then with what it printed.
    pub fn output(name: &str, arguments: &[&str], variables: Vec<(&'static str, String)>) -> Result<String> {
        let output =
            Command::new(built(name)?).args(arguments).envs(variables).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name} ended with {}:\n{text}{errors}", output.status);
        Ok(text)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.kill());
        // The test's output, which is shown only if it fails.
        let log = self.log();
        let skipped = log.lines().count().saturating_sub(30);
        eprintln!("--- the log of {} ends:", self.name);
        log.lines().skip(skipped).for_each(|line| eprintln!("{line}"));
    }
}
