//! Why a VM cannot start or go on, in a form that travels from the child to its parent.

use pageswarm_machine::bytes::{BytesError, Reader};
use std::fmt;
use std::io;

/// Declares a fieldless enum with a number and a name for each value.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$value_doc])* $value,)* }

        impl $name {
            const ALL: &'static [Self] = &[$(Self::$value,)*];

            fn from_number(number: u64) -> Option<Self> {
                Self::ALL.get(usize::try_from(number).ok()?).copied()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$value => $text,)* })
            }
        }
    };
}

numbered! {
    /// A call that the VM's process makes of the system.
    Call {
        /// Opening /dev/kvm.
        Open = "opening /dev/kvm",
        /// Creating the VM.
        CreateVm = "creating the vm",
        /// Giving it RAM.
        MemorySlot = "giving the vm its memory",
        /// Creating the vCPU.
        CreateVcpu = "creating the vcpu",
        /// Setting or listing CPU features.
        Features = "setting up the vcpu",
        /// Reading the vCPU's state.
        Save = "saving vcpu state",
        /// Writing the vCPU's state.
        Restore = "restoring vcpu state",
        /// Running the vCPU.
        Run = "running the vcpu",
        /// Reading the dirty log.
        DirtyLog = "reading the dirty log",
        /// Opening, registering or sending a userfaultfd.
        Userfaultfd = "setting up userfaultfd",
        /// Mapping RAM or staging memory.
        Memory = "mapping shared memory",
        /// Starting a thread or setting its signal.
        Thread = "starting a thread",
        /// Writing a witness image.
        Witness = "writing a witness image",
        /// Talking to the parent.
        Control = "writing to the control socket",
    }
}

numbered! {
    /// How the guest left the CPU for good.
    GuestExit {
        /// A fault that it has no handler for.
        TripleFault = "a fault without a handler",
        /// KVM could not execute an instruction.
        Internal = "an instruction that kvm cannot execute",
        /// An access outside RAM.
        OutsideRam = "an access outside its memory",
        /// An instruction or a state that an interpreter does not know.
        Refused = "something that the interpreter refuses",
        /// Anything else.
        Other = "an exit that this guest cannot cause",
    }
}

/// Why a VM's process gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmFailure {
    /// There is no /dev/kvm.
    #[error(
        "/dev/kvm does not exist: load kvm_intel or kvm_amd, or enable (nested) virtualisation for this machine"
    )]
    KvmMissing,
    /// /dev/kvm may not be opened.
    #[error(
        "/dev/kvm may not be opened: add this user to the kvm group, or pass the device into the container"
    )]
    KvmDenied,
    /// There is no userfaultfd.
    #[error("userfaultfd does not exist: lazy memory needs a kernel with CONFIG_USERFAULTFD")]
    UserfaultfdMissing,
    /// Userfaultfd may not be used for faults inside the kernel, which guest memory needs.
    #[error(
        "userfaultfd may not be opened: allow /dev/userfaultfd for this user, or set vm.unprivileged_userfaultfd=1"
    )]
    UserfaultfdDenied,
    /// A system call failed.
    #[error("{call} failed: {}", io::Error::from_raw_os_error(*.errno))]
    System {
        /// Which.
        call: Call,
        /// The system's error number.
        errno: i32,
    },
    /// The program of the VM's process has no interpreter.
    #[error("this program has no interpreter: run the guest on kvm")]
    NoInterpreter,
    /// The start message or something in it cannot be read.
    #[error("start message is not valid")]
    StartInvalid,
    /// The KVM attachment says something else than the canonical state.
    #[error("kvm attachment disagrees with the canonical cpu state")]
    StateDisagrees,
    /// This host does not take a saved model-specific register.
    #[error("this host refuses the saved model-specific register {index:#x}")]
    MsrRefused {
        /// Its number.
        index: u32,
    },
    /// The staging area cannot hold what the strategy needs at once.
    #[error("staging area is too small: {slots} slots, the capture strategy needs {needed}")]
    StagingTooSmall {
        /// Pages it has room for.
        slots: u32,
        /// Pages needed.
        needed: u32,
    },
    /// The guest used a port that does not exist or in a way that no device understands.
    #[error("guest used port {port:#x} in a way that no device understands")]
    Port {
        /// The port.
        port: u16,
    },
    /// The guest left the CPU for good.
    #[error("guest stopped at {rip:#x} by {exit}")]
    Guest {
        /// How.
        exit: GuestExit,
        /// Where.
        rip: u64,
    },
}

