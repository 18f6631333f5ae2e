//! Every metric that any weir process exports: name, kind, unit, labels, help. Nothing else
//! defines one.
//!
//! A process fills a [`Page`] when it is scraped, from counters that it keeps anyway: there is no
//! registry to update on the packet path.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

/// The `Content-Type` of [`Page::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How a value behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises; the name ends in `_total`.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts per bucket, with sum and count.
    Histogram,
}

/// What one metric is.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// As exported, with unit and `_total`.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// `seconds` or `bytes`, and then part of the name; `None` for counts.
    pub unit: Option<&'static str>,
    /// Names of the labels, in the order in which [`Page::add`] takes their values.
    pub labels: &'static [&'static str],
    /// One line for people.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal $unit:expr, [$($label:literal),*],
        $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $id: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                help: $help,
            };
        )+
        /// All of them.
        pub const ALL: &[&Metric] = &[$(&$id),+];
    };
}

metrics! {
    // Both processes.
    BUILD_INFO: Gauge "weir_build_info" None, ["process", "version"], "Always 1: which build runs";
    UPTIME: Gauge "weir_uptime_seconds" Some("seconds"), [], "Time since the process started";

    // Dataplane: packets.
    DROPS: Counter "weir_drops_total" None, ["reason"], "Packets dropped, by reason";
    POLICY_VERDICTS: Counter "weir_policy_verdicts_total" None, ["direction", "verdict"],
        "Verdicts of network policy: connections allowed, packets denied; a change judges again";
    POLICY_VERDICTS_UNCOUNTED: Counter "weir_policy_verdicts_uncounted_total" None, ["worker"],
        "Verdicts without a place in the table of counts by endpoint and rule";
    POLICY_COUNTS: Gauge "weir_policy_verdict_rows" None, ["worker"],
        "Endpoints by rule with a count of verdicts";
    POLICY_COUNTS_LIMIT: Gauge "weir_policy_verdict_rows_limit" None, ["worker"],
        "Counts of verdicts that there is room for";
    RX_PACKETS: Counter "weir_rx_packets_total" None, ["device", "queue"], "Packets received";
    RX_BYTES: Counter "weir_rx_bytes_total" Some("bytes"), ["device", "queue"],
        "Bytes received, from the Ethernet header on";
    TX_PACKETS: Counter "weir_tx_packets_total" None, ["device", "queue"], "Packets sent";
    TX_BYTES: Counter "weir_tx_bytes_total" Some("bytes"), ["device", "queue"],
        "Bytes sent, from the Ethernet header on";
    PUNTS: Counter "weir_punts_total" None, ["target"], "Packets given to the kernel or to weir-l7";
    ORIGINATED: Counter "weir_originated_packets_total" None, [],
        "Packets that the dataplane made itself (ARP, ND and ICMP answers, resets)";
    HELD: Gauge "weir_held_packets" None, ["worker"],
        "Packets inside the dataplane: in rings and batches";

    // Dataplane: XDP and AF_XDP (struct xdp_statistics, linux/if_xdp.h).
    XDP_OUTCOMES: Counter "weir_xdp_outcomes_total" None, ["outcome"],
        "Decisions of the XDP and tcx programs";
    XSK_RX_DROPPED: Counter "weir_xsk_rx_dropped_total" None, ["device", "queue"],
        "AF_XDP: packets dropped for other reasons than a full ring";
    XSK_RX_INVALID_DESCS: Counter "weir_xsk_rx_invalid_descs_total" None, ["device", "queue"],
        "AF_XDP: invalid descriptors on the FILL ring";
    XSK_TX_INVALID_DESCS: Counter "weir_xsk_tx_invalid_descs_total" None, ["device", "queue"],
        "AF_XDP: invalid descriptors on the TX ring";
    XSK_RX_RING_FULL: Counter "weir_xsk_rx_ring_full_total" None, ["device", "queue"],
        "AF_XDP: packets dropped because the RX ring was full";
    XSK_RX_FILL_RING_EMPTY: Counter "weir_xsk_rx_fill_ring_empty_total" None, ["device", "queue"],
        "AF_XDP: times the kernel found the FILL ring empty";
    XSK_TX_RING_EMPTY: Counter "weir_xsk_tx_ring_empty_total" None, ["device", "queue"],
        "AF_XDP: times the kernel found the TX ring empty";

    // Dataplane: how full things are.
    POOL_FRAMES: Gauge "weir_pool_frames" None, ["worker", "state"],
        "Frames of the worker's home range, by where they are";
    FLOW_TABLE_ENTRIES: Gauge "weir_flow_table_entries" None, ["worker"],
        "Flows in the worker's table";
    FLOW_TABLE_LIMIT: Gauge "weir_flow_table_entries_limit" None, ["worker"],
        "Flows that fit the worker's table";
    FLOW_TABLE_EVICTED: Counter "weir_flow_table_evicted_total" None, ["worker"],
        "Connections without an answer that made room for new flows in a full table";
    RING_ENTRIES: Gauge "weir_ring_entries" None, ["worker", "ring"],
        "Entries waiting in a ring of a device or between workers";
    RING_LIMIT: Gauge "weir_ring_entries_limit" None, ["worker", "ring"],
        "Entries that fit the ring";
    TABLE_ENTRIES: Gauge "weir_table_entries" None, ["table"], "Objects in a table of the snapshot";
    TABLE_LIMIT: Gauge "weir_table_entries_limit" None, ["table"], "Objects that fit the table";

    // Dataplane: workers and state.
    WORKER_TURNS: Counter "weir_worker_turns_total" None, ["worker"], "Turns of the worker's loop";
    WORKER_HEARTBEAT_AGE: Gauge "weir_worker_heartbeat_age_seconds" Some("seconds"), ["worker"],
        "Time since the worker's last heartbeat";
    ADOPTED_FLOWS: Gauge "weir_adopted_flows" None, [], "Flows taken over from the process before";
    SNAPSHOT_REVISION: Gauge "weir_snapshot_revision" None, ["worker"],
        "Revision of the snapshot that the worker runs";
    ACCEPTED_REVISION: Gauge "weir_accepted_revision" None, [],
        "Revision of the newest accepted state";
    STATE_FROM_DISK: Gauge "weir_state_from_disk" None, [],
        "1 while the state is the one from disk and no agent has connected";
    AGENT_CONNECTED: Gauge "weir_agent_connected" None, [],
        "1 while an agent's state stream is open";
    APPLY_SECONDS: Histogram "weir_apply_seconds" Some("seconds"), [],
        "From an update's receipt to the last worker's acknowledgement";
    REJECTIONS: Counter "weir_rejections_total" None, ["kind"],
        "Objects refused by the dataplane, by kind";

    // Agent.
    AGENT_OBJECTS: Gauge "weir_agent_objects" None, ["kind"],
        "Objects read from the source, by kind";
    AGENT_DESIRED_OBJECTS: Gauge "weir_agent_desired_objects" None, ["kind"],
        "Objects of this node's desired state, by kind";
    AGENT_PROBLEMS: Gauge "weir_agent_problems" None, ["severity"],
        "Objects refused, or features ignored, at present";
    AGENT_SOURCE_SYNCED: Gauge "weir_agent_source_synced" None, [],
        "1 once the source has been read in full";
    AGENT_SOURCE_EVENTS: Counter "weir_agent_source_events_total" None, [],
        "Objects added, changed or removed by the source";
    AGENT_DATAPLANE_CONNECTED: Gauge "weir_agent_dataplane_connected" None, [],
        "1 while the state stream to the dataplane is open";
    AGENT_CONNECTS: Counter "weir_agent_connects_total" None, [],
        "State streams opened to the dataplane";
    AGENT_SENT_REVISION: Gauge "weir_agent_sent_revision" None, [],
        "Revision of the last update sent";
    AGENT_ACKNOWLEDGED_REVISION: Gauge "weir_agent_acknowledged_revision" None, [],
        "Revision of the last update that all workers run";
    AGENT_NACKS: Counter "weir_agent_nacks_total" None, [], "Objects that the dataplane refused";
    AGENT_ACK_SECONDS: Histogram "weir_agent_ack_seconds" Some("seconds"), [],
        "From sending an update to its acknowledgement";

    // Operator.
    OPERATOR_LEADER: Gauge "weir_operator_leader" None, [], "1 while this process leads";
    OPERATOR_RECONCILES: Counter "weir_operator_reconciles_total" None, ["controller"],
        "Times that a controller compared what is with what should be";
    OPERATOR_ERRORS: Counter "weir_operator_errors_total" None, ["controller"],
        "Writes of a controller that the API server refused or did not answer";
    OPERATOR_SERVICES_WAITING: Gauge "weir_operator_services_waiting" None, [],
        "Services that want a load balancer address that they cannot have";
    OPERATOR_POOL_USED: Gauge "weir_operator_pool_addresses" None, ["pool", "family"],
        "Addresses of a pool that a Service has";
    OPERATOR_POOL_LIMIT: Gauge "weir_operator_pool_addresses_limit" None, ["pool", "family"],
        "Addresses of a pool";
}

