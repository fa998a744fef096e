//! What is judged of runs, and what is only stated.

use super::loopback::LoopbackRun;
use super::measure::{Metered, Relayed, Run};
use super::profile::{Profile, StreamProfile, Targets};
use super::stream::StreamRun;
use super::systems::{Chunks, Kind};
use crate::bench::report::Figure;

const DUPLICATES_PERCENT_MAX: f64 = 1.0;
/// The rest of a GiB's cost, hashing and storing it, should be little beside that of moving it.
const LOOPBACK_OVER_BARE_MAX: f64 = 1.6;
/// Bytes on an Ethernet over those of a QUIC stream in them: of 1,514 in a full packet, Ethernet, IP and UDP take 42, QUIC's
/// header, tag and frame 36.
const HEADERS: f64 = 1.054;
const WHOLE: &str = "receivers with the whole content, verified";
const PROVEN: &str = "checkpoints fetched, rebuilt and proven";

/// The product's run against its targets and the other tools.
pub(super) fn of_comparison(profile: &Profile, runs: &[Run]) -> Vec<Figure> {
    let mut figures = Vec::new();
    let product = runs.iter().find(|run| run.system == Kind::Pageswarm);
    if let Some(run) = product {
        figures.extend(of_product(profile, run, runs));
    }
    for run in runs.iter().filter(|run| run.system != Kind::Pageswarm) {
        let (time, egress, version) = (run.over_bound(), run.egress(), &run.version);
        let value = format!("{time:.3}, egress {egress:.3} of the content ({version})");
        figures.push(Figure::stated(
            run.system.figure(),
            if run.metered.is_valid() { value } else { void(run) },
        ));
    }
    figures
}

/// A stream of checkpoints.
pub(super) fn of_stream(profile: &StreamProfile, run: &StreamRun) -> Vec<Figure> {
    let egress = run.metered.publisher_up_bytes as f64 / run.union_bytes as f64;
    let received = run.metered.received_bytes as f64 / run.copies_bytes as f64;
    let lag = |percent: usize| {
        run.lags_s.get((run.lags_s.len() * percent / 100).min(run.lags_s.len().saturating_sub(1)))
    };
    let shown = |lag: Option<&f64>| lag.map_or_else(|| "-".to_owned(), |lag| format!("{lag:.3} s"));
    let count = run.checkpoints;
    vec![
        Figure::judged(PROVEN, format!("{count} of {count}"), "all", true),
        time(Kind::Pageswarm.figure(), run.makespan_s, run.bound_s, profile.targets),
        self::egress(egress, profile.targets),
        duplicates(&run.chunks),
        Figure::stated("received over needed", format!("{received:.3}")),
        Figure::stated("lag of a checkpoint, p50", shown(lag(50))),
        Figure::stated("lag of a checkpoint, max", shown(lag(100))),
        Figure::stated(
            "CPU s per GB delivered",
            format!("{:.1}", run.metered.cpu_s / (run.copies_bytes as f64 / 1e9)),
        ),
        idle(&run.metered),
        Figure::stated("packets dropped by full queues", run.metered.drops.to_string()),
    ]
}

/// Without a link.
pub(super) fn of_loopback(run: &LoopbackRun) -> Vec<Figure> {
    let ([product, bare], [speed, bare_speed]) = (run.cpu_s_per_gib(), run.mib_per_s());
    vec![
        Figure::judged(
            "CPU s per GiB received, verified and stored, over those of bare QUIC",
            format!("{:.2}: {product:.2} of {bare:.2}", product / bare),
            format!("at most {LOOPBACK_OVER_BARE_MAX:.2}"),
            product <= LOOPBACK_OVER_BARE_MAX * bare,
        ),
        Figure::stated("throughput", format!("{speed:.0} MiB/s, bare QUIC {bare_speed:.0} MiB/s")),
    ]
}

/// For a run that is too small for anything but its function.
pub(super) fn of_function(figures: Vec<Figure>) -> Vec<Figure> {
    let is_function = |figure: &Figure| figure.name == WHOLE;
    figures.into_iter().map(|figure| if is_function(&figure) { figure } else { figure.unjudged() }).collect()
}

