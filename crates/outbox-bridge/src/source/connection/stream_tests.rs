use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::source::connection::packet::PACKET_BYTES_MAX;
use crate::source::connection::packet::tests::packets;

const ROWS_EVENT: u8 = 30;

fn request(non_blocking: bool) -> DumpRequest {
    DumpRequest {
        server_id: 1,
        file: "binlog.000001".into(),
        offset: 4,
        heartbeat: Duration::from_secs(1),
        non_blocking,
    }
}

/// A packet's payload: status, header, body, checksum.
fn event(event_type: u8, body: &[u8], checksum: bool) -> Vec<u8> {
    let size =
        u32::try_from(HEADER_SIZE + body.len() + if checksum { CHECKSUM_BYTES } else { 0 }).expect("small");
    let mut event = vec![0, 1, 0, 0, 0, event_type, 9, 0, 0, 0];
    event.extend(size.to_le_bytes());
    event.extend(1234_u32.to_le_bytes());
    event.extend([0, 0]);
    event.extend_from_slice(body);
    if checksum {
        let crc = crc32fast::hash(event.get(1..).expect("an event"));
        event.extend(crc.to_le_bytes());
    }
    event
}

fn rotate(file: &str, checksum: bool) -> Vec<u8> {
    event(ROTATE_EVENT, &[&4_u64.to_le_bytes(), file.as_bytes()].concat(), checksum)
}

fn format_description(algorithm: u8) -> Vec<u8> {
    event(FORMAT_DESCRIPTION_EVENT, &[&[0; 90][..], &[algorithm]].concat(), true)
}

fn stream(bytes: &[u8], non_blocking: bool) -> DumpStream<&[u8]> {
    DumpStream::over(bytes, &request(non_blocking))
}

async fn all(bytes: &[u8]) -> Result<Vec<RawEvent>, ConnectionError> {
    let mut stream = stream(bytes, true);
    let mut events = Vec::new();
    while let Some(event) = stream.next().await? {
        events.push(event);
    }
    assert!(stream.next().await.expect("still at the end").is_none());
    Ok(events)
}

/// The connection stays open, so that whoever believes the packet waits.
#[tokio::test]
async fn a_packet_that_is_longer_than_its_event_is_not_waited_for() {
    let mut wire = packets(1, &[&event(ROWS_EVENT, b"rows", true)]);
    *wire.get_mut(1).expect("a length") ^= 0x10;
    let (mut server, client) = tokio::io::duplex(1_000);
    server.write_all(&wire).await.expect("written");
    let mut stream = DumpStream::over(client, &request(false));
    let next = tokio::time::timeout(Duration::from_secs(3), stream.next());
    let error = next.await.expect("it does not wait").expect_err("an error");
    assert_eq!(error.kind(), ConnectionErrorKind::Protocol, "{error}");
    drop(server);
}

const END: &[u8] = &[0xFE, 0, 0, 2, 0];

