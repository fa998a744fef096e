//! Learning lineages: from an unknown head to its genesis, and from each head to its delta and map.

use std::sync::Arc;
use std::time::Duration;

use pageswarm_checkpoint::wire::{Control, ObjectRequest};
use pageswarm_checkpoint::{Genesis, Head, LineageId, record};
use pageswarm_swarm::Input;

use crate::gossip::GossipCommand;
use crate::lineages::{Lineage, LineageError, Survey};
use crate::node::Node;
use crate::objects::{self, NotGiven};

/// Pause before asking everyone again for something that nobody had.
const RETRY: Duration = Duration::from_millis(200);
/// The longest pause before what came and was not taken is asked for again.
const RETRY_REFUSED: Duration = Duration::from_secs(30);
/// Ancestors that are learnt on behalf of a branch.
const GENERATIONS_MAX: usize = 64;

/// Takes in a head from wherever it came.
pub async fn offer_head(node: &Arc<Node>, record: Vec<u8>) {
    let Ok(head) = Head::peek(&record) else {
        return node.note_refused_record("malformed head");
    };
    if node.lineages.get(&head.lineage).is_none() && !learn(node, head.lineage).await {
        return;
    }
    let offering = Arc::clone(node);
    let outcome = tokio::task::spawn_blocking(move || offering.lineages.offer_head(&record)).await;
    match outcome {
        Ok(Ok(_)) | Err(_) => {}
        Ok(Err(error)) => node.note_refused_record(&crate::report::chain(&error)),
    }
}

/// Learns a lineage and its ancestors; false if nobody who is connected can prove it.
async fn learn(node: &Arc<Node>, id: LineageId) -> bool {
    let _one_at_a_time = node.learning.lock().await;
    let mut found = Vec::new();
    let (first, mut next) = (id, Some(id));
    while let Some(id) = next.filter(|id| node.lineages.get(id).is_none()) {
        if node.lineages.is_refused(&id) {
            node.lineages.refuse(first);
            return false;
        }
        if found.len() >= GENERATIONS_MAX {
            node.note_refused_record("a lineage has too many ancestors");
            return false;
        }
        let Some((genesis, records)) = fetch(node, id, found.len()).await else {
            return false;
        };
        next = genesis.parent.map(|parent| parent.lineage);
        found.push(records);
    }
    for (genesis, certificate) in found.into_iter().rev() {
        match node.lineages.open(&genesis, &certificate) {
            Ok(Some(lineage)) => start(node, &lineage).await,
            Ok(None) => return false,
            Err(error) => {
                node.note_store_trouble(&error);
                return false;
            }
        }
    }
    true
}

/// The genesis record and the writer's certificate, both checked, if there is room for it beside `others`.
async fn fetch(node: &Arc<Node>, id: LineageId, others: usize) -> Option<(Genesis, (Vec<u8>, Vec<u8>))> {
    let limit = 64 * 1024;
    let genesis = objects::ask_around(node, ObjectRequest::Genesis(id), None, limit, |bytes| {
        let (genesis, found) = Genesis::open(&bytes).ok()?;
        (found == id).then_some((genesis, bytes))
    });
    let (genesis, record) = genesis.await?;
    if let Err(error) = node.lineages.check_room_for(&genesis, others) {
        node.lineages.refuse(id);
        node.note_refused_record(&error.to_string());
        return None;
    }
    let (writer, is_of_artefacts) = (genesis.writer, genesis.is_of_artefacts());
    let certificate = objects::ask_around(node, ObjectRequest::WriterCertificate(id), None, limit, |bytes| {
        // Artefacts are what workers write.
        let admitted = if is_of_artefacts {
            node.members.admit_worker(&writer, &bytes)
        } else {
            node.members.admit_writer(&writer, &bytes)
        };
        match admitted {
            Ok(_) => Some(bytes),
            Err(error) => {
                node.note_refused_record(&format!("writer of lineage {}: {error}", id.short()));
                None
            }
        }
    });
    Some((genesis, (record, certificate.await?)))
}

