//! The benchmark works: every measurement in its smallest form. How fast anything is says nothing here.

use anyhow::{Result, ensure};
use outbox_bench::{GROUPS, Options};

#[tokio::test]
async fn everything_is_measured() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let json = folder.path().join("report.json");
    let plots = folder.path().join("plots");
    let options =
        Options { smoke: true, json: Some(json.clone()), plots: Some(plots.clone()), ..Options::default() };
    let report = Box::pin(outbox_bench::run(&options)).await?;
    for group in GROUPS {
        ensure!(
            report.measurements.iter().any(|measurement| measurement.group == group),
            "{group} is missing"
        );
    }
    for measurement in &report.measurements {
        let sound = |numbers: &[f64]| numbers.len() == 1 && numbers.iter().all(|number| *number > 0.0);
        let limit = measurement.limit.as_ref().is_none_or(|limit| sound(&limit.rounds));
        ensure!(sound(&measurement.rounds) && limit, "{measurement:?}");
        ensure!(report.to_string().contains(&measurement.name));
    }
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(json)?)?;
    let count = written.pointer("/measurements").and_then(|list| list.as_array()).map(Vec::len);
    ensure!(count == Some(report.measurements.len()));
    ensure!(plots.join("ratios.svg").exists());
    Ok(())
}

#[tokio::test]
async fn a_wrong_name_is_refused() {
    let options = Options { only: vec!["speed".to_owned()], ..Options::default() };
    let error = Box::pin(outbox_bench::run(&options)).await.expect_err("there is no such measurement");
    assert!(error.to_string().contains("catch-up"), "{error}");
}
