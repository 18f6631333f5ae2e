//! The network configuration on standard input, checked.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use weir_api::paths::Paths;
use weir_api::v1::{Attachment, Bandwidth, PortMapping, Protocol};

use crate::error::{CniError, DECODING_FAILURE, INVALID_CONFIG};
use crate::install::LOOPBACK;
use crate::version::Version;

/// One plugin's configuration, as a runtime derives it from a `.conflist`.
#[derive(Debug, Clone)]
pub struct Config {
    /// In which version results and errors are written.
    pub version: Version,
    /// It is the plugin `loopback` that is called: runtimes name in `type` the program they start.
    pub is_loopback: bool,
    /// Where the agent listens.
    pub socket: PathBuf,
    /// Errors and notes are appended here too.
    pub log_file: Option<PathBuf>,
    /// Ports of the node that shall lead to the pod.
    pub port_mappings: Vec<PortMapping>,
    /// Limits of the pod.
    pub bandwidth: Option<Bandwidth>,
    /// What plugins before this one, or ADD for CHECK and DEL, gave; as it was read.
    pub prev_result: Option<Value>,
    /// Of GC; `None` where nothing is said of them, which is not the same as "none is valid".
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// As it is written. Fields of other plugins and of later versions are no concern of ours.
#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "cniVersion", default)]
    cni_version: String,
    #[serde(rename = "type", default)]
    plugin: String,
    socket: Option<PathBuf>,
    #[serde(rename = "logFile")]
    log_file: Option<PathBuf>,
    #[serde(rename = "runtimeConfig", default)]
    runtime: RawRuntime,
    #[serde(rename = "prevResult")]
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments", default, deserialize_with = "present")]
    valid_attachments: Option<Option<Vec<RawAttachment>>>,
    /// Its name in the text of the specification up to libcni 1.2.2; libcni writes both since.
    #[serde(rename = "cni.dev/attachments", default, deserialize_with = "present")]
    attachments: Option<Option<Vec<RawAttachment>>>,
}

/// A key that is there, also with `null`.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

#[derive(Default, Deserialize)]
struct RawRuntime {
    #[serde(rename = "portMappings")]
    port_mappings: Option<Vec<RawMapping>>,
    bandwidth: Option<RawBandwidth>,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// The convention's names, and those that containerd writes (Go's names of the fields).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMapping {
    #[serde(alias = "HostPort")]
    host_port: i64,
    #[serde(alias = "ContainerPort")]
    container_port: i64,
    #[serde(alias = "Protocol", default)]
    protocol: String,
    #[serde(rename = "hostIP", alias = "HostIP", default)]
    host_ip: String,
}

/// Bits per second, and bits; named as the mappings are.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct RawBandwidth {
    #[serde(alias = "IngressRate")]
    ingress_rate: u64,
    #[serde(alias = "IngressBurst")]
    ingress_burst: u64,
    #[serde(alias = "EgressRate")]
    egress_rate: u64,
    #[serde(alias = "EgressBurst")]
    egress_burst: u64,
}

/// Kubernetes' runtimes fill a burst in with this, in want of a value of their own. Taken
/// literally it would let half a gigabyte pass before any limit; so it counts as not given.
const BURST_NOT_GIVEN: u64 = u32::MAX as u64;

/// The `cniVersion` of any JSON, for errors and for VERSION.
#[must_use]
pub fn peek_version(text: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(text).ok()?;
    Some(value.get("cniVersion")?.as_str()?.to_owned())
}

