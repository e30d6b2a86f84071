//! Database transactions that lose against others and are begun again.

use sqlx::mysql::MySqlDatabaseError;

/// How often one is tried.
pub(crate) const ATTEMPTS_MAX: u32 = 5;
/// Above this level InnoDB would lock the gaps between the records that are looked through. Both statements go to the server at once.
pub(crate) const BEGIN_CLAIM: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION";

/// The number of an error of the server.
pub(crate) fn number(err: &sqlx::Error) -> Option<u16> {
    Some(err.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

/// Whether a transaction lost against another one and may simply be done again.
pub(crate) fn is_conflict(err: &sqlx::Error) -> bool {
    // A record that changed meanwhile (MariaDB), lock wait timeout, deadlock.
    matches!(number(err), Some(1020 | 1205 | 1213))
}

/// Does a change until it does not lose against another one.
macro_rules! unless_conflict {
    ($change:expr) => {{
        let mut attempt = 1;
        loop {
            match $change.await {
                Err(err)
                    if $crate::conflict::is_conflict(&err) && attempt < $crate::conflict::ATTEMPTS_MAX =>
                {
                    attempt += 1;
                }
                done => break done,
            }
        }
    }};
}
pub(crate) use unless_conflict;