#[tokio::test]
async fn checksums_are_verified_and_taken_off() {
    let (rotate, description) = (rotate("binlog.000001", true), format_description(1));
    let rows = event(ROWS_EVENT, b"rows", true);
    let events = all(&packets(1, &[&rotate, &description, &rows, END])).await.expect("events");
    let bodies: Vec<_> = events.iter().map(|event| event.body.len()).collect();
    assert_eq!(bodies, [8 + 13, 91, 4]);
    assert_eq!(events.last().expect("rows").body, "rows");

    for position in 1..rows.len() {
        let mut damaged = rows.clone();
        *damaged.get_mut(position).expect("a byte") ^= 4;
        let error = all(&packets(1, &[&rotate, &description, &damaged, END])).await.expect_err("damaged");
        let size = 10..14;
        if size.contains(&position) {
            assert_eq!(error.kind(), ConnectionErrorKind::Protocol, "{error}");
        } else {
            assert_eq!(error.kind(), ConnectionErrorKind::Checksum, "{error}");
            assert!(error.to_string().contains("binlog.000001:"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_file_without_checksums_is_read_as_it_is() {
    let (first, description) = (rotate("binlog.000001", true), format_description(0));
    let (rows, next) = (event(ROWS_EVENT, b"rows", false), rotate("binlog.000002", false));
    let with = (format_description(1), event(ROWS_EVENT, b"more", true));
    let bytes = packets(1, &[&first, &description, &rows, &next, &with.0, &with.1, END]);
    let events = all(&bytes).await.expect("events");
    assert_eq!(events.get(2).expect("rows").body, "rows");
    assert_eq!(events.get(5).expect("rows").body, "more");
}

#[tokio::test]
async fn a_description_in_use_is_verified_without_its_flag() {
    let mut description = format_description(1);
    *description.get_mut(1 + FLAGS_OFFSET).expect("flags") |= IN_USE_FLAG;
    assert_eq!(all(&packets(1, &[&description, END])).await.expect("events").len(), 1);
    let mut rows = event(ROWS_EVENT, b"rows", true);
    *rows.get_mut(1 + FLAGS_OFFSET).expect("flags") |= IN_USE_FLAG;
    let error = all(&packets(1, &[&rows, END])).await.expect_err("damaged");
    assert_eq!(error.kind(), ConnectionErrorKind::Checksum);
}

#[tokio::test]
async fn an_event_of_many_packets_is_joined() {
    // Lengths around the seam, and one at which the last packet is empty.
    let overhead = 1 + HEADER_SIZE + CHECKSUM_BYTES;
    for length in [PACKET_BYTES_MAX - 1, PACKET_BYTES_MAX, PACKET_BYTES_MAX + 1, 2 * PACKET_BYTES_MAX + 77] {
        let body: Vec<u8> =
            (0..length - overhead).map(|index| index.to_le_bytes()[0] ^ index.to_le_bytes()[2]).collect();
        let large = event(ROWS_EVENT, &body, true);
        let small = event(ROWS_EVENT, b"after", true);
        let events = all(&packets(1, &[&large, &small, END])).await.expect("events");
        let [first, second] = events.as_slice() else { panic!("two events") };
        assert!(first.body == body, "body of {length}");
        assert_eq!(second.body, "after");
    }
}

#[tokio::test]
async fn malformed_packets_are_errors() {
    use ConnectionErrorKind as Kind;
    let rows = event(ROWS_EVENT, b"rows", true);
    let short_description = event(FORMAT_DESCRIPTION_EVENT, b"", false);
    let cases: [(&[u8], Kind); 9] = [
        (&[], Kind::Protocol),
        (&[7, 7, 7], Kind::Protocol),
        (&[0], Kind::Protocol),
        (rows.get(..12).expect("part"), Kind::Protocol),
        (rows.get(..25).expect("part"), Kind::Protocol),
        (&event(ROWS_EVENT, b"", false), Kind::Protocol),
        (&short_description, Kind::Protocol),
        (&format_description(9), Kind::Protocol),
        (
            b"\xFF\xD4\x04#HY000Could not find first log file name in binary log index file",
            Kind::PositionPurged,
        ),
    ];
    for (payload, kind) in cases {
        let error = all(&packets(1, &[payload, END])).await.expect_err("malformed");
        assert_eq!(error.kind(), kind, "{error}");
    }
    let error = all(&packets(2, &[&rows])).await.expect_err("out of order");
    assert!(error.to_string().contains("number 2"), "{error}");
    let whole = packets(1, &[&rows]);
    let error = all(whole.get(..whole.len() - 1).expect("part")).await.expect_err("cut");
    assert_eq!(error.kind(), Kind::Io);
}

#[tokio::test]
async fn an_event_may_be_too_large() {
    let rows = event(ROWS_EVENT, &[7; 1000], true);
    let bytes = packets(1, &[&rows, END]);
    let limited = |limit| stream(&bytes, true).with_event_bytes_max(limit);
    assert!(limited(rows.len() - 1).next().await.is_ok());
    let mut stream = limited(rows.len() - 2);
    assert_eq!(stream.next().await.expect_err("too large").kind(), ConnectionErrorKind::TooLarge);
    assert!(stream.next().await.is_err(), "it does not go on behind an error");
    assert!(stream.next_buffered().is_none());
}

#[tokio::test]
async fn the_end_is_an_error_where_none_was_asked_for() {
    let error = stream(&packets(1, &[END]), false).next().await.expect_err("ended");
    assert_eq!(error.kind(), ConnectionErrorKind::Ended);
    assert!(error.is_transient());
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed_however_often_the_wait_is_cancelled() {
    let (ours, mut theirs) = tokio::io::duplex(4096);
    let mut stream = DumpStream::over(ours, &request(false));
    let bytes = packets(1, &[&event(ROWS_EVENT, b"rows", true)]);
    let (half, rest) = bytes.split_at(20);
    let began = Instant::now();
    theirs.write_all(half).await.expect("writes");
    let mut error = None;
    for tick in 0..100 {
        if tick == 10 {
            theirs.write_all(rest).await.expect("writes");
        }
        match tokio::time::timeout(Duration::from_millis(300), stream.next()).await {
            Ok(Ok(event)) => assert_eq!(event.expect("an event").body, "rows"),
            Ok(Err(silent)) => {
                error = Some(silent);
                break;
            }
            Err(_) => {}
        }
    }
    assert_eq!(error.expect("noticed").kind(), ConnectionErrorKind::Silent);
    // The event came after 3 s; two heartbeats of 1 s and 5 s later it is silence.
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(11)).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(noise: Vec<u8>, parts: Vec<Vec<u8>>, statuses: Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        drop(runtime.block_on(all(&noise)));
        let events: Vec<Vec<u8>> =
            parts.iter().zip(&statuses).map(|(part, &status)| event(status, part, status % 2 == 0)).collect();
        let events: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
        drop(runtime.block_on(all(&packets(1, &events))));
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        drop(runtime.block_on(all(&packets(1, &parts))));
    }

    #[test]
    fn events_come_out_as_they_went_in_however_they_arrive(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 1..40),
        chunk in 1_usize..5000,
    ) {
        let events: Vec<Vec<u8>> = bodies.iter().map(|body| event(ROWS_EVENT, body, true)).collect();
        let mut events: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
        events.push(END);
        let bytes = packets(1, &events);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let received = runtime.block_on(async {
            let (ours, mut theirs) = tokio::io::duplex(chunk);
            let mut stream = DumpStream::over(ours, &request(true));
            let send = async { theirs.write_all(&bytes).await.expect("writes") };
            let receive = async {
                let mut received = Vec::new();
                while let Some(event) = stream.next().await.expect("an event") {
                    received.push(event.body.to_vec());
                    while let Some(event) = stream.next_buffered() {
                        received.push(event.expect("an event").body.to_vec());
                    }
                }
                received
            };
            tokio::join!(send, receive).1
        });
        prop_assert_eq!(received, bodies);
    }
}
