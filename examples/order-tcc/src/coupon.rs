//! Sets one use of a coupon aside for an order, and then redeems it or puts it back.

use outbox_saga::tcc::{BranchError, Participant};
use serde_json::{Value, json};
use sqlx::{MySql, Transaction};

pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS coupons (
  code     VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL PRIMARY KEY,
  free     BIGINT NOT NULL,
  aside    BIGINT NOT NULL DEFAULT 0,
  redeemed BIGINT NOT NULL DEFAULT 0
)";

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Use {
    code: String,
}

pub(crate) struct Coupon;

impl Participant for Coupon {
    type Database = MySql;
    type Payload = Use;

    async fn try_(&self, tx: &mut Transaction<'_, MySql>, coupon: &Use) -> Result<Value, BranchError> {
        let update = "UPDATE coupons SET free = free - 1, aside = aside + 1 WHERE code = ? AND free > 0";
        let aside = sqlx::query(update).bind(&coupon.code).execute(&mut **tx).await?;
        if aside.rows_affected() == 0 {
            return Err(BranchError::refused(format!("the coupon {} is used up", coupon.code)));
        }
        Ok(json!({"aside": 1}))
    }

    async fn confirm(&self, tx: &mut Transaction<'_, MySql>, coupon: &Use) -> Result<(), BranchError> {
        let update = "UPDATE coupons SET aside = aside - 1, redeemed = redeemed + 1 WHERE code = ?";
        sqlx::query(update).bind(&coupon.code).execute(&mut **tx).await?;
        Ok(())
    }

    async fn cancel(&self, tx: &mut Transaction<'_, MySql>, coupon: &Use) -> Result<(), BranchError> {
        let update = "UPDATE coupons SET aside = aside - 1, free = free + 1 WHERE code = ?";
        sqlx::query(update).bind(&coupon.code).execute(&mut **tx).await?;
        Ok(())
    }
}