impl VmFailure {
    /// A failed system call.
    pub(crate) fn system(call: Call, error: &io::Error) -> Self {
        Self::System { call, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }

    /// A failed KVM call.
    pub(crate) fn kvm(call: Call) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::System { call, errno: error.errno() }
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        let (code, first, second): (u8, u64, u64) = match self {
            Self::KvmMissing => (0, 0, 0),
            Self::KvmDenied => (1, 0, 0),
            Self::UserfaultfdMissing => (2, 0, 0),
            Self::UserfaultfdDenied => (3, 0, 0),
            Self::System { call, errno } => (4, call as u64, u64::from(errno.unsigned_abs())),
            Self::StartInvalid => (5, 0, 0),
            Self::StateDisagrees => (6, 0, 0),
            Self::MsrRefused { index } => (7, u64::from(index), 0),
            Self::StagingTooSmall { slots, needed } => (8, u64::from(slots), u64::from(needed)),
            Self::Port { port } => (9, u64::from(port), 0),
            Self::Guest { exit, rip } => (10, exit as u64, rip),
            Self::NoInterpreter => (11, 0, 0),
        };
        out.push(code);
        out.extend(first.to_le_bytes());
        out.extend(second.to_le_bytes());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, BytesError> {
        let (code, first, second) = (reader.u8()?, reader.u64()?, reader.u64()?);
        let bad = reader.impossible();
        let small = |value: u64| u32::try_from(value).map_err(|_| bad);
        Ok(match code {
            0 => Self::KvmMissing,
            1 => Self::KvmDenied,
            2 => Self::UserfaultfdMissing,
            3 => Self::UserfaultfdDenied,
            4 => Self::System {
                call: Call::from_number(first).ok_or(bad)?,
                errno: i32::try_from(second).map_err(|_| bad)?,
            },
            5 => Self::StartInvalid,
            6 => Self::StateDisagrees,
            7 => Self::MsrRefused { index: small(first)? },
            8 => Self::StagingTooSmall { slots: small(first)?, needed: small(second)? },
            9 => Self::Port { port: u16::try_from(first).map_err(|_| bad)? },
            10 => Self::Guest { exit: GuestExit::from_number(first).ok_or(bad)?, rip: second },
            11 => Self::NoInterpreter,
            _ => return Err(bad),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_travels() {
        let mut failures = vec![
            VmFailure::KvmMissing,
            VmFailure::KvmDenied,
            VmFailure::UserfaultfdMissing,
            VmFailure::UserfaultfdDenied,
            VmFailure::NoInterpreter,
            VmFailure::StartInvalid,
            VmFailure::StateDisagrees,
            VmFailure::MsrRefused { index: 0xc000_0081 },
            VmFailure::StagingTooSmall { slots: 1, needed: 2 },
            VmFailure::Port { port: 0x60 },
        ];
        failures.extend(Call::ALL.iter().map(|&call| VmFailure::System { call, errno: libc::EPERM }));
        failures.extend(GuestExit::ALL.iter().map(|&exit| VmFailure::Guest { exit, rip: 0x10_0000 }));
        for failure in failures {
            let mut bytes = Vec::new();
            failure.encode(&mut bytes);
            assert_eq!(VmFailure::decode(&mut Reader::new(&bytes)), Ok(failure));
            assert!(!failure.to_string().is_empty());
        }
    }
}