fn of_product(profile: &Profile, run: &Run, runs: &[Run]) -> Vec<Figure> {
    let (targets, receivers) = (profile.targets, profile.receivers);
    let mut figures = vec![
        Figure::judged(WHOLE, format!("{receivers} of {receivers}"), "all", true),
        time(run.system.figure(), run.makespan_s, run.bound_s, targets),
        egress(run.egress(), targets),
    ];
    figures.extend(run.chunks.as_ref().map(duplicates));
    figures.extend(faster(run, runs));
    figures.extend([
        Figure::stated("received over needed", format!("{:.3}", run.received())),
        Figure::stated("CPU s per GB delivered", beside(run, runs)),
        idle(&run.metered),
        Figure::stated("packets dropped by full queues", run.metered.drops.to_string()),
    ]);
    let relayed = run.metered.relayed.as_ref();
    figures.extend(relayed.map(|relayed| Figure::stated("relay", of_relay(relayed, run.makespan_s))));
    figures
}

/// A real run's time against that of the same engines on simulated links, whose packets have no headers: the real ones are
/// put on the simulated time. Judged where the machine had something left, for the simulation has processors without end.
pub(super) fn beside_simulation(run: &Run, simulated_over_bound: f64) -> Figure {
    let simulated_s = simulated_over_bound * HEADERS * run.bound_s;
    let ratio = run.makespan_s / simulated_s;
    let figure = Figure::judged(
        "real time over that of pageswarm-netsim",
        format!("{ratio:.3}: {:.2} s of {simulated_s:.2} s, with {HEADERS} for headers", run.makespan_s),
        "0.90 to 1.10",
        (0.90..=1.10).contains(&ratio),
    );
    if run.metered.is_valid() { figure } else { figure.unjudged() }
}

/// What a relay did, in words.
pub(super) fn of_relay(relayed: &Relayed, makespan_s: f64) -> String {
    let Relayed { carried, cpu_s } = relayed;
    format!(
        "{:.3} % of {} packets lost, {} too many at once; {cpu_s:.2} CPU s, {:.0} % of a core",
        carried.lost_percent(),
        carried.taken,
        carried.overflowed,
        cpu_s * 100.0 / makespan_s
    )
}

fn time(name: &'static str, makespan_s: f64, bound_s: f64, targets: Targets) -> Figure {
    let over_bound = makespan_s / bound_s;
    let value = format!("{over_bound:.3}: {makespan_s:.2} s of {bound_s:.2} s");
    match targets.time_max {
        Some(most) => Figure::judged(name, value, format!("at most {most:.2}"), over_bound <= most),
        None => Figure::stated(name, value),
    }
}

fn egress(egress: f64, targets: Targets) -> Figure {
    Figure::judged(
        "publisher egress over the union of what nodes lacked",
        format!("{egress:.3}"),
        format!("at most {:.2}", targets.egress_max),
        egress <= targets.egress_max,
    )
}

/// Against tools whose runs count; none if there is no such run.
fn faster(run: &Run, runs: &[Run]) -> Option<Figure> {
    let others: Vec<&Run> =
        runs.iter().filter(|other| !other.system.is_product() && other.metered.is_valid()).collect();
    let times: Vec<String> =
        others.iter().map(|other| format!("{} {:.2} s", other.system.name(), other.makespan_s)).collect();
    let holds = others.iter().all(|other| run.makespan_s < other.makespan_s);
    let value = format!("{:.2} s; {}", run.makespan_s, times.join(", "));
    (!others.is_empty()).then(|| Figure::judged("faster than every other tool", value, "all", holds))
}

fn beside(run: &Run, runs: &[Run]) -> String {
    let others = runs.iter().filter(|other| other.system != run.system);
    let shown = |run: &Run| format!("{} {:.1}", run.system.name(), run.cpu_s_per_gb());
    let all: Vec<String> =
        std::iter::once(format!("{:.1}", run.cpu_s_per_gb())).chain(others.map(shown)).collect();
    all.join("; ")
}

fn duplicates(chunks: &Chunks) -> Figure {
    let percent = chunks.duplicate_bytes as f64 * 100.0 / chunks.received_bytes.max(1) as f64;
    Figure::judged(
        "chunk bytes received twice",
        format!("{percent:.2} %"),
        format!("at most {DUPLICATES_PERCENT_MAX} %"),
        percent <= DUPLICATES_PERCENT_MAX,
    )
}

/// A machine without rest measures itself: the run is void.
fn idle(metered: &Metered) -> Figure {
    let value = format!("{:.0} %", metered.idle_percent);
    Figure::judged("idle share of the machine", value, "at least 20 %, else void", metered.is_valid())
}

fn void(run: &Run) -> String {
    format!("void: the machine was idle for {:.0} %", run.metered.idle_percent)
}

#[cfg(test)]
mod tests {
    use super::super::distance::Carried;
    use super::super::profile::{BIG, STREAM, WAN};
    use super::super::table::tests::run;
    use super::*;

