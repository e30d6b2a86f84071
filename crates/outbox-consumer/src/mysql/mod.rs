//! Short transactions in MySQL or MariaDB, one after the other, with few round trips.

mod kept;

use sqlx::mysql::MySqlDatabaseError;
use sqlx::{Executor as _, MySql, MySqlPool, Transaction};

use self::kept::Kept;

/// Begins, and leaves a mark that a lost transaction loses too. The mark costs no round trip, and before the first write it
/// stands in no log.
const BEGIN: &str = "START TRANSACTION; SAVEPOINT outbox_begun";
/// Commits if the mark is still there; a deadlock rolls the whole transaction back, and who goes on all the same writes outside of it.
const COMMIT: &str = "RELEASE SAVEPOINT outbox_begun; COMMIT";
/// The same, and [`BEGIN`] for the next transaction.
const COMMIT_AND_BEGIN: &str =
    "RELEASE SAVEPOINT outbox_begun; COMMIT AND CHAIN NO RELEASE; SAVEPOINT outbox_begun";
/// There is no such savepoint.
const NO_SAVEPOINT: u16 = 1305;

/// Transactions on a pool's connections. The commit of one begins the next one on the same connection, which waits for a tenth of a second for
/// it: begin, end, and the pool's questions whether the connection lives take no round trip then. Cheap to clone; the clones
/// share what waits.
///
/// A connection waits only as long as the pool has another one to give, so nobody who shares the pool waits for it. A
/// transaction in which nothing has happened yet holds no lock and no snapshot.
///
/// ```no_run
/// use outbox_consumer::mysql::Transactions;
///
/// # async fn example(pool: sqlx::MySqlPool) -> Result<(), sqlx::Error> {
/// let transactions = Transactions::new(pool);
/// let mut transaction = transactions.begin().await?;
/// sqlx::query("UPDATE stock SET free = free - 1").execute(&mut *transaction).await?;
/// transactions.commit(transaction).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Transactions {
    pool: MySqlPool,
    kept: Kept,
}

impl Transactions {
    /// Transactions on the connections of this pool.
    #[must_use]
    pub fn new(pool: MySqlPool) -> Self {
        Self { pool, kept: Kept::default() }
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &MySqlPool {
        &self.pool
    }

    /// A transaction in which nothing has happened yet. To be driven to its end: sqlx 0.8 does not bear being stopped in
    /// a statement.
    ///
    /// # Errors
    ///
    /// If no connection can be had. One that waited may have died since, which the first statement tells.
    pub async fn begin(&self) -> Result<Transaction<'static, MySql>, sqlx::Error> {
        match self.kept.take() {
            Some(begun) => Ok(begun),
            None => self.begin_anew().await,
        }
    }

    /// One that waits, if there is one.
    pub(crate) fn take(&self) -> Option<Transaction<'static, MySql>> {
        self.kept.take()
    }

    /// One on a connection that the pool has found alive.
    pub(crate) async fn begin_anew(&self) -> Result<Transaction<'static, MySql>, sqlx::Error> {
        self.pool.begin_with(BEGIN).await
    }

    /// Commits a transaction of [`begin`](Self::begin). To be driven to its end, too.
    ///
    /// # Errors
    ///
    /// If the transaction is not the one that was begun any more ([`is_lost`]); then nothing is committed that was not before. After
    /// another error it may be committed or not.
    pub async fn commit(&self, mut transaction: Transaction<'static, MySql>) -> Result<(), sqlx::Error> {
        let kept = Kept::has_room(&self.pool);
        (&mut *transaction).execute(if kept { COMMIT_AND_BEGIN } else { COMMIT }).await?;
        if kept {
            self.kept.keep(transaction);
        }
        // Else it is dropped, and rolled back with nothing left to roll back.
        Ok(())
    }
}

/// Whether a commit found that the transaction had ended before: by a deadlock whose error was passed over, by a statement that commits by
/// itself, or by hand.
#[must_use]
pub fn is_lost(err: &sqlx::Error) -> bool {
    let number = err.as_database_error().and_then(|err| err.try_downcast_ref::<MySqlDatabaseError>());
    number.is_some_and(|err| err.number() == NO_SAVEPOINT)
}
