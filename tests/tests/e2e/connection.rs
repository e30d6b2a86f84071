//! The replication connection against real servers.

use std::time::Duration;

use anyhow::{Context as _, Result};
use outbox_bridge::source::RawEvent;
use outbox_bridge::source::connection::{
    ConnectOptions, Connection, ConnectionError, ConnectionErrorKind, DumpRequest, DumpStream,
    Flavour as Dialect, Password, Recovery, TlsMode, TlsOptions, quote_identifier, quote_string,
};
use testbed::{FaultyProxy, Flavour, MySql, TlsMaterial};
use tokio::time::timeout;

const BOTH: [Flavour; 2] = [Flavour::MySql, Flavour::MariaDb];
const LIMIT: Duration = Duration::from_secs(30);

const ROTATE: u8 = 4;
const FORMAT_DESCRIPTION: u8 = 15;
/// MariaDB's.
const BINLOG_CHECKPOINT: u8 = 161;
const HEARTBEATS: [u8; 2] = [27, 41];
/// Rows written, in the three versions that servers send.
const WRITE_ROWS: [u8; 2] = [23, 30];

fn root(server: &MySql) -> ConnectOptions {
    ConnectOptions::new("127.0.0.1", server.port(), "root")
}

fn user(server: &MySql, name: &str, password: &str) -> ConnectOptions {
    ConnectOptions {
        password: Some(Password::new(password)),
        ..ConnectOptions::new("127.0.0.1", server.port(), name)
    }
}

fn tls(options: &ConnectOptions, mode: TlsMode) -> ConnectOptions {
    ConnectOptions { tls: TlsOptions { mode, ..options.tls.clone() }, ..options.clone() }
}

fn request(file: &str, offset: u64) -> DumpRequest {
    DumpRequest {
        server_id: 4001,
        file: file.to_owned(),
        offset,
        heartbeat: Duration::from_millis(300),
        non_blocking: true,
    }
}

async fn refused(options: &ConnectOptions) -> ConnectionError {
    Connection::connect(options).await.expect_err("refused")
}

async fn account(options: &ConnectOptions) -> Result<(String, bool, String)> {
    let mut connection = Connection::connect(options).await?;
    let rows = connection.query("SELECT CURRENT_USER() AS account").await?;
    let account = rows.first().and_then(|row| row.get("ACCOUNT")).context("an account")?.to_owned();
    let status = connection.query("SHOW STATUS LIKE 'Ssl_cipher'").await?;
    let cipher = status.first().and_then(|row| row.get("Value")).unwrap_or_default().to_owned();
    Ok((account, connection.server().tls, cipher))
}

async fn next(stream: &mut DumpStream) -> Result<RawEvent> {
    timeout(LIMIT, stream.next()).await.context("no event")??.context("the end")
}

async fn all(options: &ConnectOptions, request: DumpRequest) -> Result<Vec<RawEvent>> {
    let mut stream = Connection::connect(options).await?.dump(request).await?;
    let mut events = Vec::new();
    while let Some(event) = timeout(LIMIT, stream.next()).await.context("no event")?? {
        events.push(event);
    }
    Ok(events)
}

async fn make_table(server: &MySql) -> Result<()> {
    server
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, body LONGBLOB) ENGINE=InnoDB")
        .await
}

#[tokio::test]
async fn the_server_is_known_and_answers() -> Result<()> {
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).start().await?;
        let mut connection = Connection::connect(&root(&server)).await?;
        let info = connection.server().clone();
        let version = server.version();
        assert_eq!(info.flavour, if flavour == Flavour::MySql { Dialect::MySql } else { Dialect::MariaDb });
        assert_eq!(
            (u32::from(info.version.0), u32::from(info.version.1), u32::from(info.version.2)),
            (version.major, version.minor, version.patch)
        );
        let id = connection.query("SELECT CONNECTION_ID() AS id").await?;
        assert_eq!(id.first().and_then(|row| row.get("id")), Some(info.connection_id.to_string().as_str()));

        let text = "it's \"a\" \\ \u{1F980} \0 end";
        let sql = format!("SELECT {} AS {}, NULL AS nothing", quote_string(text), quote_identifier("a`b"));
        let rows = connection.query(&sql).await?;
        let row = rows.first().context("a row")?;
        assert_eq!((row.get("a`b"), row.get("nothing")), (Some(text), None));

        let error = connection.query("SELECT nonsense FROM nowhere").await.expect_err("refused");
        assert!(matches!(error.kind(), ConnectionErrorKind::Server { code: 1046 | 1146 }), "{error}");
        assert!(error.sql_state().is_some());
        // That did no harm to the connection, and neither do large answers until they are too large.
        let large = connection.query("SELECT REPEAT('x', 10000000) AS x").await?;
        assert_eq!(large.first().and_then(|row| row.get("x")).map(str::len), Some(10_000_000));
        let rows = connection.query("SHOW VARIABLES").await?;
        assert!(rows.len() > 300, "{}", rows.len());
        let error = connection.query("SELECT REPEAT('x', 20000000) AS x").await.expect_err("too large");
        assert_eq!(error.kind(), ConnectionErrorKind::TooLarge);
        assert!(connection.query("SELECT 1").await.is_err(), "the answer is still under way");
    }
    Ok(())
}