impl Config {
    /// Reads and checks.
    ///
    /// # Errors
    /// No JSON, another version, or a value that is wrong: with its path.
    pub fn parse(text: &[u8]) -> Result<Self, CniError> {
        let raw: Raw = serde_json::from_slice(text).map_err(|error| {
            let message = format!("the network configuration on standard input: {error}");
            CniError::new(DECODING_FAILURE, message, "correct the file in /etc/cni/net.d")
        })?;
        let version = Version::parse(&raw.cni_version)?;
        let mut port_mappings = Vec::new();
        for (i, mapping) in raw.runtime.port_mappings.iter().flatten().enumerate() {
            port_mappings.extend(read_mapping(i, mapping)?);
        }
        let read_attachment =
            |it: RawAttachment| Attachment { container_id: it.container_id, ifname: it.ifname };
        let valid = raw.valid_attachments.or(raw.attachments).map(Option::unwrap_or_default);
        Ok(Self {
            version,
            is_loopback: raw.plugin == LOOPBACK,
            socket: raw.socket.unwrap_or_else(|| Paths::default().agent_socket()),
            log_file: raw.log_file,
            port_mappings,
            bandwidth: raw.runtime.bandwidth.and_then(|it| read_bandwidth(&it)),
            prev_result: raw.prev_result,
            valid_attachments: valid.map(|it| it.into_iter().map(read_attachment).collect()),
        })
    }
}

/// `None` for a mapping of no port of the host.
fn read_mapping(i: usize, raw: &RawMapping) -> Result<Option<PortMapping>, CniError> {
    let path = format!("runtimeConfig.portMappings[{i}]");
    if raw.host_port == 0 {
        return Ok(None);
    }
    let read_port = |name: &str, port: i64| match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(u32::from(port)),
        _ => Err(invalid(&format!("{path}.{name}: {port} is not a port"), "give one of 1..65535")),
    };
    let protocol = match raw.protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => {
            let message = format!("{path}.protocol: {other:?} is not known");
            return Err(invalid(&message, "give tcp, udp or sctp"));
        }
    };
    if !raw.host_ip.is_empty() && raw.host_ip.parse::<IpAddr>().is_err() {
        let message = format!("{path}.hostIP: {:?} is not an IP address", raw.host_ip);
        return Err(invalid(&message, "give an address of the node, or none for all of them"));
    }
    Ok(Some(PortMapping {
        host_port: read_port("hostPort", raw.host_port)?,
        container_port: read_port("containerPort", raw.container_port)?,
        protocol: protocol.into(),
        host_ip: raw.host_ip.clone(),
    }))
}

fn read_bandwidth(raw: &RawBandwidth) -> Option<Bandwidth> {
    let burst = |bits: u64| if bits >= BURST_NOT_GIVEN { 0 } else { bits };
    (raw.ingress_rate > 0 || raw.egress_rate > 0).then(|| Bandwidth {
        ingress_bits_per_s: raw.ingress_rate,
        ingress_burst_bits: burst(raw.ingress_burst),
        egress_bits_per_s: raw.egress_rate,
        egress_burst_bits: burst(raw.egress_burst),
    })
}

