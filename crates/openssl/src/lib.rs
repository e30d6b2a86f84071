//! Stands in for the crate `openssl` in this workspace's builds.
//!
//! `mysql_cdc`, whose GTID algebra the bridge uses, names OpenSSL for one function of its own client: to send a password
//! encrypted by the server's public key. The bridge has no use for that client; the benchmark has. The real crate would build
//! OpenSSL from its C sources, which takes a quarter of a clean build and a Perl, and link it into a binary that has rustls for its TLS.
//!
//! So `[patch.crates-io]` puts this in its place: what `mysql_cdc` names and no more, by the arithmetic of `mysql_common`.

/// What goes wrong.
pub mod error {
    use std::fmt;

    /// An error in words.
    #[derive(Debug, Clone)]
    pub struct ErrorStack(pub(crate) String);

    impl fmt::Display for ErrorStack {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl std::error::Error for ErrorStack {}
}

/// Keys of RSA.
pub mod rsa {
    use mysql_common::crypto::rsa::{GetRandom, Pkcs1OaepPadding, PublicKey};

    use super::error::ErrorStack;

    /// How a text is filled up to the length of the key.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Padding(());

    impl Padding {
        /// Optimal asymmetric encryption padding with SHA-1, RFC 8017; it takes 42 bytes.
        pub const PKCS1_OAEP: Self = Self(());
    }

    const PADDING_BYTES: usize = 42;

    /// A public key.
    #[derive(Debug)]
    pub struct Rsa(PublicKey);

    impl Rsa {
        /// Reads a public key.
        ///
        /// # Errors
        ///
        /// If it is none.
        pub fn public_key_from_pem(pem: &[u8]) -> Result<Self, ErrorStack> {
            PublicKey::from_pem(pem).map(Self).map_err(|error| ErrorStack(error.to_string()))
        }

        /// The length of the key and of what it encrypts, in bytes.
        #[must_use]
        pub fn size(&self) -> u32 {
            u32::try_from(self.0.num_octets()).unwrap_or(u32::MAX)
        }

        /// Encrypts `from` into `to`, and gives how many bytes that took.
        ///
        /// # Errors
        ///
        /// If `from` is too long for the key, or `to` too short.
        pub fn public_encrypt(
            &self,
            from: &[u8],
            to: &mut [u8],
            padding: Padding,
        ) -> Result<usize, ErrorStack> {
            let Padding(()) = padding;
            if from.len() + PADDING_BYTES > self.0.num_octets() {
                return Err(ErrorStack("the text is too long for the key".to_owned()));
            }
            let encrypted = self.0.encrypt_block(from, Pkcs1OaepPadding::new(GetRandom));
            let encrypted = encrypted.map_err(|error| ErrorStack(error.to_string()))?;
            let room = to.get_mut(..encrypted.len());
            room.ok_or_else(|| ErrorStack("there is no room".to_owned()))?.copy_from_slice(&encrypted);
            Ok(encrypted.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::rsa::{Padding, Rsa};

    /// Of 2,048 bits, made for this test.
    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEArhzNyamrO5KyKpt0EGEv\n\
        Ngps4cAOTpIN2AvEQQO9oRD1HeOIkpljsCQE8C5upObOCvoZqR6q1W89WLCJcdUW\n\
        vBS6JncywrPlD1qvg9Mjo6rsIrcni9g7bcvRKCykhFIiropTgDcPJ6cwHF08fxRj\n\
        UMsKCvd+skXWKd5/jKJxeahRKiVDuspqvb+7tpBy2pjHi7r6vU8wbCRJMPxUqTVb\n\
        sMnFdp3cqUN3ep2XlNNR13LXDn5IhiLS5IYguZxBzPh2bTk34CH8bD7u4bjR1SAF\n\
        gkWu9hvnismt+w2SJ6vvaDcp9QSVhUUfZSX8OfpdJgIMAZNd5VNNGNjCpVeSt8Wf\n\
        vQIDAQAB\n\
        -----END PUBLIC KEY-----\n";

    #[test]
    fn a_password_fills_the_key() {
        let key = Rsa::public_key_from_pem(KEY.as_bytes()).expect("a key");
        let mut encrypted = vec![0; key.size() as usize];
        assert_eq!(encrypted.len(), 256);
        let length = key.public_encrypt(b"secret", &mut encrypted, Padding::PKCS1_OAEP).expect("encrypted");
        assert_eq!(length, 256);
        let before = encrypted.clone();
        key.public_encrypt(b"secret", &mut encrypted, Padding::PKCS1_OAEP).expect("encrypted");
        assert_ne!(encrypted, before, "padded by chance");
        key.public_encrypt(&[0; 215], &mut encrypted, Padding::PKCS1_OAEP).expect_err("too long");
        key.public_encrypt(b"secret", &mut [0; 10], Padding::PKCS1_OAEP).expect_err("no room");
    }
}
