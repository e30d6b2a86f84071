//! Everything at least twice, concurrently, late, and with crashes in between.

use std::{collections::BTreeMap, error::Error, fmt};

use futures_util::future::join_all;
use outbox_event::header;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};

use super::{Outcome, TestConsumer, TestEvent};
use crate::{envelope::text, inbox::Inbox};

/// How many schedules are tried.
const ROUNDS: u64 = 16;
/// How many other tasks go first, at most, before a delivery begins.
const HESITATION_MAX: u32 = 12;

/// The effects depended on how often, when, or with how many crashes the events were delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The schedule's seed.
    pub seed: u64,
    /// The effects when every event was delivered once, one after another.
    pub once: String,
    /// The effects when they were delivered by this schedule.
    pub repeated: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, once, repeated } = self;
        write!(
            f,
            "the effects differ when events are delivered more than once (schedule {seed})\n    once: {once}\nrepeated: {repeated}"
        )
    }
}

impl Error for Difference {}

/// Delivers `events` once, one after another; then, by several schedules, everything at least twice, concurrently and
/// late, with processes that die before their commit. Fails if the effects differ.
///
/// `fresh` makes a consumer on an empty database, and what reads the effects at the end. Without
/// [`TestConsumer::ordered`] the first deliveries come in any order, so that effects must not depend on it.
///
/// # Errors
///
/// The first schedule whose effects differ. Schedules are the same in every run.
///
/// ```
/// # use outbox_consumer::inbox::Inbox;
/// # async fn example<I: Inbox>(new_inbox: impl Fn() -> I) -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
/// use outbox_consumer::{Router, State, testkit::{TestConsumer, TestEvent, check_repeated}};
///
/// // Not idempotent: the counter is not in the inbox's transaction.
/// async fn count(State(counter): State<Arc<AtomicU32>>) {
///     counter.fetch_add(1, Ordering::SeqCst);
/// }
///
/// let events = [TestEvent::new("order.placed", &1), TestEvent::new("order.placed", &2)];
/// let found = check_repeated(&events, async || {
///     let counter = Arc::new(AtomicU32::new(0));
///     let router = Router::new().on("order.placed", count).with_state(Arc::clone(&counter));
///     (TestConsumer::new(new_inbox(), router), async move || counter.load(Ordering::SeqCst))
/// })
/// .await;
/// assert!(found.is_err());
/// # Ok(())
/// # }
/// ```
pub async fn check_repeated<I, W, E, T>(events: &[TestEvent], fresh: W) -> Result<(), Difference>
where
    I: Inbox,
    W: AsyncFn() -> (TestConsumer<I>, E),
    E: AsyncFnOnce() -> T,
    T: PartialEq + fmt::Debug,
{
    let (consumer, effects) = fresh().await;
    let outcomes = consumer.deliver_all(events).await;
    let once = (effects().await, given_up(events, outcomes));
    for seed in 0..ROUNDS {
        let (consumer, effects) = fresh().await;
        let outcomes = run(&consumer, events, seed).await;
        let repeated = (effects().await, given_up(events, outcomes));
        if repeated != once {
            return Err(Difference { seed, once: format!("{once:?}"), repeated: format!("{repeated:?}") });
        }
    }
    Ok(())
}

/// Which events became dead letters: that is an effect, too.
fn given_up(events: &[TestEvent], outcomes: Vec<Outcome>) -> Vec<String> {
    let dead =
        events.iter().zip(outcomes).filter(|(_, outcome)| matches!(outcome, Outcome::DeadLetter { .. }));
    dead.filter_map(|(event, _)| text(&event.headers, header::CE_ID).map(str::to_owned)).collect()
}

/// Delivers all events by the schedule of this seed; gives what came of each at last.
async fn run<I: Inbox>(consumer: &TestConsumer<I>, events: &[TestEvent], seed: u64) -> Vec<Outcome> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut lanes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        let key = text(&event.headers, header::CE_PARTITION_KEY).filter(|_| consumer.ordered);
        lanes
            .entry(key.map_or_else(|| format!("#{index}"), |key| format!("={key}")))
            .or_default()
            .push(index);
    }
    let mut lanes: Vec<_> = lanes.into_values().collect();
    lanes.shuffle(&mut random);
    let lanes = lanes.into_iter().map(|lane| {
        let seed = random.random();
        async move {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut outcomes = Vec::with_capacity(lane.len());
            for index in lane {
                let Some(event) = events.get(index) else { continue };
                outcomes.push((index, several_at_once(consumer, event, &mut random).await));
            }
            outcomes
        }
    });
    let mut outcomes: Vec<_> = join_all(lanes).await.into_iter().flatten().collect();
    outcomes.sort_by_key(|(index, _)| *index);
    // Late: long after everything else, in any order.
    let mut late: Vec<_> = events.iter().collect();
    late.shuffle(&mut random);
    for event in late {
        // A message that was given up is not delivered again.
        let dead = events.iter().zip(&outcomes).any(|(other, (_, outcome))| {
            other.sequence == event.sequence && matches!(outcome, Outcome::DeadLetter { .. })
        });
        if !dead {
            consumer.deliver(event).await;
        }
    }
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Delivers an event two or three times at once, perhaps after a crash.
async fn several_at_once<I: Inbox>(
    consumer: &TestConsumer<I>,
    event: &TestEvent,
    random: &mut SmallRng,
) -> Outcome {
    if random.random_bool(0.5) {
        hesitate(random.random_range(0..HESITATION_MAX)).await;
        consumer.deliver_and_crash(event).await;
    }
    let hesitations: Vec<u32> =
        (0..random.random_range(2..=3)).map(|_| random.random_range(0..HESITATION_MAX)).collect();
    let deliveries = hesitations.into_iter().map(|hesitation| async move {
        hesitate(hesitation).await;
        consumer.deliver(event).await
    });
    let outcomes = join_all(deliveries).await;
    // The one that says most: the others are duplicates of it.
    let said = outcomes.into_iter().find(|outcome| *outcome != Outcome::Duplicate);
    said.unwrap_or(Outcome::Duplicate)
}

async fn hesitate(turns: u32) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}
