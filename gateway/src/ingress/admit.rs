//! Admits streams within the connection limit and the limits of their address and user.

use earshot_protocol::Disconnect;

use super::StreamContext;
use crate::admission::Permit;
use crate::auth::{ClientNetwork, Identity};
use crate::shard::NewConnectionKind;

impl StreamContext {
    /// Admits a stream on a connection with this permit. Beyond the limit, the response requests a later reconnect; no
    /// other connection is closed to make room.
    pub fn admit(
        &self,
        permit: Permit,
        kind: NewConnectionKind,
        network: Option<ClientNetwork>,
    ) -> (Permit, NewConnectionKind) {
        let mut permit = self.admission.promote(permit);
        if permit.is_reserved() {
            self.metrics.control.connections_rejected.add(1);
            return (permit, kind.rejected(Disconnect::TooManyRequests));
        }
        match self.hold_shares(&mut permit, kind.identity(), network) {
            Ok(()) => (permit, kind),
            Err(disconnect) => (permit, kind.rejected(disconnect)),
        }
    }

    /// Admits a stream on a connection that carries several streams; each stream holds its own permit. `None`: not even
    /// a rejection is possible.
    pub fn admit_multiplexed(
        &self,
        kind: NewConnectionKind,
        network: Option<ClientNetwork>,
    ) -> Option<(Permit, NewConnectionKind)> {
        let permit = self.acquire_permit(None)?;
        Some(self.admit(permit, kind, network))
    }

    /// Counts a connection for its address, and for its user if that is known already.
    fn hold_shares(
        &self,
        permit: &mut Permit,
        identity: Option<&Identity>,
        network: Option<ClientNetwork>,
    ) -> Result<(), Disconnect> {
        if let Some(network) = network {
            let share = self.connections_per_address.acquire(&network).ok_or(Disconnect::TooManyRequests)?;
            permit.hold(share);
        }
        if let Some(identity) = identity.filter(|identity| identity.is_authenticated()) {
            let limit = &self.authenticator.limits().connections_per_user;
            permit.hold(limit.acquire(&identity.user().into()).ok_or(Disconnect::ConnectionLimit)?);
        }
        Ok(())
    }
}
