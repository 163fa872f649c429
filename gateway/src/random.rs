//! Unpredictable random numbers from the operating system.
//!
//! Used for values that a client, or another user of the same Redis, must not be able to guess: client ids, names of
//! probe channels, probe numbers. `fastrand` is predictable and is used for jitter and load balancing.

use uuid::Uuid;

/// Returns 64 random bits.
///
/// # Panics
/// When the operating system has no source of randomness: ids would be predictable.
pub fn u64() -> u64 {
    match getrandom::u64() {
        Ok(number) => number,
        Err(error) => panic!("cannot read random numbers from the operating system: {error}"),
    }
}

/// Returns random bytes.
///
/// # Panics
/// See [`u64()`].
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => bytes,
        Err(error) => panic!("cannot read random numbers from the operating system: {error}"),
    }
}

/// Returns a version 4 UUID: 122 random bits.
///
/// # Panics
/// See [`u64()`].
pub fn uuid() -> Uuid {
    Uuid::new_v4()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn numbers_are_unique() {
        let numbers: HashSet<u64> = (0..1000).map(|_| super::u64()).collect();
        let ids: HashSet<_> = (0..1000).map(|_| super::uuid()).collect();
        assert_eq!((numbers.len(), ids.len()), (1000, 1000));
        assert!(ids.iter().all(|id| id.get_version_num() == 4));
    }
}
