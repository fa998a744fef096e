//! Begins writing to the disk what was appended, while more is being appended, so that little is left when an
//! acknowledgement waits for the rest.

use std::fs::File;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// A thread that syncs files which it is sent. It promises nothing: whoever acknowledges syncs again.
#[derive(Debug)]
pub(crate) struct WriteBehind {
    /// `None` if the thread could not be started; then all is left to whoever acknowledges.
    files: Option<SyncSender<Arc<File>>>,
    /// Held from the beginning of a sync until its outcome is noted.
    failed: Arc<Mutex<bool>>,
}

impl WriteBehind {
    pub(crate) fn start() -> Self {
        let failed = Arc::new(Mutex::new(false));
        // One file waits while one is synced: a file that is sent again while it waits needs no third place.
        let (files, sent) = sync_channel::<Arc<File>>(1);
        let note = Arc::clone(&failed);
        let thread = std::thread::Builder::new().name("write-behind".to_owned()).spawn(move || {
            for file in sent {
                let mut failed = note.lock().unwrap_or_else(PoisonError::into_inner);
                *failed |= file.sync_data().is_err();
            }
        });
        Self { files: thread.is_ok().then_some(files), failed }
    }

    /// Has the file synced soon, unless the thread is busy.
    pub(crate) fn begin(&self, file: &Arc<File>) {
        if let Some(files) = &self.files {
            // Full means busy: there will be another time.
            let _busy = files.try_send(Arc::clone(file));
        }
    }

    /// Whether a sync failed, one under way included. The kernel tells of a failure once, so whoever syncs the same file
    /// asks here afterwards.
    pub(crate) fn has_failed(&self) -> bool {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
