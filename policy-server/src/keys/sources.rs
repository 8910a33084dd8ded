//! Which sidecars live, and what they say that they know: a key signs only once all of them can verify it.
//!
//! A source is the Wasm VM of a sidecar, which names itself and reports its keys with each poll. Older filters do
//! neither: for each version of the bundle that one of a workload holds, the workload has one nameless source.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use authz::audit::SourceId;
use authz::identity::{KeyId, SpiffeId};
use authz::policy::Version;

use crate::clock::Clock;

/// What a poll reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The VM, if the filter is new enough to name it.
    pub vm: Option<SourceId>,
    /// The chain of records that it writes; None before there is one, and of an older filter.
    pub writes: Option<Writes>,
    /// The bundle in use; of an older filter, the newest that it has.
    pub bundle: Option<Version>,
    /// The bundle keys of its configuration; an older filter does not say.
    pub keys: BTreeSet<KeyId>,
}

/// A chain of records that tells something at least now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writes {
    /// The source.
    pub source: SourceId,
    /// How long it may have nothing to tell before it says so.
    pub heartbeat: Duration,
}

/// A source whose sidecar lives and is supposed to tell something now and then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    /// Its workload.
    pub workload: SpiffeId,
    /// The chain that it writes.
    pub writes: Writes,
    /// For how long it has told nothing, as far as this server was up to hear it.
    pub quiet: Duration,
}

impl Telling {
    /// Whether it should have told something by now: two heartbeats are late, and a batch that failed may be tried again.
    pub fn is_silent(&self) -> bool {
        self.quiet > self.writes.heartbeat.saturating_mul(2).saturating_add(LATE)
    }
}

/// How long a heartbeat may be on its way.
const LATE: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Vm(SourceId),
    /// An older filter that holds this.
    Holding(Option<Version>),
}

#[derive(Debug)]
struct Seen {
    report: Report,
    /// Polls that are held.
    held: u32,
    last: Duration,
    /// When records of the chain that it writes came last, or it was first heard of.
    told: Duration,
}

/// A source that can be alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its workload.
    pub workload: SpiffeId,
    /// What it said last.
    pub report: Report,
}

/// Notes polls.
#[derive(Debug)]
pub struct Sources {
    seen: Arc<Mutex<Table>>,
    clock: Clock,
    started: Duration,
    /// How long a source may be silent before it decides by nothing that it was told.
    max_age: Duration,
    most_a_workload: usize,
}

#[derive(Debug, Default)]
struct Table {
    workloads: BTreeMap<SpiffeId, BTreeMap<Name, Seen>>,
    /// Workloads with more sources than are noted, and when that was last so.
    crowded: BTreeMap<SpiffeId, Duration>,
}

/// A poll that goes on: its source lives.
#[derive(Debug)]
pub struct Polling {
    seen: Arc<Mutex<Table>>,
    clock: Clock,
    workload: SpiffeId,
    name: Name,
}

impl Sources {
    /// Nobody has polled yet. A source that is silent for `max_age` counts no more; at most `most_a_workload` of a
    /// workload are noted, so that none can fill the memory.
    pub fn new(clock: Clock, max_age: Duration, most_a_workload: usize) -> Self {
        Self {
            seen: Arc::default(),
            started: clock.monotonic(),
            clock,
            max_age,
            most_a_workload,
        }
    }

    /// Notes a poll, and whether its report is news; the source lives at least until what is returned is dropped.
    pub fn polls(&self, workload: &SpiffeId, report: Report) -> (Option<Polling>, bool) {
        let now = self.clock.monotonic();
        let name = report.vm.map_or(Name::Holding(report.bundle), Name::Vm);
        let mut table = lock(&self.seen);
        let sources = table.workloads.entry(workload.clone()).or_default();
        sources.retain(|_, seen| self.lives(seen.held, seen.last, now));
        if sources.len() >= self.most_a_workload && !sources.contains_key(&name) {
            table.crowded.insert(workload.clone(), now);
            return (None, true);
        }
        let seen = sources.entry(name).or_insert_with(|| Seen {
            report: Report {
                vm: None,
                writes: None,
                bundle: None,
                keys: BTreeSet::new(),
            },
            held: 0,
            last: now,
            told: now,
        });
        let chain = |report: &Report| report.writes.map(|writes| writes.source);
        if chain(&seen.report) != chain(&report) {
            seen.told = now;
        }
        let news =
            seen.report.keys != report.keys || seen.report.bundle != report.bundle || seen.report.vm != report.vm;
        seen.report = report;
        seen.held += 1;
        seen.last = now;
        drop(table);
        let polling = Polling {
            seen: Arc::clone(&self.seen),
            clock: self.clock.clone(),
            workload: workload.clone(),
            name,
        };
        (Some(polling), news)
    }

