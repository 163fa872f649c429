//! Tests of session formats: helpers, and the settings.

mod cookies;
mod values;

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
