//! Looking into recorded intervals from the command line: traces, analyses, a debugger, the comparison with the
//! processor. Method: a VM recorded on KVM by one node, fetched by another, and figures of one command compared with
//! those of another one.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pageswarm_node::api::simulations::SimulationView;
use pageswarm_tests::calls::Guest;
use pageswarm_tests::cluster::{Ground, NodeProcess};
use pageswarm_tests::command::{Outcome, pageswarm, program};
use pageswarm_tests::skip::{Need, skipped};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

const INTERVALS: u64 = 3;

/// A node that follows a recorded lineage, and its directory as text.
async fn recorded(ground: &Ground) -> anyhow::Result<(NodeProcess, NodeProcess, String, String)> {
    let publisher = ground.create("publisher", &[]).await?;
    let node = ground.join("node", &publisher, "reader", &[]).await?;
    let guest = Guest { checkpoints: Some(INTERVALS + 1), interval_ms: 60, ..Guest::default() };
    let lineage = publisher.run_vm(guest).await?;
    node.wait_checkpoint(&lineage, INTERVALS).await?;
    let directory = node.directory().to_string_lossy().into_owned();
    Ok((publisher, node, lineage, directory))
}

async fn done(arguments: &[&str]) -> anyhow::Result<String> {
    let outcome = pageswarm(arguments).await?;
    ensure!(outcome.code == Some(0), "{arguments:?}: {outcome:?}");
    Ok(outcome.text)
}

async fn json(arguments: &[&str]) -> anyhow::Result<Value> {
    let text = done(&[arguments, &["--json"]].concat()).await?;
    serde_json::from_str(&text).with_context(|| format!("{arguments:?}: {text}"))
}

/// What the simulator says of each interval when nobody looks.
async fn plainly(directory: &str, lineage: &str) -> anyhow::Result<Vec<SimulationView>> {
    let count = INTERVALS.to_string();
    let views = json(&["sim", "run", "--dir", directory, lineage, "0", "--count", &count]).await?;
    Ok(serde_json::from_value(views)?)
}

fn refused(outcome: &Outcome, code: i32, words: &str) -> anyhow::Result<()> {
    ensure!(outcome.code == Some(code) && outcome.text.contains(words), "{outcome:?}");
    Ok(())
}

#[tokio::test]
async fn a_trace_has_every_access_and_answers_questions() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let (_publisher, _node, lineage, directory) = recorded(&ground).await?;
    let [trace, plain, small] = ["trace", "plain", "small"].map(|name| ground.path(name));
    let [trace, plain, small] = [&trace, &plain, &small].map(|path| path.to_str().unwrap_or(""));
    let view = plainly(&directory, &lineage).await?.swap_remove(1);
    let written = json(&["trace", "record", "--dir", &directory, &lineage, "1", trace]).await?;
    assert_eq!(written["accesses"], view.reads + view.writes, "{view:?}");
    assert_eq!(written["instructions"], view.instructions);
    assert_eq!(written["state_root"], view.state_root);
    assert_eq!(written["bytes"], std::fs::metadata(trace)?.len());
    let shown = json(&["trace", "show", trace]).await?;
    assert_eq!((&shown["lineage"], &shown["end_root"]), (&lineage.into(), &view.state_root.into()));
    let rows = json(&["trace", "query", trace, "written-pages", "--top", "1000000"]).await?;
    let counts = rows.as_array().context("no rows")?.iter().filter_map(|row| row["writes"].as_u64());
    assert_eq!(counts.sum::<u64>(), view.writes);
    let question = |name| ["trace", "query", trace, name, "--top", "1000000"];
    let (touches, pages) = (json(&question("first-touches")).await?, json(&question("pages")).await?);
    assert_eq!(touches.as_array().map(Vec::len), pages.as_array().map(Vec::len));
    let page = rows[0]["page"].as_u64().context("a page")? << 12;
    let range = format!("{page}..{}", page + 4096);
    let writers =
        json(&["trace", "query", trace, "writers", "--physical", &range, "--top", "1000000"]).await?;
    assert_eq!(writers.as_array().map(|rows| rows.len() as u64), rows[0]["writes"].as_u64());
    let exported = done(&["trace", "export", trace, plain]).await?;
    ensure!(exported.starts_with(&format!("{} accesses", view.reads + view.writes)), "{exported}");

    let full = [
        "trace",
        "record",
        "--dir",
        &directory,
        &view.interval.to_string(),
        "1",
        small,
        "--size-max",
        "64KiB",
    ];
    let full = [&full[..4], &[shown["lineage"].as_str().unwrap_or("")], &full[5..]].concat();
    refused(&pageswarm(&full).await?, 15, "--size-max")?;
    ensure!(!std::path::Path::new(small).exists(), "half a trace was left");
    let bytes = std::fs::read(trace)?;
    std::fs::write(small, &bytes[..bytes.len() / 2])?;
    refused(&pageswarm(&["trace", "query", small, "pages"]).await?, 1, small)?;
    refused(&pageswarm(&["trace", "query", trace, "writers"]).await?, 2, "--addresses")
}

