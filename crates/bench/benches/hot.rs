//! Micro benchmarks of the hot functions: `cargo bench --package outbox-bench`.

use divan::Bencher;
use divan::counter::ItemsCount;
use outbox_bench::hot::{self, NAMES};

/// As in the bridge.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

#[divan::bench(args = NAMES)]
fn hot_functions(bencher: Bencher<'_, '_>, name: &str) {
    let mut hot = hot::prepare(name).expect("a function of the list");
    bencher.counter(ItemsCount::new(hot.items)).bench_local(|| hot.call());
}
