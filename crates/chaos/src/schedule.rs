//! What happens when, from a seed. Pure.

use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use testbed::Direction;

/// How long the faults of a round go on.
pub const ROUND: Duration = Duration::from_secs(20);
/// How many bridges of one name run.
pub const BRIDGES: usize = 2;
/// How many NATS servers make up the cluster.
pub const NODES: usize = 3;

/// Which connections a fault of the network meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Those of the bridges to MySQL.
    Source,
    /// Those of the bridges to NATS.
    Nats,
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A bridge is killed with -9, and started again at the end.
    KillBridge(usize),
    /// A bridge is frozen.
    FreezeBridge(usize),
    /// A bridge is stopped in good order, and started again at the end.
    StopBridge(usize),
    /// MySQL is killed with -9, and started again at the end.
    KillSource,
    /// MySQL is stopped in good order, and started again at the end.
    StopSource,
    /// MySQL is frozen.
    FreezeSource,
    /// The replica takes MySQL's place, and the old primary comes back as its replica at the end. All that was committed is
    /// awaited there first, so nothing is lost by the servers.
    SwitchSource {
        /// The primary is killed with -9 under load, or stopped when nobody writes any more.
        killed: bool,
    },
    /// The replica is killed with -9, and started again at the end.
    KillReplica,
    /// A NATS server is killed with -9, and started again at the end.
    KillNode(usize),
    /// A NATS server is stopped in good order, and started again at the end.
    StopNode(usize),
    /// A NATS server is frozen.
    FreezeNode(usize),
    /// A NATS server is cut off from the others, but not from its clients.
    IsolateNode(usize),
    /// All NATS servers but one are killed, so that nothing has a majority.
    KillMajority {
        /// The one that lives.
        survivor: usize,
    },
    /// The stream's leader gives its role up.
    StepDown,
    /// Connections are reset.
    Cut(Link),
    /// Connections end in the midst of a packet, after so many bytes more.
    Truncate(Link, Direction, u64),
    /// Connections stay open, and nothing flows.
    Stall(Link),
    /// Nothing listens.
    Down(Link),
    /// So many bytes a second flow.
    Throttle(Link, Direction, u64),
    /// What flows comes later, by so many milliseconds.
    Delay(Link, Direction, u64),
}

impl Fault {
    /// What the report calls it.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::KillBridge(_) => "bridge killed",
            Self::FreezeBridge(_) => "bridge frozen",
            Self::StopBridge(_) => "bridge stopped",
            Self::KillSource => "MySQL killed",
            Self::StopSource => "MySQL stopped",
            Self::FreezeSource => "MySQL frozen",
            Self::SwitchSource { killed: true } => "MySQL killed and replaced by its replica",
            Self::SwitchSource { killed: false } => "MySQL stopped and replaced by its replica",
            Self::KillReplica => "replica killed",
            Self::KillNode(_) => "NATS server killed",
            Self::StopNode(_) => "NATS server stopped",
            Self::FreezeNode(_) => "NATS server frozen",
            Self::IsolateNode(_) => "NATS server cut off from its peers",
            Self::KillMajority { .. } => "two NATS servers killed",
            Self::StepDown => "stream's leader stepped down",
            Self::Cut(_) => "connections reset",
            Self::Truncate(..) => "connections ended in a packet",
            Self::Stall(_) => "connections half open",
            Self::Down(_) => "connections refused",
            Self::Throttle(..) => "connections throttled",
            Self::Delay(..) => "connections delayed",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::KillBridge(index) | Self::FreezeBridge(index) | Self::StopBridge(index) => {
                write!(f, " (bridge {index})")
            }
            Self::KillNode(index)
            | Self::StopNode(index)
            | Self::FreezeNode(index)
            | Self::IsolateNode(index) => write!(f, " (server {index})"),
            Self::KillMajority { survivor } => write!(f, " (all but server {survivor})"),
            Self::KillSource
            | Self::StopSource
            | Self::FreezeSource
            | Self::SwitchSource { .. }
            | Self::KillReplica
            | Self::StepDown => Ok(()),
            Self::Cut(link) | Self::Stall(link) | Self::Down(link) => write!(f, " ({link:?})"),
            Self::Truncate(link, direction, bytes) => {
                write!(f, " ({link:?}, {direction:?}, after {bytes} bytes)")
            }
            Self::Throttle(link, direction, bytes) => write!(f, " ({link:?}, {direction:?}, {bytes} B/s)"),
            Self::Delay(link, direction, millis) => write!(f, " ({link:?}, {direction:?}, {millis} ms)"),
        }
    }
}

/// A fault with its time, counted from the round's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// When it begins.
    pub begin: Duration,
    /// When it ends.
    pub end: Duration,
    /// What it is.
    pub fault: Fault,
}

/// The rounds of a run; each has its faults in the order of their beginnings.
///
/// Faults of one target follow one another; those of different targets overlap as they like.
#[must_use]
pub fn schedule(seed: u64, rounds: usize) -> Vec<Vec<Timed>> {
    let mut random = SmallRng::seed_from_u64(seed);
    (0..rounds).map(|_| round(&mut random)).collect()
}