    /// The sources that can be alive, and the workloads of which more are than are noted.
    pub fn living(&self) -> (Vec<Source>, Vec<SpiffeId>) {
        let now = self.clock.monotonic();
        let table = lock(&self.seen);
        let mut living = Vec::new();
        for (workload, sources) in &table.workloads {
            let sources = sources.values().filter(|seen| self.lives(seen.held, seen.last, now));
            living.extend(sources.map(|seen| Source {
                workload: workload.clone(),
                report: seen.report.clone(),
            }));
        }
        let crowded = table.crowded.iter().filter(|(_, last)| self.lives(0, **last, now));
        (living, crowded.map(|(workload, _)| workload.clone()).collect())
    }

    /// Notes that records of a source came.
    pub fn tells(&self, workload: &SpiffeId, source: SourceId) {
        let now = self.clock.monotonic();
        let mut table = lock(&self.seen);
        let sources = table.workloads.get_mut(workload);
        for seen in sources.into_iter().flat_map(BTreeMap::values_mut) {
            if seen.report.writes.is_some_and(|writes| writes.source == source) {
                seen.told = now;
            }
        }
    }

    /// The sources that can be alive and should tell something now and then.
    pub fn telling(&self) -> Vec<Telling> {
        let now = self.clock.monotonic();
        let table = lock(&self.seen);
        let mut telling = Vec::new();
        for (workload, sources) in &table.workloads {
            let sources = sources.values().filter(|seen| self.lives(seen.held, seen.last, now));
            telling.extend(sources.filter_map(|seen| seen.telling(workload, now)));
        }
        telling
    }

    /// Whether a source of the workload lives and is silent all the same.
    pub fn is_silent(&self, workload: &SpiffeId) -> bool {
        let now = self.clock.monotonic();
        let table = lock(&self.seen);
        let mut sources = table.workloads.get(workload).into_iter().flat_map(BTreeMap::values);
        sources.any(|seen| {
            let telling = seen.telling(workload, now);
            self.lives(seen.held, seen.last, now) && telling.is_some_and(|telling| telling.is_silent())
        })
    }

    /// Whether a sidecar of the workload can be alive.
    pub fn lives_for(&self, workload: &SpiffeId) -> bool {
        let now = self.clock.monotonic();
        let table = lock(&self.seen);
        let mut sources = table.workloads.get(workload).into_iter().flat_map(BTreeMap::values);
        sources.any(|seen| self.lives(seen.held, seen.last, now))
    }

    /// How long it takes until every source that lives has polled this server since it started.
    pub fn all_known_in(&self) -> Duration {
        let up = self.clock.monotonic().saturating_sub(self.started);
        self.max_age.saturating_sub(up)
    }

    fn lives(&self, held: u32, last: Duration, now: Duration) -> bool {
        held > 0 || now.saturating_sub(last) <= self.max_age
    }
}

