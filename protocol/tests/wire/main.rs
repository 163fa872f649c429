//! The promises of the wire: it never changes (`golden`), it forgives what SDKs do and nothing else
//! (`decoding`), nothing is lost and nothing panics (`properties`), browsers read it (`event_stream`).

mod decoding;
mod event_stream;
mod golden;
mod properties;
mod strategies;
mod values;
