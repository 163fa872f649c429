//! A record as a text table.

use std::fmt::{self, Write as _};

use crate::record::{Generator, Latency, ProcessUsage, Record};

/// If latency from sending is below this share of latency from due, the publisher was blocked and both are shown.
const UNCORRECTED_RATIO_MAX: f64 = 0.9;

/// A record as a text table.
#[derive(Debug)]
pub(crate) struct Table<'a>(pub(crate) &'a Record);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        writeln!(f, "{}", record.title)?;
        let commit = record.commit.as_deref().unwrap_or("no commit");
        writeln!(f, "{}, {commit}, {}\n", record.date, record.machine.line())?;
        counts(record, f)?;
        latencies(record, f)?;
        processes(record, f)?;
        measures(record, f)?;
        generator(record, f)?;
        for warning in &record.warnings {
            writeln!(f, "\n  note: {warning}")?;
        }
        if record.interrupted {
            writeln!(f, "\n  interrupted: the result covers only what was published until then")?;
        }
        if let Some(failure) = &record.failure {
            writeln!(f, "\n  publishing ended early: {failure}")?;
        }
        Ok(())
    }
}

fn counts(record: &Record, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (connect, published, all) = (&record.connect, &record.published, &record.deliveries);
    let (seconds, rate) = (connect.seconds, connect.per_second);
    writeln!(f, "  {:<16}{} in {seconds:.2} s, {rate:.0}/s", "connected", connect.subscribers)?;
    let asked = published.asked_per_second.map_or_else(String::new, |asked| format!(" of {asked:.1}/s"));
    write!(f, "  {:<16}{}", "published", published.count)?;
    let scheduled = published.seconds > 0.0;
    writeln!(
        f,
        "{}",
        if scheduled { format!(" at {:.1}/s{asked}", published.per_second) } else { String::new() }
    )?;
    write!(f, "  {:<16}{} of {}", "delivered", all.delivered, all.expected)?;
    writeln!(f, "{}", if scheduled { format!(" at {:.0}/s", all.per_second) } else { String::new() })?;
    for (name, count) in
        [("lost", all.lost), ("duplicated", all.duplicates), ("out of order", all.out_of_order)]
    {
        writeln!(f, "  {name:<16}{count}")?;
    }
    let rare = [
        ("misrouted", all.misrouted),
        ("altered", all.altered),
        ("offsets skipped", all.skipped),
        ("of other runs", all.from_other_runs),
        ("gap notices", all.gaps),
        ("recovered", all.recovered),
        ("not recovered", all.unrecovered),
        ("retries", all.retries),
    ];
    for (name, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
        writeln!(f, "  {name:<16}{count}")?;
    }
    for cohort in &record.cohorts {
        for (reason, count) in &cohort.closed {
            writeln!(f, "  {:<16}{count} {}: {reason}", "closed early", cohort.name)?;
        }
    }
    Ok(())
}

fn latencies(record: &Record, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let cohorts = record.cohorts.iter().flat_map(|cohort| {
        let uncorrected = Some((" from sending", &cohort.uncorrected));
        let differs = cohort.uncorrected.p99 < cohort.latency.p99 * UNCORRECTED_RATIO_MAX;
        [(cohort.name.as_str(), &cohort.latency)].into_iter().chain(uncorrected.filter(|_| differs))
    });
    let others =
        [("connecting", Some(&record.connect.latency)), ("reconnecting", record.reconnecting.as_ref())];
    let others = others.into_iter().filter_map(|(name, latency)| Some((name, latency?)));
    let rows: Vec<_> = cohorts.chain(others).filter(|(_, latency)| latency.count > 0).collect();
    write!(f, "\n  {:<16}", "latency, ms")?;
    for name in ["p50", "p90", "p99", "p99.9", "max"] {
        write!(f, "{name:>11}")?;
    }
    writeln!(f)?;
    rows.into_iter().try_for_each(|(name, latency)| row(name, latency, f))
}

fn row(name: &str, latency: &Latency, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Latency { p50, p90, p99, p99_9, max, .. } = latency;
    write!(f, "  {name:<16}")?;
    for value in [p50, p90, p99, p99_9, max] {
        write!(f, "{value:>11.2}")?;
    }
    writeln!(f)
}

