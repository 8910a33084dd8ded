//! From JSON to a record. Unknown fields are refused: what is not understood cannot be vouched for.

use std::borrow::Cow;
use std::ops::Range;

use super::{FORMAT, Kind, Link, Outcome, Record, RecordError, RecordedClaims, RecordedFacts, SourceId};
use crate::claims::Claims;
use crate::denial::Code;
use crate::digest::Digest;
use crate::json::Value;
use crate::request::Side;

type Text<'r> = Cow<'r, str>;

/// Where the texts of a record are kept.
#[derive(Clone, Copy)]
pub(super) enum Texts<'r> {
    /// In the document that is read, of which this is the source; only what it escapes is copied.
    Source(&'r str),
    /// In the record itself.
    Record,
}

impl<'r> Texts<'r> {
    fn text(self, value: Value<'_>, field: &'static str) -> Result<Text<'r>, RecordError> {
        let text = value.as_str().ok_or(RecordError::Field(field))?;
        let kept = match (self, &text) {
            (Self::Source(source), Cow::Borrowed(_)) => {
                let Range { start, end } = value.span();
                source.get(start + 1..end - 1)
            }
            _ => None,
        };
        Ok(kept.map_or_else(|| Cow::Owned(text.into_owned()), Cow::Borrowed))
    }

    fn pairs(self, value: Value<'_>, field: &'static str) -> Result<Vec<(Text<'r>, Text<'r>)>, RecordError> {
        value
            .entries()
            .ok_or(RecordError::Field(field))?
            .map(|(name, value)| Ok((Cow::Owned(name.into_owned()), self.text(value, field)?)))
            .collect()
    }

    fn list(self, value: Value<'_>, field: &'static str) -> Result<Vec<Text<'r>>, RecordError> {
        value
            .as_array()
            .ok_or(RecordError::Field(field))?
            .map(|value| self.text(value, field))
            .collect()
    }
}

pub(super) fn record<'r>(root: Value<'_>, texts: Texts<'r>) -> Result<(Link, Record<'r>), RecordError> {
    let entries = root.entries().ok_or(RecordError::Line)?;
    let mut record = Record::new(Kind::Decision, 0);
    let (mut kind, mut time_ms, mut format, mut source, mut seq, mut prev_hash) = (None, None, None, None, None, None);
    for (key, value) in entries {
        match &*key {
            "agent_id" => record.agent_id = Some(texts.text(value, "agent_id")?),
            "bundle" => record.bundle = Some(texts.text(value, "bundle")?),
            "call" => record.call = Some(texts.text(value, "call")?),
            "claims" => record.claims = Some(claims(value)?),
            "code" => record.code = Some(word(value, "code", |word| word.parse().ok())?),
            "count" => record.count = Some(integer(value, "count")?),
            "counts" => record.counts = counts(value)?,
            "drifted" => record.drifted = texts.list(value, "drifted")?,
            "duration_us" => record.duration_us = Some(integer(value, "duration_us")?),
            "end" => record.end = Some(texts.text(value, "end")?),
            "facts" => record.facts = Some(facts(value, texts)?),
            "jti" => record.jti = Some(texts.text(value, "jti")?),
            "kind" => kind = Some(word(value, "kind", Kind::from_word)?),
            "operation_id" => record.operation_id = Some(texts.text(value, "operation_id")?),
            "outcome" => record.outcome = Some(texts.text(value, "outcome")?),
            "peer" => record.peer = Some(texts.text(value, "peer")?),
            "prev_hash" => prev_hash = Some(digest(value, "prev_hash")?),
            "previous_hash" => record.previous_hash = Some(digest(value, "previous_hash")?),
            "previous_source" => record.previous_source = Some(word(value, "previous_source", SourceId::parse)?),
            "protocol" => record.protocol = Some(texts.text(value, "protocol")?),
            "request_bytes" => record.request_bytes = Some(integer(value, "request_bytes")?),
            "request_digest" => record.request_digest = Some(digest(value, "request_digest")?),
            "response_bytes" => record.response_bytes = Some(integer(value, "response_bytes")?),
            "response_digest" => record.response_digest = Some(digest(value, "response_digest")?),
            "seq" => seq = Some(integer(value, "seq")?),
            "service" => record.service = Some(texts.text(value, "service")?),
            "side" => record.side = Some(word(value, "side", side)?),
            "source" => source = Some(word(value, "source", SourceId::parse)?),
            "state" => record.state = Some(texts.text(value, "state")?),
            "status" => record.status = Some(integer(value, "status")?),
            "time_ms" => time_ms = Some(integer(value, "time_ms")?),
            "trace_id" => record.trace_id = Some(texts.text(value, "trace_id")?),
            "txn" => record.txn = Some(texts.text(value, "txn")?),
            "v" => format = Some(integer(value, "v")?),
            "verdict" => record.verdict = Some(word(value, "verdict", Outcome::from_word)?),
            "workload" => record.workload = Some(texts.text(value, "workload")?),
            _ => return Err(RecordError::Field("(unknown)")),
        }
    }
    if format.ok_or(RecordError::Field("v"))? != FORMAT {
        return Err(RecordError::Format);
    }
    record.kind = kind.ok_or(RecordError::Field("kind"))?;
    record.time_ms = time_ms.ok_or(RecordError::Field("time_ms"))?;
    let source = source.ok_or(RecordError::Field("source"))?;
    let seq = seq.ok_or(RecordError::Field("seq"))?;
    Ok((Link { source, seq, prev_hash }, record))
}

