//! Resource usage of the load test and of the servers under test, and the description of the machine. Reads `/proc`;
//! returns `None` where it is not available.

pub(crate) mod cores;
pub(crate) mod machine;
pub(crate) mod process;
pub(crate) mod thread;

use std::fs;

/// Ticks per second in `/proc/stat` and `/proc/…/stat`: the kernel's `USER_HZ`, 100 on all relevant architectures.
const TICKS_PER_SECOND: f64 = 100.0;

/// Soft limit of open files of this process.
pub(crate) fn open_file_limit() -> Option<u64> {
    parse_open_file_limit(&fs::read_to_string("/proc/self/limits").ok()?)
}

fn parse_open_file_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_file_limit_is_the_soft_limit() {
        let limits = "Limit          Soft Limit  Hard Limit  Units\n\
                      Max processes  10          20          processes\n\
                      Max open files 1024        524288      files\n";
        assert_eq!(parse_open_file_limit(limits), Some(1024));
        assert_eq!(parse_open_file_limit("Max open files unlimited unlimited files"), None);
    }
}