/// AF_XDP's statistics in the order of the kernel's `struct xdp_statistics`.
pub const XSK_STATISTICS: [&Metric; 6] = [
    &XSK_RX_DROPPED,
    &XSK_RX_INVALID_DESCS,
    &XSK_TX_INVALID_DESCS,
    &XSK_RX_RING_FULL,
    &XSK_RX_FILL_RING_EMPTY,
    &XSK_TX_RING_EMPTY,
];

/// Upper bounds of the latency histograms' buckets, seconds; a last bucket without bound follows.
pub const LATENCY_BOUNDS_S: [f64; 12] =
    [50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 50e-3, 100e-3, 1.0, 10.0];

/// Counts per bucket of [`LATENCY_BOUNDS_S`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LatencyHistogram {
    counts: [u64; LATENCY_BOUNDS_S.len() + 1],
    sum_s: f64,
}

impl LatencyHistogram {
    /// Counts one observation.
    pub fn observe(&mut self, seconds: f64) {
        let bucket = LATENCY_BOUNDS_S.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum_s += seconds;
    }
}

/// One answer to a scrape.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<&'static str, Family>,
}

impl Page {
    /// Adds a count; `labels` are the values of `metric.labels`, in that order.
    pub fn add(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        self.push(metric, labels, Value::Count(value));
    }

