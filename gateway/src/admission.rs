//! The limit of connections, and the permits that connections hold; limits and rates for each user or address.
//!
//! A permit moves with its connection and is released on drop, so every code path releases it. Admission counts its own
//! permits and never reads a metric.
//!
//! Three pools, each with its own limit:
//! - *connections* (`limits.connections`): connections that are served without a time limit.
//! - *reserve*: connections beyond that. They receive a rejection with a reason, or one response, and have a short
//!   lifetime.
//! - *state*: requests for `/health`, `/ready` and `/metrics` even when the reserve is exhausted. Only a connection that
//!   has sent such a request completely is admitted.

mod keyed_limit;
mod rate;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use keyed_limit::{KeyedLimit, Share};
pub use rate::{KeyedRate, Rate, TokenBucket};

/// The pool *state* gets one in this many permits of the reserve.
const STATE_SHARE: usize = 4;

/// The limits of admission.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionLimits {
    /// Connections that are served (`limits.connections`).
    pub connections: usize,
    /// Further connections that get a response (`limits.reserved_connections`).
    pub reserved: usize,
}

/// Issues permits for connections.
#[derive(Debug)]
pub struct Admission {
    connections: Arc<Pool>,
    reserve: Arc<Pool>,
    state: Arc<Pool>,
}

/// The permit of one connection, released on drop.
#[derive(Debug)]
pub struct Permit {
    pool: Arc<Pool>,
    /// Shares of other limits, which are released with it.
    shares: Option<Box<Shares>>,
}

#[derive(Debug)]
struct Shares {
    #[expect(dead_code, reason = "it is dropped, not read")]
    share: Share,
    #[expect(dead_code, reason = "it is dropped, not read")]
    others: Option<Box<Self>>,
}

/// The usage of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// `connections`, `reserve` or `state`.
    pub pool: &'static str,
    /// Permits in use.
    pub used: usize,
    /// The number of permits.
    pub limit: usize,
}

#[derive(Debug)]
struct Pool {
    name: &'static str,
    is_reserve: bool,
    limit: usize,
    used: AtomicUsize,
}

impl Admission {
    /// Creates the pools; all permits are free.
    pub fn new(limits: AdmissionLimits) -> Self {
        let state = limits.reserved / STATE_SHARE;
        Self {
            connections: Pool::new("connections", limits.connections, false),
            reserve: Pool::new("reserve", limits.reserved - state, true),
            state: Pool::new("state", state, true),
        }
    }

    /// Acquires a permit of the pool *connections*, or of the *reserve* if that pool is exhausted. `None`: both are.
    pub fn admit(&self) -> Option<Permit> {
        self.connections.acquire().or_else(|| self.reserve.acquire())
    }

    /// Acquires a permit of the pool *state*, after [`Admission::admit`] returned `None`.
    pub fn admit_state_request(&self) -> Option<Permit> {
        self.state.acquire()
    }

    /// Exchanges a permit of the reserve for one of the pool *connections*, if one is free.
    pub fn promote(&self, mut permit: Permit) -> Permit {
        if !permit.is_reserved() {
            return permit;
        }
        match self.connections.acquire() {
            Some(mut promoted) => {
                promoted.shares = permit.shares.take();
                promoted
            }
            None => permit,
        }
    }

    /// Returns the usage of each pool.
    pub fn usage(&self) -> [PoolUsage; 3] {
        [&self.connections, &self.reserve, &self.state].map(|pool| PoolUsage {
            pool: pool.name,
            used: pool.used.load(Ordering::Relaxed),
            limit: pool.limit,
        })
    }
}

impl Permit {
    /// Whether the connection exceeds the limit and has a short lifetime.
    pub fn is_reserved(&self) -> bool {
        self.pool.is_reserve
    }

    /// Holds a share of another limit until the permit is released.
    pub fn hold(&mut self, share: Share) {
        if share.is_counted() {
            self.shares = Some(Box::new(Shares { share, others: self.shares.take() }));
        }
    }

    /// A permit outside the limits, for tests and benchmarks of a shard.
    pub fn unlimited() -> Self {
        let pool = Pool::new("unlimited", usize::MAX, false);
        pool.used.store(1, Ordering::Relaxed);
        Self { pool, shares: None }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pool.used.fetch_sub(1, Ordering::Release);
    }
}

impl Pool {
    fn new(name: &'static str, limit: usize, is_reserve: bool) -> Arc<Self> {
        Arc::new(Self { name, is_reserve, limit, used: AtomicUsize::new(0) })
    }

    fn acquire(self: &Arc<Self>) -> Option<Permit> {
        let more = |used| (used < self.limit).then_some(used + 1);
        self.used.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).ok()?;
        Some(Permit { pool: Arc::clone(self), shares: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(connections: usize, reserved: usize) -> Admission {
        Admission::new(AdmissionLimits { connections, reserved })
    }

    fn used(admission: &Admission) -> [usize; 3] {
        admission.usage().map(|pool| pool.used)
    }

    #[test]
    fn a_permit_is_two_words() {
        assert_eq!(size_of::<Permit>(), 16);
    }

    #[test]
    fn shares_are_released_with_the_permit() {
        let (admission, limit) = (admission(1, 4), KeyedLimit::new(Some(2)));
        let first = admission.admit().unwrap();
        let mut reserved = admission.admit().unwrap();
        reserved.hold(limit.acquire(&"a").unwrap());
        reserved.hold(limit.acquire(&"a").unwrap());
        drop(first);
        let promoted = admission.promote(reserved);
        assert!(!promoted.is_reserved() && limit.acquire(&"a").is_none());
        drop(promoted);
        assert!(limit.acquire(&"a").is_some());
    }

    #[test]
    fn acquires_from_the_pools_in_order_and_releases_on_drop() {
        let admission = admission(2, 4);
        let mut permits: Vec<Permit> = std::iter::from_fn(|| admission.admit()).collect();
        let reserved: Vec<bool> = permits.iter().map(Permit::is_reserved).collect();
        assert_eq!(reserved, [false, false, true, true, true]);
        let state = admission.admit_state_request().unwrap();
        assert!(state.is_reserved() && admission.admit_state_request().is_none());
        drop(permits.remove(0));
        let promoted = admission.promote(permits.pop().unwrap());
        assert!(!promoted.is_reserved());
        assert!(admission.promote(permits.pop().unwrap()).is_reserved(), "no permit is free");
        assert_eq!(used(&admission), [2, 1, 1]);
        drop((permits, promoted, state));
        assert_eq!(used(&admission), [0, 0, 0]);
    }

    #[test]
    fn the_limit_holds_with_concurrent_threads() {
        const LIMIT: usize = 3;
        let admission = admission(LIMIT, 0);
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let Some(permit) = admission.admit() else { continue };
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < LIMIT);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(used(&admission), [0, 0, 0]);
    }
}
