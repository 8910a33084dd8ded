//! The functions natively, under criterion. `make bench ONLY=micro` runs them beside the same in Envoy's V8.
#![expect(clippy::panic, reason = "a function that fails has no time")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use micro::works::{IDS, Work};

fn native(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("native");
    for id in IDS {
        let mut work = Work::prepare(id).unwrap_or_else(|error| panic!("{error:#}"));
        if let Some(bytes) = work.bytes() {
            group.throughput(Throughput::Bytes(bytes));
        }
        group.bench_function(id, |bencher| bencher.iter(|| work.run()));
    }
    group.finish();
}

criterion_group!(benches, native);
criterion_main!(benches);