#[tokio::test]
async fn passwords_are_proven_by_every_method() -> Result<()> {
    // A method that is not the server's default makes it ask for a switch; an empty password is a case of its own.
    let server = MySql::builder().start().await?;
    for (plugin, name) in [("caching_sha2_password", "cached"), ("sha256_password", "sha")] {
        for password in ["", "secret", "p\u{e4}ss w\u{1F980}rd", &"x".repeat(100)] {
            let quoted = password.replace('\'', "''");
            server
                .exec(&format!(
                    "DROP USER IF EXISTS '{name}'@'%'; CREATE USER '{name}'@'%' IDENTIFIED WITH {plugin} BY '{quoted}'"
                ))
                .await?;
            let plain = tls(&user(&server, name, password), TlsMode::Disabled);
            let encrypted = tls(&plain, TlsMode::Required);
            // First by the whole password, then by what the server has cached; on both transports.
            for options in [&plain, &plain, &encrypted, &encrypted] {
                server.exec("FLUSH PRIVILEGES").await?;
                for _ in 0..2 {
                    let (account, tls, _) =
                        account(options).await.with_context(|| format!("{plugin} {password:?}"))?;
                    assert_eq!((account, tls), (format!("{name}@%"), options.tls.mode == TlsMode::Required));
                }
            }
            for options in [plain, encrypted] {
                let wrong = ConnectOptions { password: Some(Password::new("hunter2")), ..options };
                let error = refused(&wrong).await;
                assert_eq!(
                    (error.kind(), error.recovery()),
                    (ConnectionErrorKind::AccessDenied, Recovery::Stop)
                );
                assert!(!format!("{error:?} {error}").contains("hunter2"));
            }
        }
    }
    // MySQL 9 has no mysql_native_password any more; MariaDB knows hardly anything else.
    let mariadb = MySql::mariadb().start().await?;
    for password in ["", "secret"] {
        mariadb.exec(&format!("CREATE OR REPLACE USER 'bridge'@'%' IDENTIFIED BY '{password}'")).await?;
        assert_eq!(account(&user(&mariadb, "bridge", password)).await?.0, "bridge@%");
    }
    assert_eq!(refused(&user(&mariadb, "bridge", "wrong")).await.kind(), ConnectionErrorKind::AccessDenied);
    Ok(())
}

