//! Whatever stands in the log and wherever reading is broken off: what is let out is what was committed, in its order.

use proptest::prelude::*;

use super::*;
use crate::{route::finish, source::event::Event};

/// Something that a server writes into its log.
#[derive(Debug, Clone)]
enum Act {
    /// A transaction with so many rows for the streams 0 and 1.
    Transaction {
        rows: [usize; 2],
        end: End,
        compressed: bool,
    },
    /// An XA transaction is prepared, if its name is not in use.
    Prepare {
        name: char,
        rows: usize,
    },
    /// A prepared one ends, if there is one of this name.
    Resolve {
        name: char,
        commit: bool,
    },
    /// A statement that is no transaction of rows.
    Definition,
    Rotate,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Xid,
    Commit,
    Rollback,
    /// The server dies.
    Crash,
}

fn act() -> impl Strategy<Value = Act> {
    let name = || prop::sample::select(vec!['a', 'b', 'c']);
    let end = prop::sample::select(vec![End::Xid, End::Xid, End::Commit, End::Rollback, End::Crash]);
    prop_oneof![
        4 => ([0..4_usize, 0..2_usize], end, any::<bool>())
            .prop_map(|(rows, end, compressed)| Act::Transaction { rows, end, compressed }),
        3 => (name(), 0..3_usize).prop_map(|(name, rows)| Act::Prepare { name, rows }),
        3 => (name(), any::<bool>()).prop_map(|(name, commit)| Act::Resolve { name, commit }),
        1 => Just(Act::Definition),
        1 => Just(Act::Rotate),
    ]
}

#[derive(Debug, Clone)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Type(u8),
    EndOffset(u32),
    Swap(prop::sample::Index),
    Double,
    /// The body of another event.
    Splice(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), 1..=255_u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        index().prop_map(Damage::Cut),
        any::<u8>().prop_map(Damage::Type),
        any::<u32>().prop_map(Damage::EndOffset),
        index().prop_map(Damage::Swap),
        Just(Damage::Double),
        index().prop_map(Damage::Splice),
    ]
}

impl Damage {
    fn to(self, events: &mut Vec<RawEvent>, at: prop::sample::Index) {
        let at = at.index(events.len());
        let mut body = events[at].body.to_vec();
        match self {
            Self::Flip(place, bits) if !body.is_empty() => {
                let place = place.index(body.len());
                body[place] ^= bits;
                events[at].body = body.into();
            }
            Self::Flip(..) => {}
            Self::Cut(place) => {
                body.truncate(place.index(body.len() + 1));
                events[at].body = body.into();
            }
            Self::Type(event_type) => events[at].header.event_type = event_type,
            Self::EndOffset(offset) => events[at].header.end_offset = offset,
            Self::Swap(other) => {
                let other = other.index(events.len());
                events.swap(at, other);
            }
            Self::Double => events.insert(at, events[at].clone()),
            Self::Splice(other) => events[at].body = events[other.index(events.len())].body.clone(),
        }
    }
}

/// A log and what must come of it.
struct World {
    log: Log,
    /// For each transaction that commits rows: its number and what it lets out.
    committed: Vec<(u64, Vec<String>)>,
}

