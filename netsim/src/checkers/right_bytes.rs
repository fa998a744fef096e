//! No store ever accepts a chunk with wrong bytes.

use super::Violation;
use crate::host::Host;

pub(super) fn check(hosts: &[Host], found: &mut Vec<Violation>) {
    for (node, host) in hosts.iter().enumerate() {
        found.extend(host.store.wrong().map(|birth| Violation::WrongBytes { node, birth }));
    }
}
