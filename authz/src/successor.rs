//! What a filter asks before the tokens of calls expire that are still on their way, and what the policy server answers.
//!
//! The question names agents' operations, and the answer the claims of their live tokens. Whether one of them permits a
//! call is decided where its facts are, by [`crate::decision::goes_on_by`].

use serde::{Deserialize, Serialize};

use crate::{
    claims::Claims,
    identity::{OperationId, SpiffeId},
    json::{self, JsonError, Limits},
};

/// The most operations that one question names.
pub const MAX_OPERATIONS: usize = 256;

/// The most tokens of an operation that an answer tells of: those that expire last.
pub const MAX_TOKENS: usize = 4;

/// What calls of one agent are for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// The workload whose tokens they are.
    pub sub: SpiffeId,
    /// The declared operation.
    pub operation_id: OperationId,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// At most [`MAX_OPERATIONS`].
    pub operations: Vec<Operation>,
}

/// Reads an answer, `{"tokens":[CLAIMS,…]}`. Of claims that this version does not understand nothing is told, and members
/// beside `tokens` are passed over, so that a later server may say more.
///
/// # Errors
///
/// [`JsonError`] if it is no such document.
pub fn read_answer(body: &[u8]) -> Result<Vec<Claims>, JsonError> {
    let document = json::parse(body, &Limits::POLICY)?;
    let tokens = document.root().get("tokens");
    let tokens = tokens
        .and_then(|tokens| tokens.as_array())
        .ok_or(JsonError::Shape { line: 1, column: 1 })?;
    Ok(tokens.filter_map(|claims| Claims::read(claims).ok()).collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn claims(jti: &str) -> serde_json::Value {
        json!({
            "iss": "spiffe://cluster.local/ns/ostiary/sa/policy-server", "sub": "spiffe://cluster.local/ns/agents/sa/a",
            "aud": ["spiffe://cluster.local/ns/data/sa/b"], "issued_by": "spiffe://cluster.local/ns/o/sa/o",
            "iat": 1, "nbf": 1, "exp": 2, "jti": jti, "agent_id": "a", "operation_id": "o",
            "scope": [], "tools": [], "forbidden_tools": [],
        })
    }

    #[test]
    fn an_answer_tells_of_tokens_that_are_understood() {
        let mut narrowed = claims("two");
        narrowed["act"] = json!("a later version's");
        let answer = json!({"tokens": [claims("one"), narrowed, 3, claims("three")], "more": true}).to_string();
        let told = read_answer(answer.as_bytes()).unwrap();
        assert_eq!(
            told.iter().map(|claims| claims.jti.as_str()).collect::<Vec<_>>(),
            ["one", "three"]
        );
        assert_eq!(read_answer(br#"{"tokens":[]}"#).unwrap(), []);
    }

    #[test]
    fn what_is_no_answer_tells_nothing() {
        for body in [
            &b""[..],
            b"{}",
            b"[]",
            br#"{"tokens":{}}"#,
            br#"{"tokens":[],"tokens":[]}"#,
            b"{\"tokens\":[",
        ] {
            assert!(read_answer(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }
}
