//! Who is told of changes of agents' states.

use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;

use super::field;
use crate::config::ConfigError;
use crate::webhooks::{Webhook, secret};

/// Each is told by a task of its own.
const MOST: usize = 16;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawWebhook {
    url: String,
    secret: PathBuf,
    ca: Option<PathBuf>,
}

pub(super) fn validated(raw: Vec<RawWebhook>, folder: &Path) -> Result<Vec<Webhook>, ConfigError> {
    if raw.len() > MOST {
        return Err(field("webhooks", format!("has more than {MOST} entries")));
    }
    let mut webhooks: Vec<Webhook> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let webhook = raw.validate(&format!("webhooks[{index}]"), folder)?;
        // What was told is kept by address.
        if webhooks.iter().any(|other| other.url == webhook.url) {
            return Err(field("webhooks", format!("names `{}` twice", webhook.url)));
        }
        webhooks.push(webhook);
    }
    Ok(webhooks)
}

impl RawWebhook {
    fn validate(self, name: &str, folder: &Path) -> Result<Webhook, ConfigError> {
        let url = Url::parse(&self.url)
            .ok()
            .filter(|url| url.has_host() && url.username().is_empty());
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(url) = url else {
            return Err(field(
                format!("{name}.url"),
                "is no address: write http:// or https:// and a host".to_owned(),
            ));
        };
        if url.scheme() == "https" && self.ca.is_none() {
            let what = "is missing: who signed the receiver's certificate?".to_owned();
            return Err(field(format!("{name}.ca"), what));
        }
        let read = |part: &str, path: &Path| {
            std::fs::read(folder.join(path))
                .map_err(|error| field(format!("{name}.{part}"), format!("cannot be read: {error}")))
        };
        let text = read("secret", &self.secret)?;
        let secret = std::str::from_utf8(&text).ok().and_then(secret);
        let Some(secret) = secret else {
            let what = "is no secret: one line is expected, `whsec_` and 24 to 64 bytes as base64".to_owned();
            return Err(field(format!("{name}.secret"), what));
        };
        Ok(Webhook {
            url,
            secret,
            authority: self.ca.as_deref().map(|path| read("ca", path)).transpose()?,
        })
    }
}
