//! Begins writing to the disk what was appended, while more is being appended, so that little is left when an
//! acknowledgement waits for the rest.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

/// A thread that syncs files which it is sent. It promises nothing: whoever acknowledges syncs again.
#[derive(Debug)]
pub(crate) struct WriteBehind {
    /// `None` if the thread could not be started; then all is left to whoever acknowledges.
    files: Option<SyncSender<Arc<File>>>,
    failed: Arc<AtomicBool>,
}

impl WriteBehind {
    pub(crate) fn start() -> Self {
        let failed = Arc::new(AtomicBool::new(false));
        // One file waits while one is synced: a file that is sent again while it waits needs no third place.
        let (files, sent) = sync_channel::<Arc<File>>(1);
        let note = Arc::clone(&failed);
        let thread = std::thread::Builder::new().name("write-behind".to_owned()).spawn(move || {
            for file in sent {
                if file.sync_data().is_err() {
                    note.store(true, Ordering::SeqCst);
                }
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

    /// Whether a sync failed. The kernel tells of a failure once, so a later sync would know nothing of it.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }
}
