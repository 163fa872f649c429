use proptest::prelude::*;

use super::value::TEXT_BYTES_MAX;
use super::*;

/// The format of a kind with default settings, with a user where the kind has no default.
fn format(kind: SessionKind) -> SessionFormat {
    with(kind, |settings| {
        if matches!(kind, SessionKind::Plain | SessionKind::Fastify) {
            settings.user = Some("/user_id".to_owned());
        }
        if kind == SessionKind::Exists {
            (settings.cookie, settings.key) = (Some("sid".to_owned()), Some("s:{sid}".to_owned()));
        }
    })
}

fn with(kind: SessionKind, change: impl FnOnce(&mut SessionSettings)) -> SessionFormat {
    let mut settings = SessionSettings::new(kind);
    change(&mut settings);
    SessionFormat::new(settings).unwrap()
}

fn express(user: &str) -> SessionFormat {
    with(SessionKind::Express, |settings| {
        settings.user = Some(user.to_owned());
        settings.fields = [("role", "/role"), ("cart", "/cart"), ("roles", "/passport/user/roles")]
            .map(|(name, pointer)| (name.to_owned(), pointer.to_owned()))
            .into();
    })
}

fn parse(format: &SessionFormat, value: &[u8]) -> Result<Option<SessionLogin>, SessionError> {
    format.parse(&SessionValue::String(value), &Secrets::default())
}

fn user(format: &SessionFormat, value: &[u8]) -> Option<String> {
    parse(format, value).unwrap().map(|login| login.user)
}

fn id_text(format: &SessionFormat, cookies: &[&str], secrets: &str) -> Option<String> {
    let secrets = Secrets::parse(format.kind(), secrets).unwrap();
    format
        .session_id(cookies.iter().map(|cookie| cookie.as_bytes()), &secrets)
        .map(|id| id.as_str().to_owned())
}

fn key_text(format: &SessionFormat, id: &str) -> String {
    String::from_utf8(format.key(&SessionId::new(id).unwrap())).unwrap()
}

mod cookies {
    use super::*;

    /// The cookie that express-session 1.19.0 set, and the key that connect-redis 9.0.0 and 7.1.1 wrote.
    #[test]
    fn express_names_the_key_of_connect_redis() {
        let format = format(SessionKind::Express);
        let cookie = "connect.sid=s%3AXG3JbMsr-s0yDWEBpo7Z7qur623MJCel.8lv%2FJH%2FLJpy0nnHXDlYagas5pwpH7oY%2FXUkc38ePkYk";
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
}

mod values {
    use super::super::fixtures::{
        self, DJANGO_OBJECTS, DJANGO_PICKLE, DJANGO_REDIS_GZIP, DJANGO_REDIS_JSON, DJANGO_REDIS_LZMA,
        DJANGO_REDIS_MSGPACK, DJANGO_REDIS_PICKLE, DJANGO_REDIS_ZLIB, FLASK_JSON, FLASK_MSGPACK, PICKLES,
    };
    use super::*;

    /// Written by connect-redis 9.0.0, one within `NestJS` 12.5.
    #[test]
    fn reads_sessions_of_express() {
        let value = r#"{"cookie":{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/"},"passport":{"user":42},"role":"admin","cart":[{"n":"ü😀","q":1}]}"#;
        let login = parse(&express("/passport/user"), value.as_bytes()).unwrap().unwrap();
        assert_eq!(login.user, "42");
        assert_eq!(login.fields, [("role".to_owned(), FieldValue::Text("admin".to_owned()))].into());
        let value = r#"{"cookie":{"originalMaxAge":3600000,"expires":"2026-11-30T16:47:46.400Z","httpOnly":true,"path":"/"},"passport":{"user":{"id":42,"roles":["user"]}}}"#;
        let login = parse(&express("/passport/user/id"), value.as_bytes()).unwrap().unwrap();
        assert_eq!(login.user, "42");
        assert_eq!(login.fields, [("roles".to_owned(), FieldValue::List(vec!["user".to_owned()]))].into());
        assert_eq!(user(&express("/passport/user"), value.as_bytes()), None, "an object");
    }

    /// The expiry of a cookie is not rewritten when the session is touched.
    #[test]
    fn the_expiry_within_the_value_does_not_count() {
        let value =
            br#"{"cookie":{"originalMaxAge":1,"expires":"1999-01-01T00:00:00.000Z"},"passport":{"user":42}}"#;
        assert_eq!(user(&express("/passport/user"), value).as_deref(), Some("42"));
    }

