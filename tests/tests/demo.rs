//! `pageswarm demo` where something goes wrong: it ends soon, says why, and leaves nothing running. Method: the real program,
//! whose VM is killed, which is interrupted, and which may not use userfaultfd.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use pageswarm_node::exit::ExitCode;
use pageswarm_tests::cluster::{Ground, PATIENCE, until};
use pageswarm_tests::command::{Outcome, comparer, pageswarm, program, run};
use pageswarm_tests::skip::{Need, skipped};
use tokio::process::{Child, Command};

/// A demo under way.
struct Running {
    demo: Child,
    /// The directory that it made.
    made: PathBuf,
    /// The process of its VM.
    vm: u32,
}

/// Starts a small demo that would take minutes, and waits until its VM works.
async fn start(ground: &Ground) -> anyhow::Result<Running> {
    let temporary = ground.path("temporary");
    std::fs::create_dir(&temporary)?;
    let mut command = Command::new(program()?);
    command.args(["demo", "--nodes", "1", "--memory", "64MiB", "--checkpoints", "1000"]);
    command.env("TMPDIR", &temporary).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let demo = command.kill_on_drop(true).spawn()?;
    until("the demo's VM works", PATIENCE, async || {
        let made = std::fs::read_dir(&temporary).ok()?.next()?.ok()?.path();
        let publisher = made.join("publisher");
        let listed = pageswarm(&["vm", "ls", "--json", "--dir", publisher.to_str()?]).await.ok()?;
        let vms: serde_json::Value = serde_json::from_str(&listed.text).ok()?;
        let vm = vms.get(0).filter(|vm| vm["counter"].as_u64() > Some(0))?;
        Some((made, u32::try_from(vm["process_id"].as_u64()?).ok()?))
    })
    .await
    .map(|(made, vm)| Running { demo, made, vm })
}

async fn signal(name: &str, process: u32) -> anyhow::Result<()> {
    let sent = run(Command::new("kill").args(["-s", name, &process.to_string()])).await?;
    ensure!(sent.code == Some(0), "kill: {}", sent.text);
    Ok(())
}

async fn ended(demo: Child) -> anyhow::Result<Outcome> {
    let output = tokio::time::timeout(PATIENCE, demo.wait_with_output()).await;
    let output = output.context("the demo does not end")??;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Outcome { code: output.status.code(), text: said.concat() })
}

#[tokio::test]
async fn a_vm_that_dies_ends_the_demo_with_its_reason() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let Running { demo, made, vm } = start(&ground).await?;
    signal("KILL", vm).await?;
    let outcome = ended(demo).await?;
    ensure!(outcome.code == Some(i32::from(ExitCode::Failed as u8)), "{outcome:?}");
    ensure!(outcome.text.contains("the VM failed: ") && outcome.text.contains("node.log"), "{outcome:?}");
    ensure!(made.join("publisher/node.log").is_file(), "the logs are gone");
    Ok(())
}

#[tokio::test]
async fn an_interrupted_demo_leaves_nothing() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let Running { demo, made, vm } = start(&ground).await?;
    signal("TERM", demo.id().context("the demo has ended")?).await?;
    let outcome = ended(demo).await?;
    ensure!(outcome.code == Some(i32::from(ExitCode::Failed as u8)), "{outcome:?}");
    ensure!(outcome.text.contains("interrupted"), "{outcome:?}");
    ensure!(!made.exists(), "{} is still there", made.display());
    until("the VM's process is gone", PATIENCE, async || {
        (!Path::new(&format!("/proc/{vm}")).exists()).then_some(())
    })
    .await
}

