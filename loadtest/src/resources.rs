//! What the load test and the servers under test use of the machine, and which machine it is. Reads `/proc`; where
//! there is none, it knows nothing and says so with `None`. Never changes a limit.

pub(crate) mod cores;
pub(crate) mod machine;
pub(crate) mod process;
pub(crate) mod thread;

use std::fs;

/// Ticks of `/proc/stat` and `/proc/…/stat`. The kernel's `USER_HZ` is 100 on every architecture that matters.
const TICKS_PER_SECOND: f64 = 100.0;

/// How many files this process may have open at once.
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
    fn the_limit_is_the_soft_one() {
        let limits = "Limit          Soft Limit  Hard Limit  Units\n\
                      Max processes  10          20          processes\n\
                      Max open files 1024        524288      files\n";
        assert_eq!(parse_open_file_limit(limits), Some(1024));
        assert_eq!(parse_open_file_limit("Max open files unlimited unlimited files"), None);
    }
}
