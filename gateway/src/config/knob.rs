//! A knob: one number with a name, a default and a sensible range.
//!
//! Owns how each kind of number is read, judged and written. Must never know which knobs there are: each section
//! declares its own, once, with [`knobs!`].

use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::Duration;

use toml::de::DeValue;

use super::document::{Section, kind_of};
use super::quantity;
use crate::redact;

/// How a kind of knob is read and written.
pub(super) trait Kind {
    /// What the configuration holds.
    type Value;
    /// What ranges are made of.
    type Bound: PartialOrd;

    /// Reads a value of the file.
    fn read(value: &DeValue<'_>) -> Result<Self::Value, String>;

    /// What must lie within the range; nothing when the value stands outside of it on purpose.
    fn bound(value: &Self::Value) -> Option<Self::Bound>;

    /// Writes a bound for people.
    fn show_bound(bound: &Self::Bound) -> String;

    /// Writes a value as TOML that reads back as the same.
    fn show(value: &Self::Value) -> String;
}

/// A size in bytes.
pub(super) enum Size {}

impl Kind for Size {
    type Value = usize;
    type Bound = usize;

    fn read(value: &DeValue<'_>) -> Result<usize, String> {
        let expected =
            || format!("expected a size such as \"64KiB\" or a number of bytes, found {}", shown(value));
        match value {
            DeValue::Integer(_) => integer(value).ok_or_else(expected),
            DeValue::String(text) => quantity::size(text).ok_or_else(expected),
            _ => Err(expected()),
        }
    }

    fn bound(value: &usize) -> Option<usize> {
        Some(*value)
    }

    fn show_bound(bound: &usize) -> String {
        quantity::show_size(*bound)
    }

    fn show(value: &usize) -> String {
        format!("\"{}\"", quantity::show_size(*value))
    }
}

/// A span of time.
pub(super) enum Span {}

impl Kind for Span {
    type Value = Duration;
    type Bound = Duration;

    fn read(value: &DeValue<'_>) -> Result<Duration, String> {
        let expected = || format!("expected a duration such as \"25s\" or \"100ms\", found {}", shown(value));
        match value {
            DeValue::String(text) => quantity::duration(text).ok_or_else(expected),
            _ => Err(expected()),
        }
    }

    fn bound(value: &Duration) -> Option<Duration> {
        Some(*value)
    }

    fn show_bound(bound: &Duration) -> String {
        quantity::show_duration(*bound)
    }

    fn show(value: &Duration) -> String {
        format!("\"{}\"", quantity::show_duration(*value))
    }
}

/// A span of time, or `"none"`.
pub(super) enum OptionalSpan {}

impl Kind for OptionalSpan {
    type Value = Option<Duration>;
    type Bound = Duration;

    fn read(value: &DeValue<'_>) -> Result<Option<Duration>, String> {
        match value.as_str() {
            Some("none") => Ok(None),
            _ => Span::read(value).map(Some),
        }
    }

    fn bound(value: &Option<Duration>) -> Option<Duration> {
        *value
    }

    fn show_bound(bound: &Duration) -> String {
        Span::show_bound(bound)
    }

    fn show(value: &Option<Duration>) -> String {
        value.as_ref().map_or_else(|| "\"none\"".into(), Span::show)
    }
}

/// A number of things.
pub(super) enum Count {}

impl Kind for Count {
    type Value = usize;
    type Bound = usize;

    fn read(value: &DeValue<'_>) -> Result<usize, String> {
        integer(value).ok_or_else(|| format!("expected a whole number, found {}", shown(value)))
    }

    fn bound(value: &usize) -> Option<usize> {
        Some(*value)
    }

    fn show_bound(bound: &usize) -> String {
        bound.to_string()
    }

    fn show(value: &usize) -> String {
        value.to_string()
    }
}

/// A number of things, or 0 for "as many as there can be".
pub(super) enum OptionalCount {}

impl Kind for OptionalCount {
    type Value = Option<usize>;
    type Bound = usize;

