//! CPU time and memory of other processes, by id or by name.

use std::fs;
use std::str::FromStr;

use super::TICKS_PER_SECOND;

/// Selects one or more processes that are measured as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProcessName {
    /// Process id.
    Number(u32),
    /// All processes of this name.
    Name(String),
}

impl FromStr for ProcessName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(number) => Ok(Self::Number(number)),
            // The kernel truncates names to 15 bytes.
            Err(_) if text.len() <= 15 && !text.is_empty() => Ok(Self::Name(text.to_owned())),
            Err(_) => Err("expected a process id, or a name of at most 15 bytes".to_owned()),
        }
    }
}

/// CPU time used so far, and current memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ResourceUsage {
    /// CPU seconds in user space.
    pub(crate) user: f64,
    /// CPU seconds in the kernel.
    pub(crate) system: f64,
    /// Resident bytes.
    pub(crate) resident: u64,
    /// Proportional memory without file pages (code that runs for the first time is not the cost of a connection);
    /// shared pages are divided among the processes that share them. `None` unless requested.
    pub(crate) proportional: Option<u64>,
}

impl ResourceUsage {
    /// Scales to the total of a finer clock; the tick counts define the ratio.
    fn scale(&mut self, seconds: f64) {
        let ticks = self.user + self.system;
        if ticks > 0.0 {
            self.user *= seconds / ticks;
            self.system = seconds - self.user;
        }
    }

    fn add(&mut self, other: &Self) {
        self.user += other.user;
        self.system += other.system;
        self.resident += other.resident;
        self.proportional = match (self.proportional, other.proportional) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
    }
}

/// Processes that are measured as one, resolved once.
#[derive(Clone, Debug)]
pub(crate) struct ProcessGroup {
    /// Name or id as given.
    pub(crate) name: String,
    /// Process ids.
    pub(crate) numbers: Vec<u32>,
    page_bytes: u64,
}

impl ProcessGroup {
    /// Resolves the processes. The error names the missing process.
    pub(crate) fn find(name: &ProcessName) -> Result<Self, String> {
        let (name, numbers) = match name {
            ProcessName::Number(number) => {
                let name =
                    command(*number).ok_or_else(|| format!("--process: no process has id {number}"))?;
                (name, vec![*number])
            }
            ProcessName::Name(name) => (name.clone(), find_by_name(name)),
        };
        if numbers.is_empty() {
            return Err(format!("--process: no process is named {name:?}"));
        }
        Ok(Self { name, numbers, page_bytes: page_bytes() })
    }

    /// Usage so far. Processes that have exited no longer count.
    pub(crate) fn usage(&self) -> ResourceUsage {
        self.sum(|_| None)
    }

    /// Usage with proportional memory, for which the kernel walks the page tables.
    pub(crate) fn usage_in_full(&self) -> ResourceUsage {
        self.sum(proportional)
    }

    fn sum(&self, proportional: impl Fn(u32) -> Option<u64>) -> ResourceUsage {
        let mut sum = ResourceUsage::default();
        for number in &self.numbers {
            let Ok(stat) = fs::read_to_string(format!("/proc/{number}/stat")) else { continue };
            let Some(mut usage) = parse_stat(&stat, self.page_bytes) else { continue };
            if let Some(seconds) = clock(*number) {
                usage.scale(seconds);
            }
            usage.proportional = proportional(*number);
            sum.add(&usage);
        }
        sum
    }
}

