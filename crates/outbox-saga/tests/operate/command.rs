//! What the command shows, and what it brings about.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testbed::Flavour;

use crate::bed::{Bed, HOSTILE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mysql() -> Result<()> {
    everything(Flavour::MySql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mariadb() -> Result<()> {
    everything(Flavour::MariaDb).await
}

async fn everything(flavour: Flavour) -> Result<()> {
    let bed = Bed::start(flavour).await?;
    lists(&bed).await?;
    shows(&bed).await?;
    puts_right_a_saga_that_goes_back(&bed).await?;
    puts_right_a_saga_past_its_pivot(&bed).await?;
    puts_right_a_transaction(&bed).await?;
    counts(&bed).await
}

async fn lists(bed: &Bed) -> Result<()> {
    let all = bed.run(&["list", "--json"]).await?.json()?;
    let all: Vec<_> =
        all.as_array().into_iter().flatten().map(|one| (&one["kind"], &one["id"], &one["status"])).collect();
    ensure!(all.len() == 9, "{all:?}");
    ensure!(all[..3].iter().all(|(.., status)| *status == "stuck"), "stuck ones first: {all:?}");
    let stuck = bed
        .run(&["list", "--status", "stuck", "--kind", "saga", "--name", "pay-first", "--json"])
        .await?
        .json()?;
    ensure!(stuck.as_array().map(Vec::len) == Some(1) && stuck[0]["id"] == "forward", "{stuck}");
    ensure!(stuck[0]["error"].as_str().is_some_and(|error| error.contains("pay")), "{stuck}");
    ensure!(bed.run(&["list", "--limit", "2", "--json"]).await?.json()?.as_array().map(Vec::len) == Some(2));
    let text = bed.run(&["list"]).await?;
    ensure!(text.code == 0 && text.out.starts_with("KIND  ID"), "{text:?}");
    ensure!(
        !text.out.contains('\u{1b}') && text.out.lines().count() == 10,
        "nothing steers the terminal: {text:?}"
    );
    ensure!(bed.run(&["list", "--name", "nothing"]).await?.out == "nothing is found\n");
    Ok(())
}

async fn shows(bed: &Bed) -> Result<()> {
    let saga = bed.run(&["show", "undoing", "--json"]).await?.json()?;
    ensure!(saga["kind"] == "saga" && saga["version"] == 1 && saga["status"] == "stuck", "{saga}");
    let steps: Vec<_> = saga["parts"].as_array().into_iter().flatten().collect();
    let names: Vec<_> = steps
        .iter()
        .map(|step| (&step["name"], &step["stage"], &step["pivot"], &step["compensable"]))
        .collect();
    ensure!(
        json!(names)
            == json!([["reserve", 0, false, true], ["hold", 0, false, true], ["pay", 1, true, false]]),
        "{names:?}"
    );
    ensure!(steps[0]["status"] == "undo_stuck" && steps[2]["status"] == "waiting", "{saga}");
    let causes: Vec<_> =
        saga["history"].as_array().into_iter().flatten().map(|line| &line["cause"]).collect();
    ensure!(
        causes.first().is_some_and(|cause| *cause == "started") && causes.contains(&&json!("timeout")),
        "{causes:?}"
    );
    ensure!(saga["created_at"].as_str().is_some_and(|at| at.len() == 24 && at.ends_with('Z')), "{saga}");

    let tcc = bed.run(&["show", "away", "--json"]).await?.json()?;
    ensure!(tcc["decision"] == "confirm" && tcc["status"] == "stuck", "{tcc}");
    ensure!(tcc["parts"][0]["status"] == "confirmed" && tcc["parts"][1]["endpoint"] == "away", "{tcc}");
    ensure!(tcc["parts"][1]["error"] == "nobody is there", "{tcc}");

    for (id, words) in [
        ("undoing", ["STAGE  STEP", "undo_stuck", "pivot", "CAUSE"]),
        ("away", ["BRANCH  ENDPOINT", "nobody is there", "confirm", "CAUSE"]),
        (HOSTILE, ["\u{fffd}[2J", "cancelled", "undoing", "(whole)"]),
        ("running", ["running", "doing", "slow", "pivot"]),
    ] {
        let shown = bed.run(&["show", id]).await?;
        ensure!(shown.code == 0 && words.iter().all(|word| shown.out.contains(word)), "{}", shown.out);
        ensure!(!shown.out.contains('\u{1b}') && !shown.out.contains("4711"), "{}", shown.out);
    }
    let both = bed.run(&["show", "both"]).await?;
    ensure!(both.code == 65 && both.err.contains("--kind"), "{both:?}");
    ensure!(bed.run(&["show", "both", "--kind", "tcc"]).await?.out.contains("BRANCH"));
    Ok(())
}

/// Stuck in compensating: it is retried, and then each step is skipped.
async fn puts_right_a_saga_that_goes_back(bed: &Bed) -> Result<()> {
    let aborted = bed.run(&["abort", "undoing"]).await?;
    ensure!(aborted.code == 65 && aborted.err.contains("`retry` or `skip`"), "{aborted:?}");
    let retried = bed.run(&["retry", "undoing", "--step", "hold", "--json"]).await?.json()?;
    ensure!(
        retried["followed"] == true && retried["request"] == json!({"action": "retry", "step": "hold"}),
        "{retried}"
    );
    ensure!(retried["next"].as_str().is_some_and(|next| next.contains("it sends undo hold")), "{retried}");
    ensure!(retried["history"][0]["cause"] == "operator: retry", "{retried}");
    bed.await_status("saga", "undoing", "stuck").await?;
    let skipped = bed.run(&["skip", "undoing", "reserve"]).await?;
    ensure!(skipped.code == 0 && skipped.out.contains("operator: skip"), "{skipped:?}");
    // The other one may be under way again, until it is given up again.
    testbed::eventually("the step to be stuck", std::time::Duration::from_secs(20), async || {
        Ok((bed.run(&["skip", "undoing", "hold"]).await?.code == 0).then_some(()))
    })
    .await?;
    bed.await_status("saga", "undoing", "compensated").await
}

async fn puts_right_a_saga_past_its_pivot(bed: &Bed) -> Result<()> {
    let cancelled = bed.run(&["cancel", "forward"]).await?;
    ensure!(cancelled.code == 65 && cancelled.err.contains("`abort`"), "{cancelled:?}");
    let skipped = bed.run(&["skip", "forward", "pay", "--json"]).await?.json()?;
    ensure!(skipped["next"].as_str().is_some_and(|next| next.contains("it sends do ship")), "{skipped}");
    bed.await_status("saga", "forward", "stuck").await?;
    let aborted = bed.run(&["abort", "forward", "--reason", "the shop has burnt down"]).await?;
    ensure!(aborted.code == 0 && aborted.out.contains("the saga is aborted"), "{aborted:?}");
    bed.await_status("saga", "forward", "aborted").await?;
    let shown = bed.run(&["show", "forward"]).await?;
    ensure!(shown.out.contains("the shop has burnt down"), "{shown:?}");
    Ok(())
}

async fn puts_right_a_transaction(bed: &Bed) -> Result<()> {
    for (arguments, why) in [
        (&["abort", "away"][..], "a decision stands"),
        (&["retry", "away", "--step", "money"], "as a whole"),
        (&["skip", "away", "stock"], "has ended already"),
        (&["skip", "away", "gold"], "no branch `gold`, but stock, money"),
    ] {
        let refused = bed.run(arguments).await?;
        ensure!(refused.code == 65 && refused.err.contains(why), "{refused:?}");
    }
    let retried = bed.run(&["retry", "away"]).await?;
    ensure!(retried.code == 0 && retried.out.contains("confirm of money again"), "{retried:?}");
    bed.await_status("tcc", "away", "stuck").await?;
    let skipped = bed.run(&["skip", "away", "money", "--json"]).await?.json()?;
    ensure!(skipped["followed"] == true && skipped["request"]["action"] == "skip", "{skipped}");
    bed.await_status("tcc", "away", "confirmed").await
}

async fn counts(bed: &Bed) -> Result<()> {
    let groups = bed.run(&["stats", "--json"]).await?.json()?;
    let group = |kind: &str, name: &str, status: &str| -> Option<&Value> {
        let is = |group: &&Value| group["kind"] == kind && group["name"] == name && group["status"] == status;
        groups.as_array()?.iter().find(is)
    };
    let confirmed = group("tcc", "order", "confirmed").ok_or_else(|| anyhow::anyhow!("{groups}"))?;
    ensure!(confirmed["count"] == 3, "{groups}");
    let (mean, p99) = (confirmed["mean_seconds"].as_f64(), confirmed["p99_seconds"].as_f64());
    ensure!(mean > Some(0.0) && p99 >= mean, "{groups}");
    let running = group("saga", "slow", "running").ok_or_else(|| anyhow::anyhow!("{groups}"))?;
    ensure!(running["count"] == 2 && running["mean_seconds"].is_null(), "{groups}");
    // What comes after an end does not make it longer.
    sqlx::query("UPDATE tcc_transactions SET updated_at = updated_at + INTERVAL 1 HOUR")
        .execute(&bed.pool)
        .await?;
    let later = bed.run(&["stats", "--kind", "tcc", "--json"]).await?.json()?;
    ensure!(
        later.as_array().into_iter().flatten().any(|group| group["p99_seconds"].as_f64() == p99),
        "{later}"
    );
    let text = bed.run(&["stats"]).await?;
    ensure!(text.out.starts_with("KIND  NAME") && text.out.contains("P99"), "{text:?}");
    Ok(())
}
