//! Failures as HTTP answers and exit codes: the one place that maps them.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pageswarm_sim::{ReplayError, ReplayFailure};
use pageswarm_store::{OpenError, WriteError};
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
    if let Some(error) = error.downcast_ref::<WriteError>() {
        let full = matches!(error, WriteError::DiskFull | WriteError::QuotaReached { .. });
        return full.then_some(ExitCode::DiskFull);
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
    if matches!(error.downcast_ref(), Some(MachineError::Imported { .. })) {
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
        SimulateError::TraceCut { .. } => Some(ExitCode::DiskFull),
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
    use pageswarm_store::DirectoryError;
    match error {
        OpenError::Directory(DirectoryError::NewerVersion { .. }) => ExitCode::StoreTooNew,
        OpenError::Directory(DirectoryError::Locked { .. }) => ExitCode::StoreLocked,
        OpenError::Directory(DirectoryError::DiskFull { .. }) => ExitCode::DiskFull,
        OpenError::Directory(_) => ExitCode::Failed,
        _ => ExitCode::StoreDamaged,
    }
}
