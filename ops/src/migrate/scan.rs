//! Scans the source with SCAN, node by node.
//!
//! Owns the cursors: decides whether they are still valid, and when a scan restarts. Must never skip a key that exists
//! during the whole scan; a key may be returned twice.

use redis::cmd;

use super::error::Error;
use super::journal::ScanCursor;
use super::keyspace::{Keyspace, has_no_run_id};

/// Cursors of a scan, stored in the journal, and the slot assignment that they are valid for.
#[derive(Debug)]
pub(super) struct Scan<'j> {
    pub(super) nodes: &'j mut Vec<ScanCursor>,
    pub(super) slots: &'j mut String,
}

impl Scan<'_> {
    /// Next keys; `None` when the scan is complete. Can be empty in between.
    pub(super) async fn next(
        &mut self,
        source: &mut Keyspace,
        count: usize,
    ) -> Result<Option<Vec<Vec<u8>>>, Error> {
        self.align(source);
        let Some(position) = self.nodes.iter_mut().find(|position| !position.done) else {
            return self.end(source).await;
        };
        let Some(node) = source.nodes.iter().position(|node| node.run_id == position.run_id) else {
            return Err(Error::Transient(format!("{}: a node has left the cluster", source.name())));
        };
        let mut scan = cmd("SCAN");
        scan.arg(&position.cursor).arg("COUNT").arg(count);
        let (cursor, keys): (String, Vec<Vec<u8>>) = source.query_node(node, scan).await?;
        position.done = cursor == "0";
        position.cursor = cursor;
        Ok(Some(keys))
    }

    /// Drops invalid cursors. A cursor is valid only for the process that returned it and while slots do not move: a
    /// key that moves from a node not yet scanned to a scanned one would be skipped.
    pub(super) fn align(&mut self, source: &Keyspace) {
        let slots = source.slots_text();
        if *self.slots != slots {
            self.nodes.clear();
            *self.slots = slots;
        }
        self.nodes.retain(|position| source.nodes.iter().any(|node| node.run_id == position.run_id));
        for node in &source.nodes {
            if !self.nodes.iter().any(|position| position.run_id == node.run_id) {
                let (run_id, cursor) = (node.run_id.clone(), "0".to_owned());
                self.nodes.push(ScanCursor { run_id, cursor, done: false });
            }
        }
    }

    /// Checks whether the cluster has changed; otherwise the scan is complete.
    async fn end(&mut self, source: &mut Keyspace) -> Result<Option<Vec<Vec<u8>>>, Error> {
        if source.is_cluster() {
            source.refresh_slots().await?;
            self.align(source);
        }
        Ok(self.nodes.iter().any(|position| !position.done).then(Vec::new))
    }
}

/// Drops cursors of servers without a run id, which cannot be matched to a new connection.
pub(super) fn forget_unidentified(nodes: &mut Vec<ScanCursor>) {
    nodes.retain(|position| !has_no_run_id(&position.run_id));
}
