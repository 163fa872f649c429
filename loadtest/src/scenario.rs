//! The scenarios, one file each. What they share is outside: clients, publishers, report.

pub(crate) mod fanout;

use std::io;
use std::time::Duration;

use crate::client::ClientError;
use crate::publisher::PublishError;

/// Why a scenario could not be run; what it found is in its report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The options contradict each other or this machine.
    #[error("{0}")]
    Usage(String),
    /// A subscriber could not be had.
    #[error("subscriber: {0}")]
    Subscriber(#[from] ClientError),
    /// The publisher has no connection.
    #[error("publisher: {0}")]
    Publisher(#[from] PublishError),
    /// A thread could not be started, or ended by a panic.
    #[error(transparent)]
    Thread(#[from] io::Error),
}

/// Reads `10s`, `500ms`, `2m` or `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("wants a number and a unit: 500ms, 10s, 2m, 1h".to_owned()),
    };
    let seconds = number.parse::<f64>().map_err(|error| error.to_string())? * scale;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for wrong in ["10", "s", "-1s", "10 s", "1d", "1.2.3s", ""] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
