//! A setting: a number with a name, a default and a range.
//!
//! Owns reading, checking and writing each kind of number. Must never know which settings exist: each section
//! declares its own with [`settings!`].

use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::Duration;

use toml::de::DeValue;

use super::document::{Section, kind_of};
use super::units;
use crate::redact;

/// Reads and writes one kind of setting.
pub(in crate::config) trait SettingKind {
    /// The type of the value.
    type Value;
    /// The type of the bounds of a range.
    type Bound: PartialOrd;

    /// Parses a value.
    ///
    /// # Errors
    /// If the value has another type or syntax.
    fn read(value: &DeValue<'_>) -> Result<Self::Value, String>;

    /// The part of the value to which the range applies; `None` if no range applies.
    fn bound(value: &Self::Value) -> Option<Self::Bound>;

    /// Formats a bound for messages.
    fn format_bound(bound: &Self::Bound) -> String;

    /// Formats a value as TOML from which [`Self::read`] gets the same value.
    fn format(value: &Self::Value) -> String;
}

/// A size in bytes.
pub(in crate::config) enum SizeKind {}

impl SettingKind for SizeKind {
    type Value = usize;
    type Bound = usize;

    fn read(value: &DeValue<'_>) -> Result<usize, String> {
        let expected =
            || format!("expected a size such as \"64KiB\" or a number of bytes, found {}", shown(value));
        match value {
            DeValue::Integer(_) => integer(value).ok_or_else(expected),
            DeValue::String(text) => units::size(text).ok_or_else(expected),
            _ => Err(expected()),
        }
    }

    fn bound(value: &usize) -> Option<usize> {
        Some(*value)
    }

    fn format_bound(bound: &usize) -> String {
        units::format_size(*bound)
    }

    fn format(value: &usize) -> String {
        format!("\"{}\"", units::format_size(*value))
    }
}

/// A duration.
pub(in crate::config) enum DurationKind {}

impl SettingKind for DurationKind {
    type Value = Duration;
    type Bound = Duration;

    fn read(value: &DeValue<'_>) -> Result<Duration, String> {
        let expected = || format!("expected a duration such as \"25s\" or \"100ms\", found {}", shown(value));
        match value {
            DeValue::String(text) => units::duration(text).ok_or_else(expected),
            _ => Err(expected()),
        }
    }

    fn bound(value: &Duration) -> Option<Duration> {
        Some(*value)
    }

    fn format_bound(bound: &Duration) -> String {
        units::format_duration(*bound)
    }

    fn format(value: &Duration) -> String {
        format!("\"{}\"", units::format_duration(*value))
    }
}

/// A duration, or `"none"`.
pub(in crate::config) enum OptionalDurationKind {}

impl SettingKind for OptionalDurationKind {
    type Value = Option<Duration>;
    type Bound = Duration;

    fn read(value: &DeValue<'_>) -> Result<Option<Duration>, String> {
        match value.as_str() {
            Some("none") => Ok(None),
            _ => DurationKind::read(value).map(Some),
        }
    }

    fn bound(value: &Option<Duration>) -> Option<Duration> {
        *value
    }

    fn format_bound(bound: &Duration) -> String {
        DurationKind::format_bound(bound)
    }

    fn format(value: &Option<Duration>) -> String {
        value.as_ref().map_or_else(|| "\"none\"".into(), DurationKind::format)
    }
}

/// A count.
pub(in crate::config) enum CountKind {}

impl SettingKind for CountKind {
    type Value = usize;
    type Bound = usize;

    fn read(value: &DeValue<'_>) -> Result<usize, String> {
        integer(value).ok_or_else(|| format!("expected a whole number, found {}", shown(value)))
    }

    fn bound(value: &usize) -> Option<usize> {
        Some(*value)
    }

    fn format_bound(bound: &usize) -> String {
        bound.to_string()
    }

    fn format(value: &usize) -> String {
        value.to_string()
    }
}

/// A count; 0 means as many as possible.
pub(in crate::config) enum OptionalCountKind {}

impl SettingKind for OptionalCountKind {
    type Value = Option<usize>;
    type Bound = usize;

    fn read(value: &DeValue<'_>) -> Result<Option<usize>, String> {
        CountKind::read(value).map(|count| (count > 0).then_some(count))
    }

    fn bound(value: &Option<usize>) -> Option<usize> {
        *value
    }

    fn format_bound(bound: &usize) -> String {
        CountKind::format_bound(bound)
    }

