//! `outbox-saga`: shows sagas and TCC transactions, and leaves operators' requests.

mod arguments;
mod database;
mod exit;
mod text;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use outbox_saga::inspect::{Ask, Asked, Detail, Filter, InspectErrorKind, Inspector, Kind};
use serde::Serialize;

use self::arguments::{Arguments, Command, Wait, Which};
use self::exit::{Exit, Failure};

/// How often it is looked whether a request was followed.
const LOOK: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { Exit::Usage as u8 } else { 0 };
            return if error.print().is_ok() {
                ExitCode::from(code)
            } else {
                ExitCode::from(Exit::Internal as u8)
            };
        }
    };
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where nobody reads, the exit code still tells.
            writeln!(std::io::stderr(), "outbox-saga: {}", text::visible(&failure.to_string()))
                .unwrap_or_default();
            ExitCode::from(failure.exit as u8)
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let json = arguments.json;
    if let Command::List { kind, status: Some(status), .. } = &arguments.command {
        check_status(kind.map(Kind::from), status)?;
    }
    let pool = database::connect(&arguments.database).await?;
    let inspector = Inspector::new(pool.clone());
    match arguments.command {
        Command::List { kind, status, name, limit } => {
            let filter = Filter { kind: kind.map(Kind::from), status, name, limit };
            let found = inspector.list(&filter).await?;
            print(json, &found, || text::list(&found))
        }
        Command::Show(Which { id, kind }) => {
            let detail = inspector.show(kind.map(Kind::from), &id).await?;
            print(json, &detail, || text::show(&detail))
        }
        Command::Stats { kind } => {
            let groups = inspector.stats(kind.map(Kind::from)).await?;
            print(json, &groups, || text::stats(&groups))
        }
        Command::Retry { which, step, wait } => {
            ask(&inspector, json, which, Ask::Retry { part: step }, wait).await
        }
        Command::Skip { which, part, wait } => ask(&inspector, json, which, Ask::Skip { part }, wait).await,
        Command::Abort { which, reason, wait } => {
            ask(&inspector, json, which, Ask::Abort { reason }, wait).await
        }
        Command::Cancel { which, reason, wait } => {
            ask(&inspector, json, which, Ask::Cancel { reason }, wait).await
        }
        Command::Serve { listen } => serve(pool, listen).await,
    }
}

fn check_status(kind: Option<Kind>, status: &str) -> Result<(), Failure> {
    let kinds = || Kind::ALL.into_iter().filter(|one| kind.is_none_or(|only| only == *one));
    if kinds().any(|kind| kind.statuses().contains(&status)) {
        return Ok(());
    }
    let known: Vec<_> = kinds().map(|kind| format!("{kind}: {}", kind.statuses().join(", "))).collect();
    Err(Failure::new(Exit::Usage, format!("no such status: {status:?}; there are {}", known.join("; "))))
}

fn print(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
    let text = if json {
        let text = serde_json::to_string_pretty(value);
        text.map_err(|error| Failure::with(Exit::Internal, "cannot make JSON of it", &error))? + "\n"
    } else {
        text()
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Such as `outbox-saga list | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// What was asked for, and what came of it so far.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    asked: &'a Asked,
    followed: bool,
    status: &'a str,
    history: &'a [outbox_saga::inspect::Line],
}

async fn ask(inspector: &Inspector, json: bool, which: Which, ask: Ask, wait: Wait) -> Result<(), Failure> {
    let asked = inspector.ask(which.kind.map(Kind::from), &which.id, &ask).await?;
    let (followed, detail) = await_answer(inspector, &asked, wait).await?;
    let history = detail.history.get(asked.history_before..).unwrap_or_default();
    let answer = Answer { asked: &asked, followed, status: &detail.summary.status, history };
    print(json, &answer, || answered(&asked, &detail, followed, history))
}

async fn await_answer(inspector: &Inspector, asked: &Asked, wait: Wait) -> Result<(bool, Detail), Failure> {
    let until = tokio::time::Instant::now() + Duration::from_secs(wait.seconds.min(86_400));
    loop {
        let detail = inspector.show(Some(asked.kind), &asked.id).await?;
        let followed = detail.summary.request.is_none();
        if followed || tokio::time::Instant::now() >= until {
            return Ok((followed, detail));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn answered(
    asked: &Asked,
    detail: &Detail,
    followed: bool,
    history: &[outbox_saga::inspect::Line],
) -> String {
    let mut text = format!("asked: {}\n", asked.request);
    if let Some(replaced) = &asked.replaced {
        text.push_str(&format!("in place of: {replaced}, which was not followed yet\n"));
    }
    text.push_str(&format!("what happens next: {}\n", asked.next));
    if followed {
        text.push_str(&format!("followed; it is {} now, and this has happened:\n\n", detail.summary.status));
        text.push_str(&text::history(asked.kind, history));
    } else {
        text.push_str(
            "not followed yet; if it stays so, see whether the service runs and has this version\n",
        );
    }
    text
}

async fn serve(pool: sqlx::MySqlPool, listen: std::net::SocketAddr) -> Result<(), Failure> {
    // So that what is wrong is said here, and not only on the page.
    match Inspector::new(pool.clone()).counts().await {
        Err(error) if error.kind() != InspectErrorKind::Unavailable => return Err(error.into()),
        _ => {}
    }
    let listener = tokio::net::TcpListener::bind(listen).await;
    let what = format!("cannot listen on {listen}");
    let listener = listener.map_err(|error| Failure::with(Exit::Configuration, &what, &error))?;
    let address = listener.local_addr()?;
    print(false, &(), || format!("http://{address}/\n"))?;
    let served = axum::serve(listener, outbox_saga::page::router(pool)).with_graceful_shutdown(shutdown());
    served.await.map_err(|error| Failure::with(Exit::Internal, "cannot serve", &error))
}

/// SIGINT or SIGTERM.
async fn shutdown() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        // Then the system's own way to end a process is left.
        Err(_) => std::future::pending().await,
    }
}
