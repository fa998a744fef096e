//! The requests that we have outstanding at peers.

use std::collections::BTreeMap;

use pageswarm_checkpoint::{LineageId, NodeId};

use crate::births::BirthSet;
use crate::input::{RequestId, Urgency};
use crate::time::Time;

/// One outstanding request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) peer: NodeId,
    pub(crate) lineage: LineageId,
    /// What is still to be answered.
    pub(crate) births: BirthSet,
    /// Encoded bytes of `births`, as charged to the budget.
    pub(crate) bytes: u64,
    pub(crate) urgency: Urgency,
    /// When it should have been answered in full: if nothing else is left to ask for, another peer may be asked too.
    pub(crate) expected: Time,
    /// When another peer may be asked too in any case.
    pub(crate) late: Time,
    /// When it is given up, however busy its peer is with others.
    pub(crate) gives_up: Time,
}

/// All outstanding requests, by number; numbers ascend with time.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    open: BTreeMap<RequestId, Request>,
    next: u64,
}

impl Requests {
    /// Adds a request and numbers it.
    pub(crate) fn open(&mut self, request: Request) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        self.open.insert(id, request);
        id
    }

    /// Ends a request.
    pub(crate) fn close(&mut self, id: RequestId) -> Option<Request> {
        self.open.remove(&id)
    }

    /// The request, if it is open and was sent to this peer for this lineage.
    pub(crate) fn of_peer(
        &mut self,
        id: RequestId,
        peer: NodeId,
        lineage: LineageId,
    ) -> Option<&mut Request> {
        self.open.get_mut(&id).filter(|request| request.peer == peer && request.lineage == lineage)
    }

    /// The request, if it is open and was sent to this peer.
    pub(crate) fn is_at(&self, id: RequestId, peer: NodeId) -> bool {
        self.open.get(&id).is_some_and(|request| request.peer == peer)
    }

    pub(crate) fn get(&self, id: RequestId) -> Option<&Request> {
        self.open.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: RequestId) -> Option<&mut Request> {
        self.open.get_mut(&id)
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Requests in the order in which they were sent.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RequestId, &Request)> {
        self.open.iter().map(|(id, request)| (*id, request))
    }

    /// Numbers of the requests that `which` picks.
    pub(crate) fn select(&self, which: impl Fn(&Request) -> bool) -> Vec<RequestId> {
        self.iter().filter(|(_, request)| which(request)).map(|(id, _)| id).collect()
    }
}
