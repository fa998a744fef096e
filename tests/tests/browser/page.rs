//! What the page shows, read from its document and compared with what the node answers elsewhere.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::chromium::Chromium;
use crate::nodes::Node;

/// How long the page may take to show what is so.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(200);

/// Fields of the page and where `status` has the same number.
const NUMBERS: [(&str, &str); 16] = [
    ("store-chunks", "/store/chunks"),
    ("store-decoded", "/store/decoded_bytes"),
    ("store-stored", "/store/stored_bytes"),
    ("store-packs", "/store/pack_bytes"),
    ("store-duplicates", "/store/duplicates"),
    ("store-bad", "/store/bad_chunks"),
    ("from-writer", "/transfer/from_writer_bytes"),
    ("from-peers", "/transfer/from_peers_bytes"),
    ("duplicate", "/transfer/duplicate_bytes"),
    ("served", "/transfer/served_bytes"),
    ("checkpoints-fetched", "/transfer/checkpoints_fetched"),
    ("deferred-chunks", "/transfer/deferred_chunks"),
    ("timed-out-requests", "/transfer/timed_out_requests"),
    ("corrupt-chunks", "/transfer/corrupt_chunks"),
    ("refused-records", "/transfer/refused_records"),
    ("latest-checkpoint", "/lineages/0/latest"),
];

/// Cells of the table of nodes and where a peer of `status` has the same.
const PEER_NUMBERS: [(&str, &str); 2] =
    [("chunks-down", "chunks_down_bytes"), ("chunks-up", "chunks_up_bytes")];

const FIELDS: &str = "return Object.fromEntries([...document.querySelectorAll('[data-field]')].map((e) => \
     [e.dataset.field, { text: e.textContent, value: e.dataset.value ?? null }]))";

const TABLES: &str = "return Object.fromEntries([...document.querySelectorAll('table')].map((table) => \
     [table.id, table.hidden ? [] : [...table.tBodies[0].rows].map((row) => Object.fromEntries([...row.cells].map((cell) => \
     [cell.dataset.cell, { text: cell.textContent, value: cell.dataset.value ?? null }])))]))";

/// For each chart that is visible: its points, and pixels of its canvas that have the colour of one of its numbers;
/// axes and grid have others.
const CHARTS: &str = "const inks = (figure) => [...figure.querySelectorAll('[data-colour]')].map((item) => { \
     const hex = getComputedStyle(document.documentElement).getPropertyValue('--' + item.dataset.colour).trim(); \
     return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)); }); \
     return Object.fromEntries([...document.querySelectorAll('figure')].filter((f) => f.offsetParent).map((f) => { \
     const plot = f.querySelector('.plot'), canvas = f.querySelector('canvas'), colours = inks(f); \
     const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true }); \
     copy.drawImage(canvas, 0, 0); const { data } = copy.getImageData(0, 0, canvas.width, canvas.height); \
     const near = (at) => colours.some((ink) => ink.every((part, of) => Math.abs(part - data[at + of]) <= 8)); \
     let drawn = 0; for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 200 && near(at)) drawn += 1; \
     return [f.id, { points: Number(plot.dataset.points ?? 0), drawn, width: canvas.clientWidth, room: plot.clientWidth }]; }))";

/// Repeats `check` until it holds; then, or when patience ends, its last outcome.
pub(crate) async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > PATIENCE => {
                return Err(error.context(format!("{what}: not within {PATIENCE:?}")));
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

pub(crate) async fn tables(browser: &Chromium) -> Result<Value> {
    browser.value(TABLES).await
}

pub(crate) async fn fields(browser: &Chromium) -> Result<Value> {
    browser.value(FIELDS).await
}

/// A number that the page shows: its `data-value`.
pub(crate) fn value_of(shown: &Value) -> Result<f64> {
    let text = shown["value"].as_str().with_context(|| format!("no number: {shown}"))?;
    Ok(text.parse()?)
}

/// Every number of the header, the tiles, the store, the transfer and the peers is what `status` says.
pub(crate) async fn agrees_with_status(browser: &Chromium, node: &Node) -> Result<()> {
    let status = node.ask(&["status"]).await?;
    let (fields, tables) = (fields(browser).await?, tables(browser).await?);
    for (field, pointer) in NUMBERS {
        if let Some(told) = status.pointer(pointer) {
            same(field, &fields[field], told)?;
        }
    }
    let peers = status["peers"].as_array().context("peers")?;
    same("peers", &fields["peers"], &json!(peers.len()))?;
    let chunks = status["store"]["chunks"].as_u64().context("chunks")?;
    let text = fields["store-chunks"]["text"].as_str();
    ensure!(text == Some(&grouped(chunks)), "{chunks} chunks are shown as {text:?}");
    let rows = tables["peers"].as_array().context("rows")?;
    ensure!(rows.len() == peers.len(), "{} rows for {} peers", rows.len(), peers.len());
    for peer in peers {
        let name = peer["node"].as_str().context("name")?;
        let row = rows
            .iter()
            .find(|row| row["node"]["value"] == name)
            .with_context(|| format!("no row for {name}"))?;
        for (cell, key) in PEER_NUMBERS {
            same(cell, &row[cell], &peer[key])?;
        }
        ensure!(row["role"]["text"] == peer["role"] && row["address"]["text"] == peer["address"], "{row}");
    }
    Ok(())
}

/// Every chart that is visible has at least so many points, fills its room and has drawn its numbers.
pub(crate) async fn charts_drawn(browser: &Chromium, expected: &[&str], points: u64) -> Result<()> {
    let charts = browser.value(CHARTS).await?;
    for id in expected {
        let chart = &charts[id];
        let number =
            |key: &str| chart[key].as_u64().with_context(|| format!("chart {id} is not visible: {charts}"));
        ensure!(number("points")? >= points, "chart {id}: {chart}");
        ensure!(number("drawn")? > 50, "chart {id} is blank: {chart}");
        ensure!(number("width")?.abs_diff(number("room")?) <= 2, "chart {id} does not fit: {chart}");
    }
    Ok(())
}

pub(crate) fn same(what: &str, shown: &Value, told: &Value) -> Result<()> {
    let value = shown["value"].as_str();
    let told = match told {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        other => bail!("{what}: {other} is no number"),
    };
    ensure!(value == Some(told.as_str()), "{what}: the page shows {shown}, the node says {told}");
    Ok(())
}

/// A number with commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
