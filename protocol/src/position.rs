//! The position of a publication in its channel: the epoch of the sequence and the offset in it. Offsets of different
//! epochs are not comparable.

use std::{fmt, str::FromStr};

/// Identifies one sequence of a channel's publications. The text format is lowercase base 36.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Epoch(u64);

/// The text is not a valid epoch.
#[derive(thiserror::Error, Debug, Copy, Clone, PartialEq, Eq)]
#[error("invalid epoch: expected one to thirteen digits and lowercase letters")]
pub struct EpochError;

/// The position of a publication in its channel.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct StreamPosition {
    /// The epoch that `offset` belongs to.
    pub epoch: Epoch,
    /// The number of the last publication; 0 before the first one.
    pub offset: u64,
}

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// The bit that marks provisional epochs; other epochs have fewer bits. All fit into a 64-bit float.
const PROVISIONAL: u64 = 1 << 52;
/// `u64::MAX` in base 36.
const MAX_DIGITS: usize = 13;

impl Epoch {
    /// Creates an epoch from its number.
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number of the epoch.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The epoch of a channel whose log has no entry yet; the lower 52 bits of `bits` encode the time.
    #[must_use]
    pub const fn provisional(bits: u64) -> Self {
        Self(PROVISIONAL | bits & (PROVISIONAL - 1))
    }

    /// The bits of a provisional epoch; `None` for other epochs.
    #[must_use]
    pub const fn provisional_bits(self) -> Option<u64> {
        if self.0 >> PROVISIONAL.trailing_zeros() == 1 { Some(self.0 & (PROVISIONAL - 1)) } else { None }
    }

    /// Whether the channel has no publication yet. The first publication gets another epoch, which continues this one.
    #[must_use]
    pub const fn is_provisional(self) -> bool {
        self.0 == 0 || self.provisional_bits().is_some()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = ['0'; MAX_DIGITS];
        let mut start = MAX_DIGITS;
        let mut rest = self.0;
        while rest > 0 || start == MAX_DIGITS {
            start -= 1;
            digits[start] = char::from(DIGITS[(rest % 36) as usize]);
            rest /= 36;
        }
        digits[start..].iter().try_for_each(|digit| fmt::Write::write_char(f, *digit))
    }
}

impl FromStr for Epoch {
    type Err = EpochError;

    fn from_str(text: &str) -> Result<Self, EpochError> {
        // `from_str_radix` alone accepts signs and upper case.
        let lowercase = text.bytes().all(|byte| DIGITS.contains(&byte));
        if text.len() > MAX_DIGITS || !lowercase {
            return Err(EpochError);
        }
        u64::from_str_radix(text, 36).map(Self).map_err(|_| EpochError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_an_epoch_in_base_36() {
        for (number, text) in [(0, "0"), (35, "z"), (36, "10"), (u64::MAX, "3w5e11264sgsf")] {
            assert_eq!(Epoch::from_u64(number).to_string(), text);
            assert_eq!(text.parse(), Ok(Epoch::from_u64(number)));
        }
    }

    #[test]
    fn rejects_invalid_epochs() {
        for text in ["", "+1", "-1", "A", "a b", "3w5e11264sgsg", "00000000000001"] {
            assert_eq!(text.parse::<Epoch>(), Err(EpochError), "{text:?}");
        }
    }
}
