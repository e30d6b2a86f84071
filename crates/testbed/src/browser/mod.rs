//! A headless Chromium, driven by the DevTools protocol over a pipe: no port, no driver program.
//!
//! The protocol: <https://chromedevtools.github.io/devtools-protocol/>. With `--remote-debugging-pipe` the browser reads
//! commands from its file descriptor 3 and writes to 4, each message with a NUL behind it; it ends when the pipe does, so it
//! cannot outlive us.

mod software;

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::oneshot,
};

use self::software::Software;
pub(crate) use self::software::prefetch;
use crate::wait::eventually;

/// How long the browser may take to answer, on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Puts the two ends of the pipe where the browser looks for them.
const PLUMBING: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#;
const FLAGS: [&str; 9] = [
    "--remote-debugging-pipe",
    // Its sandbox needs rights that containers and root do not have; it is shown our own pages only.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// A running browser, killed on drop.
#[derive(Debug)]
pub struct Browser {
    wire: Arc<Wire>,
    _child: Child,
    _folder: tempfile::TempDir,
}

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Width in CSS pixels.
    pub width: u32,
    /// Height in CSS pixels.
    pub height: u32,
    /// Whether the user prefers dark colours.
    pub dark: bool,
    /// Whether scripts run.
    pub scripts: bool,
}

/// A page in a tab of its own.
#[derive(Debug)]
pub struct Page {
    wire: Arc<Wire>,
    session: String,
}

impl Browser {
    /// Starts a browser; got if need be.
    ///
    /// # Errors
    ///
    /// When it can neither be found nor got, or does not start; the error says what to do.
    pub async fn start() -> Result<Self> {
        let software = tokio::task::spawn_blocking(Software::get).await??;
        let folder = tempfile::Builder::new().prefix("outbox-testbed-browser-").tempdir()?;
        let log = folder.path().join("browser.log");
        let mut command = Command::new("sh");
        command.arg("-c").arg(PLUMBING).arg(&software.path).args(FLAGS);
        if software.wants_headless {
            command.arg("--headless=new");
        }
        let mut child = command
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .arg("about:blank")
            .envs(software.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", software.path.display()))?;
        let input = child.stdin.take().context("the browser has no input")?;
        let output = child.stdout.take().context("the browser has no output")?;
        let wire = Wire::new(input, output);
        let greeting = wire.call(None, "Browser.getVersion", json!({})).await;
        if let Err(error) = greeting {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(error.context(format!("{} does not start:\n{said}", software.path.display())));
        }
        Ok(Self { wire, _child: child, _folder: folder })
    }

    /// Opens an empty page.
    ///
    /// # Errors
    ///
    /// What the browser says.
    pub async fn open(&self, view: View) -> Result<Page> {
        let target = self.wire.call(None, "Target.createTarget", json!({ "url": "about:blank" })).await?;
        let parameters = json!({ "targetId": text(&target, "/targetId")?, "flatten": true });
        let attached = self.wire.call(None, "Target.attachToTarget", parameters).await?;
        let page = Page { wire: self.wire.clone(), session: text(&attached, "/sessionId")?.to_owned() };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({})).await?;
        }
        let metrics = json!({
            "width": view.width, "height": view.height, "screenWidth": view.width, "screenHeight": view.height,
            "deviceScaleFactor": 1, "mobile": view.width < 600,
        });
        page.call("Emulation.setDeviceMetricsOverride", metrics).await?;
        let scheme = if view.dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        page.call("Emulation.setEmulatedMedia", features).await?;
        page.call("Emulation.setScriptExecutionDisabled", json!({ "value": !view.scripts })).await?;
        Ok(page)
    }
}

impl Page {
    /// Goes to `url` and waits until it is loaded.
    ///
    /// # Errors
    ///
    /// When it cannot be loaded.
    pub async fn go(&self, url: &str) -> Result<()> {
        let begun = self.events("Page.loadEventFired").len();
        let answer = self.call("Page.navigate", json!({ "url": url })).await?;
        if let Some(error) = answer.get("errorText").and_then(Value::as_str) {
            bail!("{url} cannot be loaded: {error}");
        }
        eventually(&format!("{url} to be loaded"), ANSWER_LIMIT, async || {
            Ok((self.events("Page.loadEventFired").len() > begun).then_some(()))
        })
        .await
    }

