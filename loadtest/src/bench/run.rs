//! Executes one run: a fresh server, the load test in a separate process on the other core, and the metrics that are
//! saved.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Subject;
use crate::local_server::{LocalServer, Programs, pinned};
use crate::record::{Latency, Record};
use crate::redis_costs::RedisCosts;

/// Saved metrics of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RunMetrics {
    pub(crate) micros_per_delivery: Option<f64>,
    pub(crate) user_share: Option<f64>,
    pub(crate) server_cores: f64,
    /// Utilization of the server's core, including interrupts.
    #[serde(alias = "server_full")]
    pub(crate) server_core_utilization: Option<f64>,
    /// Utilization of the server's core in the busiest second.
    #[serde(alias = "server_full_worst")]
    pub(crate) server_core_utilization_max: Option<f64>,
    pub(crate) deliveries_per_second: f64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) bytes_per_connection: Option<f64>,
    /// Memory after the cooldown, above that of the idle server, in per cent.
    #[serde(alias = "kept_percent")]
    pub(crate) retained_percent: Option<f64>,
    pub(crate) connections_per_second: f64,
    pub(crate) micros_per_connection: Option<f64>,
    pub(crate) cores_per_100000: Option<f64>,
    pub(crate) mib_per_100000: Option<f64>,
    /// Every message arrived once and in order.
    pub(crate) clean: bool,
    /// The load test was at its own limit.
    pub(crate) bottleneck: bool,
    /// Latencies include a read delay of the load test.
    pub(crate) late: bool,
    /// Share of a core that the busiest thread of the load test used.
    #[serde(alias = "load_busy")]
    pub(crate) generator_busy: Option<f64>,
    /// Share of the time that this thread waited for a core.
    #[serde(alias = "load_starved")]
    pub(crate) generator_starved: Option<f64>,
    /// Utilization of the load test's core, including Redis and interrupts.
    #[serde(alias = "load_full")]
    pub(crate) generator_core_utilization: Option<f64>,
    /// Utilization of the load test's core in the busiest second.
    #[serde(alias = "load_full_worst")]
    pub(crate) generator_core_utilization_max: Option<f64>,
    #[serde(alias = "doubts")]
    pub(crate) warnings: Vec<String>,
}

impl From<&Record> for RunMetrics {
    fn from(record: &Record) -> Self {
        let (server, none) = (record.processes.first(), Latency::default());
        let latency = record.cohorts.first().map_or(&none, |cohort| &cohort.latency);
        let measure = |name: &str| {
            record.measures.iter().find(|measure| measure.name == name).map(|measure| measure.value)
        };
        Self {
            micros_per_delivery: server.and_then(crate::record::ProcessUsage::micros_per_delivery),
            user_share: server.and_then(crate::record::ProcessUsage::user_share),
            server_cores: server.map_or(0.0, |server| server.cores),
            server_core_utilization: server.and_then(|server| server.core_utilization),
            server_core_utilization_max: server.and_then(|server| server.core_utilization_max),
            deliveries_per_second: record.deliveries.per_second,
            delivered: record.deliveries.delivered,
            lost: record.deliveries.lost,
            p50: latency.p50,
            p99: latency.p99,
            p99_9: latency.p99_9,
            bytes_per_connection: server.and_then(|server| server.bytes_per_connection),
            retained_percent: measure("retained_percent_0"),
            connections_per_second: record.connect.per_second,
            micros_per_connection: measure("micros_per_connection_0"),
            cores_per_100000: measure("cores_per_100000_0"),
            mib_per_100000: measure("mib_per_100000_0"),
            clean: record.clean && record.failure.is_none(),
            bottleneck: record.generator.bottleneck,
            late: record.generator.late,
            generator_busy: record.generator.subscribers.map(|share| share.busy),
            generator_starved: record.generator.subscribers.map(|share| share.starved),
            generator_core_utilization: record.generator.core_utilization,
            generator_core_utilization_max: record.generator.core_utilization_max,
            warnings: record.warnings.clone(),
        }
    }
}

/// Executes runs.
#[derive(Debug)]
pub(crate) struct BenchRunner {
    programs: Programs,
    own: PathBuf,
    server_core: u16,
    load_core: u16,
    files: u32,
}

