//! Statements that go to the database together: each question wakes its thread, and calls wait for that.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::ROWS_A_STATEMENT;
use crate::store::StoreError;

/// Writes that are yet to be made, in their order.
pub(super) struct Script {
    statements: QueryBuilder<Sqlite>,
    /// Rows of all of them.
    rows: usize,
}

impl Script {
    pub(super) fn new() -> Self {
        Self {
            statements: QueryBuilder::new(""),
            rows: 0,
        }
    }

    /// Begins the next statement, of so many rows.
    pub(super) fn statement(&mut self, start: &str, rows: usize) -> &mut QueryBuilder<Sqlite> {
        if self.rows > 0 {
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
        let statements = script.statements.build().persistent(false);
        statements.execute(connection).await.map_err(StoreError::Failed)?;
        Ok(())
    }
}