#[tokio::test]
async fn tls_modes_mean_what_they_mean_to_mysql() -> Result<()> {
    let material = TlsMaterial::generate()?;
    let with = |server: &MySql, mode, ca: Option<&std::path::Path>| ConnectOptions {
        tls: TlsOptions { mode, ca_file: ca.map(Into::into), ..TlsOptions::default() },
        ..root(server)
    };
    let ca = Some(material.ca.as_path());
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).tls(&material.ca, &material.server).start().await?;
        let elsewhere = MySql::builder_of(flavour).tls(&material.ca, &material.wrong_host).start().await?;

        let (_, encrypted, cipher) = account(&with(&server, TlsMode::Disabled, None)).await?;
        assert_eq!((encrypted, cipher.as_str()), (false, ""));
        for mode in [TlsMode::Preferred, TlsMode::Required] {
            let (_, encrypted, cipher) = account(&with(&server, mode, None)).await?;
            assert!(encrypted && cipher.starts_with("TLS_"), "{flavour} {mode:?} {cipher}");
        }
        for mode in [TlsMode::VerifyCa, TlsMode::VerifyIdentity] {
            assert!(account(&with(&server, mode, ca)).await?.1, "{flavour} {mode:?}");
            let error = refused(&with(&server, mode, Some(&material.other_ca))).await;
            assert_eq!(
                (error.kind(), error.recovery()),
                (ConnectionErrorKind::Tls, Recovery::Stop),
                "{error}"
            );
            let error = refused(&with(&server, mode, None)).await;
            assert!(
                matches!(error.kind(), ConnectionErrorKind::Tls | ConnectionErrorKind::Options),
                "the system's authorities did not sign this: {error}"
            );
        }
        let by_name =
            ConnectOptions { host: "localhost".into(), ..with(&server, TlsMode::VerifyIdentity, ca) };
        assert!(account(&by_name).await?.1);

        assert!(account(&with(&elsewhere, TlsMode::VerifyCa, ca)).await?.1, "the name does not matter");
        let identity = with(&elsewhere, TlsMode::VerifyIdentity, ca);
        let error = refused(&identity).await;
        assert_eq!(error.kind(), ConnectionErrorKind::Tls, "{error}");
        let mut renamed = identity;
        renamed.tls.server_name = Some("elsewhere.example".into());
        assert!(account(&renamed).await?.1);
    }
    Ok(())
}

#[tokio::test]
async fn the_servers_own_certificates_do_for_unverified_tls() -> Result<()> {
    let server = MySql::builder().start().await?;
    for mode in [TlsMode::Preferred, TlsMode::Required] {
        assert!(account(&tls(&root(&server), mode)).await?.1, "{mode:?}");
    }
    let plain = MySql::builder().option("--tls-version=").start().await?;
    let mariadb = MySql::mariadb().start().await?;
    for server in [&plain, &mariadb] {
        assert!(!account(&tls(&root(server), TlsMode::Preferred)).await?.1);
        let error = refused(&tls(&root(server), TlsMode::Required)).await;
        assert_eq!(error.kind(), ConnectionErrorKind::Tls);
        assert!(error.to_string().contains("does not offer TLS"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_certificate_is_shown() -> Result<()> {
    let material = TlsMaterial::generate()?;
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).tls(&material.ca, &material.server).start().await?;
        server.exec("CREATE USER 'certified'@'%' IDENTIFIED BY 'secret' REQUIRE X509").await?;
        let without = tls(&user(&server, "certified", "secret"), TlsMode::Required);
        assert_eq!(refused(&without).await.kind(), ConnectionErrorKind::AccessDenied, "{flavour}");
        let mut with = without.clone();
        with.tls.cert_file = Some(material.client.certificate.clone());
        with.tls.key_file = Some(material.client.key.clone());
        assert_eq!(account(&with).await?.0, "certified@%", "{flavour}");
        let mut verified = tls(&with, TlsMode::VerifyIdentity);
        verified.tls.ca_file = Some(material.ca.clone());
        assert_eq!(account(&verified).await?.0, "certified@%", "{flavour}");

        let mut missing = with.clone();
        missing.tls.key_file = Some("/nowhere/key.pem".into());
        let error = refused(&missing).await;
        assert_eq!(error.kind(), ConnectionErrorKind::Options);
        assert!(error.to_string().contains("/nowhere/key.pem"), "{error}");
        let mut mixed = with;
        mixed.tls.key_file = Some(material.server.key.clone());
        assert!(refused(&mixed).await.to_string().contains("do not go together"));
    }
    Ok(())
}

#[tokio::test]
async fn a_socket_is_as_good_as_tls() -> Result<()> {
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).start().await?;
        server.exec("CREATE USER 'bridge'@'localhost' IDENTIFIED BY 'secret'").await?;
        let options = ConnectOptions {
            socket: Some(server.data_dir().join("mysqld.sock")),
            ..user(&server, "bridge", "secret")
        };
        assert_eq!(account(&options).await?, ("bridge@localhost".into(), false, String::new()));
    }
    Ok(())
}

