//! Bad input and bad surroundings: each must end in a message that says what is wrong and what to do, and in its
//! documented exit code. Method: real processes, judged by exit code, words on the terminal, and what still works.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pageswarm_node::exit::ExitCode;
use pageswarm_node::limits::{HTTP_CONNECTIONS_MAX, HTTP_HEADER_TIMEOUT};
use pageswarm_tests::calls::Guest;
use pageswarm_tests::cluster::{Ground, NodeProcess, PATIENCE, until};
use pageswarm_tests::command::{Outcome, node_run, pageswarm, run};
use pageswarm_tests::events;
use pageswarm_tests::skip::{Need, skipped};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

#[track_caller]
fn expect(outcome: &Outcome, code: ExitCode, words: &[&str]) {
    let Outcome { code: ended, text } = outcome;
    assert_eq!(*ended, Some(i32::from(code as u8)), "exit code; it said: {text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("path is not text")
}

#[tokio::test]
async fn a_wrong_command_line_is_explained() -> anyhow::Result<()> {
    let wrong: [(&[&str], &str); 12] = [
        (&["node", "run", "--no-such-flag"], "--no-such-flag"),
        (&["node", "run", "--listen", "here"], "here"),
        (&["node", "run", "--advertise", "0.0.0.0:7420"], "192.0.2.7:7420"),
        (&["vm", "run", "--memory", "1GB"], "256MiB"),
        (&["vm", "run", "--memory", "65MiB"], "multiple of 2 MiB"),
        (&["vm", "run", "--workload", "x"], "kernel-build"),
        (&["demo", "--memory", "1MiB"], "64 MiB"),
        (&["demo", "--strategy", "x"], "incremental-stop-and-copy"),
        (&["demo", "--interval", "0ms"], "at least 1ms"),
        (&["vm", "run", "--interval", "5"], "500ms"),
        (&["vm", "run", "--interval", "0s"], "at least 1ms"),
        (&["frobnicate"], "frobnicate"),
    ];
    for (arguments, word) in wrong {
        expect(&pageswarm(arguments).await?, ExitCode::Usage, &[word]);
    }
    let help = pageswarm(&["--help"]).await?;
    expect(&help, ExitCode::Done, &["Usage"]);
    Ok(())
}

#[tokio::test]
async fn a_garbled_ticket_is_noticed_before_anything_is_made() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let admin = ground.create("admin", &[]).await?;
    let ticket = admin.ticket("reader", 60).await?;
    let digit = ticket.len() - 20;
    let other = if ticket.as_bytes()[digit] == b'0' { "1" } else { "0" };
    let changed = format!("{}{other}{}", &ticket[..digit], &ticket[digit + 1..]);
    for garbled in [changed.as_str(), &ticket[..ticket.len() - 6], "hello", "pageswarm1:é"] {
        let directory = ground.path("joiner");
        let outcome = run(node_run(&directory, any_port())?.args(["--join", garbled])).await?;
        expect(&outcome, ExitCode::Usage, &["ticket"]);
        assert!(!directory.exists(), "a directory was made for {garbled}");
    }
    Ok(())
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_left_alone() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let mut node = ground.create("node", &[]).await?;
    node.kill().await?;
    let version = node.directory().join("store/VERSION");
    std::fs::write(&version, "pageswarm-store 99\n")?;
    let outcome = run(&mut node_run(node.directory(), any_port())?).await?;
    expect(&outcome, ExitCode::StoreTooNew, &["newer", "99", "upgrade"]);
    assert_eq!(std::fs::read_to_string(&version)?, "pageswarm-store 99\n");
    Ok(())
}

#[tokio::test]
async fn a_store_in_use_names_its_user() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let node = ground.create("node", &[]).await?;
    let outcome = run(&mut node_run(node.directory(), any_port())?).await?;
    let holder = std::fs::read_to_string(node.directory().join("store/LOCK"))?;
    expect(&outcome, ExitCode::StoreLocked, &["in use", &format!("process {}", holder.trim())]);
    node.status().await.context("the first node still serves")?;
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_named() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let udp = UdpSocket::bind(any_port())?;
    let taken = udp.local_addr()?;
    let outcome = run(node_run(&ground.path("a"), taken)?.arg("--create-swarm")).await?;
    expect(&outcome, ExitCode::Address, &[&taken.to_string(), "--listen"]);

    let tcp = std::net::TcpListener::bind(any_port())?;
    let taken = tcp.local_addr()?.to_string();
    let outcome =
        run(node_run(&ground.path("b"), any_port())?.args(["--create-swarm", "--http", &taken])).await?;
    expect(&outcome, ExitCode::Address, &[&taken, "--http"]);
    // `node_run` names an address for gossip; of two the command line takes neither.
    let mut node = tokio::process::Command::new(pageswarm_tests::command::program()?);
    node.args([
        "node",
        "run",
        "--create-swarm",
        "--listen",
        "127.0.0.1:0",
        "--gossip-listen",
        &taken,
        "--dir",
    ]);
    let outcome = run(node.arg(ground.path("c")).kill_on_drop(true)).await?;
    expect(&outcome, ExitCode::Address, &[&taken, "--gossip-listen"]);
    Ok(())
}

