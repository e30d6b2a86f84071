//! `outbox-bridge health`: whether the bridge beside it is ready, for supervisors that can run a program but ask no URL.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::{complain, print_out};
use crate::config::Config;
use crate::exit::{Exit, report};

const TIMEOUT: Duration = Duration::from_secs(2);
/// More than the answer has.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

pub(super) fn execute(config: &Config) -> Exit {
    let Some(address) = config.http.listen else {
        complain("http.listen is off, so the bridge cannot be asked");
        return Exit::Configuration;
    };
    match ask(reachable(address)) {
        Ok(answer) => {
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let printed = print_out(body);
            if answer.starts_with("HTTP/1.1 200") { printed } else { Exit::Unavailable }
        }
        Err(error) => {
            complain(&format!("no bridge answers at {address}: {}", report(&error)));
            Exit::Unavailable
        }
    }
}

/// Whoever listens everywhere is reached here.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_here() {
        for (listens, asked) in
            [("0.0.0.0:9464", "127.0.0.1:9464"), ("[::]:9464", "[::1]:9464"), ("192.0.2.7:1", "192.0.2.7:1")]
        {
            let address = reachable(listens.parse().expect("an address"));
            assert_eq!(address, asked.parse().expect("an address"));
        }
    }
}
