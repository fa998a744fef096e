//! What the results of one interval say together: whether more are wanted, and who lied.

use std::collections::{BTreeMap, BTreeSet};

use pageswarm_checkpoint::{NodeId, ObjectHash, SimulatorBuild};

/// What one worker found, compared with the heads of the lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It started at checkpoint k and ended at checkpoint k+1, bit for bit.
    Exact,
    /// It started or ended elsewhere.
    Different,
    /// It says that nobody can simulate the interval.
    Failed,
}

/// One worker's result, as far as the table needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Equal for results that agree.
    pub name: ObjectHash,
    /// Compared with the heads.
    pub verdict: Verdict,
    /// Which program found it.
    pub simulator: SimulatorBuild,
    /// The trace that it names, if it took one.
    pub traced: Option<Traced>,
}

/// A trace that a result names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// Equal for traces that the same program took with the same options: their files are equal.
    pub way: ObjectHash,
    /// Of the file.
    pub digest: [u8; 32],
}

/// How many results an interval takes if its first is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// One.
    Once,
    /// Two, of different workers: it is in the sample.
    Twice,
}

/// Where an interval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// There is no result.
    Open,
    /// There is one, and another worker is to confirm it.
    Unconfirmed,
    /// One worker found it exact, and that is enough.
    Exact,
    /// Several found it exact.
    Confirmed,
    /// Several found that it does not end as the next checkpoint.
    Different,
    /// Several found that it cannot be simulated.
    Failed,
    /// Results or traces differ, and none has a majority.
    Disagreed,
}

/// What the results of an interval say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Where it stands.
    pub standing: Standing,
    /// How many more results it takes.
    pub wanted: usize,
    /// Who said something else than the majority, with the same program; or named another trace than most of those who took
    /// theirs in the same way.
    pub liars: Vec<NodeId>,
    /// Who said something else with a program that nobody of the majority has: it may be the program's fault, or a lie
    /// that names another program. Nobody is to rely on its word alone.
    pub doubted: Vec<NodeId>,
}

impl Standing {
    /// Whether no more results are needed.
    #[must_use]
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Exact | Self::Confirmed | Self::Different | Self::Failed)
    }

    /// The standing's name in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Unconfirmed => "unconfirmed",
            Self::Exact => "exact",
            Self::Confirmed => "confirmed",
            Self::Different => "different",
            Self::Failed => "failed",
            Self::Disagreed => "disagreed",
        }
    }
}

/// Judges the findings of workers that are not distrusted, one a worker.
///
/// One exact result is believed unless the interval is in the sample; anything else must be confirmed by another
/// worker. Where two differ a third decides, and whoever said otherwise lied. Only who says that it came to an end can lie
/// so, and only about what others say came to an end: that an interval cannot be simulated may be a fault of one machine.
#[must_use]
pub fn judge(findings: &[(NodeId, Finding)], checked: Checked) -> Judgement {
    let sample = match checked {
        Checked::Once => 1,
        Checked::Twice => 2,
    };
    let mut groups: BTreeMap<ObjectHash, (usize, Verdict)> = BTreeMap::new();
    for (_, finding) in findings {
        groups.entry(finding.name).or_insert((0, finding.verdict)).0 += 1;
    }
    let mut ranked: Vec<(usize, ObjectHash, Verdict)> =
        groups.iter().map(|(name, (count, verdict))| (*count, *name, *verdict)).collect();
    ranked.sort_by_key(|(count, ..)| std::cmp::Reverse(*count));
    let wanting = |standing, wanted| Judgement { standing, wanted, liars: Vec::new(), doubted: Vec::new() };
    match ranked.as_slice() {
        [] => wanting(Standing::Open, sample),
        [(count, _, verdict)] => {
            let needed = if *verdict == Verdict::Exact { sample } else { 2 };
            if *count < needed {
                return wanting(Standing::Unconfirmed, needed - count);
            }
            wanting(settled(*verdict, *count), 0).with_traces(findings)
        }
        [(most, name, verdict), (next, ..), ..] if most > next => {
            let (majority, others): (Vec<_>, Vec<_>) =
                findings.iter().partition(|(_, finding)| finding.name == *name);
            let builds: BTreeSet<SimulatorBuild> =
                majority.iter().map(|(_, finding)| finding.simulator).collect();
            let failed = |verdict: Verdict| verdict == Verdict::Failed;
            let outvoted =
                others.into_iter().filter(|(_, other)| !failed(other.verdict) && !failed(*verdict));
            let (liars, doubted): (Vec<_>, Vec<_>) =
                outvoted.partition(|(_, finding)| builds.contains(&finding.simulator));
            let names = |said: Vec<(NodeId, Finding)>| said.iter().map(|(worker, _)| *worker).collect();
            let (standing, wanted) = (settled(*verdict, *most), 0);
            let judged = Judgement { standing, wanted, liars: names(liars), doubted: names(doubted) };
            judged.with_traces(&majority)
        }
        _ => wanting(Standing::Disagreed, 1),
    }
}

impl Judgement {
    /// The same once the traces of those who agree were compared: of two that differ a third decides.
    fn with_traces(mut self, agreeing: &[(NodeId, Finding)]) -> Self {
        let mut ways: BTreeMap<ObjectHash, BTreeMap<[u8; 32], Vec<NodeId>>> = BTreeMap::new();
        for (worker, finding) in agreeing {
            if let Some(Traced { way, digest }) = finding.traced {
                ways.entry(way).or_default().entry(digest).or_default().push(*worker);
            }
        }
        for mut files in ways.into_values().filter(|files| files.len() > 1) {
            let most = files.values().map(Vec::len).max().unwrap_or(0);
            let has_majority = files.values().filter(|workers| workers.len() == most).count() == 1;
            if has_majority {
                files.retain(|_, workers| workers.len() < most);
                self.liars.extend(files.into_values().flatten());
            } else {
                (self.standing, self.wanted) = (Standing::Disagreed, 1);
            }
        }
        self
    }
}

