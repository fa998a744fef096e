//! Failures as HTTP answers and exit codes: the one place that maps them.

use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pageswarm_sim::{ReplayError, ReplayFailure};
use pageswarm_store::{CommitError, DirectoryError, IndexError, OpenError, PackError, WriteError};
use pageswarm_vmm::VmFailure;

use super::views::ErrorView;
use crate::exit::{ExitCode, Failure};
use crate::fetch::FetchError;
use crate::import::ImportError;
use crate::join::JoinError;
use crate::lineages::{LineageError, MapError};
use crate::machines::MachineError;
use crate::members::MembersError;
use crate::node::StartError;
use crate::rebuild::RebuildError;
use crate::report::chain;
use crate::session::SessionError;
use crate::simulate::SimulateError;
use crate::traces::TraceError;
use crate::work::WorkError;

/// A failure on its way out of the API.
#[derive(Debug)]
pub struct ApiError(pub Failure);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            ExitCode::Usage => StatusCode::BAD_REQUEST,
            ExitCode::NotFound => StatusCode::NOT_FOUND,
            ExitCode::CheckFailed => StatusCode::CONFLICT,
            ExitCode::NotMember => StatusCode::FORBIDDEN,
            ExitCode::NotSimulated => StatusCode::UNPROCESSABLE_ENTITY,
            ExitCode::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            ExitCode::NoKvm | ExitCode::NoUserfaultfd => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let view = ErrorView { exit_code: self.0.code as u8, message: self.0.message };
        (status, Json(view)).into_response()
    }
}

impl ApiError {
    /// A request that cannot be understood.
    pub fn usage(message: impl Into<String>) -> Self {
        Self(Failure::new(ExitCode::Usage, message))
    }

    /// Something that does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self(Failure::new(ExitCode::NotFound, message))
    }

    /// Anything else.
    pub fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(Failure::new(code_of(error), chain(error)))
    }
}

/// The exit code that the innermost cause with one of its own decides.
#[must_use]
pub fn code_of(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    let mut code = ExitCode::Failed;
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(own) = own_code(error) {
            code = own;
        }
        cause = error.source();
    }
    code
}

