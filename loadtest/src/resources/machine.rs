//! Describes the machine and the time of a run, so that results can be checked for comparability. Fields that cannot be
//! read are omitted.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Machine of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct MachineInfo {
    /// Model name of the processor.
    pub(crate) processor: Option<String>,
    /// Number of cores.
    pub(crate) cores: Option<usize>,
    /// Cores that the load test may run on.
    #[serde(alias = "cores_of_the_load_test")]
    pub(crate) generator_cores: Option<String>,
    /// Whether the machine is virtual.
    pub(crate) is_virtual: Option<bool>,
    /// Memory in bytes.
    pub(crate) memory: Option<u64>,
    /// Kernel release.
    pub(crate) kernel: Option<String>,
    /// Load average over one minute at the start.
    pub(crate) load: Option<f64>,
}

impl MachineInfo {
    /// Describes this machine.
    pub(crate) fn here() -> Self {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kibibytes =
            field(&memory, "MemTotal").and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok());
        let cores = processors.lines().filter(|line| line.starts_with("processor")).count();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            processor: field(&processors, "model name").map(str::to_owned),
            cores: (cores > 0).then_some(cores),
            generator_cores: field(&status, "Cpus_allowed_list").map(str::to_owned),
            is_virtual: field(&processors, "flags")
                .map(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory: kibibytes.map(|count| count * 1024),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
            load: load.split(' ').next().and_then(|text| text.parse().ok()),
        }
    }

    /// One-line description.
    pub(crate) fn line(&self) -> String {
        let kind = match self.is_virtual {
            Some(true) => "virtual, ",
            _ => "",
        };
        format!(
            "{kind}{} cores of {}, Linux {}",
            self.cores.map_or_else(|| "unknown".to_owned(), |cores| cores.to_string()),
            self.processor.as_deref().unwrap_or("an unknown processor"),
            self.kernel.as_deref().unwrap_or("of unknown release"),
        )
    }
}

/// Value of the first line that starts with `name`, blanks and a colon.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim_end() == name).then(|| value.trim())
    })
}

/// Commit of the working directory, with `-dirty` for uncommitted changes. `None` outside a repository.
pub(crate) fn commit() -> Option<String> {
    let describe = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
    let output = Command::new("git").args(describe).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// Current date and time, such as `2026-11-21T07:30:00Z`.
#[expect(clippy::disallowed_methods, reason = "the date of a result is a fact, not a matter of timing")]
pub(crate) fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs());
    date_and_time(seconds)
}

fn date_and_time(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / 86_400);
    let rest = seconds % 86_400;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Converts days since 1970 to a Gregorian date, counting years from March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_around_leap_days() {
        assert_eq!(date_and_time(0), "1970-01-01T00:00:00Z");
        assert_eq!(date_and_time(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(date_and_time(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date_and_time(1_709_251_200), "2024-03-01T00:00:00Z");
        assert_eq!(date_and_time(4_102_444_799), "2099-12-31T23:59:59Z");
    }

    #[test]
    fn the_machine_is_described() {
        let machine = MachineInfo::here();
        assert!(machine.cores.is_some_and(|cores| cores > 0), "{machine:?}");
        assert!(machine.line().contains("Linux"), "{}", machine.line());
        assert_eq!(field("model name\t: A B\nflags : x", "model name"), Some("A B"));
        assert_eq!(field("a: 1", "b"), None);
    }
}
