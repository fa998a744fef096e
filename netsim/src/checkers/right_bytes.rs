//! No store ever accepts a chunk with wrong bytes.

use super::Violation;
use crate::host::Host;
use crate::options::Options;
use crate::world::true_content;

pub(super) fn check(options: &Options, hosts: &[Host], found: &mut Vec<Violation>) {
    for (node, host) in hosts.iter().enumerate() {
        for (birth, content) in &host.store {
            if *content != true_content(options.seed, *birth) {
                found.push(Violation::WrongBytes { node, birth: *birth });
            }
        }
    }
}