    #[test]
    fn a_session_without_a_user_is_no_login() {
        let format = express("/user");
        for value in [
            "{}",
            r#"{"cookie":{}}"#,
            r#"{"passport":{}}"#,
            "null",
            "[]",
            "1",
            r#""user""#,
            r#"{"passport":{"user":1}}"#,
        ] {
            assert_eq!(parse(&format, value.as_bytes()), Ok(None), "{value}");
        }
        for user in ["null", "\"\"", "true", "false", "{}", "[]", "[1]", "{\"id\":1}"] {
            assert_eq!(parse(&format, format!("{{\"user\":{user}}}").as_bytes()), Ok(None), "{user}");
        }
    }

    #[test]
    fn a_user_is_a_text_or_the_digits_of_a_number() {
        let format = express("/user");
        for (value, expected) in
            [("\"a:b\"", "a:b"), ("\"*\"", "*"), ("0", "0"), ("9007199254740993", "9007199254740993")]
        {
            let value = format!("{{\"user\":{value}}}");
            assert_eq!(user(&format, value.as_bytes()).as_deref(), Some(expected));
        }
        let long = format!("{{\"user\":\"{}\"}}", "a".repeat(TEXT_BYTES_MAX + 1));
        assert_eq!(parse(&format, long.as_bytes()), Err(SessionError::UserTooLong(TEXT_BYTES_MAX)));
    }

    #[test]
    fn fields_of_other_types_are_absent() {
        let value = r#"{"passport":{"user":{"id":1,"roles":[["x"]]}},"role":null,"cart":true}"#;
        let login = parse(&express("/passport/user/id"), value.as_bytes()).unwrap().unwrap();
        assert_eq!(login.fields, [("cart".to_owned(), FieldValue::Text("true".to_owned()))].into());
    }

    #[test]
    fn reads_sessions_of_django() {
        let format = with(SessionKind::Django, |settings| {
            settings.fields = [("roles".to_owned(), "/roles".to_owned())].into();
        });
        for fixture in [
            DJANGO_PICKLE,
            DJANGO_REDIS_PICKLE,
            DJANGO_REDIS_JSON,
            DJANGO_REDIS_MSGPACK,
            DJANGO_REDIS_ZLIB,
            DJANGO_REDIS_GZIP,
        ] {
            let bytes = fixtures::bytes(fixture);
            let login = parse(&format, &bytes).unwrap().unwrap();
            assert_eq!(login.user, "1");
            let roles = FieldValue::List(vec!["editor".to_owned(), "staff".to_owned()]);
            assert_eq!(login.fields, [("roles".to_owned(), roles)].into());
            for length in 0..bytes.len() {
                assert!(
                    !matches!(parse(&format, &bytes[..length]), Ok(Some(_))),
                    "{length} bytes of {fixture}"
                );
            }
        }
        for fixture in PICKLES.into_iter().chain([DJANGO_OBJECTS]) {
            assert_eq!(user(&format, &fixtures::bytes(fixture)).as_deref(), Some("7"));
        }
        let lzma = fixtures::bytes(DJANGO_REDIS_LZMA);
        assert_eq!(parse(&format, &lzma), Err(SessionError::Unsupported("LZMA")));
        for anonymous in [&b"\x80\x05}\x94."[..], b"{}", b"\x80"] {
            assert_eq!(parse(&format, anonymous), Ok(None), "{anonymous:?}");
        }
    }

    #[test]
    fn a_compressed_value_does_not_expand_beyond_the_limit() {
        use std::io::Write;
        let mut bomb = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        bomb.write_all(&vec![b' '; 64 * SESSION_BYTES_MAX]).unwrap();
        let bomb = bomb.finish().unwrap();
        assert!(bomb.len() < SESSION_BYTES_MAX);
        let format = format(SessionKind::Django);
        assert_eq!(parse(&format, &bomb), Err(SessionError::TooLarge(SESSION_BYTES_MAX)));
        let large = vec![b' '; SESSION_BYTES_MAX + 1];
        assert_eq!(parse(&format, &large), Err(SessionError::TooLarge(SESSION_BYTES_MAX)));
    }

