//! Tests that cannot run on this machine: said aloud, and only where something is really absent.

use std::path::Path;

/// What a test needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Virtual machines.
    Kvm,
    /// Root: to mount a file system, or to become another user.
    Root,
}

impl Need {
    fn lacks(self) -> Option<&'static str> {
        match self {
            Self::Kvm => (!Path::new("/dev/kvm").exists()).then_some("there is no /dev/kvm"),
            Self::Root => (!is_root()).then_some("this takes root"),
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
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}
