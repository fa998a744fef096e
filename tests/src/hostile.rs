//! Members that hold a certificate and misbehave. Each is connected with one node and does its worst until that node
//! closes the connection; what a test wants to know of it is counted or returned.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use pageswarm_checkpoint::wire::{
    BirthRange, Control, ObjectAnswer, Opening, Patience, RANGES_MAX, Refusal, RunAnswer, RunRequest, Urgency,
};
use pageswarm_checkpoint::{Birth, ChunkRef, EncodedChunk, Encoding, LineageId, PAGE_BYTES};
use pageswarm_node::transport::frames;
use quinn::{ConnectionError, RecvStream, SendStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cluster::{NodeProcess, PATIENCE};
use crate::events;
use crate::member::{Closed, Member, Session};

/// A reason that gets lost is asked for again, so many times in all.
const REFUSALS: usize = 5;

/// What hostile members are after.
#[derive(Clone, Copy, Debug)]
pub struct Prey {
    /// Whose chunks.
    pub lineage: LineageId,
    /// How many were born.
    pub births: u64,
}

/// A member with a valid certificate and no good intentions.
#[derive(Debug)]
pub struct Rogue {
    member: Member,
    certificate: Vec<u8>,
}

/// A rogue's connection with a node.
#[derive(Debug)]
pub struct Hostile {
    session: Session,
    prey: Prey,
}

/// How a node put an end to it.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Why it closed the connection. `None` if the packet that says so was lost: a node forgets a connection soon after
    /// closing it, and answers what still comes only with a reset.
    pub closed: Option<Closed>,
    /// When.
    pub at: Instant,
}

/// A misbehaviour under way. Dropping it stops it.
#[derive(Debug)]
pub struct AtWork {
    task: JoinHandle<anyhow::Result<Ended>>,
}

/// One that asks for chunks without end and reads no answer.
#[derive(Debug)]
pub struct Greedy {
    session: Session,
    prey: Prey,
    /// The birth with which the next request begins.
    next: u64,
    /// The answers, still in their streams: a stream that is dropped would free the node of its answer.
    unread: Vec<RecvStream>,
}

/// What a member says that it holds. Each message is as long as a message may be, or says as much as one can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Far more births than the lineage has: at first as many as a node remembers of one member, then more than that.
    Far,
    /// Every second birth, on and on: the form that takes the most memory for its bytes on the wire.
    EverySecond,
    /// As many ranges as a message may have, each of some thousand births: the form that takes the most steps to
    /// add up.
    Strips,
}

/// Chunks in one request: raw pages of nearly as many bytes as a node gives at a time, which are 4 MiB.
const RUN_CHUNKS: u64 = 1000;
/// Births that are remembered together (swarm/src/births/block.rs).
const BLOCK: u64 = 1024;

impl Rogue {
    /// Joins `admin`'s swarm as a reader.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub async fn join(admin: &NodeProcess) -> anyhow::Result<Self> {
        let member = Member::new()?;
        let certificate = member.join(&admin.ticket("reader", 1000).await?).await?;
        Ok(Self { member, certificate })
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> String {
        self.member.id().to_string()
    }

    /// Connects with `target` and follows the lineage, once in its life; on return the node has heard that.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub async fn follow(&self, target: &NodeProcess, prey: Prey) -> anyhow::Result<Hostile> {
        self.enter(target, prey, &[]).await
    }

    /// The same; before that it says that it holds all of these lineages' chunks.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub async fn offer(&self, target: &NodeProcess, prey: &[Prey]) -> anyhow::Result<Hostile> {
        self.enter(target, *prey.first().context("nothing to offer")?, prey).await
    }

    async fn enter(&self, target: &NodeProcess, prey: Prey, offered: &[Prey]) -> anyhow::Result<Hostile> {
        let mut session = self.member.connect(target.address, self.certificate.clone()).await?;
        for Prey { lineage, births } in offered.iter().copied() {
            let births = vec![BirthRange { first: Birth(0), length: births }];
            session.tell(&Control::Have { lineage, births }).await?;
        }
        session.tell(&Control::Follow(prey.lineage)).await?;
        // What is said on one stream is heard in order: the offers came before this.
        events::wait_for_text(target.directory(), PATIENCE, "connected", &self.id()).await?;
        Ok(Hostile { session, prey })
    }

    /// How `target` refuses it.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub async fn refusal(&self, target: &NodeProcess) -> anyhow::Result<String> {
        for _ in 0..REFUSALS {
            let refused = match self.member.connect(target.address, self.certificate.clone()).await {
                Ok(session) => session.closed().await.map(|closed| closed.why),
                Err(error) => Err(error),
            };
            match refused {
                Ok(why) => return Ok(why),
                // Its word of why was lost on the way, and by now it does not know the connection any more.
                Err(error) if matches!(error.downcast_ref(), Some(ConnectionError::Reset)) => {}
                Err(error) => return Ok(error.to_string()),
            }
        }
        bail!("it refuses {REFUSALS} times and its reason never comes through")
    }
}

impl Hostile {
    /// Answers every run with wrong bytes for each of its chunks.
    #[must_use]
    pub fn answer_wrong(self) -> AtWork {
        AtWork::start(async move {
            while let Some((opening, mut send)) = self.asked().await {
                match opening {
                    Opening::Run(run) => {
                        for (birth, _) in run.chunks {
                            // The node may have hung up meanwhile; the loop around this one sees that.
                            if frames::write(&mut send, &wrong(birth).encode()).await.is_err() {
                                break;
                            }
                        }
                    }
                    _ => {
                        let _gone = frames::write(&mut send, &ObjectAnswer::NotHeld.encode()).await;
                    }
                }
                let _gone = send.finish();
            }
            self.ended().await
        })
    }

