//! The password under the server's RSA key, for connections that others can read.
//!
//! The key comes from the server itself, so this guards against listeners, not against somebody in the middle; only
//! TLS with a verified certificate does.

use mysql_common::crypto::rsa::{GetRandom, Pkcs1OaepPadding, PublicKey};
use mysql_common::num_bigint::BigUint;
use tokio_rustls::rustls::pki_types::SubjectPublicKeyInfoDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::error::{ConnectionError, ConnectionErrorKind};
use super::fields::Cursor;

/// Shorter keys protect nothing, and longer ones are made to keep us busy.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 128..=1024;

/// What OAEP with SHA-1 adds to a message.
const PADDING_BYTES: usize = 42;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// Encrypts a password, made different for every login by `nonce`, with the key in `pem`.
pub(super) fn encrypt(password: &[u8], nonce: &[u8], pem: &[u8]) -> Result<Vec<u8>, ConnectionError> {
    let unusable = || ConnectionError::protocol("the server's RSA public key is unusable");
    let info = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|error| unusable().because(error))?;
    let (modulus, exponent) = rsa_key(&info).ok_or_else(unusable)?;
    // `encrypt_block` takes it for granted that the modulus fills its first byte.
    let full = modulus.first().is_some_and(|byte| byte & 0x80 != 0);
    if !full || !KEY_BYTES.contains(&modulus.len()) || !(1..=4).contains(&exponent.len()) {
        return Err(unusable());
    }
    if password.len() + 1 + PADDING_BYTES > modulus.len() {
        return Err(ConnectionError::new(
            ConnectionErrorKind::Authentication,
            "the password is too long for the server's RSA public key: use TLS or a shorter password",
        ));
    }
    let message: Vec<u8> =
        password.iter().chain(&[0]).zip(nonce.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    PublicKey::new(BigUint::from_bytes_be(modulus), BigUint::from_bytes_be(exponent))
        .encrypt_block(message, Pkcs1OaepPadding::new(GetRandom))
        .map_err(|error| {
            ConnectionError::new(ConnectionErrorKind::Authentication, "encrypting the password failed")
                .because(error)
        })
}

/// Modulus and exponent of an RSA `SubjectPublicKeyInfo` (RFC 5280, RFC 8017), without leading zeroes.
fn rsa_key(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut info = Cursor::new(element(&mut Cursor::new(der), SEQUENCE)?);
    element(&mut info, SEQUENCE)?;
    let key = element(&mut info, BIT_STRING)?.strip_prefix(&[0])?;
    let mut numbers = Cursor::new(element(&mut Cursor::new(key), SEQUENCE)?);
    Some((number(&mut numbers)?, number(&mut numbers)?))
}

fn number<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let bytes = element(cursor, INTEGER)?;
    let bytes = bytes.strip_prefix(&[0]).unwrap_or(bytes);
    // Neither a modulus nor an exponent is ever even.
    (*bytes.first()? != 0 && bytes.last()? & 1 == 1).then_some(bytes)
}

/// The contents of the DER element with this tag that comes next.
fn element<'a>(cursor: &mut Cursor<'a>, tag: u8) -> Option<&'a [u8]> {
    (cursor.u8()? == tag).then_some(())?;
    let length = match cursor.u8()? {
        short @ 0..=0x7F => usize::from(short),
        0x81 => usize::from(cursor.u8()?),
        0x82 => usize::from(cursor.u16()?.swap_bytes()),
        _ => return None,
    };
    cursor.take(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAwcR/ZNzswxAbFnkeLj4a
fkQs1tAFPrddARZRxsHtrkqeQCuEdNipRX2Go9zzRPFsvwbetpd0x4txq8mwNtIV
VaIehkHJOitYF4SrERGvDmrikYoXQzKS8QEyyjNdDgJKrW6VZP8xu6DZNcIE3Wsh
azIKPoNfYip8PFShFsswKj30xXkA0HkEMlmduQSJanNj6d7O3J9H+YaBCWOLWYeK
UPmChvmVsdR/dzD4bgRMObJ3jOtbvYho8AINj08xPyyjQGMHJaiFxsdF2dYOHTqz
FW3vx3LEOpto6Qgl0ezaJqTIkwvbTsSmMgdYZeT4QkPwVCpG2+YcsTMf7mEonKb0
uQIDAQAB
-----END PUBLIC KEY-----
";

    #[test]
    fn a_password_becomes_one_block() {
        let block = encrypt(b"secret", &[1; 20], KEY.as_bytes()).expect("encrypts");
        assert_eq!(block.len(), 256);
        assert_ne!(
            block,
            encrypt(b"secret", &[1; 20], KEY.as_bytes()).expect("encrypts"),
            "padding is random"
        );
    }

    #[test]
    fn the_password_may_be_too_long() {
        assert!(encrypt(&[b'x'; 213], &[1; 20], KEY.as_bytes()).is_ok());
        let error = encrypt(&[b'x'; 214], &[1; 20], KEY.as_bytes()).expect_err("too long");
        assert_eq!(error.kind(), ConnectionErrorKind::Authentication);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_key_panics(position in 0_usize..600, byte: u8, noise: Vec<u8>) {
            let mut pem = KEY.as_bytes().to_vec();
            if let Some(there) = pem.get_mut(position) {
                *there = byte;
            }
            drop(encrypt(b"secret", &[1; 20], &pem));
            drop(encrypt(b"secret", &[1; 20], &noise));
            prop_assert!(rsa_key(&noise).is_none_or(|(modulus, _)| modulus.len() < noise.len()));
        }
    }
}