#[tokio::test]
async fn the_log_is_dumped_from_any_event_on() -> Result<()> {
    for flavour in BOTH {
        for checksum in ["CRC32", "NONE"] {
            let server =
                MySql::builder_of(flavour).option(format!("--binlog-checksum={checksum}")).start().await?;
            make_table(&server).await?;
            for id in 0..20 {
                server.exec(&format!("INSERT INTO shop.t VALUES ({id}, 'body')")).await?;
            }
            server.exec("FLUSH BINARY LOGS; INSERT INTO shop.t VALUES (77, 'body')").await?;
            let events = all(&root(&server), request("binlog.000001", 4)).await?;
            let of = |types: &[u8], events: &[RawEvent]| {
                events.iter().filter(|event| types.contains(&event.header.event_type)).count()
            };
            assert_eq!(of(&WRITE_ROWS, &events), 21, "{flavour} {checksum}");
            assert_eq!(of(&[FORMAT_DESCRIPTION], &events), 2, "{flavour} {checksum}");
            let rotation = events.first().context("an event")?;
            assert_eq!(rotation.header.event_type, ROTATE);
            assert_eq!(rotation.body.get(8..), Some(&b"binlog.000001"[..]), "{flavour} {checksum}");

            // Every event of the first file is a place to begin at.
            let places: Vec<u64> = events
                .iter()
                .take_while(|event| event.header.event_type != ROTATE || event.header.end_offset == 0)
                .map(|event| u64::from(event.header.end_offset))
                .filter(|&offset| offset > 4)
                .collect();
            assert!(places.len() > 60);
            for &offset in places.iter().step_by(7) {
                let later = all(&root(&server), request("binlog.000001", offset)).await?;
                let expected = events.iter().filter(|event| u64::from(event.header.end_offset) > offset);
                assert!(later.len() >= 3 && expected.count() > 0);
                // MariaDB writes its binlog checkpoints whenever it gets to it, also between two dumps.
                let tail = |events: &[RawEvent]| {
                    let lasting =
                        events.iter().rev().filter(|event| event.header.event_type != BINLOG_CHECKPOINT);
                    lasting.take(5).cloned().collect::<Vec<_>>()
                };
                assert_eq!(tail(&later), tail(&events), "{flavour} {checksum} from {offset}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_log_with_and_without_checksums_is_read() -> Result<()> {
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).start().await?;
        make_table(&server).await?;
        for (id, checksum) in ["NONE", "CRC32", "NONE"].into_iter().enumerate() {
            server
                .exec(&format!(
                    "SET GLOBAL binlog_checksum = {checksum}; INSERT INTO shop.t VALUES ({id}, 'body')"
                ))
                .await?;
        }
        let events = all(&root(&server), request("binlog.000001", 4)).await?;
        let rows: Vec<_> = events
            .iter()
            .filter(|event| WRITE_ROWS.contains(&event.header.event_type))
            .map(|event| event.body.len())
            .collect();
        let [first, second, third] = rows.as_slice() else { panic!("{flavour}: {rows:?}") };
        assert!(first == second && second == third, "{flavour}: {rows:?}");
    }
    Ok(())
}

#[tokio::test]
async fn large_events_are_whole() -> Result<()> {
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).start().await?;
        make_table(&server).await?;
        // The sizes around which a packet is full lie within the middle ones.
        let sizes =
            [16 << 20, (16 << 20) - 64, (16 << 20) - 48, (16 << 20) - 40, (16 << 20) - 32, 40 << 20, 5];
        for (id, size) in sizes.iter().enumerate() {
            server.exec(&format!("INSERT INTO shop.t VALUES ({id}, REPEAT('{id}', {size}))")).await?;
        }
        for mode in [TlsMode::Disabled, TlsMode::Preferred] {
            let events = all(&tls(&root(&server), mode), request("binlog.000001", 4)).await?;
            let rows: Vec<_> =
                events.iter().filter(|event| WRITE_ROWS.contains(&event.header.event_type)).collect();
            assert_eq!(rows.len(), sizes.len());
            for (id, (row, size)) in rows.iter().zip(sizes).enumerate() {
                let digit = u8::try_from(id)? + b'0';
                let body = row.body.get(row.body.len() - size..).context("the body")?;
                assert!(body.iter().all(|&byte| byte == digit), "{flavour} {size}");
            }
        }
        let connection = Connection::connect(&root(&server)).await?;
        let mut stream = connection.dump(request("binlog.000001", 4)).await?.with_event_bytes_max(1 << 20);
        let error = loop {
            match stream.next().await {
                Ok(event) => drop(event.context("the end")?),
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), error.recovery()), (ConnectionErrorKind::TooLarge, Recovery::Stop));
    }
    Ok(())
}