    fn format(value: &Option<usize>) -> String {
        value.unwrap_or(0).to_string()
    }
}

/// A number of threads; 0 means one per core.
pub(in crate::config) enum ThreadsKind {}

impl ThreadsKind {
    /// One thread per core.
    pub(in crate::config) fn one_per_core() -> usize {
        available_parallelism().map_or(1, NonZero::get)
    }
}

impl SettingKind for ThreadsKind {
    type Value = usize;
    type Bound = usize;

    fn read(value: &DeValue<'_>) -> Result<usize, String> {
        CountKind::read(value).map(|count| if count == 0 { Self::one_per_core() } else { count })
    }

    fn bound(value: &usize) -> Option<usize> {
        Some(*value)
    }

    fn format_bound(bound: &usize) -> String {
        CountKind::format_bound(bound)
    }

    fn format(value: &usize) -> String {
        CountKind::format(value)
    }
}

/// Reads one setting of a section. An invalid value is a diagnostic and is replaced by the default.
pub(in crate::config) fn read<K: SettingKind>(
    section: &mut Section<'_>,
    key: &'static str,
    default: K::Value,
    (min, max): (K::Bound, K::Bound),
) -> K::Value {
    let found = section.read(key, |value| {
        let read = K::read(value)?;
        match K::bound(&read) {
            Some(bound) if bound < min || bound > max => Err(format!(
                "{} is out of range: {} to {}",
                shown(value),
                K::format_bound(&min),
                K::format_bound(&max)
            )),
            _ => Ok(read),
        }
    });
    found.map_or(default, |found| found.value)
}

/// A number or string as in the file, truncated; for other values, the type.
pub(in crate::config) fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => quote(&number.to_string(), ""),
        DeValue::String(text) => quote(&text.escape_default().to_string(), "\""),
        other => kind_of(other).into(),
    }
}

/// A text between quotation marks, truncated. Credentials are redacted first: after truncation, a URL may have no `@`
/// and would not be recognized.
pub(in crate::config) fn quote(text: &str, mark: &str) -> String {
    const LENGTH_MAX: usize = 40;
    let text = &*redact::urls(text);
    if text.chars().count() <= LENGTH_MAX {
        return format!("{mark}{text}{mark}");
    }
    let head: String = text.chars().take(LENGTH_MAX).collect();
    format!("{mark}{head}…{mark}")
}

fn integer(value: &DeValue<'_>) -> Option<usize> {
    let number = value.as_integer()?;
    usize::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Declares a section: one line per setting with its field, type, kind, default and range.
macro_rules! settings {
    (
        $(#[$about:meta])*
        pub struct $section:ident {
            $($(#[$doc:meta])* $key:ident: $value:ty as $kind:ident = $default:expr, in $min:expr, $max:expr;)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $section {
            $($(#[$doc])* pub $key: $value,)+
        }

        $crate::config::reader::setting::settings! {
            impl $section { $($key: $value as $kind = $default, in $min, $max;)+ }
        }
    };
    // The section is a type of an inner module.
    (
        impl $section:ident {
            $($key:ident: $value:ty as $kind:ident = $default:expr, in $min:expr, $max:expr;)+
        }
    ) => {
        impl Default for $section {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $section {
            fn read_settings(section: &mut $crate::config::reader::Section<'_>, default: Self) -> Self {
                Self {
                    $($key: $crate::config::reader::setting::read::<$crate::config::reader::setting::$kind>(
                        section, stringify!($key), default.$key, ($min, $max),
                    ),)+
                }
            }

            /// The name and the value of each setting, as TOML.
            pub(in crate::config) fn entries(&self) -> Vec<(&'static str, String)> {
                use $crate::config::reader::setting::SettingKind;
                vec![$((stringify!($key), $crate::config::reader::setting::$kind::format(&self.$key)),)+]
            }

            /// The name, default and range of each setting, as in the documentation.
            #[cfg(test)]
            pub(in crate::config) fn table() -> Vec<[String; 4]> {
                use $crate::config::reader::setting::SettingKind;
                vec![$([
                    stringify!($key).into(),
                    $crate::config::reader::setting::$kind::format(&$default),
                    $crate::config::reader::setting::$kind::format_bound(&$min),
                    $crate::config::reader::setting::$kind::format_bound(&$max),
                ],)+]
            }
        }
    };
}
pub(in crate::config) use settings;
