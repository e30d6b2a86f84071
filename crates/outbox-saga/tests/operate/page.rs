//! The page, served by the command and nested in a service.

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use testbed::{Flavour, request};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::bed::{Bed, HOSTILE};

async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    request(address, "GET", path, &[], None).await
}

/// Nothing of the hostile text is HTML.
fn check_escaped(page: &str) -> Result<()> {
    ensure!(!page.contains("<script") && !page.contains("alert('"), "{page}");
    Ok(())
}

fn encoded(id: &str) -> String {
    id.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_serves_it() -> Result<()> {
    let bed = Bed::start(Flavour::MySql).await?;
    let mut served =
        bed.command().args(["serve", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(served.stdout.take().context("no output")?).lines();
    let line = lines.next_line().await?.context("it does not say where")?;
    let address: SocketAddr = line.trim_start_matches("http://").trim_end_matches('/').parse()?;

    let (status, page) = get(address, "/").await?;
    ensure!(status == 200, "{page}");
    check_escaped(&page)?;
    let place = |text: &str| page.find(text).with_context(|| format!("{text} is not in {page}"));
    ensure!(place("/saga/undoing")? < place("<h2>Latest")?, "stuck ones first");
    ensure!(place("/saga/running")? > place("<h2>Latest")?, "others behind");
    ensure!(page.contains("&lt;script&gt;") && page.contains("<strong>2</strong> stuck"), "{page}");

    let (_, filtered) = get(address, "/?status=confirmed&kind=tcc&name=order").await?;
    ensure!(filtered.contains("/tcc/confirmed") && !filtered.contains("/saga/running"), "{filtered}");
    let (_, hostile) = get(address, &format!("/?name={}&status=%3Cscript", encoded(HOSTILE))).await?;
    check_escaped(&hostile)?;

    let (status, saga) = get(address, "/saga/undoing").await?;
    ensure!(status == 200 && saga.contains("class=\"stage group\""), "{saga}");
    ensure!(saga.contains(">pivot</span>") && saga.contains("compensation is stuck"), "{saga}");
    let (_, tcc) = get(address, "/tcc/away").await?;
    ensure!(tcc.contains("<h3>decision</h3>") && tcc.contains("nobody is there"), "{tcc}");
    ensure!(!tcc.contains("4711"), "what a branch was sent is not shown: {tcc}");

    let (status, hostile) = get(address, &format!("/saga/{}", encoded(HOSTILE))).await?;
    ensure!(status == 200 && hostile.contains("compensation under way"), "{hostile}");
    check_escaped(&hostile)?;
    let (status, missing) = get(address, "/tcc/%3Cscript%3E").await?;
    ensure!(status == 404, "{missing}");
    check_escaped(&missing)?;
    ensure!(get(address, "/saga/%ff").await?.0 == 400);
    let (status, _) = request(address, "POST", "/saga/undoing", &[], None).await?;
    ensure!(status == 405, "it is to read only");
    served.kill().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_nests_it() -> Result<()> {
    let bed = Bed::start(Flavour::MariaDb).await?;
    let service: axum::Router =
        axum::Router::new().nest("/ops/sagas", outbox_saga::page::router(bed.pool.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(async move { axum::serve(listener, service).await });
    let (status, page) = get(address, "/ops/sagas").await?;
    ensure!(status == 200 && page.contains("href=\"/ops/sagas/saga/undoing\""), "{page}");
    ensure!(page.contains("href=\"/ops/sagas?kind=saga&amp;status=stuck\""), "{page}");
    let (status, page) = get(address, "/ops/sagas/saga/undoing").await?;
    ensure!(status == 200 && page.contains("href=\"/ops/sagas\""), "{page}");
    sqlx::query("DROP TABLE tcc_transactions").execute(&bed.pool).await?;
    ensure!(get(address, "/ops/sagas").await?.0 == 200, "one kind is enough");
    sqlx::query("DROP TABLE saga_instances").execute(&bed.pool).await?;
    let (status, page) = get(address, "/ops/sagas").await?;
    ensure!(status == 503 && page.contains("the tables are not there"), "{page}");
    serving.abort();
    Ok(())
}
