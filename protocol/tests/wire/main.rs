//! Tests of the wire protocols: encoded frames never change (`golden`), decoding accepts the variations of SDKs and
//! rejects everything else (`decoding`), messages round-trip and no input panics (`properties`), an `EventSource` parses
//! the stream (`event_stream`).

mod decoding;
mod event_stream;
mod golden;
mod properties;
mod strategies;
mod values;
