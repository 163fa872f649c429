//! Explains permissions without a running gateway.

use std::io;

use super::logins;
use crate::config::Config;
use crate::drain::Drain;
use crate::node::NodeRules;
use crate::node::namespace::Namespaces;
use crate::node::permission_report::{PermissionQuery, PermissionReport};

/// Answers a question with the namespaces and logins of a configuration, as a gateway with that configuration would.
///
/// # Errors
/// If a file of secrets or keys cannot be read, or a setting is invalid.
pub async fn explain(config: &Config, query: &PermissionQuery) -> io::Result<PermissionReport> {
    let drain = Drain::default();
    let authenticator = logins::start(config, None, &drain)?;
    // No broker: nothing is subscribed or published.
    let namespaces = config.namespaces.iter().map(|space| space.rules(Box::default())).collect();
    let namespaces = Namespaces::new(namespaces, &config.probe_prefixes());
    let publication_bytes = config.limits.publication_bytes;
    let report = NodeRules { namespaces, authenticator, publication_bytes }.explain(query).await;
    drain.stop().await;
    Ok(report)
}
