//! Proving who we are.
//!
//! Known are `caching_sha2_password`, `mysql_native_password` and `sha256_password`. A password leaves in clear text
//! only over TLS or a Unix socket, and `mysql_clear_password` is never done.

use mysql_common::auth::plugins::caching_sha2_password::scramble_sha256;
use mysql_common::auth::plugins::mysql_native_password::scramble_native;
use tokio::io::{AsyncRead, AsyncWrite};

use super::error::{ConnectionError, ConnectionErrorKind};
use super::fields::Cursor;
use super::handshake::NONCE_BYTES;
use super::packet::Channel;
use super::public_key;

/// More turns than any of the methods takes; a server that wants more is leading us in circles.
const TURNS_MAX: usize = 12;

/// Sources: <https://dev.mysql.com/doc/dev/mysql-server/latest/page_caching_sha2_authentication_exchanges.html>,
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_authentication_methods.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    CachingSha2,
    Native,
    Sha256,
}

/// What `caching_sha2_password` answers to the proof: the password is in the server's cache.
const FAST_SUCCESS: &[u8] = &[3];
/// Or: it is not, send it whole.
const FULL_AUTHENTICATION: &[u8] = &[4];

impl Method {
    fn of(plugin: &[u8]) -> Option<Self> {
        match plugin {
            b"caching_sha2_password" => Some(Self::CachingSha2),
            b"mysql_native_password" => Some(Self::Native),
            b"sha256_password" => Some(Self::Sha256),
            _ => None,
        }
    }

    /// What to begin with: the server's default if we know it, or else something to be switched from.
    pub(super) fn first(plugin: &str) -> Self {
        match Self::of(plugin.as_bytes()) {
            Some(Self::CachingSha2) => Self::CachingSha2,
            _ => Self::Native,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CachingSha2 => "caching_sha2_password",
            Self::Native => "mysql_native_password",
            Self::Sha256 => "sha256_password",
        }
    }

    fn public_key_request(self) -> &'static [u8] {
        if self == Self::Sha256 { &[1] } else { &[2] }
    }
}

/// The secret, and whether the transport keeps it from others.
#[derive(Clone, Copy)]
pub(super) struct Secret<'a> {
    pub(super) password: &'a [u8],
    pub(super) private_transport: bool,
}

impl Secret<'_> {
    /// What the method sends first.
    pub(super) fn proof(self, method: Method, nonce: &[u8; NONCE_BYTES]) -> Vec<u8> {
        match method {
            Method::CachingSha2 => {
                scramble_sha256(nonce, self.password).map(|proof| proof.to_vec()).unwrap_or_default()
            }
            Method::Native => {
                scramble_native(nonce, self.password).map(|proof| proof.to_vec()).unwrap_or_default()
            }
            Method::Sha256 if self.password.is_empty() => vec![0],
            Method::Sha256 if self.private_transport => self.in_clear(),
            Method::Sha256 => method.public_key_request().to_vec(),
        }
    }

    fn in_clear(self) -> Vec<u8> {
        [self.password, &[0]].concat()
    }
}

/// Answers the server until it lets us in or not. The proof for `method` has been sent.
pub(super) async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    channel: &mut Channel<S>,
    secret: Secret<'_>,
    mut method: Method,
    mut nonce: [u8; NONCE_BYTES],
) -> Result<(), ConnectionError> {
    for _ in 0..TURNS_MAX {
        let packet = channel.read().await?;
        match packet.split_first() {
            Some((0x00, _)) => return Ok(()),
            Some((0xFF, _)) => return Err(ConnectionError::from_packet(&packet)),
            Some((0xFE, request)) => {
                (method, nonce) = switch(request)?;
                channel.write(&secret.proof(method, &nonce)).await?;
            }
            Some((0x01, FAST_SUCCESS)) if method == Method::CachingSha2 => {}
            Some((0x01, FULL_AUTHENTICATION)) if method == Method::CachingSha2 => {
                if secret.private_transport {
                    channel.write(&secret.in_clear()).await?;
                } else {
                    channel.write(method.public_key_request()).await?;
                }
            }
            Some((0x01, key)) if method != Method::Native && !secret.private_transport => {
                channel.write(&public_key::encrypt(secret.password, &nonce, key)?).await?;
            }
            _ => {
                return Err(ConnectionError::protocol(format!(
                    "the server's answer is no part of the authentication by {}",
                    method.name()
                )));
            }
        }
    }
    Err(ConnectionError::protocol("the server does not come to an end with the authentication"))
}

fn switch(request: &[u8]) -> Result<(Method, [u8; NONCE_BYTES]), ConnectionError> {
    let mut cursor = Cursor::new(request);
    let plugin = cursor.until_zero().unwrap_or(b"mysql_old_password");
    let Some(method) = Method::of(plugin) else {
        return Err(ConnectionError::new(
            ConnectionErrorKind::Authentication,
            format!(
                "the account authenticates by {}, which is not supported: let it authenticate by \
                 caching_sha2_password or mysql_native_password",
                String::from_utf8_lossy(plugin)
            ),
        ));
    };
    match cursor.rest().first_chunk() {
        Some(nonce) => Ok((method, *nonce)),
        None => Err(ConnectionError::protocol("the server's challenge is cut short")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::connection::packet::tests::packet;

    const SECRET: Secret<'_> = Secret { password: b"secret", private_transport: false };

    async fn against(answers: &[u8], secret: Secret<'_>) -> Result<(), ConnectionError> {
        let stream = tokio::io::join(answers, tokio::io::sink());
        authenticate(&mut Channel::new(stream, 4096), secret, Method::CachingSha2, [7; NONCE_BYTES]).await
    }

    #[tokio::test]
    async fn the_password_is_never_sent_for_the_clear_plugin() {
        let answer = packet(0, b"\xFEmysql_clear_password\0");
        let error =
            against(&answer, Secret { private_transport: true, ..SECRET }).await.expect_err("refused");
        assert_eq!(error.kind(), ConnectionErrorKind::Authentication);
        assert!(error.to_string().contains("mysql_clear_password"), "{error}");
    }

    #[tokio::test]
    async fn nonsense_is_an_error() {
        for answer in
            [&b""[..], b"\x01", b"\x01\x09", b"\xFE", b"\xFEmysql_native_password\0short", b"\x02", b"\xFF"]
        {
            assert!(against(&packet(0, answer), SECRET).await.is_err(), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn an_endless_exchange_ends() {
        let mut answers = Vec::new();
        for turn in 0..40_u8 {
            let mut request = b"\xFEmysql_native_password\0".to_vec();
            request.extend([7; 21]);
            answers.extend(packet(turn.wrapping_mul(2), &request));
        }
        let error = against(&answers, SECRET).await.expect_err("refused");
        assert_eq!(error.kind(), ConnectionErrorKind::Protocol);
    }
}
