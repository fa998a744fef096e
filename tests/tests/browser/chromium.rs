//! A headless Chromium behind its driver: opening a page, reading what it shows, its console and its picture.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use fantoccini::ClientBuilder;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

pub(crate) const CHROMIUM: &str = "/usr/bin/chromium";
pub(crate) const DRIVER: &str = "/usr/bin/chromedriver";

/// Flags for a machine without a display, a graphics card or a large /dev/shm, as any user.
const FLAGS: [&str; 5] =
    ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1000"];

/// A browser session. End it with [`Chromium::close`]; dropping it leaves the browser to its driver's end.
pub(crate) struct Chromium {
    client: fantoccini::Client,
    http: HttpClient<HttpConnector, Full<Bytes>>,
    session: String,
    driver: Child,
}

impl Chromium {
    pub(crate) async fn open() -> Result<Self> {
        let mut driver = Command::new(DRIVER)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("chromedriver")?;
        let port = port_of(&mut driver).await?;
        let capabilities = json!({
            "goog:chromeOptions": { "binary": CHROMIUM, "args": FLAGS },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let capabilities = capabilities.as_object().context("capabilities are an object")?;
        let address = format!("http://127.0.0.1:{port}");
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.clone())
            .connect(&address)
            .await
            .context("chromium does not start")?;
        let id = client.session_id().await?.context("the session has no id")?;
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        let session = format!("{address}/session/{id}");
        Ok(Self { client, http, session, driver })
    }

    pub(crate) async fn close(mut self) -> Result<()> {
        self.client.close().await.context("chromium does not close")?;
        self.driver.kill().await.context("chromedriver")
    }

    pub(crate) async fn goto(&self, address: &str) -> Result<()> {
        self.client.goto(address).await.with_context(|| format!("cannot open {address}"))
    }

    /// The value of a JavaScript function's body.
    pub(crate) async fn value(&self, script: &str) -> Result<Value> {
        self.client.execute(script, Vec::new()).await.context("script")
    }

    /// The text of a file of the page's own server, as the browser gets it.
    pub(crate) async fn text_of(&self, path: &str) -> Result<String> {
        let script = "const [path, done] = arguments; fetch(path).then((answer) => answer.text()).then(done)";
        let text = self.client.execute_async(script, vec![path.into()]).await?;
        Ok(text.as_str().context("text")?.to_owned())
    }

    /// Console entries since the last call that are warnings or errors, the browser's own among them.
    pub(crate) async fn complaints(&self) -> Result<Vec<String>> {
        let entries = self.command("se/log", &json!({ "type": "browser" })).await?;
        let entries = entries.as_array().context("a list of entries")?;
        let bad = |entry: &&Value| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING"));
        Ok(entries.iter().filter(bad).map(|entry| entry["message"].to_string()).collect())
    }

    /// Gives the page a window of that width, high enough for all of it.
    pub(crate) async fn resize(&self, width: u32) -> Result<()> {
        let metrics = |height: u64| json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics(900)).await?;
        let height = self.value("return document.documentElement.scrollHeight").await?;
        let height = height.as_u64().context("height")?;
        self.devtools("Emulation.setDeviceMetricsOverride", metrics(height)).await
    }

    /// Lets the page believe that the user prefers `dark` or `light`.
    pub(crate) async fn prefer(&self, scheme: &str) -> Result<()> {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features).await
    }

    pub(crate) async fn screenshot(&self, file: &Path) -> Result<()> {
        let picture = self.client.screenshot().await?;
        std::fs::write(file, picture).with_context(|| format!("cannot write {}", file.display()))
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Result<()> {
        let body = json!({ "cmd": command, "params": parameters });
        self.command("goog/cdp/execute", &body).await.map(|_| ())
    }

    /// A command of this driver that is not in the WebDriver standard.
    async fn command(&self, path: &str, body: &Value) -> Result<Value> {
        let request = Request::post(format!("{}/{path}", self.session))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let answer = self.http.request(request).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        let mut answer: Value = serde_json::from_slice(&bytes)?;
        ensure!(status.is_success(), "{path}: {status}: {answer}");
        Ok(answer["value"].take())
    }
}

/// The port that the driver chose, from its first lines.
async fn port_of(driver: &mut Child) -> Result<u16> {
    let output = driver.stdout.take().context("chromedriver's output")?;
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some((_, port)) = line.rsplit_once("successfully on port ") {
            let port = port.trim_end_matches('.').parse();
            // Whatever else it says must find a reader.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return port.with_context(|| format!("no port in {line:?}"));
        }
    }
    anyhow::bail!("chromedriver ended at its start")
}
