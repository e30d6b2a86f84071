//! Whom the server runs as: Postgres refuses to run as root.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The user without rights of its own, who stands in where we are root.
const STAND_IN: &str = "nobody";

/// Whom the server's processes run as, and whom its files belong to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Account {
    /// The user who we are.
    Ourselves,
    /// The stand-in for root.
    StandIn {
        /// The user's number.
        uid: u32,
        /// The number of the user's group.
        gid: u32,
    },
}

impl Account {
    pub(crate) fn choose() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Ourselves);
        }
        let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        let (uid, gid) = find_user(&users, STAND_IN).with_context(|| {
            format!("Postgres refuses to run as root, and there is no user `{STAND_IN}`: add one, or do not run as root")
        })?;
        Ok(Self::StandIn { uid, gid })
    }

    /// Lets `command` run as this user.
    pub(crate) fn apply(self, command: &mut Command) {
        if let Self::StandIn { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }

    /// Gives a file or a folder with all that is in it to this user.
    pub(crate) fn give(self, path: &Path) -> Result<()> {
        let Self::StandIn { uid, gid } = self else { return Ok(()) };
        chown(path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give {} to `{STAND_IN}`", path.display()))?;
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                self.give(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// Whether this user gets as far as `path`.
    pub(crate) fn reaches(self, path: &Path) -> bool {
        match self {
            Self::Ourselves => true,
            Self::StandIn { uid, .. } => path.ancestors().all(|ancestor| {
                fs::metadata(ancestor).is_ok_and(|found| found.mode() & 0o001 != 0 || found.uid() == uid)
            }),
        }
    }

    /// Fails if this user does not get as far as `path`; `remedy` says what to do then.
    pub(crate) fn check_reach(self, path: &Path, remedy: &str) -> Result<()> {
        if !self.reaches(path) {
            bail!(
                "Postgres refuses to run as root, and the user `{STAND_IN}` has no access to {}: {remedy}",
                path.display()
            );
        }
        Ok(())
    }
}

/// The numbers of a user and its group in `/etc/passwd`.
fn find_user(users: &str, name: &str) -> Option<(u32, u32)> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        Some((uid, fields.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_user() {
        let users = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65533:nobody:/nonexistent:/bin/false\n";
        assert_eq!(find_user(users, "nobody"), Some((65534, 65533)));
        assert_eq!(find_user(users, "nobo"), None);
    }
}