    /// Answers nothing. The receiver has the number of chunks of each run that it was asked for.
    #[must_use]
    pub fn stay_silent(self) -> (AtWork, watch::Receiver<Vec<usize>>) {
        let (asked, runs) = watch::channel(Vec::new());
        let work = AtWork::start(async move {
            // A stream that is dropped is finished, and that is an answer.
            let mut held = Vec::new();
            while let Some((opening, send)) = self.asked().await {
                if let Opening::Run(run) = opening {
                    asked.send_modify(|runs| runs.push(run.chunks.len()));
                }
                held.push(send);
            }
            self.ended().await
        });
        (work, runs)
    }

    /// Tells the node the lie again and again.
    #[must_use]
    pub fn tell(mut self, lie: Lie) -> AtWork {
        AtWork::start(async move {
            let lineage = self.prey.lineage;
            for round in 0.. {
                let message = Control::Have { lineage, births: lie.births(round) };
                if self.session.tell(&message).await.is_err() {
                    break;
                }
                // What can be written at once would keep everyone else in this thread waiting.
                tokio::task::yield_now().await;
            }
            self.ended().await
        })
    }

    /// Asks and never reads.
    #[must_use]
    pub fn greedy(self) -> Greedy {
        let Self { session, prey } = self;
        Greedy { session, prey, next: 0, unread: Vec::new() }
    }

    /// The next stream that the node opens; `None` once the connection is closed.
    async fn asked(&self) -> Option<(Opening, SendStream)> {
        loop {
            match self.session.asked().await {
                // A request that was taken back while it came.
                None if self.session.connection().close_reason().is_none() => {}
                asked => return asked,
            }
        }
    }

    async fn ended(&self) -> anyhow::Result<Ended> {
        let closed = match self.session.closed().await {
            Err(error) if error.downcast_ref() == Some(&ConnectionError::Reset) => None,
            closed => Some(closed?),
        };
        Ok(Ended { closed, at: Instant::now() })
    }
}

impl AtWork {
    fn start(work: impl Future<Output = anyhow::Result<Ended>> + Send + 'static) -> Self {
        Self { task: tokio::spawn(work) }
    }

    /// Waits until the node closes the connection.
    ///
    /// # Errors
    ///
    /// If it does not in time.
    pub async fn ended(mut self) -> anyhow::Result<Ended> {
        let ended = timeout(PATIENCE, &mut self.task).await.context("the node keeps the connection")?;
        ended.context("its task")?
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Greedy {
    /// Asks so many times.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn ask(&mut self, times: usize) -> anyhow::Result<()> {
        for _ in 0..times {
            self.ask_once().await?;
        }
        Ok(())
    }

    /// Asks whenever the node lets it open another stream. Never returns, even if the node closes the connection.
    pub async fn ask_without_end(&mut self) {
        while self.ask_once().await.is_ok() {}
        std::future::pending::<()>().await;
    }

    async fn ask_once(&mut self) -> anyhow::Result<()> {
        let (mut send, receive) = self.session.connection().open_bi().await?;
        let end = self.prey.births.min(self.next + RUN_CHUNKS);
        let chunks = (self.next..end).map(|birth| (Birth(birth), None)).collect();
        self.next = if end < self.prey.births { end } else { 0 };
        let urgency = if self.unread.len().is_multiple_of(2) { Urgency::Normal } else { Urgency::Fault };
        let request = RunRequest { lineage: self.prey.lineage, urgency, patience: Patience::Insist, chunks };
        frames::write(&mut send, &Opening::Run(request).encode()).await?;
        // Its own side of the stream is done: only the node's answer keeps it open.
        send.finish()?;
        self.unread.push(receive);
        Ok(())
    }

    /// How many times it asked.
    #[must_use]
    pub const fn asked(&self) -> usize {
        self.unread.len()
    }

    /// Reads at last, and returns the refusals among what has come.
    pub async fn refusals(&mut self) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for receive in &mut self.unread {
            // Only what is here already: whatever has not come may never come.
            let Ok(Ok(Some(frame))) = timeout(Duration::ZERO, frames::read(receive)).await else {
                continue;
            };
            if let Ok([RunAnswer::Refused { why }]) = RunAnswer::decode_frame(&frame).as_deref() {
                refusals.push(*why);
            }
        }
        refusals
    }
}

impl Lie {
    /// What it says at that time, counted from 0.
    fn births(self, round: u64) -> Vec<BirthRange> {
        let message = |range: &dyn Fn(u64) -> BirthRange| -> Vec<BirthRange> {
            (0..).take(RANGES_MAX).map(range).collect()
        };
        match self {
            // 2^27 births in a row take 2 MiB there, half of what one member may have; then there is no end.
            Self::Far => {
                vec![BirthRange { first: Birth(0), length: if round == 0 { 1 << 27 } else { 1 << 61 } }]
            }
            Self::EverySecond => {
                let first = 2 * RANGES_MAX as u64 * round;
                message(&|place| BirthRange { first: Birth(first + 2 * place), length: 1 })
            }
            Self::Strips => {
                message(&|place| BirthRange { first: Birth(16 * BLOCK * place), length: 15 * BLOCK })
            }
        }
    }
}

/// An answer that is wrong in one of three ways.
fn wrong(birth: Birth) -> RunAnswer {
    let (encoding, length) = match birth.0 % 3 {
        // A page of other bytes.
        0 => (Encoding::Raw, PAGE_BYTES),
        // What is said to be compressed and is not.
        1 => (Encoding::Zstd, 100),
        // A change of what was never born.
        _ => (Encoding::Patch { base: ChunkRef::own(Birth(1 << 60)) }, 100),
    };
    RunAnswer::Chunk { birth, chunk: EncodedChunk { encoding, decoded_len: 4096, bytes: vec![0x5a; length] } }
}
