//! Goal: the dashboard shows what the node's API says, draws it, loads nothing from elsewhere and has no console error.
//! Method: a publisher with a VM and a reader as processes, their pages in headless Chromium; numbers that the page shows
//! of checkpoints and of traffic are compared with what the command line says about the same node. Pictures go to `target/dashboard*.png`.

mod chromium;
mod nodes;
mod page;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use pageswarm_tests::command::program;
use pageswarm_tests::skip::{Need, skipped};
use serde_json::Value;

use chromium::{CHROMIUM, Chromium, DRIVER};
use nodes::Node;
use page::{agrees_with_status, charts_drawn, fields, same, spread_agrees, tables, until, value_of};

/// Checkpoints that the VM takes.
const CHECKPOINTS: u64 = 8;
const TAKEN_CHARTS: [&str; 3] = ["downtime", "bytes", "pages"];
const LEARNT_CHARTS: [&str; 2] = ["births", "deltas"];
/// Cells of the table of checkpoints and the figures that they show.
const FIGURES: [(&str, &str); 9] = [
    ("downtime", "downtime_us"),
    ("interval", "interval_us"),
    ("dirty", "dirty_pages"),
    ("new", "new_pages"),
    ("patched", "patched_pages"),
    ("duplicate", "duplicate_pages"),
    ("zero", "zero_pages"),
    ("new-bytes", "new_bytes"),
    ("delta", "delta_bytes"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_shows_what_the_api_says() -> Result<()> {
    let lacking: Vec<&str> =
        [CHROMIUM, DRIVER].into_iter().filter(|path| !Path::new(path).exists()).collect();
    if !lacking.is_empty() {
        let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        ensure!(!in_ci || lacking.len() == 2, "{lacking:?} is absent while the rest is there");
        println!("SKIP: browser: {lacking:?} absent: install chromium and chromium-driver");
        return Ok(());
    }
    let homes = tempfile::tempdir()?;
    let browser = Chromium::open().await?;
    let outcome = show(&browser, homes.path()).await;
    browser.close().await?;
    outcome
}

async fn show(browser: &Chromium, homes: &Path) -> Result<()> {
    let publisher = Node::start(&homes.join("publisher"), "127.0.0.1:0", &["--create-swarm"]).await?;
    let ticket = publisher.ticket().await?;
    let reader = Node::start(&homes.join("reader"), "127.0.0.1:0", &["--join", &ticket]).await?;
    browser.prefer("light").await?;
    browser.resize(1400).await?;
    browser.goto(&publisher.page()).await?;
    is_current(browser).await?;
    until("nodes find each other", async || {
        let status = publisher.ask(&["status"]).await?;
        ensure!(status["peers"][0]["node"].is_string(), "no peer");
        Ok(())
    })
    .await?;
    if !skipped(&[Need::Kvm]) {
        let lineage = run_vm(browser, &publisher).await?;
        let last = (CHECKPOINTS - 1).to_string();
        reader.ask(&["checkpoint", "get", &lineage, &last]).await?;
        shows_taken(browser, &publisher).await?;
        shows_learnt(browser, &reader).await?;
        browser.goto(&publisher.page()).await?;
    }
    until("the page agrees with the node", async || agrees_with_status(browser, &publisher).await).await?;
    loads_nothing_from_elsewhere(browser, &publisher).await?;
    no_complaints(browser).await?;
    survives_the_node(browser, publisher).await?;
    reader.end().await
}

/// The program serves the page of these sources, not of an older build.
async fn is_current(browser: &Chromium) -> Result<()> {
    let sources = [
        ("/", include_str!("../../../node/assets/dashboard.html")),
        ("/assets/dashboard.js", include_str!("../../../node/assets/dashboard.js")),
        ("/assets/dashboard.css", include_str!("../../../node/assets/dashboard.css")),
    ];
    for (path, source) in sources {
        let current = browser.text_of(path).await? == source;
        ensure!(current, "{path} is of an older build: build the workspace first");
    }
    Ok(())
}

/// Runs a VM to its end while the page follows; returns its lineage.
async fn run_vm(browser: &Chromium, publisher: &Node) -> Result<String> {
    let count = CHECKPOINTS.to_string();
    let vm = [
        "vm",
        "run",
        "--workload",
        "kernel-build",
        "--memory",
        "64MiB",
        "--interval",
        "300ms",
        "--checkpoints",
        &count,
    ];
    let vm = publisher.ask(&vm).await?;
    until("charts follow the running VM", async || charts_drawn(browser, &TAKEN_CHARTS, 5).await).await?;
    until("the VM ends", async || {
        let vms = publisher.ask(&["vm", "ls"]).await?;
        let whole = vms[0]["ended"] == "all checkpoints were taken" && vms[0]["wrong_page"].is_null();
        ensure!(whole, "{vms}");
        Ok(())
    })
    .await?;
    Ok(vm["lineage"].as_str().context("lineage")?.to_owned())
}

/// The publisher's page: figures of all its checkpoints, events, and what was sent against what was born.
async fn shows_taken(browser: &Chromium, publisher: &Node) -> Result<()> {
    let vm = publisher.ask(&["vm", "show", "0"]).await?;
    let taken = vm["checkpoints"].as_array().context("checkpoints")?;
    ensure!(taken.len() as u64 == CHECKPOINTS, "{} checkpoints", taken.len());
    until("the page shows all checkpoints", async || {
        figures_agree(&tables(browser).await?["taken"], taken)?;
        charts_drawn(browser, &TAKEN_CHARTS, CHECKPOINTS).await?;
        agrees_with_status(browser, publisher).await
    })
    .await?;
    let shown = fields(browser).await?;
    let last = &taken[taken.len() - 1];
    same("downtime", &shown["downtime-downtime"], &last["downtime_us"])?;
    same("delta", &shown["bytes-delta"], &last["delta_bytes"])?;
    let new = value_of(&shown["bytes-plain"])? + value_of(&shown["bytes-patched"])?;
    ensure!(Some(new) == last["new_bytes"].as_f64(), "{new} new bytes: {last}");
    until("what was sent against what was born", async || {
        ratio_agrees(browser, "sent", &["served"], "born").await
    })
    .await?;
    events_told(browser, &["vm_started", "checkpoint_taken", "vm_ended"]).await?;
    pictures(browser, "dashboard").await
}

/// The reader's page: checkpoints that it learnt, and what it received against what it lacked.
async fn shows_learnt(browser: &Chromium, reader: &Node) -> Result<()> {
    browser.goto(&reader.page()).await?;
    until("the page shows what was learnt", async || {
        charts_drawn(browser, &LEARNT_CHARTS, CHECKPOINTS).await?;
        charts_drawn(browser, &["rates"], 2).await?;
        agrees_with_status(browser, reader).await
    })
    .await?;
    let heads = reader.ask(&["checkpoint", "ls"]).await?;
    let heads = heads.as_array().context("checkpoints")?;
    let rows = tables(browser).await?;
    let rows = rows["learnt"].as_array().context("rows")?;
    ensure!(
        rows.len() == heads.len() && rows.len() as u64 == CHECKPOINTS,
        "{} rows for {} heads",
        rows.len(),
        heads.len()
    );
    for (row, head) in rows.iter().rev().zip(heads) {
        same("index", &row["index"], &head["index"])?;
        same("delta", &row["delta"], &head["delta_bytes"])?;
        same("state root", &row["state-root"], &head["state_root"])?;
    }
    until("what was received against what was lacked", async || {
        ratio_agrees(browser, "received", &["from-writer", "from-peers"], "lacked").await
    })
    .await?;
    until("the distance from the bound", async || spread_agrees(browser, reader).await).await?;
    events_told(browser, &["checkpoint_learnt", "checkpoint_held"]).await?;
    pictures(browser, "dashboard-reader").await?;
    loads_nothing_from_elsewhere(browser, reader).await?;
    no_complaints(browser).await
}

fn figures_agree(rows: &Value, taken: &[Value]) -> Result<()> {
    let rows = rows.as_array().context("rows")?;
    ensure!(rows.len() == taken.len(), "{} rows for {} checkpoints", rows.len(), taken.len());
    for (row, figures) in rows.iter().rev().zip(taken) {
        same("index", &row["index"], &figures["index"])?;
        for (cell, key) in FIGURES {
            same(cell, &row[cell], &figures[key])?;
        }
        let downtime = figures["downtime_us"].as_u64().context("downtime")?;
        let text = row["downtime"]["text"].as_str();
        ensure!(
            downtime >= 1000 || text == Some(&format!("{downtime} µs")),
            "{downtime} us are shown as {text:?}"
        );
    }
    Ok(())
}

/// A ratio is of the numbers that the page shows elsewhere, and what it is measured against is not nothing.
async fn ratio_agrees(browser: &Chromium, name: &str, moved: &[&str], least: &str) -> Result<()> {
    let shown = fields(browser).await?;
    let mut sum = 0.0;
    for field in moved {
        sum += value_of(&shown[field])?;
    }
    let least = value_of(&shown[format!("{least}-bytes")])?;
    let ratio = value_of(&shown[format!("{name}-ratio")])?;
    ensure!(sum > 0.0 && least > 0.0, "{sum} of {least}");
    ensure!((ratio - sum / least).abs() < 1e-9, "{ratio} for {sum} of {least}");
    Ok(())
}

/// The events are there, at most 50, the newest first.
async fn events_told(browser: &Chromium, kinds: &[&str]) -> Result<()> {
    let script = "return [...document.querySelectorAll('#events li')].map((e) => [e.dataset.event, Number(e.dataset.number)])";
    let events = browser.value(script).await?;
    let events = events.as_array().context("events")?;
    let numbers: Vec<u64> = events.iter().filter_map(|event| event[1].as_u64()).collect();
    ensure!(numbers.len() == events.len() && numbers.len() <= 50, "{events:?}");
    ensure!(numbers.is_sorted_by(|a, b| a > b), "{numbers:?}");
    for kind in kinds {
        ensure!(events.iter().any(|event| event[0] == *kind), "no {kind} among {events:?}");
    }
    Ok(())
}

/// In a wide window, in the dark, and in a narrow one, where nothing may stick out.
async fn pictures(browser: &Chromium, name: &str) -> Result<()> {
    let folder = program()?;
    let folder: PathBuf = folder.ancestors().nth(2).context("target")?.to_owned();
    for (suffix, scheme, width) in [("", "light", 1400), ("-dark", "dark", 1400), ("-narrow", "light", 390)] {
        browser.prefer(scheme).await?;
        browser.resize(width).await?;
        until("the page fits its window", async || {
            let script = "return [document.documentElement.scrollWidth, window.innerWidth]";
            let widths = browser.value(script).await?;
            ensure!(widths[0] == widths[1] && widths[1] == width, "{widths} in a window of {width}");
            charts_drawn(browser, &["rates"], 1).await
        })
        .await?;
        browser.screenshot(&folder.join(format!("{name}{suffix}.png"))).await?;
    }
    browser.prefer("light").await?;
    browser.resize(1400).await
}

async fn loads_nothing_from_elsewhere(browser: &Chromium, node: &Node) -> Result<()> {
    let script = "return performance.getEntriesByType('resource').map((entry) => entry.name)";
    let loaded = browser.value(script).await?;
    let loaded = loaded.as_array().context("resources")?;
    ensure!(!loaded.is_empty(), "nothing was loaded");
    let own = node.page();
    for address in loaded {
        let address = address.as_str().context("address")?;
        ensure!(address.starts_with(&own) || address.starts_with("data:"), "the page loaded {address}");
    }
    Ok(())
}

async fn no_complaints(browser: &Chromium) -> Result<()> {
    let complaints = browser.complaints().await?;
    if !complaints.is_empty() {
        bail!("the console has {complaints:#?}");
    }
    Ok(())
}

/// The page says that the node is gone, and goes on with it when it is back.
async fn survives_the_node(browser: &Chromium, node: Node) -> Result<()> {
    let connection = "return [document.getElementById('connection').dataset.state, document.getElementById('failures').hidden]";
    let (home, address) = (node.home.clone(), node.dashboard.to_string());
    node.end().await?;
    until("the page says that the node is gone", async || {
        let state = browser.value(connection).await?;
        ensure!(state[0] == "lost" && state[1] == false, "{state}");
        Ok(())
    })
    .await?;
    let node = Node::start(&home, &address, &[]).await?;
    until("the page follows the node that is back", async || {
        let state = browser.value(connection).await?;
        ensure!(state[0] == "live" && state[1] == true, "{state}");
        agrees_with_status(browser, &node).await
    })
    .await?;
    node.end().await
}
