//! Free ports that stay ours.
//!
//! Binding port 0 and closing the socket gives a number that anybody may take before the server does, and a restart
//! needs the same number again. So numbers come from below the range that the system hands out by itself, and each is
//! held through a lock file for as long as its [`Port`] lives, also against other processes.

use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

use anyhow::{Context as _, Result, bail};
use rand::Rng as _;

/// Below Linux' range of ephemeral ports (32768 and up), above the well-known services.
const RANGE: Range<u16> = 20_000..32_000;
const ATTEMPTS_MAX: usize = 1_000;

/// A TCP port on 127.0.0.1 that nobody else of the testbed uses while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a free port.
    ///
    /// # Errors
    ///
    /// When the lock folder cannot be written, or no port is free.
    pub fn reserve() -> Result<Self> {
        // One folder a user, since others may not write to it.
        let user = rustix::process::geteuid().as_raw();
        let folder = std::env::temp_dir().join(format!("outbox-bridge-testbed-ports-{user}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut random = rand::rng();
        for _ in 0..ATTEMPTS_MAX {
            let number = random.random_range(RANGE);
            let path = folder.join(number.to_string());
            let lock = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(err)) => {
                    return Err(err).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port between {} and {}", RANGE.start, RANGE.end)
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The port as an address on 127.0.0.1.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}