    /// Adds a measurement, such as seconds.
    pub fn add_float(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        self.push(metric, labels, Value::Float(value));
    }

    /// Adds a histogram.
    pub fn add_histogram(
        &mut self,
        metric: &'static Metric,
        labels: &[&str],
        value: &LatencyHistogram,
    ) {
        self.push(metric, labels, Value::Histogram(value.clone()));
    }

    /// The page as OpenMetrics text, in the order of the names; its type is [`CONTENT_TYPE`].
    #[must_use]
    pub fn render(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .expect("writing to a String cannot fail");
        text
    }

    fn push(&mut self, metric: &'static Metric, labels: &[&str], value: Value) {
        assert_eq!(labels.len(), metric.labels.len(), "{} takes {:?}", metric.name, metric.labels);
        let is_histogram = matches!(value, Value::Histogram(_));
        assert_eq!(is_histogram, metric.kind == Kind::Histogram, "{}: wrong kind", metric.name);
        let names = metric.labels.iter().copied();
        let labels = names.zip(labels.iter().map(|label| escape(label))).collect();
        let family =
            self.families.entry(metric.name).or_insert(Family { metric, samples: Vec::new() });
        family.samples.push((labels, value));
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.families.values() {
            family.encode(&mut encoder)?;
        }
        Ok(())
    }
}