fn processes(record: &Record, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for process in &record.processes {
        writeln!(f, "\n  {}\n  {:<16}{}", process.name, "", processor_time(process))?;
        let mut memory = format!(
            "{} before, {} connected, {} peak, {} at the end",
            mebibytes(process.resident_before),
            mebibytes(process.resident_connected),
            mebibytes(process.resident_peak),
            mebibytes(process.resident_after)
        );
        if let Some(bytes) = process.bytes_per_connection {
            // Writing to a string cannot fail.
            let _ = write!(memory, "; {:.2} KiB per connection", bytes / 1024.0);
        }
        writeln!(f, "  {:<16}{memory}", "")?;
    }
    Ok(())
}

fn processor_time(process: &ProcessUsage) -> String {
    let mut text = format!(
        "{:.2} CPU s ({:.2} user + {:.2} system), {:.2} cores",
        process.user_seconds + process.system_seconds,
        process.user_seconds,
        process.system_seconds,
        process.cores
    );
    if let Some(full) = process.core_utilization {
        // Writing to a string cannot fail.
        let _ = write!(text, " on cores {:.0} % busy", full * 100.0);
    }
    if let (Some(all), Some(user)) = (process.micros_per_delivery(), process.user_micros_per_delivery) {
        let system = all - user;
        // Writing to a string cannot fail.
        let _ = write!(text, "; {all:.2} µs per delivery ({user:.2} user + {system:.2} system)");
    }
    text
}

fn measures(record: &Record, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if !record.measures.is_empty() {
        writeln!(f)?;
    }
    for measure in &record.measures {
        writeln!(f, "  {:<44}{:>14.2} {}", measure.label, measure.value, measure.unit)?;
    }
    Ok(())
}

fn generator(record: &Record, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let generator = &record.generator;
    let Some(share) = generator.subscribers else { return Ok(()) };
    let worst = generator.busiest_second.unwrap_or(share);
    write!(
        f,
        "\n  {:<16}busiest thread {:.0} % of a core ({:.0} % in its busiest second); {}read delay {:.2} ms, \
         timer delay {:.2} ms (p99)",
        "the load test",
        share.busy * 100.0,
        worst.busy * 100.0,
        cores(generator),
        generator.read_delay.p99,
        generator.timer_delay.p99
    )?;
    writeln!(f, "{}", if generator.bottleneck || generator.late { "; it is the bottleneck" } else { "" })
}

/// Utilization of the cores of the load test; empty if the kernel does not report it.
fn cores(generator: &Generator) -> String {
    let (Some(list), Some(whole), Some(worst)) =
        (&generator.cores, generator.core_utilization, generator.core_utilization_max)
    else {
        return String::new();
    };
    let (kind, whole, worst) =
        (if list.contains(['-', ',']) { "cores" } else { "core" }, whole * 100.0, worst * 100.0);
    format!("{kind} {list} {whole:.0} % busy ({worst:.0} % in the busiest second); ")
}

/// Formats bytes as MiB.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Cohort, Deliveries, Measure};

    #[test]
    fn table_shows_failures() {
        let cohort = Cohort {
            name: "WebSocket".to_owned(),
            closed: [("3008 slow".to_owned(), 2)].into(),
            latency: Latency { count: 9, p99: 1.25, ..Latency::default() },
            ..Cohort::default()
        };
        let measure = Measure {
            name: "a".to_owned(),
            label: "what it was".to_owned(),
            value: 2.5,
            unit: "KiB".to_owned(),
        };
        let process = ProcessUsage {
            name: "earshot".to_owned(),
            user_micros_per_delivery: Some(0.5),
            system_micros_per_delivery: Some(4.0),
            ..ProcessUsage::default()
        };
        let record = Record {
            cohorts: vec![cohort],
            deliveries: Deliveries { lost: 3, gaps: 1, ..Deliveries::default() },
            measures: vec![measure],
            processes: vec![process],
            failure: Some("Redis: gone".to_owned()),
            ..Record::default()
        };
        let table = Table(&record).to_string();
        for line in [
            "lost            3\n",
            "gap notices     1\n",
            "closed early    2 WebSocket: 3008 slow\n",
            "2.50 KiB\n",
            "4.50 µs per delivery (0.50 user + 4.00 system)",
            "publishing ended early: Redis: gone\n",
        ] {
            assert!(table.contains(line), "{line:?} is not in\n{table}");
        }
    }
}
