use std::collections::BTreeSet;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use serde_json::Value;

use super::advice::Counts;
use super::status::{Moment, Status};
use super::*;
use crate::admin::board::{Held, Leader, LetterNote, LettersNote, NatsServer};
use crate::admin::readiness::{Component, Role};
use crate::checkpoint::{At, LogPoint};
use crate::instances::{Instance, Reading};
use crate::metrics::{BridgeMetrics, LATENCY_BUCKETS, StreamMetrics, names};
use crate::publish::{Message, PoisonKind, TransactionId};

/// What data could bring along to get out of its place.
const HOSTILE: &str = "<script src=http://evil.example/x.js>alert(1)</script>\" onload='x' {{name}} `";

fn facts(letters: bool) -> Facts {
    let mut facts = Facts::example();
    facts.streams[0].1 = vec![HOSTILE.into()];
    facts.letters = facts.letters.filter(|_| letters);
    facts
}

fn message(number: u64) -> Message {
    let transaction = TransactionId {
        gtid: format!("464822be-e736-11f1-9189-02fc00000001:{number}"),
        file: "binlog.000001".into(),
        file_number: 1,
        offset: number,
        committed_micros: 1_767_225_600_000_000,
    };
    Message {
        transaction: Arc::new(transaction),
        row: 0,
        table: "shop.outbox".into(),
        subject: "orders.order.placed".into(),
        id: HOSTILE.into(),
        headers: vec![
            (outbox_event::header::CE_TYPE.into(), HOSTILE.into()),
            ("secret".into(), "s3cret".into()),
        ],
        body: Bytes::from_static(b"s3cret"),
        poison: None,
    }
}

/// A page of a bridge that has done some work.
fn page(letters: bool, prepare: impl FnOnce(&Readiness)) -> StatusPage {
    let builder = PrometheusBuilder::new();
    let matcher = Matcher::Full(names::COMMIT_TO_STORED.to_owned());
    let recorder =
        builder.set_buckets_for_metric(matcher, &LATENCY_BUCKETS).expect("buckets").build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let readiness = Readiness::of_bridge();
        let mut stream = StreamMetrics::new("ORDERS");
        stream.show_on(readiness.board().clone());
        stream.stored((0..9).map(message).collect::<Vec<_>>().into_iter(), 9);
        stream.resumed("timeout");
        stream.parked(PoisonKind::TooLarge);
        stream.lag.set(0.5);
        BridgeMetrics::new().source_reconnects.increment(3);
        prepare(&readiness);
        let page = StatusPage::new(facts(letters), readiness, handle);
        page.sample();
        page
    })
}

fn all_ready(readiness: &Readiness) {
    for component in [Component::Source, Component::Nats, Component::Publish, Component::Checkpoint] {
        readiness.set_ready(component);
    }
    readiness.set_reading("464822be".to_owned());
}

fn leads(readiness: &Readiness) {
    readiness.board().note(|notes| {
        notes.leader = Some(Leader {
            host: "here".into(),
            process: 7,
            instance: "i".into(),
            since: SystemTime::now(),
            seen_at: None,
        });
        notes.nats_server = Some(NatsServer { name: Some(HOSTILE.into()), version: "2.15.1".into() });
        notes.log_behind = Some((2_000_000_000, SystemTime::now()));
        let held = Held {
            messages: 9,
            bytes: 12_345,
            last_sequence: 9,
            last_stored_at: Some(SystemTime::now()),
            asked_at: SystemTime::now(),
        };
        notes.stream("ORDERS").held = Some(held);
        notes.stream("ORDERS").known = Some((9, None));
    });
    let point = LogPoint {
        server: "464822be".into(),
        file: "binlog.000001".into(),
        offset: 99,
        at: At::Boundary,
        executed: None,
        prepared: Vec::new(),
        definitions: Default::default(),
    };
    readiness.board().reached(&point);
    readiness.board().checkpointed();
    readiness.set_role(Role::Leader);
}

fn read(page: &StatusPage) -> (Value, String) {
    let made = page.make();
    let html = String::from_utf8(made.html.to_vec()).expect("text");
    assert_sound(&html);
    (serde_json::from_slice(&made.json).expect("JSON"), html)
}

