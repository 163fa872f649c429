//! A key set that PyJWT 2.15 encoded, and tokens that it signed, with keys that OpenSSL 3 made.

/// RSA, P-256, P-384, Ed25519 and P-521, with the key ids `rsa`, `p256`, `p384`, `ed` and `p521`.
pub(super) const KEY_SET: &str = r#"{
"keys": [
{
"kty": "RSA",
"n": "tSSV1NmIcuC4kEzr8Pz79mKjmMk784K3yqOSmw3QvbCpmWEL8tGKFUXG2DYHwjj-PPkaMLpa2LUJH4Y_yDuCFJaM8CNEbwoINkuqHW_oSZKA4MClJrTAEoLU2lVrY5g7-ZWzkwgg5_VaTGaq6DfWdbQdx1wTF8j-ssg3b12Q8Q9DzW8Xu6QR8v3-su8HPiV6knTXA4kEEM4TGZPI4FNdW0UDRloX9zYYBIDOArV87iS-M64v5VxiFSvaANg7kM5--KubdPYr60YlO7PUbcGwO95-5rPC1T0fwGd13VQsrav6B9AyPdIBcL7yYjh2YvKnQykb7XLXac6Um7ckgeLWTQ",
"e": "AQAB",
"kid": "rsa",
"use": "sig"},
{
"kty": "EC",
"crv": "P-256",
"x": "pT1_usA8k_6BsMhxKAQ0KItzvMV3BOrhHt1oNIzEQso",
"y": "AxtJhGPlDbWKZSKzX2DLee2ei0_zJGkNJoGLHu0r6_g",
"kid": "p256",
"use": "sig"},
{
"kty": "EC",
"crv": "P-384",
"x": "xERH1Wy7OEx8DaIZbTARoppTlcWwRY2dNTfWqYhKGRi8LspN2UTWjPNaxIpyr4tl",
"y": "xWQbldbgmSN4uBpoiKZg9k4KMFRn0sUaDDGjXvoNBgVNxMg8AakYUCHH7WnGNS7C",
"kid": "p384",
"use": "sig"},
{
"x": "hNWZESn0M1VyXUCNnruJLc8lHhek2Wmag_fGqUSeSXk",
"kty": "OKP",
"crv": "Ed25519",
"kid": "ed",
"use": "sig"},
{
"kty": "EC",
"crv": "P-521",
"x": "AAk7c15a7Xa9dJL63as4IlE_wAFl5_SFmRbprylPmcbsSPSLeqyZO2BrHzSSOc2BCEjerl9wvurTC0txaW-Yifh9",
"y": "ASvPekcy6IJ3ExMiZUOme0VNq62tZBa7mZgvEGE_jzUliEcjStbYbE4p4HXw985LmB6LRa6_VRVxXkBHMALvHB1w",
"kid": "p521",
"use": "sig"}
]}"#;
/// Tokens of user 42 by `https://id.example`, with the algorithm of each.
pub(super) const TOKENS: [(&str, &str); 5] = [
    (
        "RS256",
        "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImlzcyI6Imh0dHBzOi8vaWQuZXhhbXBsZSJ9.PGKzPLp5f-V_Efl4YaeQNNC1C6BWdQvFdJ12wEJ0C3NUuJcfzuYIKdWyRtVXoiPprYYUE6YHWAmV7XoYrASoBQ5pMtvl3X29v0pNRVvl_O_iCee6oEtNz2SGG_If_xhparlzn8YRdA7_D3Jb74rdc8fP8J5u11TVUqV4xJlmsYg_mFVZfunUzijiW-YNMbwYB3niDFnWJzfh5WRZvhvkXW9IEVcTJ86HyDrGlKF7Dg8M11WCPHUwMk3Et7PxkrCUKJB7MFLXDhlx6dSo3mSyqV-xt9YbarZB9IsioP7FxlDB-9d92MPuE2h9bZWAbwzpq8itupFcoqfJQR_7pt0NBA",
    ),
    (
        "ES256",
        "eyJhbGciOiJFUzI1NiIsImtpZCI6InAyNTYiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiI0MiIsImlzcyI6Imh0dHBzOi8vaWQuZXhhbXBsZSJ9.pdHcBSlQXKSSoxGQAx4g-wr-W4gtaFye_V9Stwq8_Zar4A_QhbjrTPbMZBMCLHymryxwSOLcJTsr6CjU65wepg",
    ),
    (
        "ES384",
        "eyJhbGciOiJFUzM4NCIsImtpZCI6InAzODQiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiI0MiIsImlzcyI6Imh0dHBzOi8vaWQuZXhhbXBsZSJ9.ARx-MkfUEzXpSghxUyR1FDQrWQV_u9PmQXd2nzx8-2zaGAXXsS_rfbwahHp6U7eHCmPU0cRAruZczN16vGjyO_-FC80dR88yOdZFn5TCd9yky8Ul04SLjCXMuAbqeSjB",
    ),
    (
        "ES512",
        "eyJhbGciOiJFUzUxMiIsImtpZCI6InA1MjEiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiI0MiIsImlzcyI6Imh0dHBzOi8vaWQuZXhhbXBsZSJ9.AFDq--8f-U5XWdVCOqfGe3FvyTd0NPmBKroVM3vOhJJYY1f2XSKRFJ6E-lA75IniEEN_rs4BIY5YCo_3oHCvYcjUAYZHPvnlNKAbCh8Hm4SultL5LTEwnMKutqQH7IL2npi3XS0Rck7NAvBDeJobtHxLWBNyuiHrWP1se6RocU49YGGx",
    ),
    (
        "EdDSA",
        "eyJhbGciOiJFZERTQSIsImtpZCI6ImVkIiwidHlwIjoiSldUIn0.eyJzdWIiOiI0MiIsImlzcyI6Imh0dHBzOi8vaWQuZXhhbXBsZSJ9.DA_ipQYmLrJjNODR-snLzwzWfjXTNNl_-3PCx9pjBDm3IXOHsKfOJ1e1z7-cE1N1mCFKAoslHu1EEvh7b-VaCA",
    ),
];
/// A token of the key `ed` that does not name it.
pub(super) const NO_KEY_ID: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImlzcyI6Imh0dHBzOi8vaWQuZXhhbXBsZSJ9.v83S7gEbYGyfZvuwA-u0v6VSiOMjh6M054U_IKCgU_bAxUMvwrD6ubJtVq2PSLwrfcvS-k-e3jFYrufwirbmAQ";