/// Takes part in a lineage's swarm: tells the engine, the peers and the DHT, and follows its heads.
pub async fn start(node: &Arc<Node>, lineage: &Lineage) {
    let id = lineage.id;
    node.hub.input(Input::Open { lineage: id, writer: Some(lineage.genesis.writer) }).await;
    let loading = Arc::clone(node);
    let known = lineage.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        let survey = loading.lineages.survey(&known).unwrap_or_default();
        if let Some(index) = survey.whole {
            loading.lineages.note_held(&known.id, index);
        }
        survey
    });
    if let Ok(Survey { lengths, held: births, .. }) = loaded.await {
        if !lengths.is_empty() {
            node.hub
                .input(Input::Lengths { lineage: id, first: pageswarm_checkpoint::Birth(0), lengths })
                .await;
        }
        if !births.is_empty() {
            node.hub.input(Input::LocalHas { lineage: id, births }).await;
        }
    }
    for peer in node.peers.all() {
        peer.tell(Control::Follow(id));
        if peer.follows(&id) {
            node.hub.input(Input::PeerFollows { peer: peer.id, lineage: id }).await;
        }
    }
    node.gossip_try(GossipCommand::Provide(id));
    tracing::info!(lineage = %id.short(), pages = lineage.genesis.pages, "following");
    if lineage.genesis.writer != node.id {
        tokio::spawn(keep_up(Arc::clone(node), id));
    }
}

/// Learns one checkpoint after the other, for as long as the node runs.
async fn keep_up(node: Arc<Node>, id: LineageId) {
    let mut pause = Duration::ZERO;
    loop {
        let changed = node.lineages.changed();
        let Some((index, record)) = node.lineages.next_to_learn(&id) else {
            changed.await;
            continue;
        };
        let request = ObjectRequest::Head(id, index);
        let writer = node.lineages.writer(&id);
        let head = match record {
            Some(record) => node.lineages.check_next_head(&id, &record).ok().map(|head| (head, record)),
            None => None,
        };
        let head = match head {
            Some(head) => Some(head),
            None => {
                objects::ask_around(&node, request, writer, record::HEAD_BYTES_MAX as u64, |record| {
                    Some((node.lineages.check_next_head(&id, &record).ok()?, record))
                })
                .await
            }
        };
        let learnt = match head {
            Some((head, record)) => learn_checkpoint(&node, head, record).await,
            None => Learnt::NotThere,
        };
        pause = match learnt {
            Learnt::Taken => Duration::ZERO,
            Learnt::NotThere => RETRY,
            Learnt::Refused => (pause * 2).clamp(RETRY, RETRY_REFUSED),
        };
        tokio::time::sleep(pause).await;
    }
}

/// What came of learning a checkpoint.
enum Learnt {
    Taken,
    /// Nobody has it now.
    NotThere,
    /// It came, and it is not what it should be, or the store does not take it: it would be so again.
    Refused,
}

async fn learn_checkpoint(node: &Arc<Node>, head: Head, record: Vec<u8>) -> Learnt {
    let (id, name) = (head.lineage, head.delta);
    // Until it is applied, it is given to those who ask from where it arrived.
    let (delta, _arrival) = match objects::ask_for_delta(node, (id, head.index), name).await {
        Ok(given) => given,
        Err(NotGiven::NotThere) => return Learnt::NotThere,
        Err(NotGiven::Wrong) => {
            node.note_refused_record("a delta is not what its writer's head names");
            return Learnt::Refused;
        }
    };
    let applying = Arc::clone(node);
    let applied = tokio::task::spawn_blocking(move || applying.lineages.apply(&id, &record, &delta)).await;
    let applied = match applied {
        Ok(Ok(applied)) => applied,
        Ok(Err(error)) => {
            match error {
                LineageError::Commit(_)
                | LineageError::Record(_)
                | LineageError::WrongDelta { .. }
                | LineageError::OtherKind { .. } => {
                    node.note_refused_record(&crate::report::chain(&error));
                }
                other => node.note_store_trouble(&other),
            }
            return Learnt::Refused;
        }
        Err(_) => return Learnt::NotThere,
    };
    let lineage = applied.lineage;
    if !applied.lengths.is_empty() {
        node.hub.input(Input::Lengths { lineage, first: applied.first, lengths: applied.lengths }).await;
    }
    node.note_learnt(&applied.head);
    Learnt::Taken
}