const fn settled(verdict: Verdict, count: usize) -> Standing {
    match verdict {
        Verdict::Exact if count > 1 => Standing::Confirmed,
        Verdict::Exact => Standing::Exact,
        Verdict::Different => Standing::Different,
        Verdict::Failed => Standing::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(worker: u8, name: u8, verdict: Verdict) -> (NodeId, Finding) {
        let simulator = SimulatorBuild([1; 32]);
        (NodeId([worker; 32]), Finding { name: ObjectHash([name; 32]), verdict, simulator, traced: None })
    }

    fn said(findings: &[(NodeId, Finding)], checked: Checked) -> (Standing, usize, Vec<u8>) {
        let Judgement { standing, wanted, liars, .. } = judge(findings, checked);
        (standing, wanted, liars.iter().map(|liar| liar.0[0]).collect())
    }

    #[test]
    fn an_exact_result_is_enough_outside_the_sample() {
        let one = [finding(1, 7, Verdict::Exact)];
        let two = [one[0], finding(2, 7, Verdict::Exact)];
        assert_eq!(said(&[], Checked::Once), (Standing::Open, 1, vec![]));
        assert_eq!(said(&[], Checked::Twice), (Standing::Open, 2, vec![]));
        assert_eq!(said(&one, Checked::Once), (Standing::Exact, 0, vec![]));
        assert_eq!(said(&one, Checked::Twice), (Standing::Unconfirmed, 1, vec![]));
        assert_eq!(said(&two, Checked::Twice), (Standing::Confirmed, 0, vec![]));
    }

    #[test]
    fn anything_else_takes_two() {
        for (verdict, standing) in
            [(Verdict::Different, Standing::Different), (Verdict::Failed, Standing::Failed)]
        {
            let two = [finding(1, 7, verdict), finding(2, 7, verdict)];
            assert_eq!(said(&two[..1], Checked::Once), (Standing::Unconfirmed, 1, vec![]));
            assert_eq!(said(&two, Checked::Once), (standing, 0, vec![]));
        }
    }

    #[test]
    fn that_it_cannot_be_simulated_makes_nobody_a_liar() {
        let (ends, fails) = (Verdict::Exact, Verdict::Failed);
        let outvoted = [finding(1, 7, ends), finding(2, 8, fails), finding(3, 7, ends)];
        assert_eq!(said(&outvoted, Checked::Once), (Standing::Confirmed, 0, vec![]));
        let outvoting = [finding(1, 7, ends), finding(2, 8, fails), finding(3, 8, fails)];
        assert_eq!(said(&outvoting, Checked::Once), (Standing::Failed, 0, vec![]));
    }

    #[test]
    fn another_program_is_doubted_and_no_liar() {
        let mut findings =
            [finding(1, 7, Verdict::Exact), finding(2, 8, Verdict::Exact), finding(3, 7, Verdict::Exact)];
        findings[1].1.simulator = SimulatorBuild([2; 32]);
        let Judgement { standing, liars, doubted, .. } = judge(&findings, Checked::Once);
        assert_eq!((standing, liars, doubted), (Standing::Confirmed, vec![], vec![NodeId([2; 32])]));
        findings[2].1.simulator = SimulatorBuild([2; 32]);
        assert_eq!(judge(&findings, Checked::Once).liars, vec![NodeId([2; 32])], "one who agrees has it too");
    }

    #[test]
    fn traces_taken_in_the_same_way_are_equal_or_somebody_lied() {
        let traced = |worker: u8, way: u8, digest: u8| {
            let (id, finding) = finding(worker, 7, Verdict::Exact);
            let traced = Some(Traced { way: ObjectHash([way; 32]), digest: [digest; 32] });
            (id, Finding { traced, ..finding })
        };
        let agreeing = [traced(1, 1, 5), traced(2, 1, 5), finding(3, 7, Verdict::Exact)];
        assert_eq!(said(&agreeing, Checked::Twice), (Standing::Confirmed, 0, vec![]));
        let in_two_ways = [traced(1, 1, 5), traced(2, 2, 6)];
        assert_eq!(said(&in_two_ways, Checked::Twice), (Standing::Confirmed, 0, vec![]));
        let differing = [traced(1, 1, 5), traced(2, 1, 6)];
        assert_eq!(said(&differing, Checked::Twice), (Standing::Disagreed, 1, vec![]));
        let third = [differing[0], differing[1], traced(3, 1, 5)];
        assert_eq!(said(&third, Checked::Twice), (Standing::Confirmed, 0, vec![2]));
        // Who is outvoted in what came of it is no judge of traces.
        let outvoted = [traced(1, 1, 5), traced(2, 1, 5), finding(3, 8, Verdict::Exact), traced(4, 1, 5)];
        assert_eq!(said(&outvoted, Checked::Twice), (Standing::Confirmed, 0, vec![3]));
    }

    #[test]
    fn a_third_decides_between_two() {
        let differing = [finding(1, 7, Verdict::Exact), finding(2, 8, Verdict::Exact)];
        assert_eq!(said(&differing, Checked::Once), (Standing::Disagreed, 1, vec![]));
        let third = [differing[0], differing[1], finding(3, 7, Verdict::Exact)];
        assert_eq!(said(&third, Checked::Twice), (Standing::Confirmed, 0, vec![2]));
        let split = [differing[0], differing[1], finding(3, 9, Verdict::Failed)];
        assert_eq!(said(&split, Checked::Once), (Standing::Disagreed, 1, vec![]));
    }
}
