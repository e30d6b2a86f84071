//! Stages: commands that are announced, timed, and end the run when they fail.

use std::env;
use std::ffi::OsString;
use std::io::{IsTerminal as _, stderr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// The stages of one run, and how long each took.
#[derive(Debug)]
pub(crate) struct Stages {
    began: Instant,
    done: Vec<(String, Duration)>,
}

impl Stages {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), done: Vec::new() }
    }

    /// Runs cargo with `arguments`.
    pub(crate) fn cargo(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        self.command(name, cargo().args(arguments))
    }

    /// Runs `command`; what it prints is shown as it is.
    pub(crate) fn command(&mut self, name: &str, command: &mut Command) -> Result<()> {
        announce(name, &shown(command));
        let began = Instant::now();
        let program = command.get_program().display().to_string();
        let status = command
            .stdin(Stdio::null())
            .current_dir(repository()?)
            .status()
            .with_context(|| format!("cannot run `{program}`"))?;
        if !status.success() {
            let seconds = began.elapsed().as_secs_f64();
            bail!("stage `{name}` failed after {seconds:.1} s ({status}); it ran: {}", shown(command));
        }
        self.end(name, began);
        Ok(())
    }

    /// Runs `work` as a stage.
    pub(crate) async fn work(&mut self, name: &str, work: impl Future<Output = Result<()>>) -> Result<()> {
        announce(name, "");
        let began = Instant::now();
        work.await.with_context(|| format!("stage `{name}` failed"))?;
        self.end(name, began);
        Ok(())
    }

    fn end(&mut self, name: &str, began: Instant) {
        let duration = began.elapsed();
        eprintln!("    {name}: {:.1} s", duration.as_secs_f64());
        self.done.push((name.to_owned(), duration));
    }

    /// All stages with their times, on standard error, so that the last stage's own closing lines stay the last on
    /// standard output.
    pub(crate) fn summary(&self) {
        let stages: Vec<String> = self
            .done
            .iter()
            .map(|(name, duration)| format!("{name} {:.0} s", duration.as_secs_f64()))
            .collect();
        eprintln!("\nall passed in {:.0} s: {}", self.began.elapsed().as_secs_f64(), stages.join(", "));
    }
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    // What `cargo run` tells this program about itself is not for the packages that it builds.
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    command
}

/// The repository's root.
pub(crate) fn repository() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the repository has moved")
}

fn announce(name: &str, what: &str) {
    let (bold, plain) = if stderr().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    eprintln!("\n{bold}==> {name}{plain}  {what}");
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        let value = value?.to_string_lossy();
        let quote = if value.contains(' ') { "'" } else { "" };
        Some(format!("{}={quote}{value}{quote}", name.to_string_lossy()))
    });
    let program =
        Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    variables.chain([program]).chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_typed() {
        let mut command = Command::new("/some/where/cargo");
        command.env("RUSTDOCFLAGS", "-D warnings").env_remove("CARGO_PKG_NAME").args(["doc", "--no-deps"]);
        assert_eq!(shown(&command), "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps");
    }

    #[test]
    fn the_first_failure_ends_the_run() {
        let mut stages = Stages::new();
        stages.command("good", &mut Command::new("true")).expect("a stage that passes");
        let error = stages.command("bad", &mut Command::new("false")).expect_err("a stage that fails");
        assert!(error.to_string().contains("`bad`"), "{error}");
        assert_eq!(stages.done.len(), 1);
    }
}