#[tokio::test]
async fn an_idle_server_shows_that_it_lives_and_a_silent_one_is_noticed() -> Result<()> {
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).start().await?;
        let proxy = FaultyProxy::start(server.port()).await?;
        let options = ConnectOptions { port: proxy.port(), ..root(&server) };
        let connection = Connection::connect(&options).await?;
        let blocking = DumpRequest { non_blocking: false, ..request("binlog.000001", 4) };
        let mut stream = connection.dump(blocking.clone()).await?;
        let mut heartbeats = 0;
        while heartbeats < 3 {
            heartbeats += usize::from(HEARTBEATS.contains(&next(&mut stream).await?.header.event_type));
        }
        // What is committed now arrives without a further request.
        make_table(&server).await?;
        server.exec("INSERT INTO shop.t VALUES (1, 'body')").await?;
        while !WRITE_ROWS.contains(&next(&mut stream).await?.header.event_type) {}

        let replicas = if flavour == Flavour::MySql { "SHOW REPLICAS" } else { "SHOW REPLICA HOSTS" };
        let replicas = Connection::connect(&root(&server)).await?.query(replicas).await?;
        let replica = replicas.first().context("a replica")?;
        assert_eq!((replica.get("Server_id"), replica.get("Host")), (Some("4001"), Some("outbox-bridge")));

        proxy.stall();
        let stalled = tokio::time::Instant::now();
        let error = loop {
            match timeout(LIMIT, stream.next()).await.context("not noticed")? {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ConnectionErrorKind::Silent, "{error}");
        assert!(error.is_transient());
        assert!(stalled.elapsed() < Duration::from_secs(8), "{:?}", stalled.elapsed());

        proxy.pass().await?;
        let mut stream = Connection::connect(&options).await?.dump(blocking).await?;
        next(&mut stream).await?;
        proxy.cut();
        let error = loop {
            match timeout(LIMIT, stream.next()).await.context("not noticed")? {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), error.recovery()), (ConnectionErrorKind::Io, Recovery::Retry), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_place_to_begin_is_told_from_a_purged_one() -> Result<()> {
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).start().await?;
        make_table(&server).await?;
        server.exec("FLUSH BINARY LOGS; FLUSH BINARY LOGS").await?;
        server.exec("PURGE BINARY LOGS TO 'binlog.000003'").await?;
        let fails = async |file: &str, offset| {
            let stream = Connection::connect(&root(&server)).await?.dump(request(file, offset)).await;
            let mut stream = stream?;
            loop {
                match timeout(LIMIT, stream.next()).await.context("no answer")? {
                    Ok(Some(_)) => {}
                    Ok(None) => anyhow::bail!("{flavour}: no error for {file}:{offset}"),
                    Err(error) => return anyhow::Ok(error),
                }
            }
        };
        for file in ["binlog.000001", "binlog.000099", "other"] {
            let error = fails(file, 4).await?;
            assert_eq!(error.kind(), ConnectionErrorKind::PositionPurged, "{flavour} {file}: {error}");
        }
        let error = fails("binlog.000003", 1 << 30).await?;
        assert_eq!(error.kind(), ConnectionErrorKind::ImpossiblePosition, "{flavour}: {error}");
        // In the midst of an event there is no telling what the server makes of the bytes; but it is never an event.
        let error = fails("binlog.000003", 21).await?;
        eprintln!("{flavour}: in the midst of an event: {:?}: {error}", error.kind());
        assert_ne!(error.recovery(), Recovery::Retry, "{flavour}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_privilege_may_be_missing() -> Result<()> {
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).start().await?;
        server.create_user("bridge", "secret", "USAGE ON *.*").await?;
        let connection = Connection::connect(&user(&server, "bridge", "secret")).await?;
        let error = match connection.dump(request("binlog.000001", 4)).await {
            Ok(mut stream) => stream.next().await.expect_err("refused"),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ConnectionErrorKind::AccessDenied, "{flavour}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_reconnect_ends_the_dump_that_was_left_behind() -> Result<()> {
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).start().await?;
        let blocking = DumpRequest { non_blocking: false, ..request("binlog.000001", 4) };
        let mut left = Connection::connect(&root(&server)).await?.dump(blocking.clone()).await?;
        next(&mut left).await?;
        let mut again = Connection::connect(&root(&server)).await?.dump(blocking.clone()).await?;
        next(&mut again).await?;
        let error = loop {
            match timeout(LIMIT, left.next()).await.context("not ended")? {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        eprintln!("{flavour}: replaced: {:?}: {error}", error.kind());
        assert!(
            matches!(
                error.kind(),
                ConnectionErrorKind::Replaced | ConnectionErrorKind::Ended | ConnectionErrorKind::Io
            ),
            "{flavour}: {error}"
        );
        // Under another server id it is another replica.
        let mut other = Connection::connect(&root(&server))
            .await?
            .dump(DumpRequest { server_id: 4002, ..blocking })
            .await?;
        next(&mut other).await?;
        for stream in [&mut again, &mut other] {
            while !HEARTBEATS.contains(&next(stream).await?.header.event_type) {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back_is_worth_a_retry() -> Result<()> {
    for flavour in BOTH {
        let mut server = MySql::builder_of(flavour).start().await?;
        let blocking = DumpRequest { non_blocking: false, ..request("binlog.000001", 4) };
        for kill in [false, true] {
            let mut stream = Connection::connect(&root(&server)).await?.dump(blocking.clone()).await?;
            next(&mut stream).await?;
            let reading = tokio::spawn(async move {
                loop {
                    if let Err(error) = stream.next().await {
                        return error;
                    }
                }
            });
            if kill {
                server.kill().await?
            } else {
                server.stop().await?
            }
            let error = timeout(LIMIT, reading).await??;
            eprintln!("{flavour}: gone (kill: {kill}): {:?}: {error}", error.kind());
            assert_eq!(error.recovery(), Recovery::Retry, "{flavour} kill {kill}: {error}");
            let error = refused(&root(&server)).await;
            assert_eq!(error.recovery(), Recovery::Retry, "{flavour}: {error}");
            assert!(error.to_string().contains(&server.port().to_string()), "{error}");
            server.start().await?;
        }
        let mut stream = Connection::connect(&root(&server)).await?.dump(blocking).await?;
        next(&mut stream).await?;
        server.exec("SET GLOBAL max_connections = 10").await?;
        let mut many = Vec::new();
        let error = loop {
            match Connection::connect(&root(&server)).await {
                Ok(connection) => many.push(connection),
                Err(error) => break error,
            }
        };
        assert_eq!(
            (error.kind(), error.recovery()),
            (ConnectionErrorKind::Server { code: 1040 }, Recovery::Retry)
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_query_or_a_login_that_hangs_ends() -> Result<()> {
    let server = MySql::builder().start().await?;
    let brief = ConnectOptions {
        connect_timeout: Duration::from_millis(500),
        read_timeout: Duration::from_millis(500),
        ..tls(&root(&server), TlsMode::Disabled)
    };
    let mut connection = Connection::connect(&brief).await?;
    assert_eq!(
        connection.query("SELECT SLEEP(20)").await.expect_err("slow").kind(),
        ConnectionErrorKind::Timeout
    );
    assert!(connection.query("SELECT 1").await.is_err());
    server.pause()?;
    assert_eq!(refused(&brief).await.kind(), ConnectionErrorKind::Timeout);
    server.resume()?;
    Ok(())
}

#[tokio::test]
async fn a_connection_that_the_server_ended_is_worth_a_retry() -> Result<()> {
    for flavour in BOTH {
        let server = MySql::builder_of(flavour).start().await?;
        let mut idle = Connection::connect(&root(&server)).await?;
        idle.execute("SET SESSION wait_timeout = 1").await?;
        let mut killed = Connection::connect(&root(&server)).await?;
        server.exec(&format!("KILL {}", killed.server().connection_id)).await?;
        let processes = "SELECT 1 FROM information_schema.processlist WHERE user = 'root'";
        testbed::eventually("both to be gone", LIMIT, async || {
            Ok((server.query::<u8>(processes).await?.len() == 1).then_some(()))
        })
        .await?;
        for connection in [&mut idle, &mut killed] {
            let error = connection.query("SELECT 1").await.expect_err("gone");
            eprintln!("{flavour}: {:?}: {error}", error.kind());
            assert_eq!(error.recovery(), Recovery::Retry, "{flavour}: {error}");
        }
    }
    Ok(())
}