/// Nothing from outside, nothing unescaped, every place filled, every tag closed.
fn assert_sound(html: &str) {
    let own = html.replace(render::SCRIPT, "").replace(render::STYLE, "");
    for never in ["<script src", "onload='", "s3cret", "http-equiv=\"refresh\" content=\"0", "style=\""] {
        assert!(!own.contains(never), "{never} in {own}");
    }
    for place in own.split("{{").skip(1) {
        assert!(place.starts_with("name}}"), "only the hostile text has places: {place}");
    }
    let linked: BTreeSet<&str> =
        own.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(linked, BTreeSet::from(["data:,", "metrics", "readyz", "status.json"]));
    let mut open = Vec::new();
    for tag in own.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
        assert!(!tag.contains("src="), "{tag}");
        let name = tag.split([' ', '/']).next().unwrap_or_default();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "{own}");
        } else if !matches!(name, "!DOCTYPE" | "meta" | "link" | "br" | "path") {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

fn at<'a>(json: &'a Value, place: &str) -> &'a Value {
    json.pointer(place).unwrap_or_else(|| panic!("no {place} in {json}"))
}

#[test]
fn a_leader_shows_everything() {
    let page = page(true, |readiness| {
        all_ready(readiness);
        leads(readiness);
        readiness.board().note(|notes| {
            let letter = LetterNote {
                sequence: 4,
                stream: "ORDERS".into(),
                table: HOSTILE.into(),
                reason: "too_large".into(),
                id: HOSTILE.into(),
                position: "p".into(),
            };
            notes.letters = Some(LettersNote {
                open: 1,
                done: 2,
                complete: true,
                last: vec![letter],
                asked_at: Some(SystemTime::now()),
            });
        });
    });
    let (json, html) = read(&page);
    assert_eq!(
        (at(&json, "/format"), at(&json, "/ready"), at(&json, "/role")),
        (&1.into(), &true.into(), &"leader".into())
    );
    assert_eq!(at(&json, "/flow/events"), 9);
    assert_eq!(at(&json, "/flow/lag_seconds"), 0.5);
    assert_eq!(at(&json, "/source/position/offset"), 99);
    assert_eq!(at(&json, "/streams/0/last_events/0/sequence"), 9);
    assert_eq!(at(&json, "/streams/0/last_events/0/type"), HOSTILE);
    assert_eq!(at(&json, "/streams/0/last_events").as_array().map(Vec::len), Some(5));
    assert_eq!(at(&json, "/resumes/causes/0/cause"), "timeout");
    assert_eq!(at(&json, "/dead_letters/open"), 1);
    assert_eq!(at(&json, "/components/source/state"), "ready");
    let warnings: Vec<&str> = at(&json, "/warnings")
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|warning| warning.get("section")?.as_str())
        .collect();
    assert_eq!(warnings, ["Dead letters", "OutboxLogBehind"]);
    for told in [
        "leads and carries the events",
        "(this one)",
        "1 dead letter in DEAD",
        "binlog.000001:99",
        "12 kB",
        "2 GB",
    ] {
        assert!(html.contains(told), "{told} in {html}");
    }
}

#[test]
fn what_waits_is_said_with_its_remedy() {
    let page = page(false, |readiness| {
        all_ready(readiness);
        leads(readiness);
        readiness.set_unready(Component::Source, "source: connection refused <&>");
    });
    let (json, html) = read(&page);
    assert_eq!(at(&json, "/components/source/state"), "not_ready");
    assert_eq!(at(&json, "/components/source/section"), "When it does not get on");
    assert_eq!(at(&json, "/flow/lag_seconds"), &Value::Null, "what was not read may be late");
    assert_eq!(at(&json, "/dead_letters"), &Value::Null);
    for told in [
        "waits for: source",
        "connection refused &lt;&amp;&gt;",
        "outbox-bridge check",
        "poison.action is halt",
    ] {
        assert!(html.contains(told), "{told} in {html}");
    }
}

