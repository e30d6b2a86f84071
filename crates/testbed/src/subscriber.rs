//! What a test's own thread logs and traces.

use std::sync::LazyLock;

use tracing::dispatcher::{self, DefaultGuard, Dispatch};
use tracing::subscriber::NoSubscriber;

/// Wants nothing, and is there as long as the process.
static OTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

/// Has `subscriber` get what this thread logs and traces, as long as the guard lives.
///
/// While `tracing` knows of a single subscriber, it asks only the thread that comes to a span or an event first, and remembers the answer for
/// all: a line is lost if another test, whose thread has no subscriber, was there before. With a second subscriber it asks both.
pub fn own_subscriber(subscriber: impl Into<Dispatch>) -> DefaultGuard {
    LazyLock::force(&OTHER);
    dispatcher::set_default(&subscriber.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    #[derive(Clone, Default)]
    struct Counting(Arc<AtomicU32>);

    impl Subscriber for Counting {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn gets_what_another_thread_came_to_first() {
        let told = || tracing::info!("told");
        let counting = Counting::default();
        let guard = own_subscriber(counting.clone());
        std::thread::scope(|scope| scope.spawn(told).join().expect("no panic"));
        assert_eq!(counting.0.load(Ordering::Relaxed), 0, "the other thread has none");
        told();
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        drop(guard);
    }
}
