//! The proxy's faults, seen from both of its sides.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Result, bail};
use testbed::{Direction, FaultyProxy, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// Long enough that a byte which is not held back would have come.
const SILENCE: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(10);

/// A server that sends back what it gets, each byte raised by `shift`.
async fn echo(shift: u8) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    let raised: Vec<u8> =
                        buffer.iter().take(length).map(|byte| byte.wrapping_add(shift)).collect();
                    if stream.write_all(&raised).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(port)
}

async fn connect(proxy: &FaultyProxy) -> Result<TcpStream> {
    Ok(TcpStream::connect(("127.0.0.1", proxy.port())).await?)
}

async fn round_trip(stream: &mut TcpStream, bytes: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    let mut answer = vec![0; bytes.len()];
    timeout(LIMIT, stream.read_exact(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test]
async fn passes_bytes_both_ways_and_sees_the_end() -> Result<()> {
    let proxy = FaultyProxy::start(echo(0).await?).await?;
    let mut stream = connect(&proxy).await?;
    let bytes = vec![7; 300_000];
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let send = async {
        writer.write_all(&bytes).await?;
        writer.shutdown().await
    };
    tokio::try_join!(send, reader.read_to_end(&mut answer))?;
    assert_eq!(answer, bytes);
    assert_eq!(proxy.bytes(Direction::ToServer), 300_000);
    assert_eq!(proxy.bytes(Direction::ToClient), 300_000);
    eventually("the end", LIMIT, async || Ok((proxy.connections_open() == 0).then_some(()))).await
}

#[tokio::test]
async fn refuses_and_accepts_again() -> Result<()> {
    let proxy = FaultyProxy::start(echo(0).await?).await?;
    let mut old = connect(&proxy).await?;
    assert_eq!(round_trip(&mut old, b"one").await?, b"one");
    proxy.refuse().await?;
    let refused = TcpStream::connect(("127.0.0.1", proxy.port())).await.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(round_trip(&mut old, b"two").await?, b"two");
    proxy.pass().await?;
    assert_eq!(round_trip(&mut connect(&proxy).await?, b"three").await?, b"three");
    Ok(())
}

#[tokio::test]
async fn cut_resets_what_is_open() -> Result<()> {
    let proxy = FaultyProxy::start(echo(0).await?).await?;
    let mut stream = connect(&proxy).await?;
    round_trip(&mut stream, b"one").await?;
    proxy.cut();
    let ended = timeout(LIMIT, stream.read_u8()).await?.expect_err("cut");
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    round_trip(&mut connect(&proxy).await?, b"two").await?;
    assert_eq!(proxy.connections_accepted(), 2);
    Ok(())
}

#[tokio::test]
async fn stall_holds_bytes_back_and_keeps_connections() -> Result<()> {
    let proxy = FaultyProxy::start(echo(0).await?).await?;
    let mut old = connect(&proxy).await?;
    round_trip(&mut old, b"one").await?;
    proxy.stall();
    let mut new = connect(&proxy).await?;
    old.write_all(b"a").await?;
    new.write_all(b"b").await?;
    assert!(timeout(SILENCE, old.read_u8()).await.is_err());
    assert!(timeout(SILENCE, new.read_u8()).await.is_err());
    proxy.pass().await?;
    assert_eq!(timeout(LIMIT, old.read_u8()).await??, b'a');
    assert_eq!(timeout(LIMIT, new.read_u8()).await??, b'b');
    Ok(())
}

#[tokio::test]
async fn a_stalled_connection_can_be_cut() -> Result<()> {
    let proxy = FaultyProxy::start(echo(0).await?).await?;
    let mut stream = connect(&proxy).await?;
    round_trip(&mut stream, b"one").await?;
    proxy.stall();
    proxy.down().await?;
    assert!(timeout(LIMIT, stream.read_u8()).await?.is_err());
    Ok(())
}

#[tokio::test]
async fn delays_one_direction_without_lowering_the_rate() -> Result<()> {
    let proxy = FaultyProxy::start(echo(0).await?).await?;
    let mut stream = connect(&proxy).await?;
    let delay = Duration::from_millis(150);
    proxy.delay(Direction::ToClient, delay);
    let start = Instant::now();
    for _ in 0..10 {
        stream.write_all(b"x").await?;
        tokio::task::yield_now().await;
    }
    stream.read_exact(&mut [0; 10]).await?;
    let took = start.elapsed();
    assert!(took >= delay, "{took:?}");
    assert!(took < delay * 5, "ten bytes wait side by side, not in a row: {took:?}");
    Ok(())
}

#[tokio::test]
async fn throttles_one_direction() -> Result<()> {
    let proxy = FaultyProxy::start(echo(0).await?).await?;
    let mut stream = connect(&proxy).await?;
    proxy.throttle(Direction::ToServer, Some(10_000));
    let start = Instant::now();
    round_trip(&mut stream, &[1; 4_000]).await?;
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(350), "{took:?}");
    proxy.throttle(Direction::ToServer, None);
    let start = Instant::now();
    round_trip(&mut stream, &[1; 4_000]).await?;
    assert!(start.elapsed() < took, "the limit is lifted");
    Ok(())
}

#[tokio::test]
async fn cuts_after_exactly_so_many_bytes() -> Result<()> {
    let proxy = FaultyProxy::start(echo(0).await?).await?;
    for direction in [Direction::ToServer, Direction::ToClient] {
        let mut stream = connect(&proxy).await?;
        round_trip(&mut stream, b"before").await?;
        let seen = proxy.bytes(direction);
        proxy.cut_after(direction, 5);
        stream.write_all(&[9; 64]).await?;
        let mut got = Vec::new();
        // The connection may end orderly or by a reset; what matters is how much came before.
        drop(timeout(LIMIT, stream.read_to_end(&mut got)).await?);
        assert_eq!(proxy.bytes(direction) - seen, 5);
        match direction {
            Direction::ToClient => assert_eq!(got, [9; 5]),
            Direction::ToServer => assert!(got.len() <= 5),
        }
        // It happens once.
        round_trip(&mut connect(&proxy).await?, b"after").await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_upstream_can_be_switched() -> Result<()> {
    let proxy = FaultyProxy::start(echo(0).await?).await?;
    let mut old = connect(&proxy).await?;
    assert_eq!(round_trip(&mut old, b"a").await?, b"a");
    proxy.set_upstream(echo(1).await?);
    assert_eq!(round_trip(&mut connect(&proxy).await?, b"a").await?, b"b");
    assert_eq!(round_trip(&mut old, b"a").await?, b"a");
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_is_down_resets_the_client() -> Result<()> {
    let nobody = testbed::Port::reserve()?;
    let proxy = FaultyProxy::start(nobody.number()).await?;
    let mut stream = connect(&proxy).await?;
    match timeout(LIMIT, stream.read_u8()).await? {
        Ok(_) => bail!("a byte from nowhere"),
        Err(_) => Ok(()),
    }
}
