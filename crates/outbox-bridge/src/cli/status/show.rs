//! The status as text for a terminal.

use std::fmt;

use super::{Source, Standby, Status, Stream};
use crate::lead::shown;

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.leader, &self.nats_error) {
            (_, Some(error)) => line(f, "bridge", &format!("{}, not known: {error}", self.name))?,
            (None, None) => line(f, "bridge", &format!("{}, nobody leads{}", self.name, self.former()))?,
            (Some(leader), None) => {
                let since = super::seconds_since(leader.since_seconds);
                let leader = shown(&leader.holder);
                line(f, "bridge", &format!("{}, led by {leader} for {}", self.name, age(since)))?;
            }
        }
        self.write_standbys(f)?;
        match &self.checkpoint {
            Some(point) => {
                let prepared = match point.prepared {
                    0 => String::new(),
                    count => format!(", {count} XA transaction(s) prepared"),
                };
                let written = age(point.age_seconds);
                line(
                    f,
                    "checkpoint",
                    &format!("{}:{}, written {written} ago{prepared}", point.file, point.offset),
                )?;
            }
            None if self.nats_error.is_some() => line(f, "checkpoint", "not known")?,
            None => line(f, "checkpoint", "none")?,
        }
        line(f, "source", &self.source.to_string())?;
        for (address, server) in &self.servers {
            line(f, "server", &format!("{address}: {server}"))?;
        }
        for (name, stream) in &self.streams {
            line(f, &format!("stream {name}"), &stream.to_string())?;
        }
        Ok(())
    }
}

impl Status {
    /// Who led before.
    fn former(&self) -> String {
        self.former_leader.as_ref().map_or_else(String::new, |former| {
            let seen = age(former.seen_seconds_ago);
            format!("; {} did, and gave its last sign of life {seen} ago", shown(&former.lease.holder))
        })
    }

    fn write_standbys(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.standbys_error {
            line(f, "standby", &format!("not known: {error}"))?;
        }
        match self.standbys.as_deref() {
            Some([]) => line(f, "standby", "none"),
            standbys => {
                standbys.into_iter().flatten().try_for_each(|one| line(f, "standby", &one.to_string()))
            }
        }
    }
}

impl fmt::Display for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (since, seen) = (age(super::seconds_since(self.since_seconds)), age(self.seen_seconds_ago));
        write!(f, "{}, version {}, for {since}, last seen {seen} ago", shown(&self.holder), self.program)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            return write!(f, "{}: {error}", self.address);
        }
        write!(f, "{} ends at {}:{}", self.address, self.file, self.offset)?;
        match self.behind_bytes {
            Some(bytes) => write!(f, ", {bytes} bytes from the checkpoint on"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            return f.write_str(error);
        }
        write!(f, "{} messages, {} bytes", self.messages, self.bytes)?;
        let Some(seconds) = self.age_seconds else { return Ok(()) };
        write!(f, "; the last is {}, stored {} ago", self.last_sequence, age(seconds))?;
        match &self.position {
            Some(position) => write!(f, ", from {position}"),
            None => f.write_str(", and no bridge wrote it"),
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, subject: &str, text: &str) -> fmt::Result {
    writeln!(f, "{subject:<16} {text}")
}

/// `45 s`, `3 min`, `2 h`, `5 d`.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use outbox_lease::{Holder, Record};

    use super::*;
    use crate::cli::status::Position;

    #[test]
    fn what_is_known_and_what_is_not() {
        let stream = Stream {
            messages: 3,
            bytes: 700,
            last_sequence: 9,
            age_seconds: Some(300),
            position: Some("0-1-7@binlog.000001:99/0".to_owned()),
            error: None,
        };
        let lost = Stream { error: Some("stream not found".to_owned()), ..Stream::default() };
        let status = Status {
            name: "bridge".to_owned(),
            nats_error: None,
            leader: None,
            former_leader: None,
            standbys: Some(Vec::new()),
            standbys_error: None,
            checkpoint: Some(Position {
                file: "binlog.000001".to_owned(),
                offset: 99,
                age_seconds: 1,
                prepared: 2,
            }),
            servers: Default::default(),
            source: Source {
                address: "db:3306".to_owned(),
                file: "binlog.000002".to_owned(),
                offset: 4,
                behind_bytes: Some(12),
                error: None,
            },
            streams: [("A".to_owned(), stream), ("B".to_owned(), lost)].into(),
        };
        let expected = "\
bridge           bridge, nobody leads
standby          none
checkpoint       binlog.000001:99, written 1 s ago, 2 XA transaction(s) prepared
source           db:3306 ends at binlog.000002:4, 12 bytes from the checkpoint on
stream A         3 messages, 700 bytes; the last is 9, stored 5 min ago, from 0-1-7@binlog.000001:99/0
stream B         stream not found
";
        assert_eq!(status.to_string(), expected);
        assert_eq!(status.exit(), crate::exit::Exit::Unavailable);
        let unknown =
            Status { nats_error: Some("away".to_owned()), checkpoint: None, standbys: None, ..status };
        assert!(
            unknown
                .to_string()
                .starts_with("bridge           bridge, not known: away\ncheckpoint       not known\n")
        );
    }

    #[test]
    fn who_leads_and_who_stands_by() {
        let holder = Holder { instance: "i".to_owned(), host: "h".to_owned(), process: 7 };
        let lease = |since_seconds: u64| {
            let lease = serde_json::json!({
                "version": 1, "instance": "i", "host": "h", "process": 7, "since_seconds": since_seconds, "ttl_millis": 10_000,
                "renewals": 1,
            });
            serde_json::from_value::<Record>(lease).expect("a lease")
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs();
        let mut status = Status {
            name: "bridge".to_owned(),
            nats_error: None,
            leader: None,
            former_leader: None,
            standbys: Some(vec![Standby {
                holder: Holder { process: 8, ..holder },
                program: "0.1.0".to_owned(),
                since_seconds: now - 300,
                seen_seconds_ago: 2,
            }]),
            standbys_error: None,
            checkpoint: None,
            servers: Default::default(),
            source: Source::default(),
            streams: Default::default(),
        };
        status.hold(Some((lease(now - 7_200), Duration::from_millis(10_000))));
        let text = status.to_string();
        let expected = "\
bridge           bridge, led by process 7 on h for 2 h
standby          process 8 on h, version 0.1.0, for 5 min, last seen 2 s ago
";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(status.exit(), crate::exit::Exit::Success);
        status.leader = None;
        status.hold(Some((lease(now - 7_200), Duration::from_millis(10_001))));
        let text = status.to_string();
        let expected = "bridge, nobody leads; process 7 on h did, and gave its last sign of life 10 s ago\n";
        assert!(text.contains(expected), "{text}");
        assert_eq!(status.exit(), crate::exit::Exit::Unavailable);
        status.standbys = None;
        status.standbys_error = Some("forbidden".to_owned());
        assert!(status.to_string().contains("\nstandby          not known: forbidden\n"), "{status}");
    }

    #[test]
    fn ages() {
        for (seconds, text) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (172_800, "2 d")]
        {
            assert_eq!(age(seconds), text);
        }
    }
}
