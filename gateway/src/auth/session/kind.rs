//! The kinds of sessions, and their default settings.

/// The library or framework that creates the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionKind {
    /// express-session with connect-redis; `NestJS` uses the same.
    Express,
    /// @fastify/session.
    Fastify,
    /// Any application whose cookie contains the end of the key, unsigned.
    Plain,
    /// Django with sessions in the cache.
    Django,
    /// better-auth with secondary storage.
    BetterAuth,
    /// Laravel with the session driver `redis`.
    Laravel,
    /// Spring Session.
    Spring,
    /// Any application, where the value is not read: a key that exists is a login.
    Exists,
}

/// The settings that a kind has when they are not configured.
#[derive(Clone, Copy, Debug)]
pub struct SessionDefaults {
    /// The name of the cookie.
    pub cookie: Option<&'static str>,
    /// The key.
    pub key: Option<&'static str>,
    /// JSON pointers. The first that resolves is the user.
    pub user: &'static [&'static str],
}

impl SessionKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Express,
        Self::Fastify,
        Self::Plain,
        Self::Django,
        Self::BetterAuth,
        Self::Laravel,
        Self::Spring,
        Self::Exists,
    ];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Express => "express",
            Self::Fastify => "fastify",
            Self::Plain => "plain",
            Self::Django => "django",
            Self::BetterAuth => "better-auth",
            Self::Laravel => "laravel",
            Self::Spring => "spring",
            Self::Exists => "exists",
        }
    }

    /// Whether the cookies are signed, so that secrets are required.
    pub fn is_signed(self) -> bool {
        matches!(self, Self::Express | Self::Fastify | Self::BetterAuth | Self::Laravel)
    }

    /// The settings of the kind that are not configured.
    pub fn defaults(self) -> SessionDefaults {
        let (cookie, key, user): (_, _, &[_]) = match self {
            Self::Express => (Some("connect.sid"), Some("sess:{sid}"), &["/passport/user"]),
            Self::Fastify => (Some("sessionId"), Some("sess:{sid}"), &[]),
            Self::Plain => (Some("session"), Some("session:{sid}"), &[]),
            Self::Django => {
                let key = ":1:django.contrib.sessions.cache{sid}";
                (Some("sessionid"), Some(key), &["/_auth_user_id"])
            }
            Self::BetterAuth => (Some("better-auth.session_token"), Some("better-auth:{sid}"), &["/user/id"]),
            Self::Laravel => {
                let key = "laravel-database-laravel-cache-{sid}";
                // `login_web_` and the SHA-1 of Illuminate\Auth\SessionGuard.
                let user = &["/login_web_59ba36addc2b2f9401580f014c7f58ea4e30989d"];
                (Some("laravel_session"), Some(key), user)
            }
            Self::Spring => {
                let user = &[
                    // The attribute of applications that do not use Spring Security.
                    "/org.springframework.session.FindByIndexNameSessionRepository.PRINCIPAL_NAME_INDEX_NAME",
                    "/SPRING_SECURITY_CONTEXT/authentication/principal/username",
                ];
                (Some("SESSION"), Some("spring:session:sessions:{sid}"), user)
            }
            Self::Exists => (None, None, &[]),
        };
        SessionDefaults { cookie, key, user }
    }
}

impl std::fmt::Display for SessionKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
