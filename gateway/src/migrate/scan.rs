//! Walking the source with SCAN, node by node.
//!
//! Owns cursors: when one is still good, and when a walk begins anew. Must never skip a key that was there from
//! beginning to end; it may same_keyspace one twice.

use redis::cmd;

use super::error::Error;
use super::journal::ScanCursor;
use super::keyspace::{Keyspace, has_no_run_id};

/// A walk's cursors, which the journal keeps, and the slots that they belong to.
#[derive(Debug)]
pub(super) struct Scan<'j> {
    pub(super) nodes: &'j mut Vec<ScanCursor>,
    pub(super) slots: &'j mut String,
}

impl Scan<'_> {
    /// The next keys; `None` when everything has been walked. May be empty in between.
    pub(super) async fn next(
        &mut self,
        source: &mut Keyspace,
        count: usize,
    ) -> Result<Option<Vec<Vec<u8>>>, Error> {
        self.align(source);
        let Some(walked) = self.nodes.iter_mut().find(|walked| !walked.done) else {
            return self.end(source).await;
        };
        let Some(node) = source.nodes.iter().position(|node| node.run_id == walked.run_id) else {
            return Err(Error::Transient(format!("{}: a node of the cluster has left", source.name())));
        };
        let mut scan = cmd("SCAN");
        scan.arg(&walked.cursor).arg("COUNT").arg(count);
        let (cursor, keys): (String, Vec<Vec<u8>>) = source.query_node(node, scan).await?;
        walked.done = cursor == "0";
        walked.cursor = cursor;
        Ok(Some(keys))
    }

    /// A cursor is good for the very process that gave it, and only while slots stay where they are: keys that wander
    /// from a node still to be walked to one that has been would be met nowhere.
    pub(super) fn align(&mut self, source: &Keyspace) {
        let slots = source.slots_text();
        if *self.slots != slots {
            self.nodes.clear();
            *self.slots = slots;
        }
        self.nodes.retain(|walked| source.nodes.iter().any(|node| node.run_id == walked.run_id));
        for node in &source.nodes {
            if !self.nodes.iter().any(|walked| walked.run_id == node.run_id) {
                let (run_id, cursor) = (node.run_id.clone(), "0".to_owned());
                self.nodes.push(ScanCursor { run_id, cursor, done: false });
            }
        }
    }

    /// Everything has been walked, unless the cluster has changed meanwhile.
    async fn end(&mut self, source: &mut Keyspace) -> Result<Option<Vec<Vec<u8>>>, Error> {
        if source.is_cluster() {
            source.refresh_slots().await?;
            self.align(source);
        }
        Ok(self.nodes.iter().any(|walked| !walked.done).then(Vec::new))
    }
}

/// Forgets cursors that no later connection can be held to: of servers that do not say which incarnation they are.
pub(super) fn forget_unidentified(nodes: &mut Vec<ScanCursor>) {
    nodes.retain(|walked| !has_no_run_id(&walked.run_id));
}
