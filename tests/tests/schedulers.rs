//! The examples for cluster schedulers in deploy/ fit the program: their options exist, and the exit codes that they
//! take for final are those of `sim run`. Method: the Job is read as the JSON that it is; the scripts are run by a shell
//! against a real node, with the variables that their scheduler sets, and a stand-in for `scontrol`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use pageswarm_node::api::views::ImportView;
use pageswarm_node::exit::ExitCode;
use pageswarm_tests::cluster::{Ground, NodeProcess};
use pageswarm_tests::command::{Outcome, pageswarm, program, run};
use pageswarm_tests::noise::noise;
use serde_json::Value;
use tokio::process::Command;

/// What no second try changes.
const FINAL: [ExitCode; 3] = [ExitCode::Usage, ExitCode::CheckFailed, ExitCode::NotSimulated];

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

/// Options after `pageswarm sim run` in a list of words.
fn options<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    words.filter(|word| word.starts_with("--")).map(str::to_owned).collect()
}

async fn ensure_options(found: &[String]) -> anyhow::Result<()> {
    let help = pageswarm(&["sim", "run", "--help"]).await?.text;
    ensure!(!found.is_empty(), "no options found");
    for option in found {
        ensure!(help.split_whitespace().any(|word| word == option), "`sim run` has no {option}");
    }
    Ok(())
}

#[tokio::test]
async fn the_job_of_kubernetes_has_what_an_indexed_job_takes() -> anyhow::Result<()> {
    let job: Value = serde_json::from_str(&std::fs::read_to_string(deploy("kubernetes/simulate-job.json"))?)?;
    let at = |path: &str| job.pointer(path).with_context(|| format!("no {path}"));
    assert_eq!(at("/apiVersion")?, "batch/v1");
    assert_eq!(at("/spec/completionMode")?, "Indexed");
    assert_eq!(at("/spec/template/spec/restartPolicy")?, "Never", "a failure policy takes this");
    ensure!(at("/spec/completions")?.as_u64() > Some(0), "completions");
    ensure!(at("/spec/backoffLimitPerIndex")?.as_u64() > Some(0), "FailIndex takes this");
    let rule = at("/spec/podFailurePolicy/rules/0")?;
    assert_eq!(rule["action"], "FailIndex");
    let codes: Vec<u64> = FINAL.iter().map(|code| u64::from(*code as u8)).collect();
    assert_eq!(rule["onExitCodes"]["values"], serde_json::json!(codes));
    let container = at("/spec/template/spec/containers/0")?;
    assert_eq!(rule["onExitCodes"]["containerName"], container["name"]);
    let command: Vec<&str> =
        container["command"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(command[..3], ["pageswarm", "sim", "run"]);
    ensure_options(&options(command.iter().copied())).await?;
    let variables: Vec<&str> = container["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|variable| variable["name"].as_str())
        .collect();
    assert_eq!(variables, ["LINEAGE", "JOB_COMPLETION_INDEX"]);
    ensure!(command.ends_with(&["$(LINEAGE)", "$(JOB_COMPLETION_INDEX)"]), "{command:?}");
    assert_eq!(container["volumeMounts"][0]["name"], *at("/spec/template/spec/volumes/0/name")?);
    Ok(())
}

/// Runs a script as its scheduler would; what it wrote to `log` is told by a stand-in for `scontrol`.
async fn run_script(
    script: &Path,
    node: &NodeProcess,
    ground: &Ground,
    variables: &[(&str, &str)],
) -> anyhow::Result<(Outcome, String)> {
    let tools = ground.path("tools");
    let log = ground.path("requeued");
    std::fs::create_dir_all(&tools)?;
    std::fs::write(&log, "")?;
    let stand_in = tools.join("scontrol");
    std::fs::write(&stand_in, format!("#!/bin/sh\necho \"$*\" >> '{}'\n", log.display()))?;
    std::fs::set_permissions(&stand_in, std::fs::Permissions::from_mode(0o755))?;
    let program = program()?;
    let own = program.parent().context("the program's directory")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{}:{path}", tools.display(), own.display());
    let mut command = Command::new("bash");
    command.arg(script).env("PATH", path).env("PAGESWARM_DIR", node.directory());
    let outcome = run(command.envs(variables.iter().copied())).await?;
    Ok((outcome, std::fs::read_to_string(&log)?))
}

/// A lineage that was not recorded, so that no interval of it can be simulated.
async fn imported(node: &NodeProcess, ground: &Ground) -> anyhow::Result<String> {
    let image = ground.path("image");
    let (image_text, directory) =
        (image.to_string_lossy().into_owned(), node.directory().to_string_lossy().into_owned());
    let mut lineage = String::new();
    for seed in [1, 2] {
        std::fs::write(&image, noise(seed, 16 * 4096))?;
        let mut words = vec!["checkpoint", "import", "--json", "--dir", &directory, "--memory", &image_text];
        let known = lineage.clone();
        if !known.is_empty() {
            words.extend(["--lineage", &known]);
        }
        let outcome = pageswarm(&words).await?;
        ensure!(outcome.code == Some(0), "{outcome:?}");
        lineage = serde_json::from_str::<ImportView>(&outcome.text)?.lineage;
    }
    Ok(lineage)
}

#[tokio::test]
async fn the_scripts_run_and_take_final_codes_for_final() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let mut node = ground.create("node", &[]).await?;
    let lineage = imported(&node, &ground).await?;
    for (name, index) in
        [("slurm/simulate.sbatch", "SLURM_ARRAY_TASK_ID"), ("hyperqueue/simulate.sh", "HQ_TASK_ID")]
    {
        let script = deploy(name);
        let text = std::fs::read_to_string(&script)?;
        let called = text.lines().skip_while(|line| !line.contains("pageswarm sim run")).take(2);
        ensure_options(&options(called.flat_map(str::split_whitespace))).await?;
        let variables = [("LINEAGE", lineage.as_str()), (index, "0"), ("SLURM_ARRAY_JOB_ID", "7")];
        let (outcome, requeued) = run_script(&script, &node, &ground, &variables).await?;
        assert_eq!(outcome.code, Some(ExitCode::NotSimulated as i32), "{name}: {outcome:?}");
        assert_eq!(outcome.text.matches("no record of the interval").count(), 1, "{name} tried again");
        assert_eq!(requeued, "", "{name}");
    }
    // Both were published, as one result: the same worker said the same twice.
    let view = node.standings(&lineage).await?;
    ensure!(view.unconfirmed == 1 && view.workers[0].failed == 1 && view.workers[0].results == 1, "{view:?}");
    node.end().await?;
    let variables =
        [("LINEAGE", lineage.as_str()), ("SLURM_ARRAY_TASK_ID", "4"), ("SLURM_ARRAY_JOB_ID", "7")];
    let (outcome, requeued) =
        run_script(&deploy("slurm/simulate.sbatch"), &node, &ground, &variables).await?;
    assert_eq!(
        (outcome.code, requeued.as_str()),
        (Some(ExitCode::NoNode as i32), "requeue 7_4\n"),
        "{outcome:?}"
    );
    let variables = [("LINEAGE", lineage.as_str()), ("HQ_TASK_ID", "4")];
    let (outcome, _) = run_script(&deploy("hyperqueue/simulate.sh"), &node, &ground, &variables).await?;
    assert_eq!(outcome.text.matches("no node answers").count(), 3, "{outcome:?}");
    Ok(())
}
