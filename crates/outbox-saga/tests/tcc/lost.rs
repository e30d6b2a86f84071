//! A participant whose transaction has ended before its commit, as by a deadlock whose error it passes over.

use anyhow::{Result, ensure};
use outbox_saga::barrier::Barrier;
use outbox_saga::tcc::{Answer, BranchError, Call, Operation, Participant, ParticipantService};
use serde_json::{Value, json};
use sqlx::{Executor as _, MySql, Transaction};
use testbed::Flavour;
use time::OffsetDateTime;

use crate::bed::{Bed, LIMIT};

/// Loses its transaction in one operation, and goes on as if nothing had been.
struct Careless(Option<Operation>);

impl Careless {
    async fn sell(&self, tx: &mut Transaction<'_, MySql>, operation: Operation) -> Result<(), BranchError> {
        if self.0 == Some(operation) {
            (&mut **tx).execute("ROLLBACK").await?;
        }
        sqlx::query("UPDATE stock SET sold = sold + 1").execute(&mut **tx).await?;
        Ok(())
    }
}

impl Participant for Careless {
    type Database = MySql;
    type Payload = i64;

    async fn try_(&self, tx: &mut Transaction<'_, MySql>, _: &i64) -> Result<Value, BranchError> {
        self.sell(tx, Operation::Try).await.map(|()| json!({}))
    }

    async fn confirm(&self, tx: &mut Transaction<'_, MySql>, _: &i64) -> Result<(), BranchError> {
        self.sell(tx, Operation::Confirm).await
    }

    async fn cancel(&self, tx: &mut Transaction<'_, MySql>, _: &i64) -> Result<(), BranchError> {
        self.sell(tx, Operation::Cancel).await
    }
}

async fn what_is_lost_is_not_answered(flavour: Flavour) -> Result<()> {
    let bed = Bed::start_with(flavour).await?;
    let service = async |careless| {
        ParticipantService::new(careless, bed.pool.clone(), Barrier::new("saga_barrier")).await
    };
    let whole = service(Careless(None)).await?;
    for (number, operation) in
        [Operation::Try, Operation::Confirm, Operation::Cancel].into_iter().cycle().take(12).enumerate()
    {
        let call = |operation| Call {
            transaction: format!("order-{number}"),
            branch: "stock".to_owned(),
            operation,
            deadline: OffsetDateTime::now_utc() + LIMIT,
            payload: json!(1),
            traceparent: None,
        };
        if operation != Operation::Try {
            ensure!(matches!(whole.handle(call(Operation::Try)).await?, Answer::Accepted(_)));
        }
        let careless = service(Careless(Some(operation))).await?;
        let answer = careless.handle(call(operation)).await;
        ensure!(answer.is_err(), "{operation}: {answer:?}, though nothing of it is recorded");
        let state = sqlx::query_scalar("SELECT state FROM saga_barrier WHERE transaction_id = ?");
        let state: Option<String> = state.bind(format!("order-{number}")).fetch_optional(&bed.pool).await?;
        let before = (operation != Operation::Try).then(|| "done".to_owned());
        assert_eq!(state, before, "{operation} left the barrier as it was");
        // It was nobody's answer, so it can be asked for again.
        ensure!(matches!(whole.handle(call(operation)).await?, Answer::Accepted(_)), "{operation} again");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_is_not_answered_with_mysql() -> Result<()> {
    what_is_lost_is_not_answered(Flavour::MySql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_is_not_answered_with_mariadb() -> Result<()> {
    what_is_lost_is_not_answered(Flavour::MariaDb).await
}