    fn read(value: &DeValue<'_>) -> Result<Option<usize>, String> {
        Count::read(value).map(|count| (count > 0).then_some(count))
    }

    fn bound(value: &Option<usize>) -> Option<usize> {
        *value
    }

    fn show_bound(bound: &usize) -> String {
        Count::show_bound(bound)
    }

    fn show(value: &Option<usize>) -> String {
        value.unwrap_or(0).to_string()
    }
}

/// A number of threads; 0 for one a core.
pub(super) enum Threads {}

impl Threads {
    /// One a core.
    pub(super) fn one_per_core() -> usize {
        available_parallelism().map_or(1, NonZero::get)
    }
}

impl Kind for Threads {
    type Value = usize;
    type Bound = usize;

    fn read(value: &DeValue<'_>) -> Result<usize, String> {
        Count::read(value).map(|count| if count == 0 { Self::one_per_core() } else { count })
    }

    fn bound(value: &usize) -> Option<usize> {
        Some(*value)
    }

    fn show_bound(bound: &usize) -> String {
        Count::show_bound(bound)
    }

    fn show(value: &usize) -> String {
        Count::show(value)
    }
}

/// Reads one knob of a section. A wrong value is a problem of the document, and the default stands in for it.
pub(super) fn read<K: Kind>(
    section: &mut Section<'_>,
    key: &'static str,
    default: K::Value,
    (least, most): (K::Bound, K::Bound),
) -> K::Value {
    let found = section.read(key, |value| {
        let read = K::read(value)?;
        match K::bound(&read) {
            Some(bound) if bound < least || bound > most => Err(format!(
                "{} is out of range: {} to {}",
                shown(value),
                K::show_bound(&least),
                K::show_bound(&most)
            )),
            _ => Ok(read),
        }
    });
    found.map_or(default, |found| found.value)
}

/// A number or text as it stands in the file, at a bounded length.
pub(super) fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => quote(&number.to_string(), ""),
        DeValue::String(text) => quote(&text.escape_default().to_string(), "\""),
        other => kind_of(other).into(),
    }
}

/// A text between marks, at a bounded length. Credentials are hidden before it is cut: without its `@` the beginning of a
/// URL cannot be told from other text.
pub(super) fn quote(text: &str, mark: &str) -> String {
    const LONGEST: usize = 40;
    let text = &*redact::urls(text);
    if text.chars().count() <= LONGEST {
        return format!("{mark}{text}{mark}");
    }
    let head: String = text.chars().take(LONGEST).collect();
    format!("{mark}{head}…{mark}")
}

fn integer(value: &DeValue<'_>) -> Option<usize> {
    let number = value.as_integer()?;
    usize::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Declares a section of knobs: one line a knob holds its field, type, kind, default and range.
macro_rules! knobs {
    (
        $(#[$about:meta])*
        pub struct $section:ident {
            $($(#[$doc:meta])* $key:ident: $value:ty as $kind:ident = $default:expr, in $least:expr, $most:expr;)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $section {
            $($(#[$doc])* pub $key: $value,)+
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $section {
            fn read_knobs(section: &mut $crate::config::document::Section<'_>, default: Self) -> Self {
                Self {
                    $($key: $crate::config::knob::read::<$crate::config::knob::$kind>(
                        section, stringify!($key), default.$key, ($least, $most),
                    ),)+
                }
            }

            /// Every knob with its value as TOML.
            pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
                use $crate::config::knob::Kind;
                vec![$((stringify!($key), $crate::config::knob::$kind::show(&self.$key)),)+]
            }

            /// Each knob's name, default and range, as the documentation must have them.
            #[cfg(test)]
            pub(super) fn table() -> Vec<[String; 4]> {
                use $crate::config::knob::Kind;
                vec![$([
                    stringify!($key).into(),
                    $crate::config::knob::$kind::show(&$default),
                    $crate::config::knob::$kind::show_bound(&$least),
                    $crate::config::knob::$kind::show_bound(&$most),
                ],)+]
            }
        }
    };
}
pub(super) use knobs;