/// The encoder writes label values as they are.
fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Value {
    Count(u64),
    Float(f64),
    Histogram(LatencyHistogram),
}

#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    samples: Vec<(Labels, Value)>,
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metric = self.metric;
        let kind = match metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let unit = metric.unit.map(|unit| Unit::Other(unit.to_owned()));
        let mut encoder =
            encoder.encode_descriptor(metric.stem(), metric.help, unit.as_ref(), kind)?;
        for (labels, value) in &self.samples {
            if labels.is_empty() {
                encode_sample(metric.kind, value, &mut encoder)?;
            } else {
                encode_sample(metric.kind, value, &mut encoder.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

impl Metric {
    /// The name without what the encoder appends: the unit and `_total`.
    fn stem(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        let unit_stripped = self.unit.and_then(|unit| name.strip_suffix(unit));
        unit_stripped.and_then(|name| name.strip_suffix('_')).unwrap_or(name)
    }
}

fn encode_sample(kind: Kind, value: &Value, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
    const NO_EXEMPLAR: Option<&prometheus_client::metrics::exemplar::Exemplar<Labels, f64>> = None;
    match (kind, value) {
        (_, Value::Histogram(it)) => {
            let bounds = LATENCY_BOUNDS_S.into_iter().chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(it.counts).collect();
            encoder.encode_histogram::<Labels>(it.sum_s, it.counts.iter().sum(), &buckets, None)
        }
        (Kind::Counter, Value::Count(it)) => encoder.encode_counter(it, NO_EXEMPLAR),
        (Kind::Counter, Value::Float(it)) => encoder.encode_counter(it, NO_EXEMPLAR),
        (_, Value::Count(it)) => encoder.encode_gauge(it),
        (_, Value::Float(it)) => encoder.encode_gauge(it),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_prefixed_and_carry_unit_and_total() {
        let mut seen = std::collections::BTreeSet::new();
        for metric in ALL {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            assert!(metric.name.starts_with("weir_"), "{}", metric.name);
            let is_counter = metric.kind == Kind::Counter;
            assert_eq!(is_counter, metric.name.ends_with("_total"), "{}", metric.name);
            let expected = [metric.stem()]
                .into_iter()
                .chain(metric.unit)
                .chain(is_counter.then_some("total"))
                .collect::<Vec<_>>()
                .join("_");
            assert_eq!(metric.name, expected);
            assert!(!metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn a_page_is_openmetrics_text_in_order() {
        let mut latency = LatencyHistogram::default();
        latency.observe(0.001);
        latency.observe(60.0);
        let mut page = Page::default();
        page.add_histogram(&APPLY_SECONDS, &[], &latency);
        page.add(&RX_BYTES, &["eth0", "0"], 5);
        page.add(&DROPS, &["no-backend"], 3);
        page.add(&DROPS, &["bad \"quote"], 0);
        page.add_float(&UPTIME, &[], 1.5);
        let text = page.render();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines[0], "weir_apply_seconds_sum 60.001");
        assert_eq!(lines[1], "weir_apply_seconds_count 2");
        assert!(lines.contains(&"weir_apply_seconds_bucket{le=\"0.001\"} 1"), "{text}");
        assert!(lines.contains(&"weir_apply_seconds_bucket{le=\"+Inf\"} 2"), "{text}");
        assert!(lines.contains(&"weir_drops_total{reason=\"no-backend\"} 3"), "{text}");
        assert!(lines.contains(&"weir_drops_total{reason=\"bad \\\"quote\"} 0"), "{text}");
        assert!(lines.contains(&"weir_rx_bytes_total{device=\"eth0\",queue=\"0\"} 5"), "{text}");
        assert!(lines.contains(&"weir_uptime_seconds 1.5"), "{text}");
        assert!(text.contains("# HELP weir_drops Packets dropped, by reason\n"), "{text}");
        assert!(text.contains("# UNIT weir_uptime_seconds seconds"), "{text}");
    }
}