#[tokio::test]
async fn a_demo_ends_with_the_code_and_the_words_of_the_node_that_could_not_start() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let tcp = std::net::TcpListener::bind(any_port())?;
    let (taken, directory) = (tcp.local_addr()?.to_string(), ground.path("demo"));
    let outcome = pageswarm(&["demo", "--http", &taken, "--dir", text(&directory)?]).await?;
    expect(&outcome, ExitCode::Address, &[&taken, "--http"]);
    if skipped(&[Need::Root]) {
        return Ok(());
    }
    let disk = SmallDisk::mount(ground.path("disk"), "64k").await?;
    let outcome = pageswarm(&["demo", "--dir", text(&disk.0)?]).await?;
    expect(&outcome, ExitCode::DiskFull, &["full"]);
    Ok(())
}

#[tokio::test]
async fn what_no_route_takes_is_refused_as_all_failures_are() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let node = ground.create("node", &[]).await?;
    let client = node.client();
    let refused = [
        (client.get::<serde_json::Value>("/api/v1/nothing").await, ExitCode::NotFound, "docs/api.md"),
        (client.get("/api/v1/vms/x").await, ExitCode::Usage, "u64"),
        (client.get("/api/v1/vms/0?from=x").await, ExitCode::Usage, "query"),
        (client.get("/api/v1/tickets").await, ExitCode::Usage, "method"),
        (client.post("/api/v1/tickets", &1).await, ExitCode::Usage, "invalid type"),
    ];
    for (outcome, code, word) in refused {
        let failure = outcome.err().context("it was taken")?;
        assert_eq!(failure.code, code, "{}", failure.message);
        ensure!(failure.message.contains(word), "{word:?} is not in {:?}", failure.message);
    }
    Ok(())
}

#[tokio::test]
async fn commands_without_a_node_say_so() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let nowhere = ground.path("nowhere");
    for command in [&["status"][..], &["vm", "ls"], &["checkpoint", "ls"]] {
        let outcome = pageswarm(&[command, &["--dir", text(&nowhere)?]].concat()).await?;
        expect(&outcome, ExitCode::NoNode, &["no node answers", "node run", "--dir"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_directory_without_a_swarm_says_how_to_get_one() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let outcome = run(&mut node_run(&ground.path("fresh"), any_port())?).await?;
    expect(&outcome, ExitCode::NotMember, &["--create-swarm", "--join"]);
    Ok(())
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let node = ground.create("node", &[]).await?;
    let directory = text(node.directory())?;
    let unknown = pageswarm(&["checkpoint", "show", "--dir", directory, "abcd", "0"]).await?;
    expect(&unknown, ExitCode::NotFound, &["abcd"]);
    let lineage = node.run_vm(Guest { checkpoints: Some(1), ..Guest::default() }).await?;
    node.wait_checkpoint(&lineage, 0).await?;
    let later = ["--dir", directory, "--patience", "200ms", &lineage, "77"];
    let outcome = pageswarm(&[&["checkpoint", "get"], &later[..]].concat()).await?;
    expect(&outcome, ExitCode::NotFound, &["77"]);
    let outcome = pageswarm(&["checkpoint", "show", "--dir", directory, &lineage, "77"]).await?;
    expect(&outcome, ExitCode::NotFound, &["77"]);
    let outcome = pageswarm(&["vm", "show", "--dir", directory, "55"]).await?;
    expect(&outcome, ExitCode::NotFound, &["55"]);
    let outcome = pageswarm(&["checkpoint", "get", "--dir", directory, &lineage, "0"]).await?;
    expect(&outcome, ExitCode::Done, &["state root"]);
    Ok(())
}

#[tokio::test]
async fn a_user_who_may_not_open_kvm_is_told_what_to_do() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm, Need::Root]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let root = ground.path("");
    let home = ground.path("home");
    std::fs::create_dir(&home)?;
    // The build directory may be closed to others.
    let program = ground.path("pageswarm");
    std::fs::copy(pageswarm_tests::command::program()?, &program)?;
    let opened = run(tokio::process::Command::new("chmod").arg("755").args([&root, &program])).await?;
    ensure!(opened.code == Some(0), "chmod: {}", opened.text);
    let given = run(tokio::process::Command::new("chown").args(["nobody", text(&home)?])).await?;
    ensure!(given.code == Some(0), "chown: {}", given.text);
    let as_nobody = |program: &Path| {
        let mut command = tokio::process::Command::new("setpriv");
        command.args(["--reuid", "nobody", "--clear-groups", "--"]).arg(program).kill_on_drop(true);
        command
    };
    let directory = home.join("node");
    let mut node = as_nobody(&program);
    node.args([
        "node",
        "run",
        "--create-swarm",
        "--listen",
        "127.0.0.1:0",
        "--gossip-listen",
        "127.0.0.1:0",
        "--dir",
    ]);
    let _node = node
        .arg(&directory)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let directory = text(&directory)?;
    until("the node answers", PATIENCE, async || {
        let status = pageswarm(&["status", "--dir", directory]).await.ok()?;
        (status.code == Some(0)).then_some(())
    })
    .await?;
    let outcome =
        run(as_nobody(&program).args(["vm", "run", "--memory", "64MiB", "--dir", directory])).await?;
    expect(&outcome, ExitCode::NoKvm, &["/dev/kvm", "kvm group"]);
    expect(&run(as_nobody(&program).arg("demo")).await?, ExitCode::NoKvm, &["/dev/kvm", "kvm group"]);
    Ok(())
}