fn own_code(error: &(dyn std::error::Error + 'static)) -> Option<ExitCode> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(failure.code);
    }
    if let Some(failure) = error.downcast_ref::<VmFailure>() {
        return match failure {
            VmFailure::KvmMissing | VmFailure::KvmDenied => Some(ExitCode::NoKvm),
            VmFailure::UserfaultfdMissing | VmFailure::UserfaultfdDenied => Some(ExitCode::NoUserfaultfd),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<OpenError>() {
        return Some(store_code(error));
    }
    if let Some(error) = write_error(error) {
        return error.is_full().then_some(ExitCode::DiskFull);
    }
    if matches!(error.downcast_ref(), Some(IndexError::DiskFull)) {
        return Some(ExitCode::DiskFull);
    }
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return match error.kind() {
            std::io::ErrorKind::StorageFull => Some(ExitCode::DiskFull),
            std::io::ErrorKind::AddrInUse | std::io::ErrorKind::AddrNotAvailable => Some(ExitCode::Address),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<pageswarm_sim::trace::WriteError>() {
        let too_large = matches!(error, pageswarm_sim::trace::WriteError::TooLarge { .. });
        return too_large.then_some(ExitCode::DiskFull);
    }
    if error.is::<RebuildError>() {
        let wrong = matches!(error.downcast_ref(), Some(RebuildError::WrongRoot { .. }));
        return wrong.then_some(ExitCode::CheckFailed);
    }
    if let Some(error) = error.downcast_ref::<StartError>() {
        let address = matches!(error, StartError::Endpoint(_) | StartError::Gossip(_));
        return address.then_some(ExitCode::Address);
    }
    if let Some(error) = error.downcast_ref::<MembersError>() {
        return (!matches!(error, MembersError::Io { .. })).then_some(ExitCode::NotMember);
    }
    if let Some(error) = error.downcast_ref::<ImportError>() {
        return import_code(error);
    }
    if matches!(error.downcast_ref(), Some(MachineError::Imported { .. } | MachineError::RamSize(_))) {
        return Some(ExitCode::Usage);
    }
    // A box is an error of its own kind.
    let boxed = error.downcast_ref::<Box<SimulateError>>().map(|error| &**error);
    if let Some(error) = error.downcast_ref().or(boxed) {
        return simulate_code(error);
    }
    if let Some(error) = error.downcast_ref::<TraceError>() {
        return trace_code(error);
    }
    if matches!(error.downcast_ref(), Some(WorkError::Role(_) | WorkError::Refused(_))) {
        return Some(ExitCode::NotMember);
    }
    let is_no_writer = matches!(error.downcast_ref(), Some(MachineError::Role(_)));
    if error.is::<SessionError>() || error.is::<JoinError>() || is_no_writer {
        return Some(ExitCode::NotMember);
    }
    let unknown =
        matches!(error.downcast_ref(), Some(FetchError::NotAnnounced { .. } | FetchError::StateLate { .. }))
            || matches!(
                error.downcast_ref(),
                Some(MapError::UnknownLineage(_) | MapError::UnknownCheckpoint { .. })
            )
            || matches!(error.downcast_ref(), Some(LineageError::Unknown(_)));
    unknown.then_some(ExitCode::NotFound)
}

/// The failure to store something, in whichever form it comes: an error that passes for its cause hides it from those
/// who look at causes.
fn write_error<'error>(error: &'error (dyn std::error::Error + 'static)) -> Option<&'error WriteError> {
    if let Some(CommitError::Write(error)) = error.downcast_ref() {
        return Some(error);
    }
    let shared = error.downcast_ref::<Arc<WriteError>>().map(|error| &**error);
    error.downcast_ref().or(shared)
}

const fn import_code(error: &ImportError) -> Option<ExitCode> {
    match error {
        ImportError::Role(_) => Some(ExitCode::NotMember),
        ImportError::NotOpen(_) => Some(ExitCode::NotFound),
        ImportError::File { .. }
        | ImportError::Length { .. }
        | ImportError::StateLength { .. }
        | ImportError::Pages { .. } => Some(ExitCode::Usage),
        ImportError::Lineage(_) | ImportError::Publish(_) | ImportError::Ending => None,
    }
}

const fn trace_code(error: &TraceError) -> Option<ExitCode> {
    match error {
        TraceError::NotOffered { .. } => Some(ExitCode::NotFound),
        TraceError::Other { .. } => Some(ExitCode::CheckFailed),
        _ => None,
    }
}

const fn simulate_code(error: &SimulateError) -> Option<ExitCode> {
    match error {
        SimulateError::Replay(ReplayError { cause: ReplayFailure::Stopped { .. }, .. })
        | SimulateError::BrokeOff => None,
        SimulateError::Late { .. } | SimulateError::PageLate { .. } => Some(ExitCode::NotFound),
        SimulateError::NoRecord { .. }
        | SimulateError::RamSize { .. }
        | SimulateError::Record(_)
        | SimulateError::OtherRecord { .. }
        | SimulateError::State(_)
        | SimulateError::Replay(_) => Some(ExitCode::NotSimulated),
        SimulateError::OtherEnd { .. } => Some(ExitCode::CheckFailed),
        SimulateError::TraceCut { .. } | SimulateError::PageNotStored { .. } => Some(ExitCode::DiskFull),
        SimulateError::Fetch(_)
        | SimulateError::Map(_)
        | SimulateError::Lineage(_)
        | SimulateError::Rebuild(_)
        | SimulateError::PageUnreadable { .. }
        | SimulateError::Trace(_)
        | SimulateError::TraceFile(_)
        | SimulateError::Thread(_)
        | SimulateError::Ending => None,
    }
}

fn store_code(error: &OpenError) -> ExitCode {
    match error {
        OpenError::Directory(error) => match error {
            DirectoryError::NewerVersion { .. } => ExitCode::StoreTooNew,
            DirectoryError::Locked { .. } => ExitCode::StoreLocked,
            DirectoryError::DiskFull { .. } => ExitCode::DiskFull,
            DirectoryError::VersionUnreadable { .. } => ExitCode::StoreDamaged,
            DirectoryError::NotAStore { .. } | DirectoryError::Denied { .. } | DirectoryError::Io { .. } => {
                ExitCode::Failed
            }
        },
        OpenError::Index(error) => match error {
            IndexError::DiskFull => ExitCode::DiskFull,
            IndexError::Damaged(_) | IndexError::EntryDamaged | IndexError::FoundDamaged => {
                ExitCode::StoreDamaged
            }
            IndexError::Unusable(_) => ExitCode::Failed,
        },
        OpenError::Pack(PackError { source, .. }) | OpenError::List { source, .. } => match source.kind() {
            std::io::ErrorKind::StorageFull => ExitCode::DiskFull,
            std::io::ErrorKind::PermissionDenied => ExitCode::Failed,
            // The device does not give back what was written to it.
            _ => ExitCode::StoreDamaged,
        },
        OpenError::PacksExhausted => ExitCode::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::WantError;
    use std::io::{Error, ErrorKind};
    use std::path::PathBuf;

    fn no_space() -> PackError {
        PackError { pack: pageswarm_store::PackNumber(1), source: Error::from(ErrorKind::StorageFull) }
    }

    #[test]
    fn a_full_disk_has_its_code_whoever_notices_it() {
        let quota = WriteError::QuotaReached { used_bytes: 1, quota_bytes: 2, wanted_bytes: 3 };
        let writes = [
            WriteError::DiskFull,
            quota,
            WriteError::Index(IndexError::DiskFull),
            WriteError::Pack(no_space()),
        ];
        for write in writes {
            assert_eq!(code_of(&write), ExitCode::DiskFull, "{write}");
            let index = crate::artefacts::ArtefactError::Index(IndexError::DiskFull);
            assert_eq!(code_of(&index), ExitCode::DiskFull);
            let committed = CommitError::Write(write);
            assert_eq!(code_of(&committed), ExitCode::DiskFull, "{committed}");
            let CommitError::Write(write) = committed else { unreachable!("it was just made") };
            let fetched = FetchError::Want(WantError::NotStored(Arc::new(write)));
            assert_eq!(code_of(&fetched), ExitCode::DiskFull, "{}", chain(&fetched));
        }
        assert_eq!(code_of(&WriteError::SyncFailedBefore), ExitCode::Failed);
    }

    #[test]
    fn why_a_store_does_not_open_decides_the_code() {
        let path = PathBuf::from("store");
        let listing = |kind| OpenError::List { dir: PathBuf::from("packs"), source: Error::from(kind) };
        let cases = [
            (DirectoryError::NewerVersion { dir: path.clone(), found: 9 }.into(), ExitCode::StoreTooNew),
            (DirectoryError::DiskFull { path: path.clone() }.into(), ExitCode::DiskFull),
            (DirectoryError::VersionUnreadable { path: path.clone() }.into(), ExitCode::StoreDamaged),
            (DirectoryError::NotAStore { dir: path }.into(), ExitCode::Failed),
            (IndexError::DiskFull.into(), ExitCode::DiskFull),
            (IndexError::EntryDamaged.into(), ExitCode::StoreDamaged),
            (no_space().into(), ExitCode::DiskFull),
            (listing(ErrorKind::PermissionDenied), ExitCode::Failed),
            (listing(ErrorKind::Other), ExitCode::StoreDamaged),
        ];
        for (error, code) in cases {
            let error: OpenError = error;
            assert_eq!(code_of(&error), code, "{error}");
        }
    }

    #[test]
    fn a_wrong_size_is_a_wrong_value() {
        assert_eq!(
            code_of(&MachineError::RamSize(pageswarm_machine::RamSizeError { ram_bytes: 5 })),
            ExitCode::Usage
        );
    }
}
