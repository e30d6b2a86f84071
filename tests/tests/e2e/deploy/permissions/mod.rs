//! The permissions in `deploy/nats/permissions.conf` and the grants in `deploy/mysql` are all that the bridge and a consuming
//! service need, and none of them is there for nothing.

mod bridge;
mod consumer;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use testbed::{Nats, NatsBuilder, eventually};
use tokio::task::JoinHandle;

use crate::deploy::read;

/// Of every user in these tests.
const PASSWORD: &str = "s3cret-of-nats";
const PERMISSIONS: &str = "nats/permissions.conf";

/// What `role` may publish to, as the file says.
fn publish_permissions(role: &str) -> Result<Vec<String>> {
    let text = read(PERMISSIONS)?;
    let (_, rest) = text.split_once(&format!("\n{role} = {{")).with_context(|| format!("no {role}"))?;
    let (list, _) = rest.split_once("\n  ]").with_context(|| format!("{role} has no end"))?;
    let lines = list.lines().map(str::trim);
    let subjects = lines.filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    Ok(subjects.map(str::to_owned).collect())
}

/// A server with the users of `deploy/nats/nats.conf`, `more` of them, and `admin`, who may do everything and whom
/// [`Nats::client`] takes.
fn server(more: &str) -> Result<NatsBuilder> {
    let config = read("nats/nats.conf")?;
    let (_, authorization) = config.split_once("\nauthorization {").context("no authorization block")?;
    let admin = format!("users = [\n{{ user: admin, password: {PASSWORD} }}\n{more}");
    let mut text = String::new();
    for word in authorization.split(|c: char| !c.is_ascii_uppercase() && c != '_') {
        if word.ends_with("_PASSWORD") {
            text.push_str(&format!("{word}: {PASSWORD}\n"));
        }
    }
    text.push_str("authorization {");
    text.push_str(
        &authorization.replace("include permissions.conf", &read(PERMISSIONS)?).replace("users = [", &admin),
    );
    ensure!(text.matches("admin").count() == 1 && text.contains("\nBRIDGE = {"), "{text}");
    Ok(Nats::builder().user("admin", PASSWORD).config(&text))
}

/// Whether `permission` allows `subject`.
fn allows(permission: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for expected in permission.split('.') {
        match (expected, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (literal, Some(token)) if literal == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Everything that was published on a server and asks for an answer to inboxes of one prefix.
struct Recorder {
    subjects: Arc<Mutex<BTreeSet<String>>>,
    task: JoinHandle<()>,
}

impl Recorder {
    async fn start(nats: &Nats, inbox_prefix: &str) -> Result<Self> {
        let client = nats.client().await?;
        // Not ">": who listens to inboxes makes the server believe that clients which are gone still wait for messages.
        let mut messages = Vec::new();
        for subject in ["$JS.>", "$KV.>", "orders.>", "dead.>", "outbox.dead.>", "$O.>"] {
            messages.push(client.subscribe(subject).await?);
        }
        let mut messages = futures_util::stream::select_all(messages);
        client.flush().await?;
        let subjects = Arc::<Mutex<BTreeSet<String>>>::default();
        let (seen, prefix) = (Arc::clone(&subjects), format!("{inbox_prefix}."));
        let task = tokio::spawn(async move {
            // With the task ends the connection.
            let _client = client;
            while let Some(message) = messages.next().await {
                // Acknowledgements are not answered, nor is flow control.
                let of_theirs = match &message.reply {
                    Some(reply) => reply.starts_with(&prefix),
                    None => ["$JS.ACK.", "$JS.FC."].iter().any(|prefix| message.subject.starts_with(prefix)),
                };
                if of_theirs {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).insert(message.subject.to_string());
                }
            }
        });
        Ok(Self { subjects, task })
    }

    /// Expects that every permission of `role` was made use of.
    async fn expect_use(self, role: &str) -> Result<()> {
        let permissions = publish_permissions(role)?;
        ensure!(!permissions.is_empty(), "{role} may do nothing");
        let seen = || self.subjects.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let idle = || {
            let seen = seen();
            let used = |permission: &String| seen.iter().any(|subject| allows(permission, subject));
            permissions.iter().filter(|permission| !used(permission)).collect::<Vec<_>>()
        };
        // What was published is still on its way here.
        let all =
            eventually("use of all", Duration::from_secs(2), async || Ok(idle().is_empty().then_some(())));
        let all = all.await;
        self.task.abort();
        all.with_context(|| format!("{role} made no use of {:#?}, only of {:#?}", idle(), seen()))
    }
}

#[test]
fn wildcards() {
    assert!(allows("a.*.c", "a.b.c") && allows("a.>", "a.b.c") && allows("a", "a"));
    assert!(!allows("a.*", "a.b.c") && !allows("a.>", "a") && !allows("a.b", "a"));
}