impl BenchRunner {
    /// Checks that all programs exist and that the open file limit suffices.
    pub(crate) fn new(
        programs: Programs,
        server_core: u16,
        load_core: u16,
        files: u32,
    ) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        if !programs.nchan.exists() {
            let module = programs.nchan.display();
            return Err(format!("{module} does not exist: install libnginx-mod-nchan or set --nchan"));
        }
        if !programs.earshot.exists() {
            let binary = programs.earshot.display();
            return Err(format!("{binary} does not exist: build it or set --earshot"));
        }
        match crate::resources::open_file_limit() {
            Some(limit) if limit < u64::from(files) => {
                return Err(format!(
                    "servers need {files} open files, but the limit is {limit}: run `ulimit -n {files}` or reduce --idle"
                ));
            }
            _ => {}
        }
        Ok(Self { programs, own, server_core, load_core, files })
    }

    /// Whether the subject is available.
    pub(crate) fn has(&self, subject: Subject) -> bool {
        subject != Subject::Centrifugo || self.programs.centrifugo.is_some()
    }

    /// Version lines of the programs.
    pub(crate) fn versions(&self) -> Vec<String> {
        let Programs { earshot, nginx, centrifugo, redis, .. } = &self.programs;
        let say = |program: &PathBuf, flag: &str| {
            let output = Command::new(program).arg(flag).output().ok()?;
            let text = [output.stdout, output.stderr].concat();
            Some(String::from_utf8_lossy(&text).lines().next()?.to_owned())
        };
        let centrifugo = centrifugo.as_ref().and_then(|program| say(program, "version"));
        [say(earshot, "--version"), say(nginx, "-v"), centrifugo, say(redis, "--version")]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Executes one run of the load test.
    pub(crate) fn run(&self, subject: Subject, line: &str) -> Result<RunMetrics, String> {
        let (server, load) = (self.server_core, self.load_core);
        match subject {
            Subject::KernelBaseline => self.load(line, &[format!("--server-core={server}")]),
            Subject::Nchan => {
                let nchan = LocalServer::nchan(&self.programs, server, self.files)?;
                self.load(line, &against("nchan", &nchan))
            }
            Subject::Centrifugo => {
                let program = self.programs.centrifugo.as_deref().ok_or("--centrifugo is not set")?;
                let centrifugo = LocalServer::centrifugo(program, server)?;
                self.load(line, &against("centrifugo", &centrifugo))
            }
            Subject::Earshot => {
                let redis = LocalServer::redis(&self.programs.redis, load)?;
                let earshot = LocalServer::earshot(&self.programs, server, &redis)?;
                let mut more = against("earshot", &earshot);
                more.push(format!("--publish=redis://127.0.0.1:{}", redis.port));
                self.load(line, &more)
            }
        }
    }

    /// Measures the costs of Redis on the server's core.
    pub(crate) fn redis(&self) -> Result<RedisCosts, String> {
        let redis = self.programs.redis.display();
        let more = [format!("--server-core={}", self.server_core), format!("--redis={redis}")];
        // Redis reports its CPU time in microseconds, so a second suffices.
        self.json("redis --duration 1s", &more)
    }

    fn load(&self, line: &str, more: &[String]) -> Result<RunMetrics, String> {
        let own = ["--threads=1", "--progress=none"].map(str::to_owned);
        let record: Record = self.json(line, &[more, &own].concat())?;
        if record.interrupted { Err("interrupted".to_owned()) } else { Ok(RunMetrics::from(&record)) }
    }

    /// Runs this binary on the core of the load and returns the JSON that it writes.
    fn json<T: DeserializeOwned>(&self, line: &str, more: &[String]) -> Result<T, String> {
        let json = std::env::temp_dir().join(format!("earshot-bench-{}.json", std::process::id()));
        let mut command = pinned(self.load_core, &self.own);
        command.args(line.split_ascii_whitespace()).args(more);
        command.arg("--json").arg(&json).env_remove("EARSHOT_API_KEY").env_remove("LOADTEST_PUBLISH");
        let name = format!("{command:?}");
        let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
        let kept = fs::read_to_string(&json);
        // A leftover file does not matter: the next run overwrites it.
        let _ = fs::remove_file(&json);
        let shown = kept.ok().and_then(|text| serde_json::from_str(&text).ok());
        shown.ok_or_else(|| format!("{name}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn against(kind: &str, server: &LocalServer) -> Vec<String> {
    let url = format!("--url=http://127.0.0.1:{}", server.port);
    vec![format!("--target={kind}"), url, format!("--process={}", server.id())]
}
