//! What the page shows, read from its document and compared with what the node answers elsewhere.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::chromium::Chromium;
use super::nodes::Node;

/// How long the page may take to show what is so.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(200);

/// Fields and where in `status` they must be from, whatever the page itself says.
const NUMBERS: [(&str, &str); 19] = [
    ("latest-checkpoint", "/lineages/0/latest"),
    ("store-chunks", "/store/chunks"),
    ("store-decoded", "/store/decoded_bytes"),
    ("store-stored", "/store/stored_bytes"),
    ("store-packs", "/store/pack_bytes"),
    ("store-quota", "/store/quota_bytes"),
    ("store-duplicates", "/store/duplicates"),
    ("store-bad", "/store/bad_chunks"),
    ("from-writer", "/transfer/from_writer_bytes"),
    ("from-peers", "/transfer/from_peers_bytes"),
    ("duplicate", "/transfer/duplicate_bytes"),
    ("served", "/transfer/served_bytes"),
    ("objects-down", "/transfer/objects_down_bytes"),
    ("objects-up", "/transfer/objects_up_bytes"),
    ("checkpoints-fetched", "/transfer/checkpoints_fetched"),
    ("deferred-chunks", "/transfer/deferred_chunks"),
    ("timed-out-requests", "/transfer/timed_out_requests"),
    ("corrupt-chunks", "/transfer/corrupt_chunks"),
    ("refused-records", "/transfer/refused_records"),
];

/// What the page shows of `status` and what has changed again before the test can ask for it.
const MOVING_FIELDS: [&str; 1] = ["uptime"];
const MOVING_CELLS: [&str; 2] = ["rtt", "rate"];

const FIELDS: &str = "return Object.fromEntries([...document.querySelectorAll('[data-field]')].map((e) => \
     [e.dataset.field, { text: e.textContent, value: e.dataset.value ?? null, from: e.dataset.from ?? null }]))";

/// For each table, what its columns are called and where a row of the node's answer has them.
const COLUMNS: &str = "return Object.fromEntries([...document.querySelectorAll('table')].map((table) => \
     [table.id, [...table.tHead.rows[0].cells].map((head) => [head.dataset.cell, head.dataset.from])]))";

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

/// Every field of the page that says where in `status` it comes from shows what is there, and so does every row of peers
/// and lineages.
pub(crate) async fn agrees_with_status(browser: &Chromium, node: &Node) -> Result<()> {
    let status = node.ask(&["status"]).await?;
    let (fields, tables) = (fields(browser).await?, tables(browser).await?);
    let mut compared = 0;
    for (name, field) in fields.as_object().context("fields")? {
        let Some(path) = field["from"].as_str().filter(|_| !MOVING_FIELDS.contains(&name.as_str())) else {
            continue;
        };
        same(
            name,
            field,
            &looked_up(&status, path).with_context(|| format!("{name}: `status` has no {path}"))?,
        )?;
        compared += 1;
    }
    ensure!(compared >= 20, "only {compared} fields say where they come from");
    for (name, pointer) in NUMBERS {
        let told = status.pointer(pointer).with_context(|| format!("`status` has no {pointer}"))?;
        ensure!(fields[name].is_object(), "the page has no field {name}");
        same(name, &fields[name], told)?;
    }
    let chunks = status["store"]["chunks"].as_u64().context("chunks")?;
    let text = fields["store-chunks"]["text"].as_str();
    ensure!(text == Some(&grouped(chunks)), "{chunks} chunks are shown as {text:?}");
    let columns = browser.value(COLUMNS).await?;
    for (table, key) in [("peers", "node"), ("lineages", "lineage")] {
        let told = status[table].as_array().with_context(|| format!("`status` has no {table}"))?;
        rows_agree(&columns[table], &tables[table], told, key).with_context(|| format!("table {table}"))?;
    }
    Ok(())
}

/// The spread that goes on, else the first one, is shown as `status` tells it: also how far from the bound of the links.
pub(crate) async fn spread_agrees(browser: &Chromium, node: &Node) -> Result<()> {
    let status = node.ask(&["status"]).await?;
    let spreads = status["spreads"].as_array().context("spreads")?;
    let told = spreads.iter().find(|spread| spread["goes_on"] == true).or(spreads.first());
    let (told, fields) = (told.context("`status` has no spread")?, fields(browser).await?);
    for key in ["lacked_bytes", "union_bytes", "missing_bytes", "busy_ms", "bound_ms"] {
        let name = format!("spread-{}", key.trim_end_matches("_bytes").trim_end_matches("_ms"));
        same(&name, &fields[&name], &told[key])?;
    }
    for (name, key) in [("spread-ratio", "over_bound_permille"), ("spread-gain", "gain_permille")] {
        let told = told[key].as_f64().with_context(|| format!("{key} is not known: {told}"))?;
        let shown = value_of(&fields[name])?;
        ensure!((shown * 1000.0 - told).abs() < 0.01, "{name}: the page shows {shown}, the node says {told}");
    }
    Ok(())
}

/// The table has a row for each of `told`, and each cell what its column names.
fn rows_agree(columns: &Value, rows: &Value, told: &[Value], key: &str) -> Result<()> {
    let (columns, rows) = (columns.as_array().context("columns")?, rows.as_array().context("rows")?);
    ensure!(rows.len() == told.len(), "{} rows for {}", rows.len(), told.len());
    ensure!(columns.len() >= 9, "only {} columns", columns.len());
    for told in told {
        let name = told[key].as_str().context("name")?;
        let row = rows.iter().find(|row| row[key]["value"] == name);
        let row = row.with_context(|| format!("no row for {name}"))?;
        for column in columns {
            let (cell, from) = (column[0].as_str().context("cell")?, column[1].as_str().context("from")?);
            ensure!(row[cell].is_object(), "no cell {cell}");
            if !MOVING_CELLS.contains(&cell) {
                same(cell, &row[cell], &looked_up(told, from).with_context(|| format!("no {from}"))?)?;
            }
        }
    }
    Ok(())
}

/// What stands at a path of the page, as `store.chunks` or `peers.length`.
fn looked_up(whole: &Value, path: &str) -> Option<Value> {
    path.split('.').try_fold(whole.clone(), |value, step| match &value {
        Value::Array(items) if step == "length" => Some(json!(items.len())),
        Value::Object(fields) => fields.get(step).cloned(),
        _ => None,
    })
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

/// The page has the same value as the node told; of what is not there it has none.
pub(crate) fn same(what: &str, shown: &Value, told: &Value) -> Result<()> {
    let value = shown["value"].as_str();
    let told = match told {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        whole => Some(whole.to_string()),
    };
    ensure!(value == told.as_deref(), "{what}: the page shows {shown}, the node says {told:?}");
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
