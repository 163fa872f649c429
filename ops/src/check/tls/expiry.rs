//! Interpretation of certificate errors, and date formatting.

use rustls::{CertificateError, Error};

use super::super::report::Finding;
use super::Trust;
use super::recorder::Seen;

const DAY: u64 = 86_400;

/// Finding for an invalid certificate.
pub(super) fn refused(error: &Error, seen: &Seen, trust: &Trust, ends: Option<u64>) -> Finding {
    // With verification disabled, an invalid certificate is only a warning.
    let level = if trust.verifies { Finding::failed } else { Finding::warning };
    let finding = |message: String| level("certificate", message);
    let Error::InvalidCertificate(error) = error else { return finding(format!("it is invalid: {error}")) };
    match error {
        CertificateError::UnknownIssuer => finding("its issuer is not trusted here".to_owned())
            .cause("it was issued by a private CA or is self-signed, or the server omits intermediate certificates")
            .fix(format!("set the CA certificate in {}", trust.authorities_key)),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let since = ends.filter(|ends| *ends < seen.now());
            let message = since.map_or_else(
                || "a certificate of the chain has expired".to_owned(),
                |ends| format!("it expired on {} ({} days ago)", day(ends), (seen.now() - ends) / DAY),
            );
            finding(message)
                .cause("it was not renewed, or the server has not reloaded it")
                .fix("renew it and reload it on the server; if it is new, set this machine's clock")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            finding("it is not valid yet".to_owned())
                .cause("the clock of this machine or of its issuer is wrong")
                .fix("set the clock (NTP)")
        }
        CertificateError::NotValidForName => wrong_name(&finding, trust, &[]),
        CertificateError::NotValidForNameContext { presented, .. } => wrong_name(&finding, trust, presented),
        other => finding(format!("it is invalid: {other}"))
            .cause("it is not a server certificate, or a self-signed CA certificate")
            .fix("reissue it as a server certificate from a CA"),
    }
}

fn wrong_name(finding: &dyn Fn(String) -> Finding, trust: &Trust, presented: &[String]) -> Finding {
    let name = &trust.name;
    let message = match presented {
        [] => format!("it is not valid for {name} or any other name"),
        names => format!(
            "it is not valid for {name}, but for {}",
            names.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ")
        ),
    };
    finding(message)
        .cause("the connection uses another name, an address, or a tunnel")
        .fix("connect to one of its names, reissue it for this name, or set server_name (Redis only)")
}

/// A name without its type: `DnsName("x")` becomes `x`.
fn bare(name: &str) -> &str {
    name.split_once('"').and_then(|(_, rest)| rest.split_once('"')).map_or(name, |(name, _)| name)
}

/// UTC date such as `2026-11-21`. (Howard Hinnant's `civil_from_days`.)
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
    fn days_match_the_calendar() {
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
    fn names_are_shown_without_encoding() {
        assert_eq!((bare("DnsName(\"a.b\")"), bare("IpAddress(1.2.3.4)")), ("a.b", "IpAddress(1.2.3.4)"));
    }
}