#[tokio::test]
async fn analyses_of_several_intervals_add_up() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let (_publisher, _node, lineage, directory) = recorded(&ground).await?;
    let views = plainly(&directory, &lineage).await?;
    let instructions: u64 = views.iter().map(|view| view.instructions).sum();
    let to = INTERVALS.to_string();
    for analysis in ["write-heat", "working-sets", "redundancy"] {
        let picture = ground.path(analysis);
        let path = picture.to_str().unwrap_or("");
        let command = [
            "sim", "analyze", analysis, "--dir", &directory, &lineage, "--from", "0", "--to", &to, "--svg",
            path,
        ];
        let series = json(&command).await?;
        assert_eq!(series["instructions"], instructions, "{analysis}");
        assert_eq!(series["intervals"].as_array().map(Vec::len), Some(views.len()), "{analysis}");
        ensure!(std::fs::read_to_string(&picture)?.starts_with("<svg"), "{analysis} drew nothing");
        let table = done(&command).await?;
        ensure!(table.lines().count() > views.len(), "{analysis}: {table}");
    }
    let of = ["--dir", &directory, &lineage, "--from", "2", "--to"];
    let none = pageswarm(&[&["sim", "analyze", "write-heat"], &of[..], &["2"]].concat()).await?;
    refused(&none, 2, "no interval lies between")?;
    let whose = pageswarm(&[&["sim", "analyze", "double-fetch"], &of[..], &["3"]].concat()).await?;
    refused(&whose, 2, "--reader")
}

/// One packet of gdb's remote protocol, answered.
fn ask(stream: &mut TcpStream, text: &str) -> anyhow::Result<String> {
    let sum = text.bytes().fold(0_u8, u8::wrapping_add);
    stream.write_all(format!("+${text}#{sum:02x}").as_bytes())?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"#") {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    // Before it is the sum of the answer before.
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Ok(answer.split_once('$').context("no packet")?.1.to_owned())
}

#[tokio::test]
async fn a_debugger_gets_an_interval_from_the_command_line() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let (_publisher, _node, lineage, directory) = recorded(&ground).await?;
    let command = ["sim", "debug", "--dir", &directory, &lineage, "--interval"];
    let absent = pageswarm(&[&command[..], &["9"]].concat()).await?;
    refused(&absent, 19, "interval 9 is not recorded")?;
    let mut server = Command::new(program()?)
        .args(command)
        .args(["1", "--workload", "specjbb"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(server.stdout.take().context("its output")?).lines();
    let line = lines.next_line().await?.context("it said nothing")?;
    let address = line.rsplit(' ').next().context("no address")?.trim_end_matches('"').to_owned();
    let talked = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let registers = (ask(&mut stream, "?")?, ask(&mut stream, "g")?);
        let stepped = (ask(&mut stream, "s")?, ask(&mut stream, "g")?);
        let back = (ask(&mut stream, "bs")?, ask(&mut stream, "g")?);
        let sum = b'k';
        stream.write_all(format!("+$k#{sum:02x}").as_bytes())?;
        Ok::<_, anyhow::Error>((registers, stepped, back))
    });
    let (start, stepped, back) = talked.await??;
    ensure!(start.0.starts_with("T05") || start.0.starts_with("S05"), "{start:?}");
    ensure!(start.1 != stepped.1, "a step changed no register");
    assert_eq!(start.1, back.1, "a step back leads to where it was");
    let status = tokio::time::timeout(Duration::from_secs(60), server.wait()).await??;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[tokio::test]
async fn lockstep_runs_from_the_command_line() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let text = done(&["sim", "lockstep", "--instructions", "20000", "--seed", "7"]).await?;
    ensure!(text.contains("processor and simulation agree"), "{text}");
    let ground = Ground::new()?;
    let file = ground.path("program");
    let path = file.to_str().unwrap_or("");
    // mov eax, 5; imul eax, eax, 7; out 0x80, al.
    std::fs::write(&file, [0xb8, 5, 0, 0, 0, 0x6b, 0xc0, 7, 0xe6, 0x80])?;
    let text = done(&["sim", "lockstep", "--program", path]).await?;
    ensure!(text.contains("in 1 programs"), "{text}");
    // RDTSC is not deterministic.
    std::fs::write(&file, [0x0f, 0x31, 0xe6, 0x80])?;
    refused(&pageswarm(&["sim", "lockstep", "--program", path]).await?, 20, "cannot be replayed")
}
