//! Measures a store: ingest with a commit every 1,000 pages, then reads, look-ups and a rebuilt index.
//!
//! `cargo run --release -p pageswarm-store --example ingest -- [DIRECTORY] [PAGES]`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pageswarm_checkpoint::{CheckpointIndex, ChunkHash, Effort, Encoder, LineageId, PAGE_BYTES};
use pageswarm_store::{
    ChunkRead, NewCheckpoint, ObjectKind, SharedBytes, StepsRead, StepsWanted, Store, StoreOptions,
    VerifiedBytes, VerifiedChunk,
};

const BATCH_PAGES: usize = 1000;
const REBUILD_PAGES: usize = 65_536;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().map_or_else(|| std::env::temp_dir().join("pageswarm-ingest"), PathBuf::from);
    let pages: usize = arguments.next().map_or(Ok(100_000), |pages| pages.parse())?;
    for (name, patched) in [("random pages, raw", Form::Raw), ("patches of 8 bytes, 3 of 4", Form::Patched)] {
        let dir = root.join(name.replace([' ', ','], "-"));
        println!("{name}: {pages} pages in {}", dir.display());
        measure(&dir, pages, patched)?;
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Raw,
    Patched,
}

fn measure(dir: &std::path::Path, pages: usize, form: Form) -> Result<(), Failure> {
    let store = Store::open(dir, StoreOptions::default())?;
    let hashes = ingest(&store, pages, form)?;
    let stats = store.stats()?;
    println!(
        "  packs {} MB, index tables {} MB",
        stats.pack_bytes / 1_000_000,
        stats.index_bytes / 1_000_000
    );
    store.close()?;
    let started = Clock::start();
    let store = Store::open(dir, StoreOptions::default())?;
    println!("  open {:.1} ms", started.spent().wall.as_secs_f64() * 1e3);

    let in_order = &hashes[..hashes.len().min(REBUILD_PAGES)];
    let stride: Vec<ChunkHash> = (0..in_order.len()).map(|i| hashes[i * 48_271 % hashes.len()]).collect();
    read_all(&store, "rebuild, stored order", in_order)?;
    read_all(&store, "rebuild, stored order", in_order)?;
    read_all(&store, "rebuild, random order", &stride)?;
    let started = Clock::start();
    for batch in stride.chunks(64) {
        store.read_chunks(batch, |_, read| assert!(matches!(read, ChunkRead::Held(_))))?;
    }
    report("random, 64 a batch", stride.len(), started.spent());
    let started = Clock::start();
    for hash in &stride[..stride.len().min(8192)] {
        store.read_chunk(*hash)?.ok_or("a page is gone")?;
    }
    report("random, one by one", stride.len().min(8192), started.spent());
    let started = Clock::start();
    let wanted: Vec<StepsWanted> =
        in_order.iter().map(|hash| StepsWanted { hash: *hash, from: None }).collect();
    store.read_steps(&wanted, Effort::Fast, |_, read| {
        assert!(!matches!(read, StepsRead::NotHeld));
    })?;
    report("encoded, for upload", in_order.len(), started.spent());
    let started = Clock::start();
    let held = store.contains_many(&stride)?;
    report("held?", held.len(), started.spent());
    store.close()?;
    let started = Clock::start();
    let store = Store::reindex(dir, StoreOptions::default())?;
    report("reindex", usize::try_from(store.stats()?.chunks)?, started.spent());
    Ok(())
}

fn ingest(store: &Store, pages: usize, form: Form) -> Result<Vec<ChunkHash>, Failure> {
    let mut hashes = Vec::with_capacity(pages);
    let (mut spent, mut slowest) = (Spent::default(), Duration::ZERO);
    for (index, first) in (0..pages).step_by(BATCH_PAGES).enumerate() {
        let chunks: Vec<VerifiedChunk> =
            (first..pages.min(first + BATCH_PAGES)).map(|seed| chunk(seed, form)).collect();
        let started = Clock::start();
        store.put_chunks(&chunks)?;
        let head = store.put_object(ObjectKind(0), &index.to_le_bytes())?;
        let batch: Vec<ChunkHash> = chunks.iter().map(VerifiedChunk::hash).collect();
        hashes.extend_from_slice(&batch);
        let index = CheckpointIndex(u64::try_from(index)?);
        let lineage = LineageId([1; 32]);
        store.commit_checkpoint(&NewCheckpoint { lineage, index, head, objects: vec![], chunks: batch })?;
        let took = started.spent();
        spent.wall += took.wall;
        spent.cpu += took.cpu;
        slowest = slowest.max(took.wall);
    }
    report("ingest, synced commits", pages, spent);
    println!("  slowest commit of {BATCH_PAGES} pages {:.1} ms", slowest.as_secs_f64() * 1e3);
    Ok(hashes)
}

fn chunk(seed: usize, form: Form) -> VerifiedChunk {
    let version = if form == Form::Patched { seed % 4 } else { 0 };
    let base = page(seed - version);
    let mut bytes = base.clone();
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    if version == 0 {
        return VerifiedChunk::encode(
            &mut Encoder::new(Effort::Fast),
            SharedBytes::hashed(bytes.into()),
            None,
        );
    }
    let mut base = base;
    base[..8].copy_from_slice(&(seed - version).to_le_bytes());
    VerifiedChunk::encode(
        &mut Encoder::new(Effort::Fast),
        SharedBytes::hashed(bytes.into()),
        Some(VerifiedBytes::hashed(&base)),
    )
}

fn page(seed: usize) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_BYTES];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn read_all(store: &Store, what: &str, hashes: &[ChunkHash]) -> Result<(), Failure> {
    // Written once before, as a guest's memory is prepared: its page faults are not the store's.
    let mut memory = vec![1; hashes.len() * PAGE_BYTES];
    let mut held = 0;
    let started = Clock::start();
    store.read_chunks(hashes, |position, read| {
        if let ChunkRead::Held(chunk) = read {
            memory[position * PAGE_BYTES..][..PAGE_BYTES].copy_from_slice(chunk.bytes());
            held += 1;
        }
    })?;
    report(what, held, started.spent());
    if held == hashes.len() { Ok(()) } else { Err("a page is gone".into()) }
}

/// Time passed, and processor time of the calling thread: the latter holds on a busy machine too.
#[derive(Clone, Copy, Default)]
struct Spent {
    wall: Duration,
    cpu: Duration,
}

struct Clock {
    wall: Instant,
    cpu: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: thread_cpu() }
    }

    fn spent(&self) -> Spent {
        Spent { wall: self.wall.elapsed(), cpu: thread_cpu().saturating_sub(self.cpu) }
    }
}

/// Processor time of this thread, zero where the kernel does not tell.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|run| run.parse().ok()).unwrap_or(0))
}

fn report(what: &str, pages: usize, spent: Spent) {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let pages = pages as f64;
    let (wall, cpu) = (spent.wall.as_secs_f64(), spent.cpu.as_secs_f64());
    println!(
        "  {what}: {:.0} ms ({:.0} MB/s decoded), {:.0} ms of processor, {:.2} us a page",
        wall * 1e3,
        pages * 4096.0 / 1e6 / wall,
        cpu * 1e3,
        cpu * 1e6 / pages
    );
}
