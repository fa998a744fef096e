//! Guests whose processor is the interpreter: all that is done with a VM on KVM is done with them, a checkpoint of one kind is
//! resumed on the other, and a machine without KVM runs the whole demo. Method: real nodes; the demo in a mount namespace
//! whose /dev has no kvm.

use anyhow::ensure;
use pageswarm_tests::calls::Guest;
use pageswarm_tests::cluster::{Ground, NodeProcess, PATIENCE};
use pageswarm_tests::command::{pageswarm, program, run};
use pageswarm_tests::skip::{Need, skipped};
use tokio::process::Command;

const CHECKPOINTS: u64 = 4;

/// Records on `publisher`, and lets each of `nodes` resume the last checkpoint until its guest has checked all of its memory.
async fn record_and_resume(publisher: &NodeProcess, nodes: &[&NodeProcess]) -> anyhow::Result<String> {
    let guest = Guest { checkpoints: Some(CHECKPOINTS), interval_ms: 100, ..Guest::default() };
    let lineage = publisher.run_vm(guest).await?;
    for node in nodes {
        node.wait_checkpoint(&lineage, CHECKPOINTS - 1).await?;
        let check = node.self_check(&lineage, CHECKPOINTS - 1, PATIENCE).await?;
        ensure!(check.holds && check.counter_after > check.counter_before, "{check:?}");
    }
    Ok(lineage)
}

#[tokio::test]
async fn an_interpreted_guest_is_recorded_resumed_and_simulated() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &["--processor", "interpreter"]).await?;
    let node = ground.join("node", &publisher, "reader", &["--processor", "interpreter"]).await?;
    let lineage = record_and_resume(&publisher, &[&node]).await?;
    let directory = publisher.directory().to_string_lossy().into_owned();
    let shown = pageswarm(&["vm", "ls", "--json", "--dir", &directory]).await?;
    ensure!(shown.text.contains("\"processor\": \"interpreter\""), "{shown:?}");
    let directory = node.directory().to_string_lossy().into_owned();
    let simulated = pageswarm(&["sim", "run", "--dir", &directory, &lineage, "0", "--count", "3"]).await?;
    ensure!(simulated.code == Some(0) && simulated.text.matches(": exact").count() == 3, "{simulated:?}");
    Ok(())
}

#[tokio::test]
async fn checkpoints_move_between_kvm_and_the_interpreter() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let native = ground.create("native", &["--processor", "kvm"]).await?;
    let role = "publisher";
    let interpreting = ground.join("interpreting", &native, role, &["--processor", "interpreter"]).await?;
    record_and_resume(&native, &[&interpreting]).await?;
    record_and_resume(&interpreting, &[&native]).await?;
    Ok(())
}

/// What a shell does to have a /dev without kvm, before it becomes the program. Seen by nobody outside its mount namespace.
const WITHOUT_KVM: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
for name in null zero full random urandom tty userfaultfd; do
    if [ -e "/dev/$name" ]; then
        touch "$1/$name"
        mount --bind "/dev/$name" "$1/$name"
    fi
done
mount --rbind "$1" /dev
shift
exec "$@"
"#;

#[tokio::test]
async fn a_machine_without_kvm_runs_the_whole_demo() -> anyhow::Result<()> {
    // Namespaces of any kind take the same rights.
    if skipped(&[Need::Namespaces]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let (devices, temporary) = (ground.path("devices"), ground.path("temporary"));
    std::fs::create_dir(&devices)?;
    std::fs::create_dir(&temporary)?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", WITHOUT_KVM, "sh"]).arg(&devices).arg(program()?);
    command.args(["demo", "--nodes", "2", "--memory", "64MiB", "--checkpoints", "4", "--interval", "200ms"]);
    command.arg("--simulate").env("TMPDIR", &temporary);
    let outcome = run(&mut command).await?;
    ensure!(outcome.code == Some(0), "{outcome:?}");
    println!("{}", outcome.text);
    ensure!(outcome.text.contains("guests run on the interpreter"), "{outcome:?}");
    ensure!(outcome.text.contains("every checkpoint was rebuilt and proven"), "{outcome:?}");
    Ok(())
}
