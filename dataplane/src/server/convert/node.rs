//! The node's configuration, from its wire form.

use weir_api::v1;
use weir_packet::Addr;
use weir_tables::{DsrDispatch, MaglevParams, NodeConfig, NodePorts, PodRoute, Prefix, SnatPorts};

use super::{Result, addr, l4_port, prefix, prefixes, unsupported};

/// The node's configuration.
pub(super) fn node(node: &v1::NodeConfig) -> Result<NodeConfig> {
    let addresses = node.addresses.iter().map(|bytes| addr("addresses", bytes));
    let dsr_dispatch = match v1::DsrDispatch::try_from(node.dsr_dispatch) {
        Ok(v1::DsrDispatch::Unspecified | v1::DsrDispatch::Geneve) => DsrDispatch::Geneve,
        Ok(v1::DsrDispatch::Ipip) => DsrDispatch::Ipip,
        Ok(v1::DsrDispatch::Option) => DsrDispatch::Option,
        Err(_) => return Err(unsupported("dsr_dispatch", node.dsr_dispatch)),
    };
    let snat = port_range("snat_port_min", node.snat_port_min, node.snat_port_max)?;
    let node_ports = port_range("node_port_min", node.node_port_min, node.node_port_max)?;
    Ok(NodeConfig {
        name: node.name.clone(),
        addresses: addresses.collect::<Result<_>>()?,
        maglev: MaglevParams::new(node.maglev_table_size, &node.maglev_seed)?,
        service_ranges: prefixes("service_ranges", &node.service_ranges)?,
        cluster_ranges: prefixes("cluster_ranges", &node.cluster_ranges)?,
        masquerade: node.masquerade,
        masquerade_exclusions: prefixes("masquerade_exclusions", &node.masquerade_exclusions)?,
        dsr_dispatch,
        snat_ports: snat.map(|(min, max)| SnatPorts { min, max }).unwrap_or_default(),
        node_ports: node_ports.map(|(min, max)| NodePorts { min, max }).unwrap_or_default(),
        policy_audit: node.policy_audit,
        policy_reject: node.policy_reject,
        pod_ranges: pod_ranges(&node.pod_ranges)?,
        pod_routes: node.pod_routes.iter().map(pod_route).collect::<Result<_>>()?,
        announced: node.announced.iter().map(|bytes| announced(bytes)).collect::<Result<_>>()?,
    })
}

/// A range of all addresses would make the whole world unreachable.
fn pod_ranges(ranges: &[v1::Prefix]) -> Result<Vec<Prefix>> {
    const FIELD: &str = "pod_ranges";
    let ranges = prefixes(FIELD, ranges)?;
    match ranges.iter().find(|range| range.length() == 0) {
        Some(range) => Err(unsupported(FIELD, range)),
        None => Ok(ranges),
    }
}

fn pod_route(route: &v1::PodRoute) -> Result<PodRoute> {
    let destination = route.destination.as_ref().ok_or_else(|| {
        let nothing = "a route without one";
        unsupported("pod_routes.destination", nothing)
    })?;
    let destination = prefix("pod_routes.destination", destination)?;
    let via = addr("pod_routes.via", &route.via)?;
    if destination.length() == 0 {
        return Err(unsupported("pod_routes.destination", destination));
    }
    if via.is_v4() != destination.addr().is_v4() || !is_host(&via) {
        let route = format_args!("{via} for {destination}");
        return Err(unsupported("pod_routes.via", route));
    }
    Ok(PodRoute { destination, via })
}

fn announced(bytes: &[u8]) -> Result<Addr> {
    let addr = addr("announced", bytes)?;
    if !is_host(&addr) {
        return Err(unsupported("announced", addr));
    }
    Ok(addr)
}

/// Whether an address is that of one host, on more than one link.
fn is_host(addr: &Addr) -> bool {
    !addr.is_multicast() && !addr.is_unspecified() && !addr.is_loopback() && !addr.is_link_local()
}

/// A range of ports, both ends included; `None` where both are 0.
fn port_range(field: &'static str, min: u32, max: u32) -> Result<Option<(u16, u16)>> {
    if (min, max) == (0, 0) {
        return Ok(None);
    }
    let (min, max) = (l4_port(field, min)?, l4_port(field, max)?);
    if min > max {
        return Err(unsupported(field, format_args!("{min}-{max}")));
    }
    Ok(Some((min, max)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire_prefix(address: &[u8], length: u32) -> v1::Prefix {
        v1::Prefix { address: address.to_vec(), length }
    }

    fn config() -> v1::NodeConfig {
        v1::NodeConfig {
            pod_ranges: vec![wire_prefix(&[10, 244, 1, 0], 24)],
            pod_routes: vec![v1::PodRoute {
                destination: Some(wire_prefix(&[10, 244, 2, 0], 24)),
                via: vec![192, 0, 2, 12],
            }],
            announced: vec![vec![203, 0, 113, 7]],
            ..v1::NodeConfig::default()
        }
    }

    #[test]
    fn ways_to_pods_and_announced_addresses_are_taken_over() {
        let node = node(&config()).unwrap();
        assert_eq!(node.pod_ranges[0].to_string(), "10.244.1.0/24");
        let [route] = node.pod_routes[..] else { panic!("{node:?}") };
        assert_eq!((route.destination.to_string(), route.via.to_string()), {
            ("10.244.2.0/24".into(), "192.0.2.12".into())
        });
        assert_eq!(node.announced, [Addr::from_v4([203, 0, 113, 7])]);
    }

    #[test]
    fn a_bad_one_is_refused_by_field() {
        type Spoil = fn(&mut v1::NodeConfig);
        let cases: [(&str, Spoil); 9] = [
            ("pod_ranges", |node| node.pod_ranges[0].length = 0),
            ("pod_ranges", |node| node.pod_ranges[0].length = 33),
            ("pod_routes.destination", |node| node.pod_routes[0].destination = None),
            ("pod_routes.destination", |node| {
                node.pod_routes[0].destination = Some(v1::Prefix { address: vec![0; 4], length: 0 })
            }),
            ("pod_routes.via", |node| node.pod_routes[0].via = vec![1; 16]),
            ("pod_routes.via", |node| node.pod_routes[0].via = vec![224, 0, 0, 1]),
            ("pod_routes.via", |node| node.pod_routes[0].via = vec![10]),
            ("announced", |node| node.announced[0] = vec![127, 0, 0, 1]),
            ("announced", |node| node.announced[0] = vec![]),
        ];
        for (field, spoil) in cases {
            let mut config = config();
            spoil(&mut config);
            let error = node(&config).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{field}: {error}");
        }
    }
}
