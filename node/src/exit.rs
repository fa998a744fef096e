//! The exit codes of the `pageswarm` program; docs/exit-codes.md lists them for scripts.

/// Why the program ended. Codes are stable; new ones are added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything asked for was done, and every check held.
    Done = 0,
    /// Something failed that has no code of its own; the message says what.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A check did not hold: a checkpoint differs from what its head promises, a demo found a difference or is void, or an
    /// offered trace is not what its result names.
    CheckFailed = 3,
    /// There is no usable /dev/kvm: this user may not open it, or it is absent where KVM was asked for.
    NoKvm = 10,
    /// There is no usable userfaultfd.
    NoUserfaultfd = 11,
    /// The store was written by a newer version.
    StoreTooNew = 12,
    /// The store is in use by another process.
    StoreLocked = 13,
    /// The store is damaged beyond what it repairs by itself.
    StoreDamaged = 14,
    /// The disk or the store's quota is full, or a trace is larger than it may be.
    DiskFull = 15,
    /// An address or port cannot be used.
    Address = 16,
    /// No node answers on the API socket.
    NoNode = 17,
    /// Not a member: the ticket, the certificate or the role was refused.
    NotMember = 18,
    /// What was asked for does not exist, or did not come in the time given.
    NotFound = 19,
    /// An interval cannot be simulated, or what belongs to it is corrupt: trying again will not help.
    NotSimulated = 20,
}

impl ExitCode {
    /// All of them, ascending.
    pub const ALL: [Self; 15] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::CheckFailed,
        Self::NoKvm,
        Self::NoUserfaultfd,
        Self::StoreTooNew,
        Self::StoreLocked,
        Self::StoreDamaged,
        Self::DiskFull,
        Self::Address,
        Self::NoNode,
        Self::NotMember,
        Self::NotFound,
        Self::NotSimulated,
    ];
}

/// An error that decides the exit code by itself.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The code to exit with.
    pub code: ExitCode,
    /// What was wrong and what to do.
    pub message: String,
}

impl Failure {
    /// A failure with its code and message.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::ExitCode;

    #[test]
    fn the_documented_codes_are_all_there_are() {
        let text = include_str!("../../docs/exit-codes.md");
        let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()?.parse().ok());
        let documented: Vec<u8> = rows.collect();
        assert_eq!(documented, ExitCode::ALL.map(|code| code as u8));
    }
}
