//! Tests of the cookies and keys of all kinds.

use proptest::prelude::*;

use super::*;

/// The cookie that express-session 1.19.0 set, and the key that connect-redis 9.0.0 and 7.1.1 wrote.
#[test]
fn express_names_the_key_of_connect_redis() {
    let format = format(SessionKind::Express);
    let cookie =
        "connect.sid=s%3AXG3JbMsr-s0yDWEBpo7Z7qur623MJCel.8lv%2FJH%2FLJpy0nnHXDlYagas5pwpH7oY%2FXUkc38ePkYk";
    let id = id_text(&format, &[cookie], "keyboard cat").unwrap();
    assert_eq!(key_text(&format, &id), "sess:XG3JbMsr-s0yDWEBpo7Z7qur623MJCel");
    assert_eq!(format.key_prefix(), "sess:");
    assert_eq!(id_text(&format, &[cookie], "other"), None);
    assert_eq!(id_text(&format, &[&cookie.replace("connect", "Connect")], "keyboard cat"), None);
}

#[test]
fn django_names_the_key_of_the_cache() {
    let id = "sckx0diy5e019lq31p48tw6765o5q16g";
    let cookie = format!("csrftoken=x; sessionid={id}");
    let format = format(SessionKind::Django);
    assert_eq!(id_text(&format, &[&cookie], "").as_deref(), Some(id));
    assert_eq!(key_text(&format, id), format!(":1:django.contrib.sessions.cache{id}"));
    let other = with(SessionKind::Django, |settings| {
        settings.key = Some("shop:2:django.contrib.sessions.cached_db{sid}".to_owned());
    });
    assert_eq!(key_text(&other, id), format!("shop:2:django.contrib.sessions.cached_db{id}"));
}

#[test]
fn better_auth_cookies_have_a_prefix_on_https() {
    let format = format(SessionKind::BetterAuth);
    let value = "kV8d3mQpX1yTzR5sWcN0bHjLfGuAeI7o.Svzv7BQlIsBb9r7khbUf8bSwEUFjS1vQsuGpRPjuifc%3D";
    for name in ["better-auth.session_token", "__Secure-better-auth.session_token"] {
        let cookie = format!("{name}={value}");
        let id = id_text(&format, &[&cookie], "better-auth-secret-123456789").unwrap();
        assert_eq!(key_text(&format, &id), "better-auth:kV8d3mQpX1yTzR5sWcN0bHjLfGuAeI7o");
    }
    assert_eq!(id_text(&format, &[&format!("__Host-better-auth.session_token={value}")], "x"), None);
}

/// The cookie that better-auth 1.7.25 set, and the key that it wrote to a secondary storage without a prefix.
#[test]
fn better_auth_names_the_key_of_its_secondary_storage() {
    let cookie = "better-auth.session_token=kQnWVlgx4gWhEkjaoiwiGqW1i2vGduNs.\
                  Mke3AnozmSqc%2BakOlS0upDeQWh0bIuZI3BiH%2BKkjhLw%3D";
    let format = with(SessionKind::BetterAuth, |settings| settings.key = Some("{sid}".to_owned()));
    let id = id_text(&format, &[cookie], "better-auth-secret-123456789-0123456789").unwrap();
    assert_eq!(key_text(&format, &id), "kQnWVlgx4gWhEkjaoiwiGqW1i2vGduNs");
}

#[test]
fn the_first_cookie_that_verifies_counts() {
    let valid = "sNqXFhpiCirG34VhOk5z0MaXJlGqRekN.j3CIuqX%2BVEl8cjr0UgCtxrmBLl9cGFvrV4858vd%2BeG0";
    let other = "4bSQz1Yf0n2r7J8pXqT5wKcLmNvBhDgE.IQVP4p%2BdgtclY7DmlBAI9PkWFrp3mWkrsSsgNXowNI8";
    let format = format(SessionKind::Express);
    let id = |cookies: &[&str]| id_text(&format, cookies, "keyboard cat");
    let forged = format!("connect.sid=s%3A{}", other.replace("4bS", "5bS"));
    let cookie = format!("{forged}; connect.sid=s%3A{valid}; connect.sid=s%3A{other}");
    assert_eq!(id(&[&cookie]).as_deref(), Some("sNqXFhpiCirG34VhOk5z0MaXJlGqRekN"));
    let second = format!("connect.sid=s%3A{other}");
    assert_eq!(id(&[&forged, &second]).as_deref(), Some("4bSQz1Yf0n2r7J8pXqT5wKcLmNvBhDgE"));
    assert_eq!(id(&[&forged]), None);
}

#[test]
fn unsigned_ids_cannot_name_another_key() {
    let format = format(SessionKind::Plain);
    let id = |value: &str| id_text(&format, &[&format!("session={value}")], "");
    assert_eq!(id("GVuVTLKlzN0h-1k_fR-x").as_deref(), Some("GVuVTLKlzN0h-1k_fR-x"));
    for wrong in [
        "admin",
        "x%3Ay0123456789abcdef",
        "0123456789abcdef%00",
        "0123456789abcdef*",
        "%7Bx%7D0123456789abcdef",
    ] {
        assert_eq!(id(wrong), None, "{wrong}");
    }
}

proptest! {
    #[test]
    fn any_cookie_is_accepted(header in prop::collection::vec(any::<u8>(), 0..80), value in "\\PC{0,60}") {
        for kind in SessionKind::ALL {
            let format = format(kind);
            let named = format!("{}={value}", format.cookies[0]);
            let headers = [&header[..], named.as_bytes()];
            let id = format.session_id(headers.into_iter(), &Secrets::default());
            prop_assert!(id.is_none() || !kind.is_signed());
        }
    }
}