impl World {
    fn write(acts: &[Act], flavour: Flavour) -> Self {
        let mut log = Log::new(flavour);
        let mut committed = Vec::new();
        let mut prepared: BTreeMap<char, Vec<String>> = BTreeMap::new();
        let mut next_id = 0;
        let mut ids = |count: usize| -> Vec<String> {
            let ids = (next_id..next_id + count).map(|id| format!("id{id}")).collect();
            next_id += count;
            ids
        };
        let insert = |log: &mut Log, table: usize, ids: &[String]| {
            let ids: Vec<_> = ids.iter().map(String::as_str).collect();
            // In two events where there are enough, among rows of another table.
            let (head, tail) = ids.split_at(ids.len().min(2));
            for part in [head, tail].into_iter().filter(|part| !part.is_empty()) {
                log.insert(table, part).foreign_map(9).foreign_rows(9);
            }
        };
        for act in acts {
            match act {
                Act::Transaction { rows, end, compressed } => {
                    let compressed = *compressed && flavour == Flavour::MySql && !matches!(end, End::Crash);
                    if compressed {
                        log.gtid().compressed().query("BEGIN");
                    } else {
                        log.begin();
                    }
                    let mut shown = Vec::new();
                    for (stream, count) in rows.iter().enumerate() {
                        let ids = ids(*count);
                        insert(&mut log, stream, &ids);
                        let rows = ids.iter().enumerate();
                        shown.extend(rows.map(|(row, id)| format!("{stream}:{id}@{}/{row}", log.sequence)));
                    }
                    match end {
                        End::Xid => log.commit(),
                        End::Commit => log.query("COMMIT"),
                        End::Rollback => log.query("ROLLBACK"),
                        End::Crash => log.crash(),
                    };
                    if compressed {
                        log.compressed_end();
                    }
                    if matches!(end, End::Xid | End::Commit) {
                        committed.push((log.sequence, shown));
                    }
                }
                Act::Prepare { name, .. } if prepared.contains_key(name) => {}
                Act::Prepare { name, rows } => {
                    let ids = ids(*rows);
                    log.xa_start(*name);
                    insert(&mut log, 0, &ids);
                    log.query(&format!("XA END {}", xid(*name))).xa_prepare(*name, false);
                    prepared.insert(*name, ids);
                }
                Act::Resolve { name, commit } => {
                    let Some(ids) = prepared.remove(name) else { continue };
                    if *commit {
                        log.xa_commit(*name);
                        let sequence = log.sequence;
                        let shown =
                            ids.iter().enumerate().map(|(row, id)| format!("0:{id}@{sequence}/{row}"));
                        committed.push((sequence, shown.collect()));
                    } else {
                        log.xa_rollback(*name);
                    }
                }
                Act::Definition => {
                    log.standalone().query("CREATE TABLE x (i INT)");
                }
                Act::Rotate => {
                    log.rotate();
                }
            }
        }
        Self { log, committed }
    }

    /// The rows of the transactions that `wanted` names by their numbers.
    fn expected(&self, wanted: impl Fn(u64) -> bool) -> Vec<String> {
        self.committed
            .iter()
            .filter(|(sequence, _)| wanted(*sequence))
            .flat_map(|(_, rows)| rows.clone())
            .collect()
    }

    /// The set of all transactions up to a number.
    fn set(&self, last: u64) -> String {
        match (self.log.flavour, last) {
            (_, 0) => String::new(),
            (Flavour::MySql, 1) => gtid(1),
            (Flavour::MySql, last) => format!("{UUID}:1-{last}"),
            (Flavour::MariaDb, last) => format!("0-1-{last}"),
        }
    }

    fn events(&self, file: &str, offset: u64) -> Vec<Logged> {
        self.log.from(log_file_number(file).expect("a file's number"), offset)
    }

    /// Where the group begins that prepared `xid` last before a place: what the source looks for.
    fn find_prepare(&self, xid: &str, before: (&str, u64)) -> (String, u64) {
        let before = (log_file_number(before.0).expect("a file's number"), before.1);
        let (mut begin, mut found) = (None, None);
        for event in self.log.events.iter().filter(|event| (event.file, event.begins()) < before) {
            match Event::parse(&event.raw, self.log.flavour).expect("an event") {
                Event::Gtid(_) => begin = Some((file_name(event.file), event.begins())),
                Event::XaPrepare { xid: other, one_phase: false } if other.to_string() == xid => {
                    found.clone_from(&begin);
                }
                _ => {}
            }
        }
        found.expect("a commit has a prepare")
    }

