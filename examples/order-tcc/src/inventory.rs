//! Locks stock for an order, and then deducts or unlocks it.

use outbox_saga::tcc::{BranchError, Participant};
use serde_json::{Value, json};
use sqlx::{MySql, Transaction};

pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS stock (
  sku    VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL PRIMARY KEY,
  free   BIGINT NOT NULL,
  locked BIGINT NOT NULL DEFAULT 0,
  sold   BIGINT NOT NULL DEFAULT 0
)";

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Lock {
    sku: String,
    quantity: u32,
}

pub(crate) struct Inventory;

impl Participant for Inventory {
    type Database = MySql;
    type Payload = Lock;

    /// `try_lock_stock`: what is locked can neither be sold to others nor run out.
    async fn try_(&self, tx: &mut Transaction<'_, MySql>, lock: &Lock) -> Result<Value, BranchError> {
        let update = "UPDATE stock SET free = free - ?, locked = locked + ? WHERE sku = ? AND free >= ?";
        let locked = sqlx::query(update)
            .bind(lock.quantity)
            .bind(lock.quantity)
            .bind(&lock.sku)
            .bind(lock.quantity)
            .execute(&mut **tx)
            .await?;
        if locked.rows_affected() == 0 {
            return Err(BranchError::refused(format!("there are not {} of {}", lock.quantity, lock.sku)));
        }
        Ok(json!({"locked": lock.quantity}))
    }

    /// `confirm_deduct`
    async fn confirm(&self, tx: &mut Transaction<'_, MySql>, lock: &Lock) -> Result<(), BranchError> {
        let update = "UPDATE stock SET locked = locked - ?, sold = sold + ? WHERE sku = ?";
        let update = sqlx::query(update).bind(lock.quantity).bind(lock.quantity).bind(&lock.sku);
        update.execute(&mut **tx).await?;
        Ok(())
    }

    /// `cancel_lock`
    async fn cancel(&self, tx: &mut Transaction<'_, MySql>, lock: &Lock) -> Result<(), BranchError> {
        let update = "UPDATE stock SET locked = locked - ?, free = free + ? WHERE sku = ?";
        let update = sqlx::query(update).bind(lock.quantity).bind(lock.quantity).bind(&lock.sku);
        update.execute(&mut **tx).await?;
        Ok(())
    }
}
