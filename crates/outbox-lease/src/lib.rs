//! Leases in a JetStream key-value bucket: of several processes that could do a piece of work, one holds its lease and does
//! it; the others stand by and take over when the holder is gone.
//!
//! A lease decides who *tries*. It cannot stop a process that was frozen and goes on later, so whoever relies on it must be
//! refused by something else then: the bridge by the expected sequence of its streams, a consumer by its inbox.
//!
//! # How it works
//!
//! The holder writes its [`Record`] again and again, a few times within the lease's lifetime. A candidate reads it, and
//! takes it over by compare-and-set when it has not changed for a whole lifetime *by the candidate's own clock*. The holder
//! counts its lifetime from before it sent the last renewal that was confirmed, so it gives up first. No clocks are
//! compared, and no server expires anything: this works with every server that has key-value buckets, and a record that
//! outlives its time or vanishes in a leader election does no harm.
//!
//! A holder that stops in good order deletes the record, and a candidate follows within its polling interval. A process
//! that is started again after it was killed does not wait for its own former lease: it knows it by host and process id.
//!
//! ```no_run
//! # async fn example(client: async_nats::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use outbox_lease::{Candidate, Holder};
//!
//! let bucket = async_nats::jetstream::new(client).get_key_value("LEASES").await?;
//! let holder = Holder::this_process("worker-7f3a");
//! let mut candidate = Candidate::new(bucket, "reports", holder, Duration::from_secs(10))?;
//! let lease = candidate.acquire().await;
//! tokio::select! {
//!     () = lease.lost() => println!("somebody else may do it now"),
//!     () = async { /* the work */ } => lease.release().await,
//! }
//! # Ok(())
//! # }
//! ```

mod lease;
mod observe;
mod record;

pub use lease::{Candidate, Lease, LeaseError};
pub use record::{Holder, Record};
