//! Tests that cannot run on this machine: said aloud, and only where something is really absent.

use std::path::Path;

/// What a test needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Virtual machines.
    Kvm,
    /// Root: to mount a file system, or to become another user.
    Root,
    /// Network namespaces: root with the capabilities for them, and `ip`.
    Namespaces,
    /// `strace`, and that it may attach to a node.
    Strace,
}

impl Need {
    fn lacks(self) -> Option<&'static str> {
        match self {
            Self::Kvm => (!Path::new("/dev/kvm").exists()).then_some("there is no /dev/kvm"),
            Self::Root => (!is_root()).then_some("this takes root"),
            Self::Namespaces if !in_path("ip") => Some("there is no ip: install iproute2"),
            Self::Namespaces => (!may_make_networks()).then_some("this takes root that may make networks"),
            Self::Strace if !in_path("strace") => Some("there is no strace: install it"),
            Self::Strace => (!may_attach()).then_some("this takes root, or kernel.yama.ptrace_scope=0"),
        }
    }
}

/// True if the machine lacks something of `needs`; a SKIP line then says what. What the machine has is never
/// skipped, so a test that finds it unusable fails.
#[must_use]
pub fn skipped(needs: &[Need]) -> bool {
    let lacking: Vec<&str> = needs.iter().filter_map(|need| need.lacks()).collect();
    for reason in &lacking {
        println!("SKIP: {reason}");
    }
    !lacking.is_empty()
}

fn is_root() -> bool {
    own_status("Uid:").split_whitespace().nth(1) == Some("0")
}

/// Root of a container often lacks `CAP_NET_ADMIN` (12) or `CAP_SYS_ADMIN` (21).
fn may_make_networks() -> bool {
    is_root() && holds(12) && holds(21)
}

/// Where Yama is on, only `CAP_SYS_PTRACE` (19) attaches to what is no child; with scope 3 nothing does.
fn may_attach() -> bool {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "" | "0" => true,
        "3" => false,
        _ => holds(19),
    }
}

/// Whether this process holds the capability of that number.
fn holds(capability: u32) -> bool {
    let held = u64::from_str_radix(own_status("CapEff:").trim(), 16).unwrap_or(0);
    (held >> capability) & 1 == 1
}

/// What the kernel says of this process after `name`.
fn own_status(name: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
}

fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}
