//! The coordinator's tables. They are meant to be read: `SELECT * FROM tcc_transactions WHERE status = 'stuck'`.

use crate::tcc::machine::{BranchStatus, Decision};

pub(crate) const TRANSACTIONS: &str = "tcc_transactions";
pub(crate) const BRANCHES: &str = "tcc_branches";
pub(crate) const HISTORY: &str = "tcc_history";

/// Names are compared by bytes, since ids that differ in case differ. Times are UTC.
pub(crate) const DEFINITIONS: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS tcc_transactions (
  id              VARCHAR(128)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
  name            VARCHAR(128)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  status          VARCHAR(16)   CHARACTER SET ascii NOT NULL
    COMMENT 'trying, confirming, confirmed, cancelling, cancelled, stuck',
  decision        VARCHAR(16)   CHARACTER SET ascii NULL COMMENT 'confirm or cancel; never changes',
  deadline        DATETIME(6)   NOT NULL COMMENT 'until when it may be decided to confirm',
  attempts        INT UNSIGNED  NOT NULL DEFAULT 0 COMMENT 'rounds of confirm or cancel that left something open',
  next_attempt_at DATETIME(6)   NULL COMMENT 'when any instance may take it up; until then it is in hand',
  error           TEXT          CHARACTER SET utf8mb4 NULL COMMENT 'why it was cancelled, or is stuck',
  request         JSON          NULL COMMENT 'what an operator asks for',
  traceparent     VARCHAR(55)   CHARACTER SET ascii NULL,
  created_at      DATETIME(6)   NOT NULL,
  updated_at      DATETIME(6)   NOT NULL,
  KEY tcc_transactions_due (next_attempt_at),
  KEY tcc_transactions_status (status, updated_at)
) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS tcc_branches (
  transaction_id  VARCHAR(128)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  position        SMALLINT UNSIGNED NOT NULL,
  branch          VARCHAR(128)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  endpoint        VARCHAR(128)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  payload         JSON          NOT NULL,
  status          VARCHAR(16)   CHARACTER SET ascii NOT NULL
    COMMENT 'registered, tried, refused, confirmed, cancelled, skipped',
  attempts        INT UNSIGNED  NOT NULL DEFAULT 0 COMMENT 'calls that failed',
  error           TEXT          CHARACTER SET utf8mb4 NULL COMMENT 'of the last call that failed',
  updated_at      DATETIME(6)   NOT NULL,
  PRIMARY KEY (transaction_id, position)
) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS tcc_history (
  seq             BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  transaction_id  VARCHAR(128)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  branch          VARCHAR(128)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'NULL: the transaction itself',
  at              DATETIME(6)   NOT NULL,
  from_status     VARCHAR(16)   CHARACTER SET ascii NULL,
  to_status       VARCHAR(16)   CHARACTER SET ascii NOT NULL,
  cause           VARCHAR(255)  CHARACTER SET utf8mb4 NOT NULL,
  error           TEXT          CHARACTER SET utf8mb4 NULL,
  KEY tcc_history_transaction (transaction_id, seq)
) ENGINE=InnoDB",
];

/// Statements that need the columns and rights that the coordinator needs, and change nothing.
pub(crate) const PROBES: [&str; 6] = [
    "INSERT INTO tcc_transactions (id, name, status, decision, deadline, attempts, next_attempt_at, error, request, \
     traceparent, created_at, updated_at) SELECT id, name, status, decision, deadline, attempts, next_attempt_at, error, \
     request, traceparent, created_at, updated_at FROM tcc_transactions WHERE FALSE",
    "INSERT INTO tcc_branches (transaction_id, position, branch, endpoint, payload, status, attempts, error, updated_at) \
     SELECT transaction_id, position, branch, endpoint, payload, status, attempts, error, updated_at FROM tcc_branches \
     WHERE FALSE",
    "INSERT INTO tcc_history (transaction_id, branch, at, from_status, to_status, cause, error) SELECT transaction_id, \
     branch, at, from_status, to_status, cause, error FROM tcc_history WHERE FALSE",
    "UPDATE tcc_transactions SET error = error WHERE FALSE",
    "UPDATE tcc_branches SET error = error WHERE FALSE",
    "DELETE transactions, branches, history FROM tcc_transactions AS transactions \
     JOIN tcc_branches AS branches JOIN tcc_history AS history WHERE FALSE",
];

pub(crate) fn decision_name(decision: Decision) -> &'static str {
    match decision {
        Decision::Confirm => "confirm",
        Decision::Cancel => "cancel",
    }
}

pub(crate) fn decision(name: &str) -> Option<Decision> {
    [Decision::Confirm, Decision::Cancel].into_iter().find(|&decision| decision_name(decision) == name)
}

/// The transaction's status while a decision is carried out.
pub(crate) fn ending(decision: Decision) -> &'static str {
    match decision {
        Decision::Confirm => "confirming",
        Decision::Cancel => "cancelling",
    }
}

/// The transaction's status when all branches have ended.
pub(crate) fn ended(decision: Decision) -> &'static str {
    match decision {
        Decision::Confirm => "confirmed",
        Decision::Cancel => "cancelled",
    }
}

const BRANCH_STATUSES: [BranchStatus; 6] = [
    BranchStatus::Registered,
    BranchStatus::Tried,
    BranchStatus::Refused,
    BranchStatus::Confirmed,
    BranchStatus::Cancelled,
    BranchStatus::Skipped,
];

pub(crate) fn branch_status_name(status: BranchStatus) -> &'static str {
    match status {
        BranchStatus::Registered => "registered",
        BranchStatus::Tried => "tried",
        BranchStatus::Refused => "refused",
        BranchStatus::Confirmed => "confirmed",
        BranchStatus::Cancelled => "cancelled",
        BranchStatus::Skipped => "skipped",
    }
}

pub(crate) fn branch_status(name: &str) -> Option<BranchStatus> {
    BRANCH_STATUSES.into_iter().find(|&status| branch_status_name(status) == name)
}