/// CPU seconds from the clock of the process, in nanoseconds: a tick is several per cent of a short run.
#[cfg(target_os = "linux")]
fn clock(number: u32) -> Option<f64> {
    use nix::time::{clock_getcpuclockid, clock_gettime};
    use nix::unistd::Pid;
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(number).ok()?)).ok()?;
    let time = clock_gettime(clock).ok()?;
    Some(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

#[cfg(not(target_os = "linux"))]
fn clock(_: u32) -> Option<f64> {
    None
}

fn command(number: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{number}/comm")).ok()?.trim_end().to_owned())
}

fn find_by_name(name: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut numbers: Vec<u32> = numbers.filter(|number| command(*number).as_deref() == Some(name)).collect();
    numbers.sort_unstable();
    numbers
}

/// Fields according to proc(5): 14 is user time, 15 system time, 24 resident pages. The name (field 2) may contain any
/// character.
fn parse_stat(stat: &str, page_bytes: u64) -> Option<ResourceUsage> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let seconds = |field: usize| Some(fields.get(field - 3)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    let pages: u64 = fields.get(24 - 3)?.parse().ok()?;
    Some(ResourceUsage {
        user: seconds(14)?,
        system: seconds(15)?,
        resident: pages * page_bytes,
        proportional: None,
    })
}

fn proportional(number: u32) -> Option<u64> {
    parse_rollup(&fs::read_to_string(format!("/proc/{number}/smaps_rollup")).ok()?)
}

/// Anonymous and shared memory according to proc_pid_smaps_rollup(5). Older kernels report only the total including
/// files.
fn parse_rollup(rollup: &str) -> Option<u64> {
    let bytes = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    let own = bytes("Pss_Anon:").and_then(|anonymous| Some(anonymous + bytes("Pss_Shmem:")?));
    own.or_else(|| bytes("Pss:"))
}

/// Page size, from any mapping of this process.
fn page_bytes() -> u64 {
    let read = || {
        let smaps = fs::read_to_string("/proc/self/smaps").ok()?;
        let line = smaps.lines().find_map(|line| line.strip_prefix("KernelPageSize:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    read().unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[test]
    fn process_name_may_contain_any_character() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 75 0 0 20 0 4 0 100 1000000 25 18446744073709551615";
        let usage = ResourceUsage { user: 2.5, system: 0.75, resident: 25 * 4096, proportional: None };
        assert_eq!(parse_stat(stat, 4096), Some(usage));
        assert_eq!(parse_stat("none", 4096), None);
    }

    #[test]
    fn file_pages_are_excluded_if_reported() {
        let rollup = "55d-7ff ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss: 700 kB\n";
        assert_eq!(parse_rollup(rollup), Some(700 << 10));
        let parted = format!("{rollup}Pss_Anon: 300 kB\nPss_File: 395 kB\nPss_Shmem: 5 kB\n");
        assert_eq!(parse_rollup(&parted), Some(305 << 10));
        assert_eq!(parse_rollup(""), None);
    }

    #[test]
    fn processes_are_found_by_id_and_name() {
        let number = std::process::id();
        let by_number = ProcessGroup::find(&ProcessName::Number(number)).unwrap();
        let name = command(number).unwrap();
        let by_name = ProcessGroup::find(&ProcessName::Name(name)).unwrap();
        assert!(by_name.numbers.contains(&number), "{by_name:?}");
        let end = Instant::now() + std::time::Duration::from_millis(50);
        while Instant::now() < end {}
        let usage = by_number.usage_in_full();
        assert!(usage.user + usage.system > 0.0 && usage.resident > 100_000, "{usage:?}");
        assert!(usage.proportional.is_some_and(|bytes| bytes > 100_000), "{usage:?}");
    }

    #[test]
    fn cpu_time_is_finer_than_ticks() {
        let mut usage = ResourceUsage { user: 0.01, system: 0.03, ..ResourceUsage::default() };
        usage.scale(0.0484);
        assert!((usage.user - 0.0121).abs() < 1e-9 && (usage.system - 0.0363).abs() < 1e-9, "{usage:?}");
        let me = ProcessGroup::find(&ProcessName::Number(std::process::id())).unwrap();
        let used = || {
            let usage = me.usage();
            (usage.user + usage.system) * TICKS_PER_SECOND
        };
        // A whole number of ticks in all of 100 readings would be a coincidence.
        let fine = (0..100).any(|_| {
            let end = Instant::now() + std::time::Duration::from_millis(1);
            while Instant::now() < end {}
            let ticks = used();
            (ticks - ticks.round()).abs() > 0.01
        });
        assert!(fine, "{}", used());
    }

    #[test]
    fn missing_process_is_an_error() {
        let missing = ProcessName::from_str("no-such-process").is_err();
        assert!(!missing);
        let error = ProcessGroup::find(&ProcessName::Name("no-such-name".to_owned())).unwrap_err();
        assert_eq!(error, "--process: no process is named \"no-such-name\"");
        assert!(ProcessGroup::find(&ProcessName::Number(u32::MAX)).is_err());
        assert!(ProcessName::from_str("a-name-that-is-too-long").is_err());
    }
}
