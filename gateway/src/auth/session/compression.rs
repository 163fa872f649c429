//! Compressed sessions: zlib and gzip, as django-redis writes them.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::{GzDecoder, ZlibDecoder};

use super::error::SessionError;
use super::value::SESSION_BYTES_MAX;

const MALFORMED_GZIP: SessionError = SessionError::Malformed("gzip");
const MALFORMED_ZLIB: SessionError = SessionError::Malformed("zlib");

/// Decompresses a value, if it is compressed.
///
/// # Errors
/// The value is damaged, has more than [`SESSION_BYTES_MAX`] bytes, or is compressed by another method.
pub(super) fn decompress(bytes: &[u8]) -> Result<Cow<'_, [u8]>, SessionError> {
    match bytes {
        [0x1f, 0x8b, ..] => inflate(GzDecoder::new(bytes)).map_err(|error| error.unwrap_or(MALFORMED_GZIP)),
        [0x78, second, ..] if (0x7800 | u16::from(*second)) % 31 == 0 => {
            inflate(ZlibDecoder::new(bytes)).map_err(|error| error.unwrap_or(MALFORMED_ZLIB))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Err(SessionError::Unsupported("Zstandard")),
        [0x04, 0x22, 0x4d, 0x18, ..] => Err(SessionError::Unsupported("LZ4")),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Err(SessionError::Unsupported("LZMA")),
        _ => Ok(Cow::Borrowed(bytes)),
    }
}

/// Reads to the end or to the limit. The error is `None` if the compressed bytes are damaged.
fn inflate<'v>(decoder: impl Read) -> Result<Cow<'v, [u8]>, Option<SessionError>> {
    let mut bytes = Vec::new();
    decoder.take(SESSION_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|_| None)?;
    if bytes.len() > SESSION_BYTES_MAX {
        return Err(Some(SessionError::TooLarge(SESSION_BYTES_MAX)));
    }
    Ok(Cow::Owned(bytes))
}
