//! What goes wrong, with its exit code and its remedy.

use anyhow::{Result, ensure};
use testbed::Flavour;

use crate::bed::{Bed, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_has_its_exit_code_and_says_what_to_do() -> Result<()> {
    let bed = Bed::start(Flavour::MySql).await?;
    let (bare, unknown) = (bed.url("root", "bare"), bed.url("root", "nowhere"));
    let (nobody, with_password) = (bed.url("nobody", "shop"), bed.url("root:hunter2", "shop"));
    let no_database = bed.url("root", "");
    for (arguments, code, words) in [
        (&["list", "--limit", "0"][..], 64, "0"),
        (&["lost"], 64, "lost"),
        (&["list", "--status", "sticky"], 64, "stuck"),
        (&["show", "no-such"], 65, "there is no saga or transaction with the id \"no-such\""),
        (&["show", "undoing", "--kind", "tcc"], 65, "there is no tcc"),
        (&["retry", "no-such"], 65, "there is no"),
        (&["retry", "confirmed"], 65, "it has ended (confirmed)"),
        (&["abort", "cancelled"], 65, "it has ended (cancelled)"),
        (&["retry", "running"], 65, "no such step is stuck"),
        (&["skip", "running", "gold"], 65, "it has no step `gold`, but wait, end"),
        (&["list", "--url", "mysql://root@127.0.0.1:1/shop"], 69, "cannot connect"),
        (&["list", "--url", "postgres://x@y/z"], 78, "mysql://"),
        (&["list", "--url", &no_database], 78, "names no database"),
        (&["list", "--url", &with_password], 78, "--password-file"),
        (&["list", "--url", &bare], 78, "the tables are not there"),
        (&["list", "--url", &unknown], 78, "the tables are not there"),
        (&["list", "--url", &nobody], 78, "check its name and password"),
        (&["list", "--password-file", "/no/such/file"], 78, "/no/such/file"),
        (&["serve", "--url", &bare, "--listen", "127.0.0.1:0"], 78, "the tables are not there"),
    ] {
        let given = bed.run(arguments).await?;
        ensure!(
            given.code == code && given.err.contains(words) && given.out.is_empty(),
            "{arguments:?}: {given:?}"
        );
        ensure!(!given.err.contains("hunter2"), "{given:?}");
    }
    let given = run(bed.command().env_remove("OUTBOX_SAGA_URL").arg("list")).await?;
    ensure!(given.code == 78 && given.err.contains("OUTBOX_SAGA_URL"), "{given:?}");
    let help = bed.run(&["--help"]).await?;
    ensure!(
        help.code == 0 && help.out.contains("outbox-saga retry order-7") && help.out.contains("Exit codes"),
        "{help:?}"
    );
    ensure!(!help.out.contains("127.0.0.1:") || !help.out.contains(&bed.url("root", "shop")), "{help:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_comes_from_a_file_or_the_environment_and_rights_are_told() -> Result<()> {
    let bed = Bed::start(Flavour::MySql).await?;
    bed.database.create_user("reader", "hunter2", "SELECT ON shop.*").await?;
    let url = bed.url("reader", "shop");
    let file = bed.database.data_dir().join("password");
    std::fs::write(&file, "hunter2\n")?;
    let given = run(bed.command().args(["list", "--url", &url, "--password-file"]).arg(&file)).await?;
    ensure!(given.code == 0, "{given:?}");
    let given =
        run(bed.command().env("OUTBOX_SAGA_PASSWORD", "hunter2").args(["retry", "undoing", "--url", &url]))
            .await?;
    ensure!(
        given.code == 78 && given.err.contains("GRANT UPDATE") && !given.err.contains("hunter2"),
        "{given:?}"
    );
    let given =
        run(bed.command().env("OUTBOX_SAGA_PASSWORD", "wrong-one").args(["list", "--url", &url])).await?;
    ensure!(given.code == 78 && !given.err.contains("wrong-one"), "{given:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_nobody_follows_is_told_and_one_takes_the_place_of_another() -> Result<()> {
    let bed = Bed::start(Flavour::MySql).await?;
    // No orchestrator here has this version.
    sqlx::query("UPDATE saga_instances SET version = 7 WHERE id = 'undoing'").execute(&bed.pool).await?;
    let given = bed.run(&["retry", "undoing", "--wait", "0"]).await?;
    ensure!(
        given.code == 0 && given.out.contains("version 7") && given.out.contains("not followed yet"),
        "{given:?}"
    );
    let given = bed.run(&["skip", "undoing", "hold", "--wait", "1", "--json"]).await?.json()?;
    ensure!(given["followed"] == false && given["replaced"]["action"] == "retry", "{given}");
    Ok(())
}