    #[test]
    fn reads_plain_sessions() {
        let plain = format(SessionKind::Plain);
        for fixture in [FLASK_MSGPACK, FLASK_JSON] {
            assert_eq!(user(&plain, &fixtures::bytes(fixture)).as_deref(), Some("42"));
        }
        let hash = with(SessionKind::Plain, |settings| {
            settings.is_hash = true;
            settings.user = Some("/user_id".to_owned());
            settings.fields = [("roles".to_owned(), "/data/roles".to_owned())].into();
        });
        let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let fields = [pair("user_id", "42"), pair("data", r#"{"roles":["a"]}"#)];
        let login = hash.parse(&SessionValue::Hash(&fields), &Secrets::default()).unwrap().unwrap();
        assert_eq!(login.user, "42");
        assert_eq!(login.fields, [("roles".to_owned(), FieldValue::List(vec!["a".to_owned()]))].into());
        let empty = [pair("user_id", "")];
        assert_eq!(hash.parse(&SessionValue::Hash(&empty), &Secrets::default()), Ok(None));
        assert_eq!(
            hash.parse(&SessionValue::String(b"{}"), &Secrets::default()),
            Err(SessionError::RedisType("hash"))
        );
        assert_eq!(
            plain.parse(&SessionValue::Hash(&empty), &Secrets::default()),
            Err(SessionError::RedisType("string"))
        );
    }

    /// The shape that better-auth stores.
    #[test]
    fn reads_sessions_of_better_auth() {
        let value = br#"{"session":{"userId":"u1","expiresAt":"2026-12-07T15:00:00.000Z","token":"t"},"user":{"id":"u1","email":"a@example.com"}}"#;
        assert_eq!(user(&format(SessionKind::BetterAuth), value).as_deref(), Some("u1"));
    }

    #[test]
    fn an_existing_key_is_a_login() {
        let (format, id) = (format(SessionKind::Exists), SessionId::new("0123456789abcdef").unwrap());
        assert_eq!((format.read(), format.user_key(&id)), (ReadKind::Exists, None));
        let login = format
            .parse(&SessionValue::Exists { id: &id, user: None }, &Secrets::default())
            .unwrap()
            .unwrap();
        assert!(login.user.starts_with("session-") && !login.user.contains(id.as_str()), "{}", login.user);
        let named = with(SessionKind::Exists, |settings| {
            settings.cookie = Some("sid".to_owned());
            settings.key = Some("s:{sid}".to_owned());
            settings.user_key = Some("s:{sid}:user".to_owned());
        });
        assert_eq!(named.user_key(&id), Some(b"s:0123456789abcdef:user".to_vec()));
        for (stored, expected) in [(None, None), (Some(&b""[..]), None), (Some(b"7"), Some("7"))] {
            let value = SessionValue::Exists { id: &id, user: stored };
            let login = named.parse(&value, &Secrets::default()).unwrap();
            assert_eq!(login.map(|login| login.user).as_deref(), expected);
        }
    }

    proptest! {
        #[test]
        fn any_value_is_accepted(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            for kind in SessionKind::ALL {
                let format = format(kind);
                let _ = parse(&format, &bytes);
                let fields = [(bytes.clone(), bytes.clone())];
                let _ = format.parse(&SessionValue::Hash(&fields), &Secrets::default());
            }
        }
    }
}

mod settings {
    use super::*;

    fn error(kind: SessionKind, change: impl FnOnce(&mut SessionSettings)) -> SessionFormatError {
        let mut settings = SessionSettings::new(kind);
        change(&mut settings);
        SessionFormat::new(settings).unwrap_err()
    }

    #[test]
    fn rejects_invalid_settings() {
        let express = SessionKind::Express;
        let name = "a b".to_owned();
        assert_eq!(
            error(express, |settings| settings.cookie = Some(name.clone())),
            SessionFormatError::CookieName(name)
        );
        let key = "sess:".to_owned();
        assert_eq!(
            error(express, |settings| settings.key = Some(key.clone())),
            SessionFormatError::KeyTemplate(key)
        );
        let user = "user".to_owned();
        assert_eq!(
            error(express, |settings| settings.user = Some(user.clone())),
            SessionFormatError::Pointer(user)
        );
        let key = "{sid}".to_owned();
        let prefix = error(SessionKind::Django, |settings| settings.key = Some(key.clone()));
        assert_eq!(prefix, SessionFormatError::KeyPrefix(key));
        let missing = SessionFormatError::Missing { setting: "user", kind: "plain" };
        assert_eq!(error(SessionKind::Plain, |_| ()), missing);
        let missing = SessionFormatError::Missing { setting: "cookie", kind: "exists" };
        assert_eq!(error(SessionKind::Exists, |_| ()), missing);
        let hash = SessionFormatError::NotApplicable { setting: "hash", kind: "express" };
        assert_eq!(error(express, |settings| settings.is_hash = true), hash);
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = SessionKind::ALL.map(SessionKind::name).into();
        assert_eq!(names.len(), SessionKind::ALL.len());
    }
}
