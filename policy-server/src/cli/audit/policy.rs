//! The policy that records name, read from a server in the order in which an export has it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use authz::log::export::PolicyLine;
use authz::log::policy::{self, Kind, PolicyKeys};
use authz::policy::{PageDigest, Version};

use super::AuditError;
use super::remote::{Remote, verified};

/// What has been read of a server's policy.
pub(super) struct Gathered {
    note: String,
    keys: PolicyKeys,
    documents: HashSet<(Kind, Version)>,
    pages: HashSet<PageDigest>,
}

impl Gathered {
    /// Nothing yet; None if the server is older than keeping policy.
    pub(super) async fn begin(remote: &Remote, origin: &str) -> Result<Option<Self>, AuditError> {
        let Some(note) = remote.policy_keys().await? else {
            return Ok(None);
        };
        let keys = PolicyKeys::unverified(&note, origin);
        let keys = keys.ok_or(AuditError::Log("its list of keys that sign policy is none"))?;
        Ok(Some(Self {
            note,
            keys,
            documents: HashSet::new(),
            pages: HashSet::new(),
        }))
    }

    /// The note that says which keys sign it.
    pub(super) fn note(&self) -> &str {
        &self.note
    }

    /// The same keys; nothing has been verified of the note.
    pub(super) fn keys(&self) -> &PolicyKeys {
        &self.keys
    }

    /// What these records name and none before them, as an export has it before their tile.
    pub(super) async fn before(&mut self, remote: &Remote, records: &[Vec<u8>]) -> Result<Vec<PolicyLine>, AuditError> {
        let mut named = BTreeSet::new();
        for record in records {
            named.extend(policy::named(&verified(record)?.record).filter(|named| !self.documents.contains(named)));
        }
        let mut pages = BTreeMap::new();
        let (mut kept, mut missing) = (Vec::new(), Vec::new());
        for (kind, version) in named {
            self.documents.insert((kind, version));
            match self.document(remote, kind, version, &mut pages).await? {
                Some(jws) => kept.push(PolicyLine::kept(kind, jws)),
                None => missing.push(PolicyLine::missing(kind, version)),
            }
        }
        self.pages.extend(pages.keys());
        let pages = pages.into_values().map(PolicyLine::Page);
        Ok(pages.chain(kept).chain(missing).collect())
    }

    /// A document whose pages are all there, which are added to `pages` unless they were read before.
    async fn document(
        &self,
        remote: &Remote,
        kind: Kind,
        version: Version,
        pages: &mut BTreeMap<PageDigest, String>,
    ) -> Result<Option<String>, AuditError> {
        let Some(jws) = remote.kept(kind.as_str(), &version.to_string()).await? else {
            return Ok(None);
        };
        if kind == Kind::State {
            return Ok(Some(jws));
        }
        let bundle = self
            .keys
            .bundle(&jws)
            .map_err(|_| AuditError::Log("a bundle of it is none"))?;
        let mut own = Vec::new();
        for digest in bundle.pages {
            if self.pages.contains(&digest) || pages.contains_key(&digest) {
                continue;
            }
            match remote.kept("page", &digest.to_string()).await? {
                Some(page) => own.push((digest, page)),
                None => return Ok(None),
            }
        }
        pages.extend(own);
        Ok(Some(jws))
    }
}