#[tokio::test]
async fn without_userfaultfd_the_demo_says_so_before_it_starts() -> anyhow::Result<()> {
    // Who may use KVM and not userfaultfd: another user, in a mount namespace whose /dev/kvm is open to all.
    const SETTING: &str = r#"set -e
        mount -t tmpfs tmpfs "$1"
        mknod -m 666 "$1/kvm" c 10 232
        mount --bind "$1/kvm" /dev/kvm
        exec setpriv --reuid nobody --clear-groups -- "$2" demo"#;
    if skipped(&[Need::Kvm, Need::Root, Need::Namespaces]) {
        return Ok(());
    }
    if std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd")?.trim() != "0" {
        println!("SKIP: vm.unprivileged_userfaultfd is on: every user may use it");
        return Ok(());
    }
    let ground = Ground::new()?;
    let (root, copy, devices) = (ground.path(""), ground.path("pageswarm"), ground.path("devices"));
    std::fs::copy(program()?, &copy)?;
    std::fs::create_dir(&devices)?;
    let opened = run(Command::new("chmod").arg("755").args([&root, &copy])).await?;
    ensure!(opened.code == Some(0), "chmod: {}", opened.text);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", SETTING, "sh"]).args([&devices, &copy]);
    let outcome = run(&mut command).await?;
    ensure!(outcome.code == Some(i32::from(ExitCode::NoUserfaultfd as u8)), "{outcome:?}");
    ensure!(outcome.text.contains("/dev/userfaultfd"), "{outcome:?}");
    Ok(())
}

/// Goal: the program that compares images notices whatever is different, and nothing else. Method: files of no bytes,
/// whole blocks, whole pages and an odd number; equal ones, then others that differ in the first, a middle or the last
/// byte, or are shorter by less than a sector or by much; one that is not there; one argument; an output that takes
/// nothing; a question for help. Result: exit code 0 for equal ones and help alone, 1 with the first byte that differs,
/// 2 with what is missing.
#[tokio::test]
async fn the_program_that_compares_finds_every_difference() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let compare = async |files: &[&Path]| run(Command::new(comparer()?).args(files)).await;
    let (one, other) = (ground.path("one"), ground.path("other"));
    for length in [0_usize, 2 << 20, (3 << 20) + 4096, (3 << 20) + 5] {
        let image: Vec<u8> = (0..=250).cycle().take(length).collect();
        std::fs::write(&one, &image)?;
        let mut cases = vec![(image.clone(), None)];
        for at in [0, 1 << 20, length.wrapping_sub(1)].into_iter().filter(|at| *at < length) {
            let mut changed = image.clone();
            changed[at] ^= 1;
            cases.push((changed, Some(at)));
        }
        let shorter = [length.checked_sub(5), length.checked_sub(1 << 20)].into_iter().flatten();
        cases.extend(shorter.map(|length| (image[..length].to_vec(), Some(length))));
        for (bytes, differs) in cases {
            std::fs::write(&other, &bytes)?;
            for (left, right) in [(&one, &other), (&other, &one)] {
                let compared = compare(&[left, right]).await?;
                let code = Some(i32::from(differs.is_some()));
                ensure!(compared.code == code, "{length} bytes, {differs:?}: {compared:?}");
                let named = differs.is_none_or(|at| compared.text.contains(&format!(" from byte {at} on")));
                ensure!(named, "{length} bytes, {differs:?}: {compared:?}");
            }
        }
    }
    std::fs::write(&other, b"else")?;
    let full = std::fs::File::create("/dev/full")?;
    let unheard = Command::new(comparer()?).args([&one, &other]).stdout(full).status().await?;
    ensure!(unheard.code() == Some(1), "{unheard:?}");
    let missing = compare(&[&one, &ground.path("nothing")]).await?;
    ensure!(missing.code == Some(2) && missing.text.contains("nothing"), "{missing:?}");
    let alone = compare(&[&one]).await?;
    ensure!(alone.code == Some(2) && alone.text.contains("usage"), "{alone:?}");
    let help = compare(&[Path::new("--help")]).await?;
    ensure!(help.code == Some(0) && help.text.contains("usage"), "{help:?}");
    Ok(())
}
