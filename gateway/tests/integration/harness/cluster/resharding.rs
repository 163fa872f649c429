//! Moves slots between the nodes of a cluster, as `redis-cli --cluster reshard` does.

use std::collections::BTreeSet;

use super::Cluster;
use crate::harness::until;

/// The slot moves of a cluster.
pub(crate) struct Resharding<'c>(pub(super) &'c Cluster);

impl Resharding<'_> {
    /// Moves the slot of a name to another node, with its keys, as `redis-cli --cluster reshard` does.
    pub(crate) async fn move_slot(&self, name: &str, to: usize) {
        self.reshard(&[name], to).await;
    }

    /// Moves the slots of names to one node, which then has the highest configuration epoch.
    pub(crate) async fn reshard(&self, names: &[&str], to: usize) {
        self.wait_for_one_epoch().await;
        for name in names {
            let from = self.0.owner(name).await;
            if from != to {
                self.begin_slot_move(name, from, to).await;
                self.finish_slot_move(name, from, to).await;
            }
        }
    }

    /// Waits until all nodes have the same current epoch. A node with an older one could claim the slot again with a
    /// conflicting epoch.
    pub(crate) async fn wait_for_one_epoch(&self) {
        until("the nodes have the same epoch", async || {
            let mut epochs = BTreeSet::new();
            for node in self.0.running_nodes() {
                let info: String = self.0.try_command(node, &["CLUSTER", "INFO"]).await?;
                epochs
                    .insert(info.lines().find(|line| line.starts_with("cluster_current_epoch:"))?.to_owned());
            }
            (epochs.len() == 1).then_some(())
        })
        .await;
    }

    /// First half of a slot move: marks the slot as migrating.
    pub(crate) async fn begin_slot_move(&self, name: &str, from: usize, to: usize) {
        let slot = self.0.slot(name).await.to_string();
        let (from_id, to_id) = (self.0.nodes[from].id.clone(), self.0.nodes[to].id.clone());
        self.0.run(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
        self.0.run(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
    }

    /// Second half of a slot move: migrates the keys and assigns the slot.
    pub(crate) async fn finish_slot_move(&self, name: &str, from: usize, to: usize) {
        let slot = self.0.slot(name).await.to_string();
        let (to_id, port) = (self.0.nodes[to].id.clone(), self.0.nodes[to].port.to_string());
        loop {
            let keys: Vec<String> = self.0.command(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).await;
            for key in &keys {
                self.0.run(from, &["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).await;
            }
            if keys.is_empty() {
                break;
            }
        }
        // Notify the other nodes too, as `redis-cli` does: gossip alone may reach them late or out of order.
        let rest =
            self.0.running_nodes().filter(|node| *node < self.0.primaries && *node != to && *node != from);
        for node in [to, from].into_iter().chain(rest) {
            self.0.run(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
        }
    }
}