fn round(random: &mut SmallRng) -> Vec<Timed> {
    let mut faults = Vec::new();
    for bridge in 0..BRIDGES {
        fill(&mut faults, random, 1_000..7_000, |random| bridge_fault(random, bridge));
    }
    fill(&mut faults, random, 4_000..15_000, source_fault);
    fill(&mut faults, random, 2_000..9_000, nats_fault);
    for link in [Link::Source, Link::Nats] {
        fill(&mut faults, random, 1_000..6_000, |random| link_fault(random, link));
    }
    faults.sort_by_key(|timed| timed.begin);
    faults
}

/// Lets one target's faults follow one another, with pauses of so many milliseconds.
fn fill(
    faults: &mut Vec<Timed>,
    random: &mut SmallRng,
    pause: std::ops::Range<u64>,
    fault: impl Fn(&mut SmallRng) -> (Fault, std::ops::Range<u64>),
) {
    let mut at = Duration::ZERO;
    loop {
        let begin = at + Duration::from_millis(random.random_range(pause.clone()));
        let (fault, lasts) = fault(random);
        let end = begin + Duration::from_millis(random.random_range(lasts));
        if begin >= ROUND {
            return;
        }
        let end = end.min(ROUND);
        faults.push(Timed { begin, end, fault });
        at = end;
    }
}

fn bridge_fault(random: &mut SmallRng, bridge: usize) -> (Fault, std::ops::Range<u64>) {
    match random.random_range(0..6) {
        0..3 => (Fault::KillBridge(bridge), 0..2_000),
        3 => (Fault::StopBridge(bridge), 0..2_000),
        // Longer than the lease lives, so that another one leads when it wakes.
        4 => (Fault::FreezeBridge(bridge), 4_000..9_000),
        _ => (Fault::FreezeBridge(bridge), 50..3_000),
    }
}

fn source_fault(random: &mut SmallRng) -> (Fault, std::ops::Range<u64>) {
    match random.random_range(0..9) {
        0..2 => (Fault::KillSource, 0..2_000),
        2 => (Fault::StopSource, 0..1_000),
        3 => (Fault::FreezeSource, 500..6_000),
        4..6 => (Fault::SwitchSource { killed: true }, 0..4_000),
        6 => (Fault::KillReplica, 0..4_000),
        _ => (Fault::SwitchSource { killed: false }, 0..4_000),
    }
}

fn nats_fault(random: &mut SmallRng) -> (Fault, std::ops::Range<u64>) {
    let node = random.random_range(0..NODES);
    match random.random_range(0..12) {
        0..3 => (Fault::KillNode(node), 100..4_000),
        3 => (Fault::StopNode(node), 100..3_000),
        4..6 => (Fault::FreezeNode(node), 500..8_000),
        6..9 => (Fault::IsolateNode(node), 1_000..13_000),
        9 => (Fault::KillMajority { survivor: node }, 500..4_000),
        _ => (Fault::StepDown, 0..100),
    }
}

fn link_fault(random: &mut SmallRng, link: Link) -> (Fault, std::ops::Range<u64>) {
    let direction = if random.random() { Direction::ToServer } else { Direction::ToClient };
    match random.random_range(0..7) {
        0 => (Fault::Cut(link), 0..100),
        1..3 => (Fault::Truncate(link, direction, random.random_range(1..60_000)), 200..2_000),
        3 => (Fault::Stall(link), 200..5_000),
        4 => (Fault::Down(link), 100..3_000),
        5 => (Fault::Throttle(link, direction, random.random_range(5_000..100_000)), 500..4_000),
        _ => (Fault::Delay(link, direction, random.random_range(10..800)), 500..4_000),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The part that a fault meets.
    fn target(fault: Fault) -> usize {
        match fault {
            Fault::KillBridge(index) | Fault::FreezeBridge(index) | Fault::StopBridge(index) => index,
            Fault::KillSource
            | Fault::StopSource
            | Fault::FreezeSource
            | Fault::SwitchSource { .. }
            | Fault::KillReplica => 10,
            Fault::KillNode(_)
            | Fault::StopNode(_)
            | Fault::FreezeNode(_)
            | Fault::IsolateNode(_)
            | Fault::KillMajority { .. }
            | Fault::StepDown => 11,
            Fault::Cut(link)
            | Fault::Truncate(link, ..)
            | Fault::Stall(link)
            | Fault::Down(link)
            | Fault::Throttle(link, ..)
            | Fault::Delay(link, ..) => 20 + usize::from(link == Link::Nats),
        }
    }

    proptest! {
        #[test]
        fn a_seed_gives_one_schedule_whose_faults_of_a_target_do_not_overlap(seed: u64, rounds in 1_usize..6) {
            let rounds_of_seed = schedule(seed, rounds);
            prop_assert_eq!(&rounds_of_seed, &schedule(seed, rounds));
            prop_assert_eq!(rounds_of_seed.len(), rounds);
            for round in rounds_of_seed {
                let mut free = std::collections::HashMap::new();
                let mut before = Duration::ZERO;
                for timed in round {
                    prop_assert!(before <= timed.begin && timed.begin <= timed.end && timed.end <= ROUND);
                    before = timed.begin;
                    let from = free.insert(target(timed.fault), timed.end);
                    prop_assert!(from.is_none_or(|from| from <= timed.begin));
                }
            }
        }
    }

    #[test]
    fn longer_runs_begin_as_shorter_ones_and_meet_every_fault() {
        let (short, long) = (schedule(7, 2), schedule(7, 40));
        assert_eq!(short.as_slice(), &long[..2]);
        let mut kinds: Vec<_> = long.iter().flatten().map(|timed| timed.fault.kind()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), 21, "{kinds:?}");
    }
}
