//! Statements that go to the database together: each question wakes its thread, and calls wait for that.
//!
//! A script may be a transaction of its own, begun with the first of its writes and committed with the last: if that is all one
//! question, the connection is in no transaction before or after.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::ROWS_A_STATEMENT;
use crate::store::StoreError;

/// A script of at most so many rows is kept parsed: most groups are as small, and parsing it takes as long as running it.
const FEW_ROWS: usize = 24;

/// Writes that are yet to be made, in their order.
pub(super) struct Script {
    statements: QueryBuilder<Sqlite>,
    /// Rows of all of them.
    rows: usize,
    /// Whether it is to begin a transaction with what it writes first.
    begins: bool,
}

impl Script {
    pub(super) fn new() -> Self {
        Self {
            statements: QueryBuilder::new(""),
            rows: 0,
            begins: false,
        }
    }

    /// A transaction of its own, which [`Self::commit`] ends.
    pub(super) fn transaction() -> Self {
        Self {
            begins: true,
            ..Self::new()
        }
    }

    /// Begins the next statement, of so many rows.
    pub(super) fn statement(&mut self, start: &str, rows: usize) -> &mut QueryBuilder<Sqlite> {
        if self.begins {
            self.statements.push("BEGIN IMMEDIATE; ");
            self.begins = false;
        } else if self.rows > 0 {
            self.statements.push("; ");
        }
        self.rows = self.rows.saturating_add(rows);
        self.statements.push(start)
    }

    /// Whether there is enough for one question.
    pub(super) fn is_full(&self) -> bool {
        self.rows >= ROWS_A_STATEMENT
    }

    /// Makes the writes that there are.
    pub(super) async fn run(&mut self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut script = std::mem::replace(self, Self::new());
        let statements = script.statements.build().persistent(script.rows <= FEW_ROWS);
        statements.execute(connection).await.map_err(StoreError::Failed)?;
        Ok(())
    }

    /// Makes the writes that are left and commits them with all before; nothing, if there were none.
    pub(super) async fn commit(mut self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        if self.begins {
            return Ok(());
        }
        self.statement("COMMIT", 1);
        self.run(connection).await.map_err(|error| match error {
            StoreError::Failed(error) => StoreError::Unknown(error),
            other => other,
        })
    }
}