impl Seen {
    fn telling(&self, workload: &SpiffeId, now: Duration) -> Option<Telling> {
        Some(Telling {
            workload: workload.clone(),
            writes: self.report.writes?,
            quiet: now.saturating_sub(self.told),
        })
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        let mut table = lock(&self.seen);
        let sources = table.workloads.get_mut(&self.workload);
        if let Some(seen) = sources.and_then(|sources| sources.get_mut(&self.name)) {
            seen.held = seen.held.saturating_sub(1);
            seen.last = self.clock.monotonic();
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(60);

    struct Bench {
        now: Arc<AtomicU64>,
        sources: Sources,
    }

    impl Bench {
        fn new(most: usize) -> Self {
            let now = Arc::new(AtomicU64::new(1_000_000));
            let told = Arc::clone(&now);
            let clock = Clock::from_millis(move || told.load(Ordering::Relaxed));
            Self {
                now,
                sources: Sources::new(clock, MAX_AGE, most),
            }
        }

        fn advance(&self, seconds: u64) {
            self.now.fetch_add(seconds * 1000, Ordering::Relaxed);
        }

        fn living(&self) -> usize {
            self.sources.living().0.len()
        }
    }

    fn workload(name: &str) -> SpiffeId {
        format!("spiffe://cluster.local/ns/data/sa/{name}").parse().unwrap()
    }

    fn vm(id: u8) -> Report {
        Report {
            vm: Some(SourceId([id; 16])),
            writes: None,
            bundle: None,
            keys: BTreeSet::new(),
        }
    }

    fn older(counter: u64) -> Report {
        Report {
            vm: None,
            writes: None,
            bundle: Some(Version { epoch: 1, counter }),
            keys: BTreeSet::new(),
        }
    }

    #[test]
    fn a_source_lives_while_it_polls_and_a_while_longer() {
        let bench = Bench::new(8);
        let (held, news) = bench.sources.polls(&workload("a"), vm(1));
        assert!(held.is_some() && news);
        bench.advance(600);
        assert_eq!(bench.living(), 1, "a held poll counts, however long");
        let lives = |name| bench.sources.lives_for(&workload(name));
        assert!(lives("a") && !lives("b"));
        drop(held);
        bench.advance(60);
        assert_eq!(bench.living(), 1);
        assert!(lives("a"));
        bench.advance(1);
        assert_eq!(bench.living(), 0);
        assert!(!lives("a"));
    }

    #[test]
    fn a_source_is_known_by_its_vm_and_its_last_report_counts() {
        let bench = Bench::new(8);
        let first = bench.sources.polls(&workload("a"), vm(1));
        assert!(!bench.sources.polls(&workload("a"), vm(1)).1, "no news");
        let changed = Report {
            bundle: Some(Version { epoch: 1, counter: 2 }),
            ..vm(1)
        };
        assert!(bench.sources.polls(&workload("a"), changed.clone()).1);
        drop(first);
        let (living, _) = bench.sources.living();
        assert_eq!(living.len(), 1);
        assert_eq!(living.first().unwrap().report, changed);
        drop(bench.sources.polls(&workload("b"), vm(1)));
        drop(bench.sources.polls(&workload("a"), vm(2)));
        assert_eq!(bench.living(), 3, "another workload, another VM");
    }

    #[test]
    fn a_source_that_polls_and_tells_nothing_is_silent() {
        let bench = Bench::new(8);
        let source = SourceId([9; 16]);
        let writes = Writes {
            source,
            heartbeat: Duration::from_secs(30),
        };
        let report = Report {
            writes: Some(writes),
            ..vm(1)
        };
        let _held = bench.sources.polls(&workload("a"), report.clone());
        let _other = bench.sources.polls(&workload("b"), vm(1));
        let silent = |name| bench.sources.is_silent(&workload(name));
        bench.advance(75);
        assert!(!silent("a"));
        bench.advance(1);
        assert!(silent("a") && !silent("b"), "an older filter is never silent");
        let telling = bench.sources.telling();
        assert_eq!(
            (telling.len(), telling.first().unwrap().quiet),
            (1, Duration::from_secs(76))
        );
        bench.sources.tells(&workload("b"), source);
        bench.sources.tells(&workload("a"), SourceId([8; 16]));
        assert!(silent("a"), "another workload, another source");
        bench.sources.tells(&workload("a"), source);
        assert!(!silent("a"));
        bench.advance(76);
        let new = Writes {
            source: SourceId([8; 16]),
            ..writes
        };
        let _new = bench.sources.polls(
            &workload("a"),
            Report {
                writes: Some(new),
                ..report
            },
        );
        assert!(!silent("a"), "it has begun another chain");
    }

    #[test]
    fn an_older_filter_is_known_by_what_it_holds_until_that_is_old() {
        let bench = Bench::new(8);
        drop(bench.sources.polls(&workload("a"), older(1)));
        bench.advance(30);
        drop(bench.sources.polls(&workload("a"), older(2)));
        assert_eq!(bench.living(), 2, "another one may still hold the older version");
        bench.advance(31);
        assert_eq!(bench.living(), 1);
    }

    #[test]
    fn a_workload_with_too_many_sources_is_named_and_fills_nothing() {
        let bench = Bench::new(2);
        for id in 1..=3 {
            drop(bench.sources.polls(&workload("a"), vm(id)));
        }
        drop(bench.sources.polls(&workload("b"), vm(9)));
        let (living, crowded) = bench.sources.living();
        assert_eq!((living.len(), crowded), (3, vec![workload("a")]));
        bench.advance(61);
        assert_eq!(bench.sources.living(), (vec![], vec![]));
    }

    #[test]
    fn all_are_known_once_the_silent_ones_are_dead() {
        let bench = Bench::new(2);
        assert_eq!(bench.sources.all_known_in(), MAX_AGE);
        bench.advance(45);
        assert_eq!(bench.sources.all_known_in(), Duration::from_secs(15));
        bench.advance(45);
        assert_eq!(bench.sources.all_known_in(), Duration::ZERO);
    }
}
