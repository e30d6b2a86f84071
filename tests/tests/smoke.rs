//! smoke
use anyhow::Result;
use futures_util::StreamExt;
#[tokio::test]
async fn smoke() -> Result<()> {
    let mysql = if std::env::var("MARIA").is_ok() { testbed::MySql::mariadb().start().await? } else { testbed::MySql::builder().relaxed_durability().start().await? };
    let nats = testbed::Nats::builder().start().await?;
    let json = "JSON";
    mysql.exec(&format!("CREATE DATABASE shop; CREATE TABLE shop.outbox (seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, id BINARY(16) NOT NULL UNIQUE, aggregate_type VARCHAR(64) NOT NULL, aggregate_id VARCHAR(255) NOT NULL, type VARCHAR(128) NOT NULL, payload {json} NOT NULL, headers JSON NULL, created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6))")).await?;
    mysql.create_user("bridge", "secret", "REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.*").await?;
    let js = async_nats::jetstream::new(nats.client().await?);
    js.create_stream(async_nats::jetstream::stream::Config{name:"ORDERS".into(), subjects: vec!["orders.>".into()], allow_batch_publish: true, ..Default::default()}).await?;
    let dir = std::env::temp_dir().join(format!("smoke{}", std::process::id())); std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("pw"), "secret")?;
    std::fs::write(dir.join("b.toml"), format!("[source]\nurl=\"mysql://bridge@127.0.0.1:{}\"\npassword_file=\"pw\"\n[nats]\nurl=\"{}\"\n[http]\nlisten=\"off\"\n[[outbox]]\ntable=\"shop.outbox\"\nstream=\"ORDERS\"\nsubject=\"orders.{{aggregate_type}}.{{type}}\"\n", mysql.port(), nats.url()))?;
    let mut child = std::process::Command::new(std::env::var("BRIDGE").unwrap()).args(["run","--config"]).arg(dir.join("b.toml")).env("OUTBOX_BRIDGE__LOG__LEVEL","debug,async_nats=info").spawn()?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let n: u32 = std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let begin = std::time::Instant::now();
    let mut sql = String::new();
    for i in 0..n { sql.push_str(&format!("INSERT INTO shop.outbox (id,aggregate_type,aggregate_id,type,payload,headers) VALUES (UNHEX(REPLACE(UUID(),'-','')),'order','{i}','placed','{{\"a\": {i}, \"pad\":\"{}\"}}','{{\"traceparent\":\"00-x\"}}');", "x".repeat(300))); if sql.len() > 1000000 { mysql.exec(&sql).await?; sql.clear(); } }
    if !sql.is_empty() { mysql.exec(&sql).await?; }
    println!("inserted in {:?}", begin.elapsed());
    let stream = js.get_stream("ORDERS").await?;
    let consumer = stream.create_consumer(async_nats::jetstream::consumer::pull::OrderedConfig::default()).await?;
    let mut messages = consumer.messages().await?;
    for i in 0..n { let m = tokio::time::timeout(std::time::Duration::from_secs(10), messages.next()).await?.unwrap()?; if i < 3 { println!("{} {:?} {:?}", m.subject, m.headers, String::from_utf8_lossy(&m.payload[..20])); } }
    println!("all after {:?}", begin.elapsed());
    let _ = std::process::Command::new("kill").arg(child.id().to_string()).status();
    println!("{:?}", child.wait()?);
    Ok(())
}