    /// What an expression of JavaScript comes to, also where the page's own scripts do not run; a promise is waited for.
    ///
    /// # Errors
    ///
    /// When it throws.
    pub async fn evaluate(&self, expression: &str) -> Result<Value> {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", parameters).await?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression} throws {thrown}");
        }
        Ok(answer.pointer("/result/value").cloned().unwrap_or_default())
    }

    /// A picture of the whole page, as PNG.
    ///
    /// # Errors
    ///
    /// What the browser says.
    pub async fn screenshot(&self) -> Result<Vec<u8>> {
        let parameters = json!({ "format": "png", "captureBeyondViewport": true });
        let answer = self.call("Page.captureScreenshot", parameters).await?;
        Ok(STANDARD.decode(text(&answer, "/data")?)?)
    }

    /// The addresses that were asked for so far.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        let url = |event: Value| Some(event.pointer("/request/url")?.as_str()?.to_owned());
        self.events("Network.requestWillBeSent").into_iter().filter_map(url).collect()
    }

    /// Everything that went wrong so far: errors and warnings on the console, exceptions, failed requests.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut found = Vec::new();
        for event in self.events("Network.responseReceived") {
            if event.pointer("/response/status").and_then(Value::as_u64).is_some_and(|status| status >= 400) {
                found.push(event.to_string());
            }
        }
        let loud = |event: &Value, place: &str| {
            event
                .pointer(place)
                .and_then(Value::as_str)
                .is_some_and(|level| matches!(level, "error" | "warning" | "assert"))
        };
        found.extend(
            self.events("Log.entryAdded")
                .iter()
                .filter(|event| loud(event, "/entry/level"))
                .map(Value::to_string),
        );
        found.extend(
            self.events("Runtime.consoleAPICalled")
                .iter()
                .filter(|event| loud(event, "/type"))
                .map(Value::to_string),
        );
        for method in ["Runtime.exceptionThrown", "Network.loadingFailed"] {
            found.extend(self.events(method).iter().map(Value::to_string));
        }
        found
    }

    async fn call(&self, method: &str, parameters: Value) -> Result<Value> {
        self.wire.call(Some(&self.session), method, parameters).await
    }

    fn events(&self, method: &str) -> Vec<Value> {
        let heard = self.wire.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let own = heard.events.iter().filter(|(session, name, _)| *session == self.session && name == method);
        own.map(|(_, _, parameters)| parameters.clone()).collect()
    }
}

/// The pipe to the browser.
#[derive(Debug)]
struct Wire {
    input: tokio::sync::Mutex<ChildStdin>,
    heard: Arc<Mutex<Heard>>,
    next: AtomicU64,
}

/// What came from the browser.
#[derive(Debug, Default)]
struct Heard {
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    /// Session, method and parameters.
    events: Vec<(String, String, Value)>,
    ended: bool,
}

impl Wire {
    fn new(input: ChildStdin, output: ChildStdout) -> Arc<Self> {
        let heard = Arc::new(Mutex::new(Heard::default()));
        // Ends with the browser.
        drop(tokio::spawn(listen(output, heard.clone())));
        Arc::new(Self { input: input.into(), heard, next: AtomicU64::new(1) })
    }

    async fn call(&self, session: Option<&str>, method: &str, parameters: Value) -> Result<Value> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            if heard.ended {
                bail!("{method}: the browser has ended");
            }
            heard.waiting.insert(id, sender);
        }
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let (Some(session), Some(object)) = (session, message.as_object_mut()) {
            object.insert("sessionId".to_owned(), session.into());
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.lock().await.write_all(&bytes).await.with_context(|| method.to_owned())?;
        let answer = tokio::time::timeout(ANSWER_LIMIT, receiver).await;
        let answer = answer
            .with_context(|| format!("{method}: the browser does not answer"))?
            .map_err(|_| anyhow!("{method}: the browser has ended"))?;
        match answer.get("error") {
            Some(error) => bail!("{method}: {error}"),
            None => Ok(answer.get("result").cloned().unwrap_or_default()),
        }
    }
}

async fn listen(output: ChildStdout, heard: Arc<Mutex<Heard>>) {
    let mut output = BufReader::new(output);
    let mut bytes = Vec::new();
    while matches!(output.read_until(0, &mut bytes).await, Ok(length) if length > 0) {
        bytes.pop();
        let message: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        bytes.clear();
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let string = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        match message.get("id").and_then(Value::as_u64) {
            Some(id) => {
                if let Some(waiting) = heard.waiting.remove(&id) {
                    // Who asked may have given up.
                    drop(waiting.send(message));
                }
            }
            None => {
                let parameters = message.get("params").cloned().unwrap_or_default();
                heard.events.push((string("sessionId"), string("method"), parameters));
            }
        }
    }
    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    heard.ended = true;
    heard.waiting.clear();
}

fn text<'a>(value: &'a Value, place: &str) -> Result<&'a str> {
    value.pointer(place).and_then(Value::as_str).with_context(|| format!("no {place} in {value}"))
}