    fn short(profile: &Profile, runs: &[Run]) -> Vec<&'static str> {
        let figures = of_comparison(profile, runs);
        figures.iter().filter(|figure| figure.holds == Some(false)).map(|figure| figure.name).collect()
    }

    #[test]
    fn each_target_is_judged() {
        let fast = run(Kind::Pageswarm, 1.05);
        assert!(short(&BIG, &[fast.clone(), run(Kind::Aria2, 1.4)]).is_empty());
        let slow = run(Kind::Pageswarm, 1.2);
        assert_eq!(short(&BIG, &[slow]), ["time over the bound"]);
        let strict = Profile { targets: Targets { time_max: Some(1.1), egress_max: 1.0 }, ..BIG };
        assert_eq!(
            short(&strict, std::slice::from_ref(&fast)),
            ["publisher egress over the union of what nodes lacked"]
        );
        let mut doubled = fast.clone();
        doubled.chunks = Some(Chunks { received_bytes: 100, duplicate_bytes: 2 });
        assert_eq!(short(&BIG, &[doubled]), ["chunk bytes received twice"]);
        let mut busy = fast.clone();
        busy.metered.idle_percent = 5.0;
        assert_eq!(short(&BIG, &[busy]), ["idle share of the machine"]);
        assert_eq!(short(&BIG, &[fast, run(Kind::Http, 1.04)]), ["faster than every other tool"]);
    }

    #[test]
    fn over_a_distance_other_tools_are_to_be_beaten_and_the_relay_is_told_apart() {
        let mut far = run(Kind::Pageswarm, 1.9);
        let carried = Carried { taken: 2000, lost: 3, overflowed: 0 };
        far.metered.relayed = Some(Relayed { carried, cpu_s: 0.38 });
        assert!(short(&WAN, &[far.clone(), run(Kind::Rqbit, 2.0)]).is_empty());
        assert_eq!(short(&WAN, &[far.clone(), run(Kind::Rqbit, 1.8)]), ["faster than every other tool"]);
        let figures = of_comparison(&WAN, &[far]);
        let relay = figures.iter().find(|figure| figure.name == "relay").unwrap();
        let said = "0.150 % of 2000 packets lost, 0 too many at once; 0.38 CPU s, 10 % of a core";
        assert_eq!((relay.value.as_str(), relay.holds), (said, None));
    }

    #[test]
    fn a_simulation_is_compared_with_its_headers_where_the_machine_had_time() {
        let holds = |run: &Run, simulated| beside_simulation(run, simulated).holds;
        let real = run(Kind::Pageswarm, 1.15);
        assert_eq!(holds(&real, 1.0), Some(true), "1.15 of 1.054");
        assert_eq!(holds(&real, 1.25), Some(false));
        assert_eq!(holds(&real, 0.99), Some(false));
        let mut busy = real.clone();
        busy.metered.idle_percent = 3.0;
        assert_eq!(holds(&busy, 1.25), None);
    }

    #[test]
    fn a_stream_is_judged_by_its_own_targets() {
        let of = |over_bound: f64, egress: u64| StreamRun {
            checkpoints: 1,
            makespan_s: 10.0 * over_bound,
            bound_s: 10.0,
            union_bytes: 1000,
            copies_bytes: 8000,
            lags_s: vec![1.0],
            metered: Metered { publisher_up_bytes: egress, ..run(Kind::Pageswarm, 1.0).metered },
            chunks: Chunks::default(),
        };
        let short = |run: &StreamRun| -> Vec<&str> {
            let figures = of_stream(&STREAM, run);
            figures.iter().filter(|figure| figure.holds == Some(false)).map(|figure| figure.name).collect()
        };
        assert!(short(&of(1.14, 1100)).is_empty());
        assert_eq!(short(&of(1.16, 1100)), ["time over the bound"]);
        assert_eq!(short(&of(1.14, 1101)), ["publisher egress over the union of what nodes lacked"]);
    }

    #[test]
    fn the_product_in_another_mode_and_a_void_run_are_no_rivals() {
        let mut void = run(Kind::Aria2, 1.01);
        void.metered.idle_percent = 1.0;
        let runs = [run(Kind::Pageswarm, 1.05), run(Kind::PageswarmCentral, 1.0), void];
        assert!(short(&BIG, &runs).is_empty());
        assert!(faster(&runs[0], &runs).is_none());
    }

    #[test]
    fn a_small_run_judges_its_function_alone() {
        let figures = of_function(of_comparison(&BIG, &[run(Kind::Pageswarm, 9.0)]));
        let judged: Vec<_> = figures.iter().filter(|figure| figure.holds.is_some()).collect();
        assert_eq!(judged.len(), 1);
        assert_eq!(judged[0].name, WHOLE);
    }
}
