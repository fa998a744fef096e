//! Where this runs: the source tree, the built programs, the machine that measurements name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

/// The root of the source tree: the nearest directory above that has this crate.
pub(crate) fn root() -> Result<PathBuf> {
    let here = std::env::current_dir().context("current directory")?;
    let root = here.ancestors().find(|dir| dir.join("xtask/Cargo.toml").is_file());
    Ok(root.context("this is not inside the source tree")?.to_owned())
}

/// A program built together with this one.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("own path")?;
    let path = me.with_file_name(name);
    ensure!(path.is_file(), "{} does not exist: run `./x build` first", path.display());
    Ok(path)
}

/// `cargo` as it started this program, else from the path, without standard input.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).stdin(Stdio::null());
    // `cargo run` describes this package to this program. Build scripts that look at such variables would run again, and
    // their crates and all that use them be compiled again, each time the same build comes from `x` or from here.
    for (name, _) in std::env::vars_os() {
        let about_a_package =
            |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if name.to_str().is_some_and(about_a_package) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether a program of this name is in the path.
pub(crate) fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Whether this user may use KVM.
pub(crate) fn kvm_is_usable() -> bool {
    fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

/// Whether this user may make network namespaces: root of a container often lacks `CAP_NET_ADMIN` (12) or `CAP_SYS_ADMIN`
/// (21).
pub(crate) fn may_make_networks() -> bool {
    let held = u64::from_str_radix(&own_status("CapEff:"), 16).unwrap_or(0);
    let is_root = own_status("Uid:").split_whitespace().nth(1) == Some("0");
    is_root && [12, 21].iter().all(|capability| held >> capability & 1 == 1)
}

/// Whether this process may use the cores 0 and 1, which measurements of two programs are pinned to.
pub(crate) fn has_first_two_cores() -> bool {
    let allowed = own_status("Cpus_allowed:");
    // Words of 32 cores, the lowest ones last.
    let lowest = allowed.rsplit(',').next().unwrap_or_default();
    u32::from_str_radix(lowest, 16).is_ok_and(|cores| cores & 3 == 3)
}

fn own_status(field: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default().trim().to_owned()
}

/// The machine that a measurement was made on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Model name of the CPU.
    pub(crate) cpu: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// Version of the kernel.
    pub(crate) kernel: String,
    /// RAM in GiB, rounded.
    pub(crate) ram_gib: u64,
}

impl Machine {
    /// This machine.
    pub(crate) fn here() -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let memory = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("kernel release")?;
        let kib = field(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Ok(Self {
            cpu: field(&cpus, "model name").unwrap_or("unknown CPU").to_owned(),
            cores: std::thread::available_parallelism().context("number of cores")?.get(),
            kernel: kernel.trim().to_owned(),
            ram_gib: (kib.context("MemTotal in /proc/meminfo")? + (1 << 19)) >> 20,
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, cores, kernel, ram_gib } = self;
        write!(f, "{cpu}, {cores} cores, {ram_gib} GiB, Linux {kernel}")
    }
}

/// The value of the first `name : value` line.
fn field<'text>(text: &'text str, name: &str) -> Option<&'text str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// Today's date in UTC as `YYYY-MM-DD`.
pub(crate) fn today() -> Result<String> {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("clock before 1970")?;
    let (year, month, day) = civil(now.as_secs() / 86_400);
    Ok(format!("{year:04}-{month:02}-{day:02}"))
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_819), (2027, 1, 1));
    }

    #[test]
    fn the_machine_has_a_name_and_memory() {
        let machine = Machine::here().unwrap();
        assert!(machine.cores > 0 && machine.ram_gib > 0 && !machine.kernel.is_empty());
        assert_eq!(field("a : b c\nd: e", "d"), Some("e"));
    }
}