    /// The rows of a group, as the source reads it again.
    fn replay(&self, assembler: &Assembler, replay: &Replay) -> Vec<(usize, Message)> {
        let mut rows = assembler.rows().fresh();
        let mut numbers = Numbers::default();
        let mut messages = Vec::new();
        let mut events: std::collections::VecDeque<_> =
            self.events(&replay.file, replay.offset).into_iter().map(|event| event.raw).collect();
        while let Some(raw) = events.pop_front() {
            match Event::parse(&raw, self.log.flavour).expect("an event") {
                Event::TableMap(body) => assert_eq!(rows.table_map(&body).expect("a table map"), Taken::Done),
                Event::Rows(kind) => {
                    let wanted = kind != RowsKind::Delete;
                    if let Opened::Rows(mut open) = rows.open(&raw, wanted).expect("rows") {
                        // One at a time, as a reader without room would.
                        let mut whole = false;
                        while !whole {
                            let room = (messages.len() + 1, usize::MAX);
                            whole =
                                rows.fill(&mut open, &replay.transaction, &mut messages, room).expect("rows");
                        }
                    }
                }
                Event::TransactionPayload(payload) => {
                    let mut payload = PayloadReader::new(payload, 1 << 20).expect("a reader");
                    let mut inner = Vec::new();
                    while let Some(event) = payload.next_event().expect("an event") {
                        inner.push(event);
                    }
                    inner.into_iter().rev().for_each(|event| events.push_front(event));
                }
                Event::Xid | Event::XaPrepare { .. } => break,
                Event::Query(query) if query.statement() == Statement::Commit => break,
                _ => {}
            }
        }
        for (stream, message) in &mut messages {
            finish(message, &replay.transaction, numbers.next(*stream));
        }
        messages
    }
}

/// A bridge that reads a log and is broken off now and then.
struct Reader<'w> {
    world: &'w World,
    buffer_bytes_max: usize,
    /// After so many events or rows read again each.
    breaks: std::vec::IntoIter<usize>,
    left: usize,
    /// Whether the next life begins at the last but one of the points that were handed out.
    lagging: bool,
    points: Vec<LogPoint>,
    /// By stream, as [`crate::publish::Chain`] does it: what was received is not taken again.
    received: [Option<(u64, u64, u64)>; 2],
    out: Vec<String>,
}

