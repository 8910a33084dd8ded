//! What a line of an export says by itself, whatever stands before it. That is nearly all that checking it costs, and can be
//! found out of many lines side by side.

use super::policy::PolicyLine;
use crate::audit::{self, RecordError, Verified};
use crate::digest::Digest;
use crate::log::tree::leaf_hash;

pub(super) const CHECKPOINT: &[u8] = b"{\"checkpoint\":";
pub(super) const TILE: &[u8] = b"{\"tile\":";
const END: &[u8] = b"{\"end\":";

/// A line that has been read, and if it is a record, checked with its hash; its place is yet to be
/// ([`Verifier::line`](super::Verifier::line)).
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Without the line feed.
    pub(super) content: &'a [u8],
    /// There is no line feed.
    pub(super) is_cut: bool,
    /// The record and its leaf in the tree; None of any other line.
    pub(super) record: Option<Result<(Verified<'a>, Digest), RecordError>>,
}

impl<'a> Line<'a> {
    /// Reads a line, its line feed included.
    pub fn read(line: &'a [u8]) -> Self {
        let content = line.strip_suffix(b"\n");
        let is_cut = content.is_none();
        let content = content.unwrap_or(line);
        let is_other =
            is_cut || [CHECKPOINT, TILE, END].iter().any(|start| content.starts_with(start)) || PolicyLine::is(content);
        let record = (!is_other).then(|| {
            let verified = audit::verify_line(content)?;
            let leaf = leaf_hash(verified.canonical);
            Ok((verified, leaf))
        });
        Self {
            content,
            is_cut,
            record,
        }
    }
}