#[tokio::test]
async fn a_restore_whose_source_is_gone_ends_in_time() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let mut publisher = ground.create("publisher", &[]).await?;
    let node = ground.join("node", &publisher, "publisher", &[]).await?;
    let lineage = publisher.run_vm(Guest { checkpoints: Some(2), ..Guest::default() }).await?;
    node.wait_checkpoint(&lineage, 1).await?;
    publisher.kill().await?;
    let restore = ["restore", "--dir", text(node.directory())?, "--patience", "500ms", &lineage, "1"];
    expect(&pageswarm(&restore).await?, ExitCode::NotFound, &["CPU and devices", "checkpoint 1"]);
    let check = node.self_check(&lineage, 1, Duration::from_millis(500)).await;
    let failure = check.err().context("there is nothing to resume from")?;
    assert_eq!(failure.code, ExitCode::NotFound, "{}", failure.message);
    Ok(())
}

#[tokio::test]
async fn clients_that_say_nothing_do_not_keep_the_api_from_others() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let node = ground.create("publisher", &[]).await?;
    let socket = node.directory().join("api.sock");
    let mut silent = Vec::new();
    for _ in 0..HTTP_CONNECTIONS_MAX {
        silent.push(UnixStream::connect(&socket).await?);
    }
    let status = ["status", "--dir", text(node.directory())?];
    let answer = tokio::time::timeout(HTTP_HEADER_TIMEOUT * 2, pageswarm(&status)).await;
    let outcome = answer.context("the silent ones keep all places")??;
    ensure!(outcome.code == Some(0), "{outcome:?}");
    for stream in &mut silent {
        let mut said = [0; 512];
        let read = tokio::time::timeout(HTTP_HEADER_TIMEOUT * 2, stream.read(&mut said));
        read.await.context("a silent connection is kept")??;
    }
    Ok(())
}

#[tokio::test]
async fn a_truncated_pack_is_noticed_and_fetched_again() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let mut node = ground.join("node", &publisher, "reader", &[]).await?;
    let lineage = publisher.run_vm(Guest { checkpoints: Some(2), ..Guest::default() }).await?;
    node.wait_checkpoint(&lineage, 1).await?;
    node.get(&lineage, 1).await?;
    node.kill().await?;
    let (pack, length) = largest_pack(node.directory())?;
    std::fs::OpenOptions::new().write(true).open(&pack)?.set_len(length / 2)?;
    node.restart(&[&publisher]).await?;
    let repaired = events::wait_for(node.directory(), PATIENCE, |event| event["event"] == "store_repaired");
    let repaired = repaired.await?;
    // What was synced is lost; the rest of the pack ends in the middle of a record.
    let found = ["chunks_lost", "torn_bytes"].map(|field| repaired[field].as_u64());
    assert!(found.iter().any(|count| *count > Some(0)), "{repaired}");
    node.wait_peer(&publisher).await?;
    node.wait_checkpoint(&lineage, 1).await?;
    let (fetched, _) = node.get(&lineage, 1).await?;
    assert!(fetched.lacked_chunks > 0, "half a pack was cut off and nothing was lacking");
    Ok(())
}

