//! What the reader sees: columns on a terminal, tab-separated lines elsewhere.

use std::io::{IsTerminal as _, Result, Stdout, Write as _, stdout};
use std::time::Duration;

use uuid::Uuid;

/// How wide a terminal is that does not say it.
const COLUMNS_DEFAULT: usize = 120;
/// The longest body on a line, in characters, where no terminal sets the limit.
const BODY_LENGTH_MAX: usize = 120;
/// Everything on a line before the body.
const BODY_COLUMN: usize = 9 + 2 + 22 + 2 + 36 + 2 + 10 + 2;
const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// An event that has arrived.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    pub(super) sequence: u64,
    pub(super) subject: &'a str,
    pub(super) id: Uuid,
    pub(super) latency: Option<Duration>,
    pub(super) body: &'a [u8],
}

/// Where it is shown.
#[derive(Debug)]
pub(super) struct Screen {
    out: Stdout,
    terminal: bool,
    body_length: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        let out = stdout();
        let terminal = out.is_terminal();
        let columns = rustix::termios::tcgetwinsize(&out).map_or(0, |size| usize::from(size.ws_col));
        let columns = if columns == 0 { COLUMNS_DEFAULT } else { columns };
        let body_length = if terminal { columns.saturating_sub(BODY_COLUMN) } else { BODY_LENGTH_MAX };
        Self { out, terminal, body_length }
    }

    pub(super) fn header(&mut self) -> Result<()> {
        if !self.terminal {
            return writeln!(self.out, "sequence\tsubject\tid\tlatency\tbody");
        }
        writeln!(
            self.out,
            "\n{BOLD}{:>9}  {:<22}  {:<36}  {:>10}  body{PLAIN}",
            "sequence", "subject", "id", "latency"
        )
    }

    pub(super) fn event(&mut self, event: &Shown<'_>) -> Result<()> {
        let Shown { sequence, subject, id, latency, body } = event;
        let latency = latency.map(milliseconds).unwrap_or_default();
        let body = shortened(&String::from_utf8_lossy(body), self.body_length);
        if self.terminal {
            writeln!(self.out, "{sequence:>9}  {subject:<22}  {id:<36}  {latency:>10}  {DIM}{body}{PLAIN}")
        } else {
            writeln!(self.out, "{sequence}\t{subject}\t{id}\t{latency}\t{body}")
        }
    }

    /// A transaction that was rolled back, so that one sees what does not arrive; on a terminal only.
    pub(super) fn rolled_back(&mut self, id: Uuid) -> Result<()> {
        if self.terminal {
            writeln!(self.out, "{DIM}{:>9}  {:<22}  {id}  rolled back{PLAIN}", "-", "")?;
        }
        Ok(())
    }
}

pub(super) fn milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

/// The beginning of `text`, of at most `length` characters, without control characters.
fn shortened(text: &str, length: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().nth(length).is_none() {
        return text.chars().map(clean).collect();
    }
    let kept = text.chars().take(length.saturating_sub(1)).map(clean);
    kept.chain((length > 0).then_some('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_shortened() {
        for (text, length, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("äöü€", 3, "äö…"),
            ("a\tb\x1b", 9, "a b "),
            ("ab", 0, ""),
        ] {
            assert_eq!(shortened(text, length), expected);
        }
    }
}
