//! MySQL and MariaDB: started, killed, paused, over TLS.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder, SslOpts};
use testbed::{Flavour, MySql, TlsMaterial, eventually};

const BOTH: [Flavour; 2] = [Flavour::MySql, Flavour::MariaDb];

async fn rows(server: &MySql) -> Result<Vec<u32>> {
    server.query("SELECT id FROM shop.t ORDER BY id").await
}

async fn make_table(server: &MySql) -> Result<()> {
    server.exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY) ENGINE=InnoDB").await
}

#[tokio::test]
async fn committed_rows_survive_a_kill_and_a_restart() -> Result<()> {
    for flavour in BOTH {
        let mut server = MySql::builder_of(flavour).start().await?;
        let port = server.port();
        make_table(&server).await?;
        server.exec("INSERT INTO shop.t VALUES (1)").await?;
        server.kill().await?;
        assert!(server.conn().await.is_err(), "{flavour} is gone");
        server.start().await?;
        server.exec("INSERT INTO shop.t VALUES (2)").await?;
        server.restart().await?;
        assert_eq!(rows(&server).await?, [1, 2], "{flavour}");
        assert_eq!(server.port(), port);
    }
    Ok(())
}

#[tokio::test]
async fn mysql_has_the_settings_that_tests_rely_on() -> Result<()> {
    let (one, two) = tokio::try_join!(
        MySql::builder().start(),
        MySql::builder().option("--server-id=2").option("--binlog-row-image=MINIMAL").start(),
    )?;
    let settings =
        "SELECT @@gtid_mode, @@binlog_row_metadata, @@binlog_row_image, @@sync_binlog, @@server_id";
    let of = |gtid: &str, metadata: &str, image: &str, sync, id| {
        vec![(gtid.to_owned(), metadata.to_owned(), image.to_owned(), sync, id)]
    };
    assert_eq!(
        one.query::<(String, String, String, u32, u32)>(settings).await?,
        of("ON", "FULL", "FULL", 1, 1)
    );
    assert_eq!(
        two.query::<(String, String, String, u32, u32)>(settings).await?,
        of("ON", "FULL", "MINIMAL", 1, 2)
    );
    let uuids =
        [one.query::<String>("SELECT @@server_uuid").await?, two.query("SELECT @@server_uuid").await?];
    assert_ne!(uuids[0], uuids[1], "each server has an identity of its own");
    assert!(one.version().major >= 8);
    Ok(())
}

#[tokio::test]
async fn mariadb_has_the_settings_that_tests_rely_on() -> Result<()> {
    let server = MySql::mariadb().relaxed_durability().start().await?;
    let settings = "SELECT @@binlog_format, @@binlog_row_metadata, @@gtid_strict_mode, @@sync_binlog";
    assert_eq!(
        server.query::<(String, String, u32, u32)>(settings).await?,
        [("ROW".to_owned(), "FULL".to_owned(), 1, 0)]
    );
    assert_eq!(server.query::<u32>("SELECT count(*) FROM mysql.user WHERE user = ''").await?, [0]);
    Ok(())
}

#[tokio::test]
async fn a_user_may_log_in_over_tcp() -> Result<()> {
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).start().await?;
        server.create_user("bridge", "secret", "REPLICATION SLAVE, REPLICATION CLIENT ON *.*").await?;
        let opts = OptsBuilder::from_opts(server.root_opts()).user(Some("bridge")).pass(Some("secret"));
        let mut conn = Conn::new(opts).await?;
        let user: Option<String> = conn.query_first("SELECT CURRENT_USER()").await?;
        assert_eq!(user.as_deref(), Some("bridge@%"), "{flavour}");
        conn.disconnect().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_paused_server_says_nothing_and_goes_on_later() -> Result<()> {
    let server = MySql::builder().start().await?;
    let mut conn = server.conn().await?;
    server.pause()?;
    let answer = tokio::time::timeout(Duration::from_millis(300), conn.query_drop("SELECT 1")).await;
    assert!(answer.is_err(), "no answer while paused");
    server.resume()?;
    eventually("an answer", Duration::from_secs(10), async || Ok(server.exec("SELECT 1").await.ok())).await?;
    Ok(())
}

#[tokio::test]
async fn mysqlbinlog_reads_the_log() -> Result<()> {
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).start().await?;
        make_table(&server).await?;
        server.exec("INSERT INTO shop.t VALUES (77)").await?;
        let mut command = server.mysqlbinlog().expect("the packages have mysqlbinlog");
        let output = command
            .args(["--no-defaults", "--base64-output=DECODE-ROWS", "-v"])
            .arg(server.data_dir().join("binlog.000001"))
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("@1=77"), "{flavour}: {text} {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[tokio::test]
async fn a_failed_start_shows_the_end_of_the_log() {
    for flavour in BOTH {
        let failure =
            MySql::builder_of(flavour).option("--no-such-option=1").start().await.expect_err("refused");
        assert!(failure.to_string().contains("no-such-option"), "{failure:#}");
    }
}

#[tokio::test]
async fn certificates_are_checked() -> Result<()> {
    let material = TlsMaterial::generate()?;
    let connect = async |server: &MySql, ca: &PathBuf| -> Result<Option<(String, String)>> {
        let tls =
            SslOpts::default().with_disable_built_in_roots(true).with_root_certs(vec![ca.clone().into()]);
        let mut conn = Conn::new(OptsBuilder::from_opts(server.root_opts()).ssl_opts(tls)).await?;
        let cipher = conn.query_first("SHOW STATUS LIKE 'Ssl_cipher'").await?;
        conn.disconnect().await?;
        Ok(cipher)
    };
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).tls(&material.ca, &material.server).start().await?;
        let (_, cipher) = connect(&server, &material.ca).await?.expect("a status");
        assert!(cipher.starts_with("TLS_"), "{flavour}: {cipher}");
        assert!(connect(&server, &material.other_ca).await.is_err(), "{flavour}: an unknown authority");
        let server = MySql::builder_of(flavour).tls(&material.ca, &material.wrong_host).start().await?;
        assert!(connect(&server, &material.ca).await.is_err(), "{flavour}: another host's certificate");
    }
    Ok(())
}