fn largest_pack(directory: &Path) -> anyhow::Result<(PathBuf, u64)> {
    let mut packs = Vec::new();
    for entry in std::fs::read_dir(directory.join("store/packs"))? {
        let entry = entry?;
        packs.push((entry.path(), entry.metadata()?.len()));
    }
    packs.into_iter().max_by_key(|(_, length)| *length).context("no pack")
}

/// A small file system of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    async fn mount(at: PathBuf, size: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&at)?;
        let mut command = tokio::process::Command::new("mount");
        let mounted =
            run(command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&at)).await?;
        ensure!(mounted.code == Some(0), "mount: {}", mounted.text);
        Ok(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process that was just killed may still hold it: detach now, free when it is gone.
        if let Err(error) = std::process::Command::new("umount").arg("-l").arg(&self.0).status() {
            eprintln!("umount: {error}");
        }
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_ends_the_vm_with_a_reason_and_not_the_node() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm, Need::Root]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let disk = SmallDisk::mount(ground.path("disk"), "48m").await?;
    let directory = disk.0.join("node");
    let node = NodeProcess::start(&directory, &["--create-swarm"], &[]).await?;
    let guest = Guest { checkpoints: None, interval_ms: 100, ..Guest::default() };
    node.run_vm(guest).await?;
    let why = until("the vm ends", PATIENCE, async || {
        let views: Vec<pageswarm_node::api::views::VmView> = node.client().get("/api/v1/vms").await.ok()?;
        views.into_iter().find_map(|view| view.ended.filter(|_| view.failed))
    })
    .await?;
    assert!(why.contains("full"), "the reason does not name the disk: {why}");
    let status = node.status().await.context("the node still serves")?;
    assert!(status.store.chunks > 0, "something was stored before the disk was full");
    Ok(())
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_start_says_so() -> anyhow::Result<()> {
    if skipped(&[Need::Root]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let disk = SmallDisk::mount(ground.path("disk"), "64k").await?;
    std::fs::write(disk.0.join("ballast"), vec![1; 64 << 10]).ok();
    let outcome = run(node_run(&disk.0.join("node"), any_port())?.arg("--create-swarm")).await?;
    expect(&outcome, ExitCode::DiskFull, &["full"]);
    Ok(())
}

/// The reader cannot store what it fetches: it says so at once, fetches no more, and still serves what it has.
async fn assert_intake_stops(
    publisher: &NodeProcess,
    reader: &NodeProcess,
    words: &[&str],
) -> anyhow::Result<()> {
    let lineage = publisher.run_vm(Guest { checkpoints: Some(2), ..Guest::default() }).await?;
    reader.wait_checkpoint(&lineage, 1).await?;
    let get = ["checkpoint", "get", "--dir", text(reader.directory())?, &lineage, "1"];
    for _ in 0..2 {
        expect(&pageswarm(&get).await?, ExitCode::DiskFull, words);
    }
    until("nothing is wanted any more", PATIENCE, async || {
        (reader.metric("pageswarm_wants").await.ok()? == 0).then_some(())
    })
    .await?;
    // What was under way still comes; what does not fit must not come again and again.
    until("no more chunks come", PATIENCE, async || {
        let received = reader.status().await.ok()?.transfer.from_writer_bytes;
        tokio::time::sleep(Duration::from_secs(1)).await;
        (reader.status().await.ok()?.transfer.from_writer_bytes == received).then_some(())
    })
    .await?;
    events::wait_for(reader.directory(), PATIENCE, |event| event["event"] == "store_trouble").await?;
    Ok(())
}

#[tokio::test]
async fn a_reader_whose_quota_is_full_says_so_and_fetches_no_more() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let reader = ground.join("reader", &publisher, "reader", &["--quota", "16MiB"]).await?;
    assert_intake_stops(&publisher, &reader, &["cannot be stored", "larger quota"]).await
}

#[tokio::test]
async fn a_reader_whose_disk_is_full_says_so_and_fetches_no_more() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm, Need::Root]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let disk = SmallDisk::mount(ground.path("reader"), "24m").await?;
    let reader = ground.join("reader", &publisher, "reader", &[]).await?;
    assert_intake_stops(&publisher, &reader, &["cannot be stored", "full"]).await?;
    drop((reader, disk));
    Ok(())
}
