//! Tokens that PyJWT 2.15 made, with keys that OpenSSL 3 made, and tokens of Centrifugo: the gateway verifies what
//! independent implementations sign.

/// The secret of the HMAC tokens.
pub(super) const SECRET: &str = "0123456789abcdef0123456789abcdef-interop";
pub(super) const RSA: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAtSSV1NmIcuC4kEzr8Pz7
9mKjmMk784K3yqOSmw3QvbCpmWEL8tGKFUXG2DYHwjj+PPkaMLpa2LUJH4Y/yDuC
FJaM8CNEbwoINkuqHW/oSZKA4MClJrTAEoLU2lVrY5g7+ZWzkwgg5/VaTGaq6DfW
dbQdx1wTF8j+ssg3b12Q8Q9DzW8Xu6QR8v3+su8HPiV6knTXA4kEEM4TGZPI4FNd
W0UDRloX9zYYBIDOArV87iS+M64v5VxiFSvaANg7kM5++KubdPYr60YlO7PUbcGw
O95+5rPC1T0fwGd13VQsrav6B9AyPdIBcL7yYjh2YvKnQykb7XLXac6Um7ckgeLW
TQIDAQAB
-----END PUBLIC KEY-----
";
pub(super) const P256: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEpT1/usA8k/6BsMhxKAQ0KItzvMV3
BOrhHt1oNIzEQsoDG0mEY+UNtYplIrNfYMt57Z6LT/MkaQ0mgYse7Svr+A==
-----END PUBLIC KEY-----
";
pub(super) const P384: &str = "\
-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAExERH1Wy7OEx8DaIZbTARoppTlcWwRY2d
NTfWqYhKGRi8LspN2UTWjPNaxIpyr4tlxWQbldbgmSN4uBpoiKZg9k4KMFRn0sUa
DDGjXvoNBgVNxMg8AakYUCHH7WnGNS7C
-----END PUBLIC KEY-----
";
pub(super) const P521: &str = "\
-----BEGIN PUBLIC KEY-----
MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQACTtzXlrtdr10kvrdqzgiUT/AAWXn
9IWZFumvKU+ZxuxI9It6rJk7YGsfNJI5zYEISN6uX3C+6tMLS3Fpb5iJ+H0BK896
RzLogncTEyJlQ6Z7RU2rra1kFruZmC8QYT+PNSWIRyNK1thsTingdfD3zkuYHotF
rr9VFXFeQEcwAu8cHXA=
-----END PUBLIC KEY-----
";
pub(super) const ED25519: &str = "\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAhNWZESn0M1VyXUCNnruJLc8lHhek2Wmag/fGqUSeSXk=
-----END PUBLIC KEY-----
";
pub(super) const RSA_1024: &str = "\
-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCzB7OZYXinX1bPLsi/3RqUF1Oq
hNw+wU8RXI190faIvSzAqCj2QtiVeHYRopx7AugDAqpFW/p+mBRKTODBkaZoQZ3d
M0Q9NdJSznOBXdvV0mzKmRRr8FMD2fwDdTVsy1SdqvdGeH1TLsekg/feVhixX1Fm
4UPhWVAVB+K4hk3JRQIDAQAB
-----END PUBLIC KEY-----
";
/// Algorithms, and a token of each: user 42, channel `a`. The key ids are those of the files that OpenSSL wrote.
pub(super) const TOKENS: [(&str, &str); 13] = [
    (
        "HS256",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.mUIflFyPdK40D6t719BCicJFSFX26xbKQ9IA9yppkK4",
    ),
    (
        "HS384",
        "eyJhbGciOiJIUzM4NCIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.v74R9_lSSdvfhO1obiTnIqIU8npz_3m_nRzvcFrVPBUUWguB7la41WBAr4nNe64F",
    ),
    (
        "HS512",
        "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.d1fM1FgSng_2fQ6aFoY0jmAp6KSgoNsO9zcHjIP1GdTO8DTJ-_o2wS7WORLG9Q3aFu5UU--lFVdVcVRd8P5O0Q",
    ),
    (
        "RS256",
        "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.Ln9JC2fwy2Aaik-WRg2a-6Y_hwdyjQExCqye36eyZyxAc2rWKRQB05QFzfanoS-MsuKJ4IYPEgh2SKizn7ymaBCxhPBd1miDsKJtCXi11Yv6qtYTryJSXtrqD-SlKLAVHmk-06Ctu7gF9LWLh-bnI5YX0Xt2SD7WTmo8TppU6CIV3UQA2nwsFR9QKEYLk6XvAfp5SnVLvsX_QVJJXl_aZ3Hdn_QZ0P5bAIM5v1TZYYXplo4uoioB3aQMcfllCFE1JpOfmwWpQWbp_PjelKQw2jxU9j6pr6sAqrzZk6tWAqgDD-ugRuy8cG73WKcKNUXqbWiV5RObi8T0NSlrF7h9Xw",
    ),
    (
        "RS384",
        "eyJhbGciOiJSUzM4NCIsImtpZCI6InJzYSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.sLOmDG5ruw3tOhxJprkMqQlucio-tZIyB0fOU6lVdSK1IyjtswvORgPNITSXy0e7SLQ80O0_uSEdw8Gkyst8fdk7ViVu9QtN-BvE-TaGjBpOSw2wyHShDWXq8M4CqY28-xhCJ0CNdR0peJ6vhGRBCgpy5VKr_hj9zBvX-1BgPCG-ZU4dRCzr9JLTY3lhe7BL8Ob9820cas8uftIHWdxuwV0AEhFeAoL3P9juoAywjWakPMw5we8KEWlebf0GpKHEfAn6OAa193doIx4PgaBmThbazzjHHFqbUqi1QGS1rJ1FLtGQwHi4Joa-rWFTrgMarVIVLOs819dhUVmLX3LMwg",
    ),
    (
        "RS512",
        "eyJhbGciOiJSUzUxMiIsImtpZCI6InJzYSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.Ckh-JMvxXPXvBesMHQq-k3ZqftMla6Ev-5K1TqMdd3oDXlPd9m70B7d_7bfpEACFMdR8_rWASxX3ezpro41E4P34cSZtYV4mmexsaLw7VoiFjAAD1ip6gS54dlmnVRTyhhAGehlPsA_6FzKUSUSrpjdwe2CsUpwwqsX4DXnWKzhzwUYMbUrSJWk4hcmyki5q2hNnjByu2BEofMg1kQkS3FzY3xJlrqYQXMDPyR1nlIBxN1pCVhynJNfXAcU8Gqtp_Ol9EuC1uG3ATr0Sj1aVcr4ike4waVStGQxl528AHQTeaO30qzTs7wC7KlY19Gq4JfsQI_gyjW4oaKe0z_aQSQ",
    ),
    (
        "PS256",
        "eyJhbGciOiJQUzI1NiIsImtpZCI6InJzYSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.BRQ86hcy4xT_xpMP4ODIeLnRwtmGeD8oj0ISLRy6rpy_L1DdOPU4nM-XPPXdNGBEVdLvUCWnJClaot5R1eAWu-lfZYxbALxFh53tDtvVk_o82G-9p5TtWtqmaGNI32omaMDL9SNrxWwzpcNOhxI0Z2-siV_-NTuVJsrSfTycWomLWe7coa5O7t_5OQxx6vZO-GFkyBTEXNdqvstlm5q-LQuUnQ3FhI1g2X03J1U28DYJXuKvAZnJ-NBhZZ2Q3pOp9hyOFp7xsnL30i-xKCZxhw3hn8lw9lfxKlujcOv9z8CGkEEQ_vE4GZC384EwCyj4jHpylu3xFIGWmWPQGqLyJA",
    ),
    (
        "PS384",
        "eyJhbGciOiJQUzM4NCIsImtpZCI6InJzYSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.kpnzLIS_dN-SKSwPNVl-J6fHJN7CFYif6I3cXb4Klua-e9tj1OpX4jZFM4rMerYlOL9-m5v1bqHJ3V4heNTrQLfa_VkA_eVu5LJQgHwhVpaSqE7FkElmc9XaN9M34yO705rytmIjPUFe3RNfpXwwjzrP-q5IL-zTZHRU-BS738WskKqne2U4wkP982pEtvVzkjyF-5baS_GqFuq8PwQqnLlxXZS1RLakw3scAR1tsG7GXjOCcS3G--WArQnXLa3e-KY8uukLK_ARRDR343f_rxmOwTjctdwG8fRr8NUSjQ77svf7eTMbhDxqJoYZba0SdRK5qVvJFbgY1GrJIIzi8Q",
    ),
    (
        "PS512",
        "eyJhbGciOiJQUzUxMiIsImtpZCI6InJzYSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.E1_alLXuLv5Dj0umsNUkg8Y6F-VbAYIKoNgA-qrMsNwEn5HjmrUaimb7RnQxQDW3aqIITV7eoVY5eUyRET9whYW7Bwi19bh2v_R4cU8e6hhEFFP1afPBSFv8b_Y6SZTu9Yx4jkCzI95rWW8E9Uxcdob2hPAHa3t_Mx9QFN88MJpTzIbpqnaE4MPWaShrZ5eYW3fERXYfSJvTvnstk8uo_7eVsqZ9vypdO8UWDjJfu14CCPpQSNJ06p-chS_MXmKC1Z-QeP_Qb_x-gD84SN189ogqw8SxWh-mN2YEe_hH4b9VI59FOqPRQzLZ4K9I0oZUYgC2Mv1D8EWMVl65mji92w",
    ),
    (
        "ES256",
        "eyJhbGciOiJFUzI1NiIsImtpZCI6InAyNTYiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.-Djb3dqu3De_36LDX10uF0GIKMmz7V3-Bo3OZUcrT7Fjx_9TeayMGcvRCbghZH31QumlXl5V8A_fqqT4fOmqkA",
    ),
    (
        "ES384",
        "eyJhbGciOiJFUzM4NCIsImtpZCI6InAzODQiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.xcjL-vNVt3zgiu8KRV3JZ0jhRHnTsAPePyTcNv2Fg9vs5v44LY9WocBpl1y2N0G26jIIkPWg4jH1kcLktbkhjGSD8z-6z4V2R4A7XAtINSbI0x-Dnbfi5yLq4BnHLuSY",
    ),
    (
        "ES512",
        "eyJhbGciOiJFUzUxMiIsImtpZCI6InA1MjEiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.AScu9dNBSrc2VSfW_KGF1qctSvlXpekQuyC5jSY8iHjo9CVbZmmZ6CI3oKgORHeCubNRaMwSSNtv5oFXA_cfCdVeASy0vsHPKfeG409l5ARceYctSTbvOASwQkPDRLuqy2eQEJhuQhlgcTf0fhyq7j7X1WWlks6QVPfwtXVk2vpwpfUx",
    ),
    (
        "EdDSA",
        "eyJhbGciOiJFZERTQSIsImtpZCI6ImVkIiwidHlwIjoiSldUIn0.eyJzdWIiOiI0MiIsImluZm8iOnsibmFtZSI6IlpvXHUwMGViIn0sImNoYW5uZWxzIjpbImEiXX0.U9_bS-j0nKTPE314hOjqcABBHs0IiLjeDmnEUApnJ8vGT1h8On49NamS7uhwKmSZu0Dn-xuwTtn2RHR5jTJRAw",
    ),
];
/// Tokens as `centrifugo gentoken` creates them: for user 42 at 1800000000, and without a user and an expiry; created
/// with its library, cristalhq/jwt 5.4, and the secret of the tests.
pub(super) const GENERATED: [&str; 2] = [
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImV4cCI6MTgwMDYwNDgwMCwiaWF0IjoxODAwMDAwMDAwfQ.WaXZo-n-zaZWqucDbZ9q_Xn_Tov_AZOMAO_TF5iAvb4",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpYXQiOjE4MDAwMDAwMDB9.GVmH8-DYZXosp_IM6CNtF3T0_tqqHgcYSF9p_dMtfkk",
];
/// Tokens of the tests of Centrifugo 6.9 (internal/jwtverify). Their secret is `secret`.
pub(super) mod centrifugo {
    pub(in super::super) const VALID: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIyNjk0IiwiaW5mbyI6eyJmaXJzdF9uYW1lIjoiQWxleGFuZGVyIiwibGFzdF9uYW1lIjoiRW1lbGluIn19.m-TaS80RxkAiP9jH_s_h2NrKS_TDuPxJ8-z6gI7UewI";
    pub(in super::super) const EXPIRED: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIyNjk0IiwiaW5mbyI6eyJmaXJzdF9uYW1lIjoiQWxleGFuZGVyIiwibGFzdF9uYW1lIjoiRW1lbGluIn0sImV4cCI6MTU4ODM1MTcwNH0.LTc0p5YlrwJcxXPETrjhm9qyYUBKCR5fSROmfCE4TD8";
    pub(in super::super) const NOT_BEFORE: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIyNjk0IiwiaW5mbyI6eyJmaXJzdF9uYW1lIjoiQWxleGFuZGVyIiwibGFzdF9uYW1lIjoiRW1lbGluIn0sImV4cCI6MzE3NjgyMDU3MCwibmJmIjozMTc2ODIwNTYwfQ.gfsQeznFw6g44OEnCTSBW7AkmLy92GBfXL_Bdvzs7vc";
    pub(in super::super) const INVALID_SIGNATURE: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIyNjk0IiwiaW5mbyI6eyJmaXJzdF9uYW1lIjoiQWxleGFuZGVyIiwibGFzdF9uYW1lIjoiRW1lbGluIn0sImV4cCI6MTU4ODQxOTY5MywibmJmIjoxNTg4NDE4NjkzfQ.05Xj9adbLukdhSJFyiVUEgbxCHTajXuotmalFgYviCo";
    pub(in super::super) const ARRAY_AUDIENCE: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIyNjk0IiwiaW5mbyI6eyJmaXJzdF9uYW1lIjoiQWxleGFuZGVyIiwibGFzdF9uYW1lIjoiRW1lbGluIn0sImF1ZCI6WyJmb28iLCJiYXIiXX0.iY4pCPEQwstfNmPkLr7r7DrLZDo42q3E9jMc-TefI6g";
    pub(in super::super) const STRING_AUDIENCE: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIyNjk0IiwiaW5mbyI6eyJmaXJzdF9uYW1lIjoiQWxleGFuZGVyIiwibGFzdF9uYW1lIjoiRW1lbGluIn0sImF1ZCI6ImZvbyJ9.jym6CG5haHME3ZQbb9jlnV1E0hSwwEjZycBZSygRzO0";
    pub(in super::super) const USER_CLAIM: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoidGVzdCJ9.Mdh4PGRnqKD-8_cKCJOYKfi9KNLJz2PCKl3qEi0n0-w";
    pub(in super::super) const SUBSCRIPTION_USER_CLAIM: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoidGVzdCIsImNoYW5uZWwiOiJjaGFubmVsIn0.vMA6Ee2eq3d8ApAhbXmVv5LmArbrjFZgU2FUbK93EnQ";
    pub(in super::super) const EMPTY: &str =
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.e30.DMCAvRgzrcf5w0Z879BsqzcrnDFKBY_GN6c3qKOUFtQ";
}