impl Reader<'_> {
    fn deliver(&mut self, (stream, message): (usize, Message)) {
        let order = message.order();
        if self.received[stream].is_none_or(|received| received < order) {
            self.received[stream] = Some(order);
            self.out.push(show(&(stream, message)));
        }
    }

    /// Whether it is broken off now.
    fn breaks_off(&mut self) -> bool {
        if self.left == 0 {
            self.left = self.breaks.next().unwrap_or(usize::MAX);
            return true;
        }
        self.left -= 1;
        false
    }

    /// Reads to the log's end, or until it is broken off.
    fn live(&mut self, assembler: &mut Assembler, events: Vec<Logged>) -> Option<()> {
        let mut events: std::collections::VecDeque<_> = events.into_iter().map(|event| event.raw).collect();
        while let Some(raw) = events.pop_front() {
            let mut messages = Vec::new();
            let step = assembler.take(&raw, &mut messages).expect("a sound log");
            messages.into_iter().for_each(|message| self.deliver(message));
            let step = match step {
                Step::FindPrepare { xid, file, offset } => {
                    let (file, offset) = self.world.find_prepare(&xid, (&file, offset));
                    assembler.found(file, offset)
                }
                step => step,
            };
            match step {
                Step::Payload(payload) => {
                    let mut payload = PayloadReader::new(payload, 1 << 20).expect("a reader");
                    let mut inner = Vec::new();
                    while let Some(event) = payload.next_event().expect("an event") {
                        inner.push(event);
                    }
                    inner.into_iter().rev().for_each(|event| events.push_front(event));
                }
                Step::Replay(replay) => {
                    for message in self.world.replay(assembler, &replay) {
                        self.points.push(assembler.point());
                        if self.breaks_off() {
                            return None;
                        }
                        self.deliver(message);
                    }
                    assembler.replayed();
                }
                Step::Continue => {}
                step => panic!("{step:?}"),
            }
            self.points.push(assembler.point());
            if self.breaks_off() {
                return None;
            }
        }
        Some(())
    }

    /// Reads all of the log, in as many lives as it takes; gives the last point.
    fn run(&mut self, first: LogPoint) -> LogPoint {
        let flavour = self.world.log.flavour;
        self.points.push(first);
        loop {
            let begin = self.points.len().saturating_sub(1 + usize::from(self.lagging));
            let stored = serde_json::to_string(&self.points[begin]).expect("a point");
            let point: LogPoint = serde_json::from_str(&stored).expect("a point");
            let executed = point.executed.as_ref().map(|text| GtidSet::parse(text, flavour).expect("a set"));
            let offset = if executed.is_some() { point.offset } else { 4 };
            let rows = outbox_rows(flavour);
            let mut assembler = Assembler::new(&point, executed, flavour, rows, self.buffer_bytes_max);
            let events = self.world.events(&point.file, offset);
            if self.live(&mut assembler, events).is_some() {
                return assembler.point();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_let_out_is_what_was_committed(
        acts in prop::collection::vec(act(), 0..25),
        mariadb: bool,
        buffer_bytes_max in prop::sample::select(vec![0, 300, 700, 2_000, UNLIMITED]),
        breaks in prop::collection::vec(0..30_usize, 0..12),
        lagging: bool,
        start in 0..4_u8,
        which: prop::sample::Index,
    ) {
        let flavour = if mariadb { Flavour::MariaDb } else { Flavour::MySql };
        let world = World::write(&acts, flavour);
        let last = world.log.sequence;
        let mut first = point(1, 4, At::Boundary);
        let mut after = 0;
        match start {
            // A GTID set that holds the first so many transactions.
            0 if last > 0 => {
                after = which.index(usize::try_from(last).unwrap() + 1) as u64;
                first.executed = Some(world.set(after));
                first.at = if mariadb { At::Gtids } else { At::Boundary };
            }
            // The transaction of a message in a stream: all that is known without a checkpoint.
            1 if !world.committed.is_empty() => {
                let (sequence, _) = &world.committed[which.index(world.committed.len())];
                let mut lives = Reader {
                    world: &world, buffer_bytes_max: UNLIMITED, breaks: vec![].into_iter(), left: usize::MAX,
                    lagging: false, points: Vec::new(), received: [None; 2], out: Vec::new(),
                };
                lives.run(first.clone());
                let found = lives.points.iter().find(|point| match &point.at {
                    At::Done(transaction) => transaction.gtid.ends_with(&format!("{}{sequence}", if mariadb { '-' } else { ':' })),
                    _ => false,
                });
                let found = found.expect("every transaction was the last one once");
                let At::Done(transaction) = &found.at else { unreachable!() };
                let transaction = Transaction { committed_micros: 0, ..transaction.clone() };
                first = LogPoint { file: found.file.clone(), offset: found.offset, at: At::Pending(transaction), ..first };
                after = sequence - 1;
            }
            _ => {}
        }
        let mut breaks = breaks.into_iter();
        let left = breaks.next().unwrap_or(usize::MAX);
        let mut reader = Reader {
            world: &world, buffer_bytes_max, breaks: breaks.collect::<Vec<_>>().into_iter(), left, lagging,
            points: Vec::new(), received: [None; 2], out: Vec::new(),
        };
        let end = reader.run(first);
        prop_assert_eq!(&reader.out, &world.expected(|sequence| sequence > after));
        prop_assert_eq!(end.executed.unwrap_or_default(), world.set(last));
    }

    /// A log whose events were damaged, cut, swapped or doubled: an error or other rows, never a panic.
    #[test]
    fn a_damaged_log_does_not_panic(
        acts in prop::collection::vec(act(), 1..12),
        mariadb: bool,
        damages in prop::collection::vec((any::<prop::sample::Index>(), damage()), 1..4),
    ) {
        let flavour = if mariadb { Flavour::MariaDb } else { Flavour::MySql };
        let world = World::write(&acts, flavour);
        let mut events: Vec<RawEvent> = world.log.from(1, 4).into_iter().map(|event| event.raw).collect();
        prop_assume!(!events.is_empty());
        for (at, damage) in damages {
            damage.to(&mut events, at);
        }
        let mut assembler =
            Assembler::new(&point(1, 4, At::Boundary), None, flavour, outbox_rows(flavour), 1_000);
        let mut out = Vec::new();
        let mut events: std::collections::VecDeque<_> = events.into();
        while let Some(event) = events.pop_front() {
            match assembler.take(&event, &mut out) {
                Err(_) => break,
                Ok(Step::Payload(payload)) => {
                    let Ok(mut reader) = PayloadReader::new(payload, 1 << 20) else { break };
                    let mut inner = Vec::new();
                    while let Ok(Some(event)) = reader.next_event() {
                        inner.push(event);
                    }
                    inner.into_iter().rev().for_each(|event| events.push_front(event));
                }
                Ok(Step::Replay(_)) => assembler.replayed(),
                Ok(_) => {}
            }
            drop(serde_json::to_string(&assembler.point()));
        }
    }
}
