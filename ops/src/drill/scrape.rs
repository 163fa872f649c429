//! The metrics of the gateway that the drill checks.

use super::http::Client;

/// One scrape.
#[derive(Clone, Debug, Default)]
pub(super) struct Scrape {
    text: String,
}

/// Metrics that faults change.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Numbers {
    /// Minimum of `redis_up`; 0 without a connection.
    pub(super) up: f64,
    /// Working connections that were lost, for any cause.
    pub(super) lost: f64,
    /// Of those, connections that were open and received nothing.
    pub(super) not_receiving: f64,
    /// Gaps because a connection was down.
    pub(super) link_gaps: f64,
    /// Gaps of streams that lost entries or were trimmed too early.
    pub(super) log_gaps: f64,
    pub(super) desired: f64,
    pub(super) active: f64,
}

impl Scrape {
    /// Reads the metrics.
    pub(super) async fn take(client: &mut Client) -> Result<Self, String> {
        let (status, body) = client.fetch("/metrics").await?;
        if status != 200 {
            return Err(format!("/metrics returned {status}"));
        }
        Ok(Self { text: String::from_utf8_lossy(&body).into_owned() })
    }

    /// The values of the checked metrics.
    pub(super) fn numbers(&self) -> Numbers {
        let sum = |name: &str, label: &str| self.samples(name, label).sum();
        let up = self.samples("earshot_redis_up", "").fold(f64::INFINITY, f64::min);
        Numbers {
            up: if up.is_finite() { up } else { 0.0 },
            lost: sum("earshot_redis_link_failures_total", ""),
            not_receiving: sum("earshot_redis_link_failures_total", "reason=\"not-receiving\""),
            link_gaps: sum("earshot_gaps_total", "reason=\"link-down\""),
            log_gaps: sum("earshot_gaps_total", "reason=\"log-lost\"")
                + sum("earshot_gaps_total", "reason=\"history-too-short\""),
            desired: sum("earshot_redis_subscriptions", "state=\"desired\""),
            active: sum("earshot_redis_subscriptions", "state=\"active\""),
        }
    }

    fn samples(&self, name: &str, label: &str) -> impl Iterator<Item = f64> {
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_it = labels.is_empty() || labels.starts_with('{');
            (is_it && labels.contains(label)).then(|| value.parse().ok())?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_their_labels() {
        let text = "# TYPE earshot_redis_up gauge\n\
                    earshot_redis_up{redis=\"a\",link=\"commands\"} 1\n\
                    earshot_redis_up{redis=\"a\",link=\"subscriptions\"} 0\n\
                    earshot_redis_link_failures_total{redis=\"a\",link=\"commands\",reason=\"unreachable\"} 2\n\
                    earshot_redis_link_failures_total{redis=\"a\",link=\"commands\",reason=\"not-receiving\"} 3\n\
                    earshot_gaps_total{reason=\"link-down\"} 7\n\
                    earshot_redis_subscriptions{redis=\"a\",link=\"subscriptions\",state=\"desired\"} 20003\n";
        let numbers = Scrape { text: text.to_owned() }.numbers();
        assert_eq!((numbers.up, numbers.lost, numbers.not_receiving), (0.0, 5.0, 3.0));
        assert_eq!((numbers.link_gaps, numbers.desired, numbers.active), (7.0, 20003.0, 0.0));
        assert_eq!(Scrape::default().numbers().up, 0.0, "no connection means down");
    }
}
