//! Errors of invalid logins.

use super::bad_files::assert_errors;
use super::logins::SESSION;

/// Keys of a login on a Redis instance, from line 4, and their errors.
const WRONG: &[(&str, &str)] = &[
    (
        "cookie = \"c\"",
        "3: login: missing `kind`; use one of \"express\", \"fastify\", \"plain\", \"django\", \"better-auth\", \"laravel\", \
         \"spring\", \"exists\", \"jwt\", \"ticket\", \"hook\", \"anonymous\"",
    ),
    (
        "kind = \"cookie\"",
        "4: login.kind: unknown kind \"cookie\"; use one of \"express\", \"fastify\", \"plain\", \
         \"django\", \"better-auth\", \"laravel\", \"spring\", \"exists\", \"jwt\", \"ticket\", \"hook\", \"anonymous\"",
    ),
    ("kind = \"django\"\ncooky = \"c\"", "5: login.cooky: unknown key; did you mean `cookie`?"),
    // Keys that do not apply
    (
        "kind = \"django\"\nsecret = \"s\"",
        "5: login.secret: does not apply to kind = \"django\", whose cookies are not signed: remove it",
    ),
    (
        "kind = \"express\"\nsecret = \"s\"\nhash = true",
        "6: login.hash: does not apply to kind = \"express\": remove it",
    ),
    (
        "kind = \"exists\"\ncookie = \"c\"\nkey = \"k:{sid}\"\nuser = \"/u\"",
        "7: login.user: does not apply to kind = \"exists\": remove it",
    ),
    (
        "kind = \"jwt\"\nhmac_secret = \"s\"\ncookie = \"a b\"",
        "6: login.cookie: not the name of a cookie: expected letters, digits and the characters !#$%&'*+-.^_`|~",
    ),
    (
        "kind = \"anonymous\"\nredis = \"default\"",
        "5: login.redis: does not apply to kind = \"anonymous\": remove it",
    ),
    (
        "kind = \"anonymous\"\n[[login]]\nkind = \"anonymous\"",
        "6: login.kind: duplicate \"anonymous\": remove one of them",
    ),
    // Denied tokens
    (
        "kind = \"jwt\"\nhmac_secret = \"s\"\nredis = \"default\"",
        "6: login.redis: without `denied_key`, tokens are not read from Redis: remove it",
    ),
    (
        "kind = \"jwt\"\nhmac_secret = \"s\"\ndenied_key = \"a:{id}\"",
        "6: login.denied_key: expected exactly one of the placeholders {jti} and {sub}",
    ),
    (
        "kind = \"jwt\"\nhmac_secret = \"s\"\ndenied_key = \"a:{jti}\"\nredis = \"b\"",
        "7: login.redis: no [redis.b] is configured; use one of \"default\"",
    ),
    // Tickets
    (
        "kind = \"ticket\"",
        "3: login: missing `secret_file`: the event ids of streams contain codes that are made with it",
    ),
    (
        "kind = \"ticket\"\nsecret = \"short\"",
        "5: login.secret: a secret has fewer than 16 bytes (openssl rand -base64 32)",
    ),
    (
        "kind = \"ticket\"\nsecret = \"a-secret-of-tickets\"\nredis = \"memory\"",
        "6: login.redis: tickets are read from a Redis server: use one of \"default\"",
    ),
    (
        "kind = \"ticket\"\nsecret = \"a-secret-of-tickets\"\nkey_prefix = \"app:\"",
        "6: login.key_prefix: requires `redis`: without it, tickets are in the memory of the node",
    ),
    (
        "kind = \"ticket\"\nsecret = \"a-secret-of-tickets\"\nuser = \"/u\"",
        "6: login.user: does not apply to kind = \"ticket\": remove it",
    ),
    (
        "kind = \"ticket\"\nsecret = \"a-secret-of-tickets\"\n[[login]]\nkind = \"ticket\"\nsecret = \"a-secret-of-tickets\"",
        "7: login.kind: duplicate \"ticket\": remove one of them",
    ),
    // Sessions
    ("kind = \"express\"", "3: login: missing `secret_file`: the cookies of kind = \"express\" are signed"),
    (
        "kind = \"express\"\nsecret = \"s\"\nsecret_file = \"\"",
        "5: login.secret: conflicts with `secret_file`: remove one of them\n\
         earshot.toml:6: login.secret_file: empty; expected the path of a file",
    ),
    ("kind = \"express\"\nsecret = []", "5: login.secret: empty list; expected at least one secret"),
    ("kind = \"express\"\nsecret = \"\"", "5: login.secret: the secret is empty"),
    (
        "kind = \"express\"\nsecret = \"***\"",
        "5: login.secret: `***` is a placeholder for a hidden secret; set the actual secret",
    ),
    (
        "kind = \"express\"\nsecret_file = \"/nowhere/at/all\"",
        "5: login.secret_file: /nowhere/at/all cannot be read: No such file or directory (os error 2)",
    ),
    (
        "kind = \"laravel\"\nsecret = \"s\"",
        "5: login.secret: secret 1 is invalid: expected `base64:` and 32 bytes in base64, as in APP_KEY of Laravel",
    ),
    (
        "kind = \"fastify\"\nsecret = \"s\"",
        "3: login: `user` is missing: sessions of kind fastify have no default for it",
    ),
    (
        "kind = \"django\"\nredis = \"memory\"",
        "5: login.redis: sessions are read from a Redis server: use one of \"default\"",
    ),
    (
        "kind = \"django\"\nredis = \"b\"",
        "5: login.redis: no [redis.b] is configured; use one of \"default\"",
    ),
    (
        "kind = \"django\"\nkey = \"sess:\"",
        "5: login.key: the key \"sess:\" is invalid: expected exactly one {sid}, for example \"sess:{sid}\"",
    ),
    (
        "kind = \"express\"\nsecret = \"s\"\nkey = \"{sid}\"",
        "6: login.key: starts with the placeholder, so the gateway would watch every key of the server: put a text before \
         it, such as \"sess:{sid}\"",
    ),
    (
        "kind = \"exists\"\ncookie = \"c\"\nkey = \"k:{sid}\"\nuser_key = \"u\"",
        "7: login.user_key: the key \"u\" is invalid: expected exactly one {sid}, for example \"sess:{sid}\"",
    ),
    (
        "kind = \"django\"\ncookie = \"a b\"",
        "5: login.cookie: the cookie name \"a b\" is invalid: expected letters, digits and the characters \
         !#$%&'*+-.^_`|~",
    ),
    (
        "kind = \"django\"\nuser = \"id\"",
        "5: login.user: the JSON pointer \"id\" is invalid: expected a text like \"/passport/user\" (RFC 6901: it starts with \
         /, and ~ is followed by 0 or 1)",
    ),
    (
        "kind = \"django\"\n[login.fields]\na = \"/a\"\nb = \"b\"",
        "7: login.fields.b: the JSON pointer \"b\" is invalid: expected a text like \"/passport/user\" (RFC 6901: it starts \
         with /, and ~ is followed by 0 or 1)",
    ),
    (
        "kind = \"django\"\nfields = { user = \"/u\" }",
        "5: login.fields.user: `user` is the user of the login: set `user` or `user_claim`, or choose another name",
    ),
    (
        "kind = \"django\"\nfields = { \"a b\" = \"/u\" }",
        "5: login.fields.a b: expected a name of 1 to 64 characters: letters (a-z, A-Z), digits, `-` and `_`",
    ),
    (
        "kind = \"django\"\nfields = { a = [\"/b\", \"/c\"] }",
        "5: login.fields: expected one JSON pointer for `a`, as in { tenant = \"/tenant\" }",
    ),
    // Tokens
    (
        "kind = \"jwt\"",
        "3: login: missing the keys that verify tokens: set `hmac_secret_file`, `public_key_file` or `jwks_url`",
    ),
    (
        "kind = \"jwt\"\nhmac_secret = \"-----BEGIN PUBLIC KEY-----\"",
        "5: login.hmac_secret: the secret is a PEM file: give public keys as `public_key_file`, never as an HMAC secret",
    ),
    (
        "kind = \"jwt\"\npublic_key_file = \"/nowhere/at/all\"",
        "5: login.public_key_file: /nowhere/at/all cannot be read: No such file or directory (os error 2)",
    ),
    (
        "kind = \"jwt\"\njwks_url = \"https://id.example/\"",
        "5: login.jwks_url: `jwks_url` requires `issuer` or `audience`: a provider signs tokens of all its customers with \
         the same keys",
    ),
    (
        "kind = \"jwt\"\njwks_url = \"http://id.example/\"\nissuer = \"i\"",
        "5: login.jwks_url: \"http://id.example/\" is not https: an attacker on the network path could forge the responses; \
         only loopback may use http",
    ),
    (
        "kind = \"jwt\"\nhmac_secret = \"s\"\nleeway = \"6m\"",
        "6: login.leeway: \"6m\" is out of range: 0s to 5m",
    ),
    (
        "kind = \"jwt\"\nhmac_secret = \"s\"\nleeway = \"1500ms\"",
        "6: login.leeway: the times of tokens are whole seconds: use whole seconds",
    ),
    (
        "kind = \"jwt\"\nhmac_secret = \"s\"\nfields = { a = \"a\" }",
        "6: login.fields.a: \"a\" is not a JSON pointer: expected a text like \"/tenant\" (RFC 6901)",
    ),
    (
        "kind = \"jwt\"\nhmac_secret = \"s\"\nuser_claim = \"/~\"",
        "6: login.user_claim: \"/~\" is not a JSON pointer: expected a text like \"/tenant\" (RFC 6901)",
    ),
    ("kind = \"jwt\"\nhmac_secret = \"s\"\nissuer = \"\"", "6: login.issuer: empty; omit it, or set a value"),
    (
        "kind = \"jwt\"\nhmac_secret = \"s\"\naudience = []",
        "6: login.audience: empty list; to accept any audience, omit it",
    ),
];

#[test]
fn errors_in_logins() {
    assert_errors(WRONG.iter().map(|(keys, what)| (format!("{SESSION}{keys}"), *what)));
    assert_errors([
        ("login = []", "1: login: empty list: remove it, or add a [[login]]"),
        (
            "[[login]]\nkind = \"django\"",
            "1: login: sessions require a Redis server: add a [redis.NAME], or set REDIS_URL",
        ),
        (
            "redis.b.url = \"redis://h\"\n[[login]]\nkind = \"django\"\n[[namespace]]\nname = \"n\"\nchannels = \"c\"\n\
             redis = \"b\"",
            "2: login: missing `redis`; use one of \"b\"",
        ),
        (
            "redis.default.urls = [\"redis://a\", \"redis://b\"]\n[[login]]\nkind = \"django\"",
            "2: login.redis: the instance \"default\" has several independent servers (`urls`): sessions require one server \
             or a cluster",
        ),
    ]);
}