fn facts<'r>(value: Value<'_>, texts: Texts<'r>) -> Result<RecordedFacts<'r>, RecordError> {
    let mut facts = RecordedFacts::default();
    for (key, value) in value.entries().ok_or(RecordError::Field("facts"))? {
        let slot = match &*key {
            "captures" => {
                facts.captures = texts.pairs(value, "captures")?;
                continue;
            }
            "resources" => {
                facts.resources = texts.pairs(value, "resources")?;
                continue;
            }
            "method" => &mut facts.method,
            "own" => &mut facts.own,
            "path" => &mut facts.path,
            "prompt" => &mut facts.prompt,
            "right" => &mut facts.right,
            "rpc_method" => &mut facts.rpc_method,
            "scope" => &mut facts.scope,
            "tool" => &mut facts.tool,
            _ => return Err(RecordError::Field("facts")),
        };
        *slot = Some(texts.text(value, "facts")?);
    }
    Ok(facts)
}

fn counts(value: Value<'_>) -> Result<Vec<(Code, u64)>, RecordError> {
    value
        .entries()
        .ok_or(RecordError::Field("counts"))?
        .map(|(code, count)| {
            let code = code.parse().map_err(|_| RecordError::Field("counts"))?;
            Ok((code, integer(count, "counts")?))
        })
        .collect()
}

fn claims(value: Value<'_>) -> Result<RecordedClaims<'static>, RecordError> {
    let claims = Claims::read(value).map_err(|_| RecordError::Field("claims"))?;
    Ok(RecordedClaims::of_length(&claims, value.raw().len()))
}

fn integer(value: Value<'_>, field: &'static str) -> Result<u64, RecordError> {
    value.as_u64().ok_or(RecordError::Field(field))
}

fn digest(value: Value<'_>, field: &'static str) -> Result<Digest, RecordError> {
    word(value, field, |text| Digest::from_base64url(text).ok())
}

fn word<T>(value: Value<'_>, field: &'static str, read: impl Fn(&str) -> Option<T>) -> Result<T, RecordError> {
    value
        .as_str()
        .and_then(|word| read(&word))
        .ok_or(RecordError::Field(field))
}

fn side(word: &str) -> Option<Side> {
    [Side::Inbound, Side::Outbound]
        .into_iter()
        .find(|side| side.as_str() == word)
}
