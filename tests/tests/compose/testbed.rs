//! The containers of docker-compose.yml: their image, and how they are brought up, killed and down.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pageswarm_tests::cluster::until;
use pageswarm_tests::command::program;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::container::Container;
use super::daemon::{Daemon, finish, found};

/// For what Docker itself does.
const DOCKER_PATIENCE: Duration = Duration::from_secs(120);

/// The project's compose file on a daemon, under a name of its own.
pub(crate) struct Testbed<'daemon> {
    daemon: &'daemon Daemon,
    project: String,
    image: String,
    base: String,
}

impl<'daemon> Testbed<'daemon> {
    /// Makes the image: stage `runtime` of the Dockerfile around the binary under test.
    ///
    /// # Errors
    ///
    /// If Docker cannot.
    pub(crate) async fn build(daemon: &'daemon Daemon, base_tar: &Path) -> Result<Self> {
        let project = format!("pageswarm-test-{}", std::process::id());
        let (image, base) = (format!("{project}:runtime"), format!("{project}:base"));
        let testbed = Self { daemon, project, image, base };
        let tar = base_tar.to_str().context("path of the base image")?;
        daemon.docker(&["import", tar, &testbed.base], DOCKER_PATIENCE).await?;
        let context = build_context()?;
        let directory = context.path().to_str().context("path of the build context")?;
        let runtime = format!("RUNTIME_IMAGE={}", testbed.base);
        let arguments = [
            "build",
            "--quiet",
            "--network",
            "none",
            "--target",
            "runtime",
            "--build-arg",
            &runtime,
            "--build-arg",
            "BINARY=pageswarm",
            "--tag",
            &testbed.image,
            directory,
        ];
        daemon.docker(&arguments, DOCKER_PATIENCE).await?;
        Ok(testbed)
    }

    /// Brings the publisher and so many nodes up. The VM has little memory: this test is about containers.
    ///
    /// # Errors
    ///
    /// If compose cannot.
    pub(crate) async fn up(&self, nodes: usize, checkpoints: u64) -> Result<()> {
        let mut command = self.compose();
        command.env("PAGESWARM_CHECKPOINTS", checkpoints.to_string());
        let scale = format!("node={nodes}");
        finish(command.args(["up", "--detach", "--no-build", "--scale", &scale]), DOCKER_PATIENCE)
            .await
            .map(drop)
    }

    /// The containers of a service.
    ///
    /// # Errors
    ///
    /// If Docker does not say.
    pub(crate) async fn containers(&self, service: &str) -> Result<Vec<Container>> {
        let ids = finish(self.compose().args(["ps", "--quiet", service]), DOCKER_PATIENCE).await?;
        let mut containers = Vec::new();
        for id in ids.split_whitespace() {
            let format = "--format={{.State.Pid}} {{.Name}}";
            let line = self.daemon.docker(&["inspect", format, id], DOCKER_PATIENCE).await?;
            let (process, name) = line.trim().split_once(' ').context("process of a container")?;
            let process: u32 = process.parse().context("process of a container")?;
            ensure!(process != 0, "container {name} does not run");
            containers.push(Container::new(name, id, process));
        }
        Ok(containers)
    }

    /// Kills a container with SIGKILL.
    ///
    /// # Errors
    ///
    /// If it is not dead then.
    pub(crate) async fn kill(&self, container: &Container) -> Result<()> {
        // Without a detour over the daemon, which takes longer than what the node is to be killed at.
        let process = container.process.to_string();
        finish(Command::new("kill").args(["-KILL", &process]), DOCKER_PATIENCE).await?;
        let state = ["inspect", "--format={{.State.Status}} {{.State.ExitCode}}", &container.id];
        let dead = until("the killed container has ended", Duration::from_secs(20), async || {
            let state = self.daemon.docker(&state, DOCKER_PATIENCE).await.ok()?;
            (!state.starts_with("running")).then_some(state)
        });
        let state = dead.await?;
        ensure!(state.trim() == "exited 137", "the killed container: {state}");
        Ok(())
    }

    /// Reads from the port that the publisher's dashboard is published at.
    ///
    /// # Errors
    ///
    /// If nothing answers there.
    pub(crate) async fn published(&self, path: &str) -> Result<String> {
        let address = finish(self.compose().args(["port", "publisher", "7422"]), DOCKER_PATIENCE).await?;
        let mut stream =
            TcpStream::connect(address.trim()).await.with_context(|| format!("connect to {address}"))?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: pageswarm\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{path} at {address}: {answer}");
        Ok(answer)
    }

    /// Shows what the containers said last.
    pub(crate) async fn print_logs(&self) {
        let logs = finish(self.compose().args(["logs", "--no-color", "--tail", "30"]), DOCKER_PATIENCE).await;
        println!("{}", logs.unwrap_or_else(|error| format!("{error:#}")));
    }

    /// Removes containers, networks, volumes and images.
    ///
    /// # Errors
    ///
    /// If something cannot be removed.
    pub(crate) async fn down(&self) -> Result<()> {
        finish(self.compose().args(["down", "--volumes", "--timeout", "5"]), DOCKER_PATIENCE).await?;
        self.daemon.docker(&["rmi", "--force", &self.image, &self.base], DOCKER_PATIENCE).await.map(drop)
    }

    fn compose(&self) -> Command {
        let mut command = if found("docker-compose") {
            self.daemon.command("docker-compose")
        } else {
            let mut docker = self.daemon.command("docker");
            docker.arg("compose");
            docker
        };
        command
            .arg("--project-name")
            .arg(&self.project)
            .arg("--file")
            .arg(repository().join("docker-compose.yml"));
        command
            .env("PAGESWARM_IMAGE", &self.image)
            .env("PAGESWARM_MEMORY", "64MiB")
            .env("PAGESWARM_RESTART", "no")
            // Any free port of this machine.
            .env("PAGESWARM_DASHBOARD", "127.0.0.1:");
        command
    }
}

/// Only what the runtime stage copies: the build directory may be anywhere and is large.
fn build_context() -> Result<tempfile::TempDir> {
    let context = tempfile::tempdir().context("temporary directory")?;
    let scripts = context.path().join("deploy/compose");
    std::fs::create_dir_all(&scripts)?;
    for script in ["publisher.sh", "node.sh"] {
        std::fs::copy(repository().join("deploy/compose").join(script), scripts.join(script))
            .context(script)?;
    }
    std::fs::copy(repository().join("Dockerfile"), context.path().join("Dockerfile"))
        .context("Dockerfile")?;
    std::fs::copy(program()?, context.path().join("pageswarm")).context("binary")?;
    Ok(context)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