#[test]
fn who_stands_by_names_the_leader_and_nothing_stale() {
    let page = page(true, |readiness| {
        all_ready(readiness);
        leads(readiness);
        readiness.set_role(Role::Waiting);
        readiness.board().note(|notes| {
            notes.leader = Some(Leader {
                host: HOSTILE.into(),
                process: 9,
                instance: "j".into(),
                since: SystemTime::UNIX_EPOCH,
                seen_at: Some(SystemTime::now()),
            });
        });
        readiness.set_role(Role::Standby { leader: "process 9".into() });
    });
    let (json, html) = read(&page);
    assert_eq!((at(&json, "/ready"), at(&json, "/leader/process")), (&true.into(), &9.into()));
    assert_eq!(
        (at(&json, "/leader/this"), at(&json, "/components/source/state")),
        (&false.into(), &"idle".into())
    );
    for none in [
        "/source/position",
        "/source/checkpoint",
        "/flow/lag_seconds",
        "/streams/0/sequence",
        "/dead_letters/open",
    ] {
        assert_eq!(at(&json, none), &Value::Null, "{none}");
    }
    for told in ["Standing by", "process 9 on", "idle: this bridge does not lead", "not counted yet"] {
        assert!(html.contains(told), "{told} in {html}");
    }
}

/// Somebody leads, this process does or not, and these instances gave a sign of life so many milliseconds ago.
fn with_instances(
    role: Role,
    problem: Option<&str>,
    instances: impl IntoIterator<Item = (Instance, u64)>,
) -> (Value, String) {
    let page = page(false, |readiness| {
        all_ready(readiness);
        leads(readiness);
        readiness.set_role(role);
        readiness.board().note(|notes| {
            notes.instance = "this".into();
            notes.instances = Some(Reading::example(instances));
            notes.instances_problem = problem.map(str::to_owned);
        });
    });
    read(&page)
}

fn standbys(json: &Value) -> Vec<(&str, bool)> {
    let known = at(json, "/standbys/known").as_array().expect("a list").iter();
    known.map(|one| (at(one, "/instance").as_str().expect("a name"), *at(one, "/this") == true)).collect()
}

#[test]
fn who_stands_by_is_listed() {
    let stands_by = |instance| Instance::example(instance, HOSTILE, "standby");
    let all = || {
        [
            // The one that holds the lease, before it says so itself.
            (stands_by("i"), 1_000),
            (stands_by("a"), 2_000),
            (stands_by("dead"), 10_001),
            (Instance { program: HOSTILE.into(), ..stands_by("b") }, 3_000),
            (Instance::example("was", "h", "leader"), 1_000),
            (Instance::example("starts", "h", "waiting"), 1_000),
            (stands_by("this"), 1_000),
        ]
    };
    let (json, html) = with_instances(Role::Leader, None, all());
    assert_eq!(standbys(&json), [("a", false), ("b", false)]);
    let seen = |place: &str| at(&json, place).as_str().map(str::to_owned);
    assert!(seen("/standbys/known/0/seen") > seen("/standbys/known/1/seen"));
    assert_eq!(at(&json, "/standbys/known/0/since"), "1970-01-01T00:00:05.000Z");
    assert_eq!(html.matches("process 7 on &lt;script src=").count(), 2, "{html}");
    assert!(html.contains("2 s ago") && html.contains(", version &lt;script"), "{html}");
    assert!(!html.contains("None stands by") && !html.contains("cannot be listed"), "{html}");

    let leader = "another".to_owned();
    let (json, html) = with_instances(Role::Standby { leader }, None, all());
    assert_eq!(standbys(&json), [("a", false), ("b", false), ("this", true)], "this one as it is now");
    assert!(html.contains("process 7 on here (this one)"), "{html}");
    assert!(!html.contains(", version 0.1.0"), "only another version is worth a word: {html}");
}

#[test]
fn whether_any_stands_by_may_not_be_known() {
    let (json, html) = with_instances(Role::Leader, None, []);
    assert_eq!(standbys(&json), []);
    assert!(html.contains("None stands by."), "{html}");
    let (json, html) = with_instances(Role::Leader, Some(HOSTILE), []);
    assert_eq!(at(&json, "/standbys/known"), &Value::Null);
    assert_eq!((at(&json, "/standbys/problem"), at(&json, "/ready")), (&HOSTILE.into(), &true.into()));
    assert!(html.contains("The standbys cannot be listed.") && !html.contains("None stands by"), "{html}");
    // What was read a moment ago still holds.
    let one = (Instance::example("a", "h", "standby"), 2_000);
    let (json, html) = with_instances(Role::Leader, Some("no answer"), [one]);
    assert_eq!(standbys(&json), [("a", false)]);
    assert!(html.contains("process 7 on h") && html.contains("They cannot be read: no answer"), "{html}");
    let page = page(false, all_ready);
    let (json, html) = read(&page);
    assert_eq!(at(&json, "/standbys/known"), &Value::Null);
    assert!(html.contains("It is not known yet which bridges stand by."), "{html}");
}

