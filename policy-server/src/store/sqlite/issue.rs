//! Tokens are written down together: those asked for while one commit is on its way to the disk go with the next. A token and
//! the end of its work are written one after the other, so that no token of ended work is ever answered to anybody.

use std::collections::HashSet;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqlitePool;
use tokio::sync::{mpsc, oneshot};

use super::script::Script;
use super::{begin, commit, signed};
use crate::store::work::Work;
use crate::store::{IssuedToken, LiveClaims, StoreError};

/// The most tokens of one commit.
const MOST: usize = 64;

/// Of one token: that it is recorded, or what of its work was ended.
type Recorded = Result<Result<(), Work>, StoreError>;

#[derive(Debug)]
struct Asked {
    token: IssuedToken,
    says: LiveClaims,
    answer: oneshot::Sender<Recorded>,
}

/// The task that writes tokens down; it ends with the store. Who asks may hang up meanwhile, and the others' tokens are written all
/// the same.
#[derive(Debug)]
pub(super) struct Issuing {
    queue: mpsc::Sender<Asked>,
}

impl Issuing {
    pub(super) fn start(writer: SqlitePool) -> Self {
        let (queue, mut asked) = mpsc::channel(MOST);
        tokio::spawn(async move {
            let mut group = Vec::with_capacity(MOST);
            while asked.recv_many(&mut group, MOST).await > 0 {
                answer(&writer, std::mem::take(&mut group)).await;
            }
        });
        Self { queue }
    }

    /// Records a token, unless what it is for was ended.
    pub(super) async fn record(&self, token: &IssuedToken, says: &LiveClaims) -> Recorded {
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            token: token.clone(),
            says: says.clone(),
            answer,
        };
        self.queue.send(asked).await.map_err(|_| unanswered())?;
        answered.await.map_err(|_| unanswered())?
    }
}

/// Nobody said that the token was recorded: it must not be given to anybody.
fn unanswered() -> StoreError {
    StoreError::Failed(sqlx::Error::PoolClosed)
}

async fn answer(writer: &SqlitePool, group: Vec<Asked>) {
    let tokens: Vec<_> = group.iter().map(|asked| (&asked.token, &asked.says)).collect();
    match write(writer, &tokens).await {
        Ok(recorded) => {
            for (asked, recorded) in group.into_iter().zip(recorded) {
                let _ = asked.answer.send(Ok(recorded));
            }
        }
        // One that cannot be written keeps no other from it. If the commit reached the disk all the same, its tokens are refused
        // here, and nobody has been given them.
        Err(_) => {
            for asked in group {
                let alone = write(writer, &[(&asked.token, &asked.says)]).await;
                let recorded = alone.and_then(|recorded| recorded.into_iter().next().ok_or_else(unanswered));
                let _ = asked.answer.send(recorded);
            }
        }
    }
}

async fn write(
    writer: &SqlitePool,
    tokens: &[(&IssuedToken, &LiveClaims)],
) -> Result<Vec<Result<(), Work>>, StoreError> {
    let mut transaction = begin(writer).await?;
    let ended = ended_of(&mut transaction, tokens).await?;
    let is_ended = |work: &Work, at| ended.contains(&(work.kind().to_owned(), work.name().to_owned(), signed(at)));
    let recorded: Vec<_> = tokens
        .iter()
        .map(|(token, _)| {
            let mut works = works(token).into_iter();
            works.find(|work| is_ended(work, token.issued_at)).map_or(Ok(()), Err)
        })
        .collect();
    let written = tokens.iter().zip(&recorded).filter(|(_, recorded)| recorded.is_ok());
    let written: Vec<_> = written.map(|(token, _)| *token).collect();
    if !written.is_empty() {
        insert(&mut transaction, &written).await?;
        commit(transaction).await?;
    }
    Ok(recorded)
}

/// What a token is for: the first that was ended is told.
fn works(token: &IssuedToken) -> [Work; 2] {
    [
        Work::Txn(token.txn.clone()),
        Work::Operation(token.operation_id.clone()),
    ]
}

/// What was ended of the tokens' works and gets no token at the time of theirs: kind, name and time.
async fn ended_of(
    connection: &mut SqliteConnection,
    tokens: &[(&IssuedToken, &LiveClaims)],
) -> Result<HashSet<(String, String, i64)>, StoreError> {
    let asked = tokens
        .iter()
        .flat_map(|(token, _)| works(token).map(|work| (work, token.issued_at)));
    let mut query = sqlx::QueryBuilder::new("WITH asked (kind, name, at) AS (");
    query.push_values(asked, |mut row, (work, at)| {
        row.push_bind(work.kind())
            .push_bind(work.name().to_owned())
            .push_bind(signed(at));
    });
    query.push(
        ") SELECT DISTINCT kind, name, at FROM asked CROSS JOIN ended_work USING (kind, name)
         WHERE refused_until IS NULL OR refused_until > at",
    );
    let ended = query.build_query_as().persistent(false).fetch_all(connection).await;
    Ok(ended.map_err(StoreError::Failed)?.into_iter().collect())
}

/// Writes tokens down and what they say, and forgets what those said that have expired since.
async fn insert(connection: &mut SqliteConnection, tokens: &[(&IssuedToken, &LiveClaims)]) -> Result<(), StoreError> {
    let mut script = Script::new();
    script
        .statement(
            "INSERT INTO issued (jti, agent_id, operation_id, txn, issued_by, issued_at, expires_at) ",
            tokens.len(),
        )
        .push_values(tokens, |mut row, (token, _)| {
            row.push_bind(token.jti.clone())
                .push_bind(token.agent_id.clone())
                .push_bind(token.operation_id.clone())
                .push_bind(token.txn.clone())
                .push_bind(token.issued_by.clone())
                .push_bind(signed(token.issued_at))
                .push_bind(signed(token.expires_at));
        });
    let now = tokens
        .iter()
        .map(|(token, _)| token.issued_at)
        .min()
        .unwrap_or_default();
    script
        .statement("DELETE FROM live_claims WHERE expires_at <= ", 1)
        .push_bind(signed(now));
    script
        .statement(
            "INSERT INTO live_claims (jti, sub, operation_id, expires_at, claims) ",
            tokens.len(),
        )
        .push_values(tokens, |mut row, (token, says)| {
            row.push_bind(token.jti.clone())
                .push_bind(says.sub.clone())
                .push_bind(token.operation_id.clone())
                .push_bind(signed(token.expires_at))
                .push_bind(says.claims.clone());
        });
    script.run(connection).await
}
