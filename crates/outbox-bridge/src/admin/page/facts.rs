//! What the page shows of the configuration: names and addresses, no secret.

use std::time::SystemTime;

use crate::config::Config;

/// What does not change while the process lives.
#[derive(Debug, Clone)]
pub struct Facts {
    pub(super) name: String,
    pub(super) host: String,
    pub(super) process: u32,
    pub(super) started: SystemTime,
    /// The source's servers, `host:port`.
    pub(super) source: Vec<String>,
    /// The addresses of NATS.
    pub(super) nats: Vec<String>,
    /// The streams and the tables that go to each.
    pub(super) streams: Vec<(String, Vec<String>)>,
    /// The stream of dead letters.
    pub(super) letters: Option<String>,
}

impl Facts {
    /// Those of a bridge with this configuration, in this process, which has just begun.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut streams: Vec<(String, Vec<String>)> = Vec::new();
        for outbox in &config.outboxes {
            let table = outbox.table.to_string();
            match streams.iter_mut().find(|(stream, _)| *stream == outbox.stream) {
                Some((_, tables)) => tables.push(table),
                None => streams.push((outbox.stream.clone(), vec![table])),
            }
        }
        let this = outbox_lease::Holder::this_process("");
        Self {
            name: config.name.clone(),
            host: this.host,
            process: this.process,
            started: SystemTime::now(),
            source: crate::run::all_servers(&config.source).iter().map(|server| server.address()).collect(),
            // Without credentials: the configuration refuses them there. A query could hold a token all the same.
            nats: config.nats.urls.iter().map(|url| before_query(url).to_owned()).collect(),
            streams,
            letters: config.dead_letters.as_ref().map(|letters| letters.stream.clone()),
        }
    }
}

#[cfg(test)]
impl Facts {
    pub(in crate::admin) fn example() -> Self {
        Self {
            name: "bridge".into(),
            host: "here".into(),
            process: 7,
            started: SystemTime::now(),
            source: vec!["db:3306".into()],
            nats: vec!["nats://nats:4222".into()],
            streams: vec![
                ("ORDERS".into(), vec!["shop.outbox".into()]),
                ("BILLS".into(), vec!["shop.bills".into()]),
            ],
            letters: Some("DEAD".into()),
        }
    }
}

fn before_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}