fn invalid(message: &str, details: &str) -> CniError {
    CniError::new(INVALID_CONFIG, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::INCOMPATIBLE_VERSION;

    fn parse(text: &str) -> Result<Config, CniError> {
        Config::parse(text.as_bytes())
    }

    #[test]
    fn names_as_containerd_writes_them() {
        let config = parse(
            r#"{"cniVersion":"1.0.0","runtimeConfig":{
                "portMappings":[{"HostPort":54323,"ContainerPort":8080,"Protocol":"tcp",
                    "HostIP":"127.0.0.1"}],
                "bandwidth":{"IngressRate":1000000,"IngressBurst":0,"EgressRate":2000000,
                    "EgressBurst":0}}}"#,
        )
        .unwrap();
        assert_eq!(config.port_mappings[0].host_port, 54323);
        assert_eq!(config.bandwidth.unwrap().egress_bits_per_s, 2_000_000);
    }

    #[test]
    fn a_configuration_as_the_conventions_have_it() {
        let config = parse(
            r#"{"cniVersion":"1.0.0","name":"weir","type":"weir-cni","socket":"/s",
                "capabilities":{"portMappings":true},"ipMasq":true,
                "runtimeConfig":{"portMappings":[
                    {"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":""},
                    {"hostPort":0,"containerPort":81,"protocol":"udp","hostIP":""},
                    {"hostPort":53,"containerPort":53,"protocol":"UDP","hostIP":"192.0.2.1"}],
                  "bandwidth":{"ingressRate":1000000,"ingressBurst":4294967295,"egressRate":0}}}"#,
        )
        .unwrap();
        assert_eq!(config.socket, PathBuf::from("/s"));
        assert_eq!(config.port_mappings.len(), 2);
        assert_eq!(config.port_mappings[1].protocol(), Protocol::Udp);
        let bandwidth = config.bandwidth.unwrap();
        assert_eq!((bandwidth.ingress_bits_per_s, bandwidth.ingress_burst_bits), (1_000_000, 0));
        let plain = parse(r#"{"cniVersion":"1.1.0"}"#).unwrap();
        assert_eq!(plain.socket, PathBuf::from("/run/weir/agent.sock"));
        assert_eq!(plain.bandwidth, None);
        assert!(!config.is_loopback && !plain.is_loopback);
        // As containerd's.
        let loopback = r#"{"cniVersion":"0.3.1","name":"cni-loopback","type":"loopback"}"#;
        assert!(parse(loopback).unwrap().is_loopback);
    }

    #[test]
    fn valid_attachments_have_two_names_and_no_list_is_not_an_empty_one() {
        let valid = |fields: &str| {
            let text = format!(r#"{{"cniVersion":"1.1.0"{fields}}}"#);
            let valid = parse(&text).unwrap().valid_attachments;
            valid.map(|it| it.into_iter().map(|it| it.container_id).collect::<Vec<_>>())
        };
        let one = r#"[{"containerID":"a","ifname":"eth0"}]"#;
        assert_eq!(valid(&format!(r#","cni.dev/valid-attachments":{one}"#)).unwrap(), ["a"]);
        assert_eq!(valid(&format!(r#","cni.dev/attachments":{one}"#)).unwrap(), ["a"]);
        assert_eq!(valid(r#","cni.dev/valid-attachments":[]"#).unwrap(), [""; 0]);
        assert_eq!(valid(r#","cni.dev/valid-attachments":null"#).unwrap(), [""; 0]);
        assert_eq!(valid(""), None);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let with = |mapping: &str| {
            format!(r#"{{"cniVersion":"1.0.0","runtimeConfig":{{"portMappings":[{mapping}]}}}}"#)
        };
        for (text, code, expected) in [
            ("{".into(), DECODING_FAILURE, "standard input: EOF"),
            (r#"{"cniVersion":"2.0.0"}"#.into(), INCOMPATIBLE_VERSION, "\"2.0.0\""),
            (r#"{"name":"weir"}"#.into(), INCOMPATIBLE_VERSION, "\"\""),
            (
                with(r#"{"hostPort":70000,"containerPort":80}"#),
                INVALID_CONFIG,
                "runtimeConfig.portMappings[0].hostPort: 70000",
            ),
            (
                with(r#"{"hostPort":1,"containerPort":0}"#),
                INVALID_CONFIG,
                "runtimeConfig.portMappings[0].containerPort: 0",
            ),
            (
                with(r#"{"hostPort":1,"containerPort":1,"protocol":"icmp"}"#),
                INVALID_CONFIG,
                "portMappings[0].protocol: \"icmp\"",
            ),
            (
                with(r#"{"hostPort":1,"containerPort":1,"hostIP":"host"}"#),
                INVALID_CONFIG,
                "portMappings[0].hostIP: \"host\"",
            ),
            (with(r#"{"hostPort":"1"}"#), DECODING_FAILURE, "invalid type"),
        ] {
            let error = parse(&text).unwrap_err();
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains(expected), "{error}");
        }
    }
}
