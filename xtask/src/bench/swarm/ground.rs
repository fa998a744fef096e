//! What a run leaves on the machine while it lasts, namespaces and files, and that all of it goes however the run ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Names of namespaces and directories: this, and the id of the process whose they are.
const PREFIX: &str = "pageswarm-bench-";

/// A process of its own, because none can clean up behind itself once it is killed: it waits for the end of its
/// standard input, which comes however the run ends, and removes what is named after the run.
const JANITOR: &str = r#"
trap "" INT TERM HUP
read -r _
for name in $(ip netns list | cut -d " " -f 1); do
    case "$name" in "$0"-*) ip netns delete "$name" ;; esac
done
rm -rf -- "$1"
"#;

/// A directory, and a prefix for names of namespaces.
#[derive(Debug)]
pub(super) struct Ground {
    name: String,
    directory: PathBuf,
    janitor: Child,
}

impl Ground {
    /// A new one, after the leftovers of runs that are dead are removed.
    pub(super) fn new() -> Result<Self> {
        remove_leftovers()?;
        let name = format!("{PREFIX}{}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        let mut janitor = Command::new("sh");
        janitor.args(["-c", JANITOR, &name]).arg(&directory);
        let janitor = janitor.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("sh")?;
        Ok(Self { name, directory, janitor })
    }

    /// What names of namespaces start with.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A directory in it, empty.
    pub(super) fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        remove(&path)?;
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        if let Err(error) = self.janitor.wait() {
            eprintln!("{}: {error}", self.directory.display());
        }
    }
}

/// Removes a directory with all in it, if there is one.
pub(super) fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn remove_leftovers() -> Result<()> {
    let listed = Command::new("ip").args(["netns", "list"]).output().context("ip netns list")?;
    ensure!(listed.status.success(), "ip netns list: {}", String::from_utf8_lossy(&listed.stderr));
    let text = String::from_utf8_lossy(&listed.stdout);
    for name in text.lines().filter_map(|line| line.split(' ').next()).filter(|name| is_left_over(name)) {
        let deleted = Command::new("ip").args(["netns", "delete", name]).status();
        ensure!(deleted.context("ip netns delete")?.success(), "ip netns delete {name}");
    }
    let temporary = std::env::temp_dir();
    for entry in fs::read_dir(&temporary).with_context(|| temporary.display().to_string())? {
        let entry = entry.with_context(|| temporary.display().to_string())?;
        if is_left_over(&entry.file_name().to_string_lossy()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn is_left_over(name: &str) -> bool {
    owner(name).is_some_and(|id| !is_run(id))
}

/// The id of the process that a name belongs to.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    rest.split('-').next()?.parse().ok()
}

/// Whether that process is alive, and no other that was given the same id later.
fn is_run(id: u32) -> bool {
    let program = |id: &str| fs::read_to_string(format!("/proc/{id}/comm")).ok();
    program(&id.to_string()).is_some_and(|name| Some(name) == program("self"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_they_are() {
        assert_eq!(owner("pageswarm-bench-123"), Some(123));
        assert_eq!(owner("pageswarm-bench-123-switch"), Some(123));
        assert_eq!(owner("pageswarm-bench-x"), None);
        assert_eq!(owner("pageswarm-123-0-a"), None);
        assert!(is_run(std::process::id()));
        assert!(!is_left_over(&format!("{PREFIX}{}-0", std::process::id())));
        assert!(is_left_over(&format!("{PREFIX}{}-0", u32::MAX)));
    }
}
