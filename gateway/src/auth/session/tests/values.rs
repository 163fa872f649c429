//! Tests of the stored values of all kinds.

use proptest::prelude::*;

use super::super::fixtures::{
    self, DJANGO_OBJECTS, DJANGO_PICKLE, DJANGO_REDIS_GZIP, DJANGO_REDIS_JSON, DJANGO_REDIS_LZMA,
    DJANGO_REDIS_MSGPACK, DJANGO_REDIS_PICKLE, DJANGO_REDIS_ZLIB, FLASK_JSON, FLASK_MSGPACK,
    LARAVEL_ENCRYPTED, LARAVEL_ENCRYPTED_GCM, LARAVEL_KEY, LARAVEL_PLAIN, PICKLES,
};
use super::super::java_fixtures::{JAVA_INTEGER, JAVA_TEXT, JAVA_ZERO, SPRING_CONTEXT};
use super::super::value::{LIST_ITEMS_MAX, TEXT_BYTES_MAX};
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
fn fields_are_bounded() {
    let session = |roles: usize, role: &str| {
        let roles = vec![role; roles];
        let value = serde_json::json!({ "passport": { "user": { "id": 1, "roles": roles } }, "role": role });
        let login = parse(&express("/passport/user/id"), value.to_string().as_bytes()).unwrap().unwrap();
        login.fields.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(session(LIST_ITEMS_MAX, &"x".repeat(TEXT_BYTES_MAX)), ["role", "roles"]);
    assert_eq!(session(LIST_ITEMS_MAX + 1, "x"), ["role"]);
    assert!(session(1, &"x".repeat(TEXT_BYTES_MAX + 1)).is_empty());
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
            assert!(!matches!(parse(&format, &bytes[..length]), Ok(Some(_))), "{length} bytes of {fixture}");
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
    for other in [&b""[..], b"42", b"[]", b"abc", b"\xff"] {
        assert!(matches!(parse(&plain, other), Err(SessionError::Unsupported(_))), "{other:?}");
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

/// Written by better-auth 1.7.25 and by @fastify/session 11.1.3.
#[test]
fn reads_sessions_of_better_auth_and_fastify() {
    let value = r#"{"session":{"id":"NiUYuzcghTdSRkQZg9IJsnDgPiDcS9ck","ipAddress":"","userAgent":"","expiresAt":"2026-12-07T23:59:14.322Z","userId":"LuTkM9gOuUmpoltPQWyTsI4GTWDs8BHG","token":"kQnWVlgx4gWhEkjaoiwiGqW1i2vGduNs","createdAt":"2026-11-30T23:59:14.322Z","updatedAt":"2026-11-30T23:59:14.322Z"},"user":{"name":"Ann ü","email":"a@example.com","emailVerified":false,"createdAt":"2026-11-30T23:59:14.320Z","updatedAt":"2026-11-30T23:59:14.320Z","id":"LuTkM9gOuUmpoltPQWyTsI4GTWDs8BHG"}}"#;
    let better_auth = format(SessionKind::BetterAuth);
    assert_eq!(user(&better_auth, value.as_bytes()).as_deref(), Some("LuTkM9gOuUmpoltPQWyTsI4GTWDs8BHG"));
    let value = r#"{"cookie":{"expires":null,"originalMaxAge":null,"sameSite":null,"secure":false,"path":"/","httpOnly":true,"domain":null},"user_id":42}"#;
    assert_eq!(user(&format(SessionKind::Fastify), value.as_bytes()).as_deref(), Some("42"));
}

#[test]
fn reads_sessions_of_laravel() {
    let format = with(SessionKind::Laravel, |settings| {
        settings.fields = [("roles".to_owned(), "/roles".to_owned())].into();
    });
    let secrets = Secrets::parse(SessionKind::Laravel, LARAVEL_KEY).unwrap();
    let login = |value: &[u8]| format.parse(&SessionValue::String(value), &secrets);
    let user = |value: &[u8]| login(value).unwrap().map(|login| login.user);
    let plain = login(&fixtures::bytes(LARAVEL_PLAIN)).unwrap().unwrap();
    assert_eq!(plain.user, "42");
    let roles = FieldValue::List(vec!["editor".to_owned(), "staff".to_owned()]);
    assert_eq!(plain.fields, [("roles".to_owned(), roles)].into());
    assert_eq!(user(&fixtures::bytes(LARAVEL_ENCRYPTED)).as_deref(), Some("42"));
    assert_eq!(user(&fixtures::bytes(LARAVEL_ENCRYPTED_GCM)).as_deref(), Some("u-7"));
    let json = r#"{"_token":"x","login_web_59ba36addc2b2f9401580f014c7f58ea4e30989d":42}"#;
    let json = format!("s:{}:\"{json}\";", json.len());
    assert_eq!(user(json.as_bytes()).as_deref(), Some("42"));
    assert_eq!(user(b"s:6:\"a:0:{}\";"), None);
    assert_eq!(login(b"a:0:{}"), Err(SessionError::Malformed("serialized PHP")));
}

#[test]
fn reads_sessions_of_spring() {
    let format = with(SessionKind::Spring, |settings| {
        let role = "/SPRING_SECURITY_CONTEXT/authentication/authorities/list/0/role";
        settings.fields = [("role".to_owned(), role.to_owned())].into();
    });
    let name =
        "sessionAttr:org.springframework.session.FindByIndexNameSessionRepository.PRINCIPAL_NAME_INDEX_NAME";
    let field = |name: &str, hex: &str| (name.as_bytes().to_vec(), fixtures::bytes(hex));
    let user = |fields: &[_]| {
        let login = format.parse(&SessionValue::Hash(fields), &Secrets::default()).unwrap();
        login.map(|login| (login.user, login.fields.into_values().next()))
    };
    let context = field("sessionAttr:SPRING_SECURITY_CONTEXT", SPRING_CONTEXT);
    let live = field("maxInactiveInterval", JAVA_INTEGER);
    let alice =
        |role: Option<&str>| Some(("alice".to_owned(), role.map(|role| FieldValue::Text(role.to_owned()))));
    assert_eq!(user(&[field(name, JAVA_TEXT), live.clone()]), alice(None));
    assert_eq!(user(&[context.clone(), live.clone()]), alice(Some("ROLE_EDITOR")));
    assert_eq!(user(&[context, field("maxInactiveInterval", JAVA_ZERO)]), None, "deleted");
    assert_eq!(user(&[live]), None, "anonymous");
}

#[test]
fn an_existing_key_is_a_login() {
    let (format, id) = (format(SessionKind::Exists), SessionId::new("0123456789abcdef").unwrap());
    assert_eq!((format.read(), format.user_key(&id)), (ReadKind::Exists, None));
    let login =
        format.parse(&SessionValue::Exists { id: &id, user: None }, &Secrets::default()).unwrap().unwrap();
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