#[test]
fn a_start_without_servers() {
    let page = page(false, |readiness| readiness.set_unready(Component::Nats, "cannot connect to NATS"));
    let (json, html) = read(&page);
    assert_eq!((at(&json, "/role"), at(&json, "/leader")), (&"waiting".into(), &Value::Null));
    assert_eq!(at(&json, "/warnings").as_array().map(Vec::len), Some(1));
    assert!(html.contains("waits for: nats") && html.contains("It is not known who leads"), "{html}");
    let page = self::page(false, |readiness| readiness.set_ready(Component::Nats));
    let (json, html) = read(&page);
    assert_eq!(at(&json, "/warnings/0/section"), "OutboxNobodyLeads");
    assert!(html.contains("waits for the lease"), "{html}");
}

/// Everything that can be warned of, all at once.
#[test]
fn every_warning_names_a_section_of_the_guide() {
    let mut status: Status = page(true, |readiness| {
        all_ready(readiness);
        leads(readiness);
        readiness.set_unready(Component::Publish, "full");
    })
    .status();
    status.flow.lag_seconds = Some(61.0);
    status.resumes.last_ten_minutes = 31;
    status.source.checkpoint = Some(Moment(SystemTime::UNIX_EPOCH));
    if let Some(letters) = &mut status.dead_letters {
        letters.open = Some(3);
    }
    let counts = Counts { reconnects: 11, duplicates: 1, cleanup_overdue_seconds: 3601.0, audit_findings: 1 };
    let mut warnings = advice::warnings(&status, counts, SystemTime::now());
    assert_eq!(warnings.len(), 10, "{warnings:?}");
    assert!(warnings.is_sorted_by_key(|warning| warning.level));
    status.role = "waiting";
    status.components.clear();
    warnings.extend(advice::warnings(&status, counts, SystemTime::now()));
    let guide = include_str!("../../../../../deploy/README.md");
    for warning in warnings {
        let section = warning.section;
        assert!(
            guide.contains(&format!("\n## {section}\n")) || guide.contains(&format!("\n### {section}\n")),
            "{section}"
        );
        assert!(warning.remedy.split('`').count() % 2 == 1, "{}", warning.remedy);
    }
    assert!(render::SCRIPT.contains("OutboxBridgeDown") && guide.contains("\n### OutboxBridgeDown\n"));
}

#[test]
fn the_policy_lets_nothing_in_from_outside() {
    assert!(POLICY.starts_with("default-src 'none'; script-src 'sha256-"), "{}", *POLICY);
    assert!(!POLICY.contains("unsafe") && !POLICY.contains("http"), "{}", *POLICY);
    // Between the tags stands what was hashed, to the byte.
    let (_, html) = read(&page(false, all_ready));
    assert!(html.contains(&format!("<style>{}</style>", render::STYLE)));
    assert!(html.contains(&format!("<script>{}</script>", render::SCRIPT)));
}

#[test]
fn requests_are_answered_from_what_was_put_together_last() {
    let page = page(false, all_ready);
    let (first, second) = (page.made(), page.made());
    assert_eq!(first.at, second.at);
}

/// So that an hour of a page that is open costs little: see also the size of what stands on an idle bridge's page.
#[test]
fn it_is_small() {
    let page = page(false, all_ready);
    let mut history = History::default();
    for second in 1..700_u32 {
        let counters = history::Counters {
            events: u64::from(second) * 1_000 + u64::from(second * second % 997),
            ..Default::default()
        };
        history.sample(
            Duration::from_secs(second.into()),
            SystemTime::now(),
            counters,
            Some(f64::from(second % 7) / 100.0),
        );
    }
    *page.0.history.lock().unwrap_or_else(PoisonError::into_inner) = history;
    let made = page.make();
    assert!(made.html.len() < 60_000, "{}", made.html.len());
    assert!(made.json.len() < 30_000, "{}", made.json.len());
}
