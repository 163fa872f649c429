//! What it means that a certificate is refused, and days for people.

use rustls::{CertificateError, Error};

use super::super::report::Finding;
use super::Trust;
use super::recorder::Seen;

const DAY: u64 = 86_400;

/// Why a certificate is worth nothing.
pub(super) fn refused(error: &Error, seen: &Seen, trust: &Trust, ends: Option<u64>) -> Finding {
    // Who has switched verification off on purpose is told, but nothing fails.
    let level = if trust.verifies { Finding::failed } else { Finding::warning };
    let finding = |said: String| level("certificate", said);
    let Error::InvalidCertificate(error) = error else { return finding(format!("it is refused: {error}")) };
    match error {
        CertificateError::UnknownIssuer => finding("no authority that is known here has signed it".to_owned())
            .because("it is of a private authority, or signed by itself; or the server leaves out the certificates between")
            .advise(format!("give the authority's certificate in {}", trust.authorities_key)),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let since = ends.filter(|ends| *ends < seen.now());
            let said = since.map_or_else(
                || "a certificate of the chain has ended".to_owned(),
                |ends| format!("it ended on {} ({} days ago)", day(ends), (seen.now() - ends) / DAY),
            );
            finding(said)
                .because("nobody renewed it, or the server has not read the new one")
                .advise("renew it and have the server read it; if it is fresh, set this machine's clock")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            finding("it is not valid yet".to_owned())
                .because("the clock of this machine, or of the one that signed it, is wrong")
                .advise("set the clock (NTP)")
        }
        CertificateError::NotValidForName => wrong_name(&finding, trust, &[]),
        CertificateError::NotValidForNameContext { presented, .. } => wrong_name(&finding, trust, presented),
        other => finding(format!("it is refused: {other}"))
            .because("it was not made for a server, or signed by itself as if it were an authority")
            .advise("have it made anew, for servers, by an authority"),
    }
}

fn wrong_name(finding: &dyn Fn(String) -> Finding, trust: &Trust, presented: &[String]) -> Finding {
    let name = &trust.name;
    let said = match presented {
        [] => format!("it is not for {name}, nor for any other name"),
        names => format!(
            "it is not for {name}, but for {}",
            names.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ")
        ),
    };
    finding(said)
        .because("the server is dialled by another name, by its address, or through a tunnel")
        .advise("dial one of its names, have it made for this one, or, of a Redis, set server_name")
}

/// A name as it stands in the certificate: `DnsName("x")` is `x`.
fn bare(name: &str) -> &str {
    name.split_once('"').and_then(|(_, rest)| rest.split_once('"')).map_or(name, |(name, _)| name)
}

/// The day of a moment, in UTC, as `2026-11-21`. (Days to a date: Howard Hinnant's `civil_from_days`.)
pub(super) fn day(unix_seconds: u64) -> String {
    let days = unix_seconds / DAY + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_795_219_200, "2026-11-21"),
            (4_102_444_799, "2099-12-31"),
        ] {
            assert_eq!(day(seconds), shown);
        }
    }

    #[test]
    fn names_are_shown_bare() {
        assert_eq!((bare("DnsName(\"a.b\")"), bare("IpAddress(1.2.3.4)")), ("a.b", "IpAddress(1.2.3.4)"));
    }
}
