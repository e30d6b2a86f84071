//! Servers, schema, user, stream and configuration: the same steps as on one's own servers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, stream};
use mysql_async::prelude::Queryable as _;
use testbed::{Flavour, MySql, Nats, Port};
use uuid::Uuid;

use super::orders;
use super::verdict::{Event, digest};

/// The outbox table.
pub(super) const TABLE: &str = "shop.outbox";
/// The bridge's stream.
pub(super) const STREAM: &str = "ORDERS";
/// The stream of the services' dead letters.
pub(super) const DEAD_LETTERS: &str = "DEAD_LETTERS";
const USER: &str = "bridge";
/// Who owns the schemas, and creates the outbox tables.
const OWNER: &str = "owner";
const SOURCE_URL: &str = "OUTBOX_BRIDGE__SOURCE__URL";

/// Everything that the bridge needs; it ends with this value.
#[derive(Debug)]
pub(super) struct World {
    pub(super) mysql: MySql,
    nats: Nats,
    jetstream: jetstream::Context,
    pub(super) admin: Port,
    pub(super) folder: tempfile::TempDir,
    password: String,
}

impl World {
    /// Starts the servers.
    pub(super) async fn start(flavour: Flavour) -> Result<Self> {
        say("starting the servers");
        let mysql = MySql::builder_of(flavour).start().await?;
        let nats = Nats::builder().start().await?;
        say(&format!("{flavour} {} on port {}", mysql.version(), mysql.port()));
        say(&format!("nats-server {} on port {}", nats.version(), nats.port()));
        let jetstream = jetstream::new(nats.client().await?);
        let folder = tempfile::Builder::new().prefix("outbox-bridge-demo-").tempdir()?;
        let password = Uuid::new_v4().to_string();
        let world = Self { mysql, nats, jetstream, admin: Port::reserve()?, folder, password };
        std::fs::write(world.folder.path().join("mysql-password"), &world.password)?;
        let owner = format!("CREATE USER '{OWNER}'@'%' IDENTIFIED BY '{}'", world.password);
        world.mysql.exec(&owner).await?;
        Ok(world)
    }

    /// The shop, and what the bridge asks for.
    pub(super) async fn set_up_shop(&self, program: &Path) -> Result<()> {
        std::fs::write(self.configuration(), self.configuration_text())?;
        say(&format!("configuration {}:\n\n{}", self.configuration().display(), self.configuration_text()));
        self.mysql.exec("CREATE DATABASE shop CHARACTER SET utf8mb4").await?;
        self.mysql.exec(orders::TABLE).await?;
        self.set_up(program, &self.configuration(), &[], &["shop".to_owned()]).await
    }

    /// Creates what a bridge with this configuration asks for, its outbox tables as the owner of `schemas`.
    pub(super) async fn set_up(
        &self,
        program: &Path,
        configuration: &Path,
        variables: &[(&str, String)],
        schemas: &[String],
    ) -> Result<()> {
        let dialect = match self.mysql.flavour() {
            Flavour::MySql => "mysql",
            Flavour::MariaDb => "mariadb",
        };
        let bridge = |arguments: &[&str], variables: &[(&str, String)]| {
            run(program, configuration, arguments, variables)
        };
        for schema in schemas {
            self.mysql.exec(&format!("GRANT ALL ON {schema}.* TO '{OWNER}'@'%'")).await?;
        }
        let mut owner = variables.to_vec();
        owner.retain(|(name, _)| *name != SOURCE_URL);
        owner.push((SOURCE_URL, self.mysql.url(OWNER)));
        bridge(&["init", "--apply", "--dialect", dialect], &owner)?;
        let grants = bridge(&["init", "--print", "grants", "--dialect", dialect], variables)?;
        self.mysql.exec(&grants.replace("<password>", &self.password)).await?;

        let findings = bridge(&["check"], variables)?;
        findings.lines().filter(|line| !line.is_empty()).for_each(|line| eprintln!("      {line}"));
        Ok(())
    }

    /// Creates the schema of a service, and a user of the same name who may do anything there.
    pub(super) async fn create_schema(&self, schema: &str) -> Result<()> {
        self.mysql.exec(&format!("CREATE DATABASE {schema} CHARACTER SET utf8mb4")).await?;
        self.mysql.create_user(schema, &self.password, &format!("ALL ON {schema}.*")).await
    }

    /// Where a service finds its schema.
    pub(super) fn database_url(&self, schema: &str) -> String {
        let user = format!("{schema}:{}", self.password);
        format!("{}/{schema}", self.mysql.url(&user))
    }

    pub(super) fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// How many messages of a stream a consumer has not acknowledged; `None` while stream or consumer is not there.
    pub(super) async fn unhandled(&self, stream: &str, consumer: &str) -> Option<u64> {
        let info = self.jetstream.get_stream(stream).await.ok()?.consumer_info(consumer).await.ok()?;
        Some(info.num_pending + u64::try_from(info.num_ack_pending).ok()?)
    }

    pub(super) fn configuration(&self) -> PathBuf {
        self.folder.path().join("bridge.toml")
    }

    fn configuration_text(&self) -> String {
        format!(
            "[source]\n\
             url = \"{}\"\n\
             password_file = \"mysql-password\"\n\n\
             [nats]\n\
             url = \"{}\"\n\n\
             [[outbox]]\n\
             table = \"{TABLE}\"\n\
             stream = \"{STREAM}\"\n\
             subject = \"orders.{{aggregate_type}}.{{type}}\"\n\n\
             [http]\n\
             listen = \"{}\"\n",
            self.mysql.url(USER),
            self.nats.url(),
            self.admin.address()
        )
    }

    /// The stream, as it is now.
    pub(super) async fn stream(&self) -> Result<stream::Stream> {
        self.jetstream.get_stream(STREAM).await.context("cannot look at the stream")
    }

    /// The outbox table's rows as the events that must have been stored, in the order of their commits: there is one
    /// writer, so that is the order of `seq`.
    pub(super) async fn outbox(&self) -> Result<Vec<Event>> {
        let mut conn = self.mysql.conn().await?;
        let query = "SELECT id, aggregate_type, type, CAST(payload AS CHAR) FROM shop.outbox ORDER BY seq";
        let events: Vec<Result<Event>> = conn
            .query_map(query, |(id, aggregate, kind, body): (Vec<u8>, String, String, String)| {
                let subject = format!("orders.{aggregate}.{kind}");
                Ok(Event { id: Uuid::from_slice(&id)?, digest: digest(&subject, body.as_bytes()) })
            })
            .await
            .context("cannot read the outbox table")?;
        conn.disconnect().await?;
        events.into_iter().collect()
    }
}

/// A line about what is done, on standard error: standard output is for events.
pub(super) fn say(text: &str) {
    eprintln!("demo: {text}");
}

/// Runs the bridge's program with a configuration, changed by `variables`, and returns what it prints.
fn run(
    program: &Path,
    configuration: &Path,
    arguments: &[&str],
    variables: &[(&str, String)],
) -> Result<String> {
    let set: String = variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    let shown = format!("{set}outbox-bridge {}", arguments.join(" "));
    say(&shown);
    let output = Command::new(program)
        .args(arguments)
        .arg("--config")
        .arg(configuration)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "`{shown}` ended with {}:\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}
