//! Cookies that contain a session id, a dot and its HMAC-SHA256 in base64: express-session, @fastify/session,
//! better-auth.

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD, STANDARD_NO_PAD};

use super::id::SessionId;
use super::secrets::Secrets;

/// The prefix that express-session adds to a signed value.
const EXPRESS_PREFIX: &str = "s:";

/// The id in a cookie of express-session: `s:`, the id, the HMAC without padding.
pub(super) fn express(value: &str, secrets: &Secrets) -> Option<SessionId> {
    verified(value.strip_prefix(EXPRESS_PREFIX)?, &STANDARD_NO_PAD, secrets)
}

/// The id in a cookie of @fastify/session, which is configured with or without the prefix of express-session.
pub(super) fn fastify(value: &str, secrets: &Secrets) -> Option<SessionId> {
    express(value, secrets).or_else(|| verified(value, &STANDARD_NO_PAD, secrets))
}

/// The token in a cookie of better-auth, whose HMAC has padding.
pub(super) fn better_auth(value: &str, secrets: &Secrets) -> Option<SessionId> {
    verified(value, &STANDARD, secrets)
}

/// The text before the last dot, if what follows is its HMAC with any of the secrets. Only the exact encoding that the
/// library writes is accepted: `base64` rejects other padding and unused bits.
fn verified(value: &str, encoding: &GeneralPurpose, secrets: &Secrets) -> Option<SessionId> {
    let (id, mac) = value.rsplit_once('.')?;
    let mac = encoding.decode(mac).ok()?;
    let is_signed = secrets.iter().any(|secret| secret.verifies(id.as_bytes(), &mac));
    if is_signed { SessionId::new(id) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::hmac;

    use super::super::super::cookie;
    use super::super::kind::SessionKind;
    use super::*;

    fn secrets(lines: &str) -> Secrets {
        Secrets::parse(SessionKind::Express, lines).unwrap()
    }

    fn signed(id: &str, secret: &str, encoding: &GeneralPurpose) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        format!("{id}.{}", encoding.encode(hmac::sign(&key, id.as_bytes())))
    }

    fn id(found: Option<SessionId>) -> Option<String> {
        found.map(|id| id.as_str().to_owned())
    }

    /// Cookies that express-session 1.19.0 set, two of them within `NestJS` 12.5 and with two secrets.
    #[test]
    fn reads_cookies_of_express() {
        for (cookie, secret, expected) in [
            (
                "s%3AXG3JbMsr-s0yDWEBpo7Z7qur623MJCel.8lv%2FJH%2FLJpy0nnHXDlYagas5pwpH7oY%2FXUkc38ePkYk",
                "keyboard cat",
                "XG3JbMsr-s0yDWEBpo7Z7qur623MJCel",
            ),
            ("s%3Acustom.id-1.wSKlgtSQ3U8KfZT9lRmaDy7e6D3O6jEh92T8gf7Gq5Y", "new\nold", "custom.id-1"),
            ("s%3Acustom.id-1.wSKlgtSQ3U8KfZT9lRmaDy7e6D3O6jEh92T8gf7Gq5Y", "newer\nnew", "custom.id-1"),
            (
                "s%3AicLLKlFK1NAZirHGtH7jYpjjyt5Ep6Ge.G%2BFOvSDtWWQIM17X5hYTl2Q6HODqrHuhjM2gkLAX344",
                "nest secret",
                "icLLKlFK1NAZirHGtH7jYpjjyt5Ep6Ge",
            ),
            (
                "s%3A4bSQz1Yf0n2r7J8pXqT5wKcLmNvBhDgE.IQVP4p%2BdgtclY7DmlBAI9PkWFrp3mWkrsSsgNXowNI8",
                "keyboard cat",
                "4bSQz1Yf0n2r7J8pXqT5wKcLmNvBhDgE",
            ),
            (
                "s:sNqXFhpiCirG34VhOk5z0MaXJlGqRekN.j3CIuqX+VEl8cjr0UgCtxrmBLl9cGFvrV4858vd+eG0",
                "keyboard cat",
                "sNqXFhpiCirG34VhOk5z0MaXJlGqRekN",
            ),
        ] {
            let value = cookie::decode(cookie.as_bytes()).unwrap();
            assert_eq!(id(express(&value, &secrets(secret))).as_deref(), Some(expected));
            assert_eq!(id(fastify(&value, &secrets(secret))).as_deref(), Some(expected));
            assert_eq!(id(fastify(&value[2..], &secrets(secret))).as_deref(), Some(expected));
            assert_eq!(express(&value[2..], &secrets(secret)), None, "without the prefix");
            assert_eq!(express(&value, &secrets("other")), None, "with another secret");
            assert_eq!(better_auth(&value[2..], &secrets(secret)), None, "without padding");
        }
    }

    /// Cookies that @fastify/session 11.1.3 set, without and with `cookiePrefix`.
    #[test]
    fn reads_cookies_of_fastify() {
        let secrets = secrets("a secret with minimum length of 32 characters");
        for (value, expected) in [
            (
                "CF7H8lZ6mj8Is9WLC_GVMSSW-tqfnxcs.DsJNFpUKYna9ECpOtWnxfRsVNz8361iI92z9SDbpYE0",
                "CF7H8lZ6mj8Is9WLC_GVMSSW-tqfnxcs",
            ),
            (
                "s:_t-mKJ4Fsidn2IpMIX2RR2p7_49B1GMP.6lxzjPyJnRKVrmjyL7y0VhE5JPqpekKdeeBW4IctTxw",
                "_t-mKJ4Fsidn2IpMIX2RR2p7_49B1GMP",
            ),
        ] {
            assert_eq!(id(fastify(value, &secrets)).as_deref(), Some(expected));
        }
    }

    #[test]
    fn reads_cookies_of_better_auth() {
        let secrets = secrets("better-auth-secret-123456789");
        let value = "kV8d3mQpX1yTzR5sWcN0bHjLfGuAeI7o.Svzv7BQlIsBb9r7khbUf8bSwEUFjS1vQsuGpRPjuifc=";
        assert_eq!(id(better_auth(value, &secrets)).as_deref(), Some("kV8d3mQpX1yTzR5sWcN0bHjLfGuAeI7o"));
        for wrong in [&value[..value.len() - 1], &format!("{value}="), &value.replace("fc=", "fd=")] {
            assert_eq!(better_auth(wrong, &secrets), None, "{wrong}");
        }
    }

    #[test]
    fn rejects_truncated_and_reencoded_signatures() {
        let secrets = secrets("keyboard cat");
        let value = format!("s:{}", signed("abc", "keyboard cat", &STANDARD_NO_PAD));
        assert!(express(&value, &secrets).is_some());
        for length in 0..value.len() {
            assert_eq!(express(&value[..length], &secrets), None, "{length} bytes");
        }
        // The last character of 43 has two unused bits.
        let last = value.chars().last().unwrap();
        for other in
            ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).filter(|other| *other != last)
        {
            assert_eq!(express(&format!("{}{other}", &value[..value.len() - 1]), &secrets), None, "{other}");
        }
        let url_safe = value.replace('+', "-").replace('/', "_");
        for wrong in
            [&format!("{value}="), &format!("{value} "), &format!(" {value}"), &value.replace("s:", "S:")]
        {
            assert_eq!(express(wrong, &secrets), None, "{wrong}");
        }
        assert!(url_safe == value || express(&url_safe, &secrets).is_none());
    }

    #[test]
    fn rejects_an_empty_or_overlong_id() {
        let secrets = secrets("x");
        assert_eq!(express(&format!("s:{}", signed("", "x", &STANDARD_NO_PAD)), &secrets), None);
        assert_eq!(
            express(&format!("s:{}", signed(&"a".repeat(257), "x", &STANDARD_NO_PAD)), &secrets),
            None
        );
    }

    proptest! {
        #[test]
        fn accepts_what_is_signed_only(sid in "\\PC{1,40}", secret in "[!-~]{1,20}", flip in 0usize..400) {
            let value = format!("s:{}", signed(&sid, &secret, &STANDARD_NO_PAD));
            let secrets = secrets(&secret);
            prop_assert_eq!(id(express(&value, &secrets)), Some(sid.clone()));
            let mut bytes = value.clone().into_bytes();
            let at = 2 + flip / 8 % (bytes.len() - 2);
            bytes[at] ^= 1 << (flip % 8);
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert_eq!(express(&changed, &secrets), None);
            }
        }

        #[test]
        fn accepts_any_text(value in "\\PC{0,60}") {
            let secrets = secrets("x");
            prop_assert_eq!(fastify(&value, &secrets), None);
            prop_assert_eq!(better_auth(&value, &secrets), None);
        }
    }
}
