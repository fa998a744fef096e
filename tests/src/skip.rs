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
}

impl Need {
    fn lacks(self) -> Option<&'static str> {
        match self {
            Self::Kvm => (!Path::new("/dev/kvm").exists()).then_some("there is no /dev/kvm"),
            Self::Root => (!is_root()).then_some("this takes root"),
            Self::Namespaces if !in_path("ip") => Some("there is no ip: install iproute2"),
            Self::Namespaces => (!may_make_networks()).then_some("this takes root that may make networks"),
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
    let held = u64::from_str_radix(own_status("CapEff:").trim(), 16).unwrap_or(0);
    is_root() && [12, 21].into_iter().all(|capability| (held >> capability) & 1 == 1)
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
