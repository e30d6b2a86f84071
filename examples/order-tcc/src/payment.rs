//! Holds a customer's money for an order, and then takes or releases it.

use outbox_saga::tcc::{BranchError, Participant};
use serde_json::{Value, json};
use sqlx::{MySql, Transaction};

pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS accounts (
  customer VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL PRIMARY KEY,
  free     BIGINT NOT NULL,
  held     BIGINT NOT NULL DEFAULT 0,
  paid     BIGINT NOT NULL DEFAULT 0
)";

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Hold {
    customer: String,
    cents: u32,
}

pub(crate) struct Payment;

impl Participant for Payment {
    type Database = MySql;
    type Payload = Hold;

    async fn try_(&self, tx: &mut Transaction<'_, MySql>, hold: &Hold) -> Result<Value, BranchError> {
        let update = "UPDATE accounts SET free = free - ?, held = held + ? WHERE customer = ? AND free >= ?";
        let held = sqlx::query(update)
            .bind(hold.cents)
            .bind(hold.cents)
            .bind(&hold.customer)
            .bind(hold.cents)
            .execute(&mut **tx)
            .await?;
        if held.rows_affected() == 0 {
            return Err(BranchError::refused(format!("{} cannot pay that", hold.customer)));
        }
        Ok(json!({"held": hold.cents}))
    }

    async fn confirm(&self, tx: &mut Transaction<'_, MySql>, hold: &Hold) -> Result<(), BranchError> {
        let update = "UPDATE accounts SET held = held - ?, paid = paid + ? WHERE customer = ?";
        let update = sqlx::query(update).bind(hold.cents).bind(hold.cents).bind(&hold.customer);
        update.execute(&mut **tx).await?;
        Ok(())
    }

    async fn cancel(&self, tx: &mut Transaction<'_, MySql>, hold: &Hold) -> Result<(), BranchError> {
        let update = "UPDATE accounts SET held = held - ?, free = free + ? WHERE customer = ?";
        let update = sqlx::query(update).bind(hold.cents).bind(hold.cents).bind(&hold.customer);
        update.execute(&mut **tx).await?;
        Ok(())
    }
}
