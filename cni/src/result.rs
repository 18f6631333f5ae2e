//! What ADD gives, in every version of the specification ("Result types").

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use weir_api::v1::AllocateReply;

use crate::error::{CniError, REFUSED};
use crate::version::Version;

/// A pod's interface as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Name of the host side.
    pub host_name: String,
    /// MAC address of the host side, which the gateway has too.
    pub host_mac: [u8; 6],
    /// Name inside the pod.
    pub name: String,
    /// MAC address inside.
    pub mac: [u8; 6],
    /// Bytes; 0 where the agent has lost it: whatever it is.
    pub mtu: u32,
    /// With the next hop of each.
    pub addresses: Vec<Address>,
}

/// One address of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Of its prefix.
    pub length: u8,
    /// Next hop of everything.
    pub gateway: IpAddr,
}

impl Interface {
    /// What the agent answered, for an interface of this name.
    ///
    /// # Errors
    /// The answer makes no sense: agent and plugin are of different versions.
    pub fn read(name: &str, reply: &AllocateReply) -> Result<Self, CniError> {
        let mismatch = |what: &str| {
            let message = format!("weir-agent answers {what}, which this plugin does not know");
            CniError::new(REFUSED, message, "install the weir-cni that belongs to the agent")
        };
        let read_mac = |text: &str| {
            let mac = text.parse::<weir_api::convert::Mac>();
            mac.map(|it| it.0).map_err(|_| mismatch(&format!("the MAC address {text:?}")))
        };
        let mut addresses = Vec::new();
        for (text, gateway) in reply.addresses.iter().zip(&reply.gateways) {
            let parts = text.split_once('/').and_then(|(ip, length)| {
                Some((ip.parse().ok()?, length.parse().ok()?, gateway.parse().ok()?))
            });
            let (ip, length, gateway): (IpAddr, u8, IpAddr) =
                parts.ok_or_else(|| mismatch(&format!("the address {text:?} via {gateway:?}")))?;
            addresses.push(Address { ip, length, gateway });
        }
        if addresses.is_empty() {
            return Err(mismatch("without an address"));
        }
        Ok(Self {
            host_name: reply.host_interface.clone(),
            host_mac: read_mac(&reply.host_mac)?,
            name: name.into(),
            mac: read_mac(&reply.pod_mac)?,
            mtu: reply.mtu,
            addresses,
        })
    }

    /// The result of ADD: what plugins before this one gave, and this interface.
    #[must_use]
    pub fn to_result(&self, netns: &str, prev: Option<&Value>, version: Version) -> Value {
        let prev_list = |name: &str| -> Vec<Value> {
            let list = prev.and_then(|it| it.get(name)).and_then(Value::as_array);
            list.cloned().unwrap_or_default()
        };
        let mut interfaces = prev_list("interfaces");
        let own_index = interfaces.len() + 1;
        interfaces.push(self.write_end(&self.host_name, self.host_mac, None, version));
        interfaces.push(self.write_end(&self.name, self.mac, Some(netns), version));
        let mut ips = prev_list("ips");
        let mut routes = prev_list("routes");
        for address in &self.addresses {
            let mut ip = write_ip(address.ip, address.length, own_index, version);
            ip["gateway"] = address.gateway.to_string().into();
            ips.push(ip);
            let dst = if address.ip.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            routes.push(json!({"dst": dst, "gw": address.gateway.to_string()}));
        }
        let dns = prev.and_then(|it| it.get("dns")).cloned().unwrap_or_else(|| json!({}));
        json!({
            "cniVersion": version.as_str(),
            "interfaces": interfaces,
            "ips": ips,
            "routes": routes,
            "dns": dns,
        })
    }

    fn write_end(&self, name: &str, mac: [u8; 6], netns: Option<&str>, version: Version) -> Value {
        let mut end = Map::new();
        end.insert("name".into(), name.into());
        end.insert("mac".into(), write_mac(mac).into());
        if version >= Version::V110 && self.mtu > 0 {
            end.insert("mtu".into(), self.mtu.into());
        }
        if let Some(netns) = netns {
            end.insert("sandbox".into(), netns.into());
        }
        end.into()
    }

    /// How an earlier result differs from this interface. Interfaces and addresses of other plugins
    /// are no concern of ours.
    #[must_use]
    pub fn compare(&self, result: &Value) -> Vec<String> {
        let list = |name: &str| result.get(name).and_then(Value::as_array).into_iter().flatten();
        let text = |value: &Value, name: &str| -> String {
            value.get(name).and_then(Value::as_str).unwrap_or_default().into()
        };
        let mut differences = Vec::new();
        let own = list("interfaces")
            .enumerate()
            .find(|(_, it)| text(it, "name") == self.name && !text(it, "sandbox").is_empty());
        let Some((index, own)) = own else {
            return vec![format!("prevResult has no interface {} of a container", self.name)];
        };
        let mac = text(own, "mac").to_lowercase();
        if !mac.is_empty() && mac != write_mac(self.mac) {
            differences.push(format!("prevResult has MAC {mac}, not {}", write_mac(self.mac)));
        }
        let is_own =
            |it: &&Value| it.get("interface").and_then(Value::as_u64) == Some(index as u64);
        let given: Vec<String> = list("ips").filter(is_own).map(|it| text(it, "address")).collect();
        for address in &self.addresses {
            let address = format!("{}/{}", address.ip, address.length);
            if !given.contains(&address) {
                differences.push(format!("prevResult has not the address {address}: {given:?}"));
            }
        }
        differences
    }
}

/// The result of ADD for a loopback interface with these addresses and prefix lengths, which comes
/// alone: what plugins before it gave stays what it is.
#[must_use]
pub fn loopback_result(
    name: &str,
    addresses: &[(IpAddr, u8)],
    netns: &str,
    prev: Option<&Value>,
    version: Version,
) -> Value {
    let mut result = prev.cloned().unwrap_or_else(|| {
        let ips = addresses.iter().map(|(ip, length)| write_ip(*ip, *length, 0, version));
        json!({
            "interfaces": [{"name": name, "mac": write_mac([0; 6]), "sandbox": netns}],
            "ips": ips.collect::<Vec<_>>(),
            "dns": {},
        })
    });
    result["cniVersion"] = version.as_str().into();
    result
}

/// An address of the result's interface of this index.
fn write_ip(ip: IpAddr, length: u8, interface: usize, version: Version) -> Value {
    let mut written = json!({"address": format!("{ip}/{length}"), "interface": interface});
    if version < Version::V100 {
        written["version"] = if ip.is_ipv4() { "4" } else { "6" }.into();
    }
    written
}

/// As people write it.
#[must_use]
pub fn write_mac(mac: [u8; 6]) -> String {
    weir_api::convert::Mac(mac).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::ALL;

    fn reply() -> AllocateReply {
        AllocateReply {
            host_interface: "weirp0123456789".into(),
            host_mac: "02:77:65:69:72:01".into(),
            pod_mac: "0a:00:00:00:00:01".into(),
            addresses: vec!["10.244.0.5/32".into(), "fd00::5/128".into()],
            gateways: vec!["169.254.1.1".into(), "fe80::1".into()],
            mtu: 1500,
        }
    }

    #[test]
    fn a_result_has_the_fields_of_its_version() {
        let interface = Interface::read("eth0", &reply()).unwrap();
        for version in ALL {
            let result = interface.to_result("/run/netns/a", None, version);
            assert_eq!(result["cniVersion"], version.as_str());
            let (host, pod) = (&result["interfaces"][0], &result["interfaces"][1]);
            assert_eq!((&host["name"], host.get("sandbox")), (&"weirp0123456789".into(), None));
            assert_eq!((&pod["name"], &pod["sandbox"]), (&"eth0".into(), &"/run/netns/a".into()));
            assert_eq!(pod.get("mtu").is_some(), version == Version::V110);
            let ip = &result["ips"][1];
            assert_eq!(ip["address"], "fd00::5/128");
            assert_eq!((&ip["gateway"], &ip["interface"]), (&"fe80::1".into(), &1.into()));
            let family = ip.get("version").and_then(Value::as_str);
            assert_eq!(family, (version < Version::V100).then_some("6"));
            assert_eq!(result["routes"][0]["dst"], "0.0.0.0/0");
            assert_eq!(interface.compare(&result), [] as [&str; 0]);
        }
    }

    #[test]
    fn earlier_results_are_kept_in_front() {
        let interface = Interface::read("eth0", &reply()).unwrap();
        let prev = json!({"interfaces": [{"name": "dummy0"}], "dns": {"nameservers": ["192.0.2.1"]},
            "ips": [{"address": "192.0.2.9/24", "interface": 0}]});
        let result = interface.to_result("/n", Some(&prev), Version::V100);
        assert_eq!(result["interfaces"][0]["name"], "dummy0");
        assert_eq!(result["ips"][1]["interface"], 2);
        assert_eq!(result["dns"]["nameservers"][0], "192.0.2.1");
        assert_eq!(interface.compare(&result), [] as [&str; 0]);
    }

    #[test]
    fn a_loopback_interface_comes_alone() {
        let addresses = [("127.0.0.1".parse().unwrap(), 8), ("::1".parse().unwrap(), 128)];
        for version in ALL {
            let result = loopback_result("lo", &addresses, "/n", None, version);
            assert_eq!(result["cniVersion"], version.as_str());
            let lo = json!([{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/n"}]);
            assert_eq!(result["interfaces"], lo);
            let ips = result["ips"].as_array().unwrap();
            assert_eq!(
                (&ips[0]["address"], &ips[0]["interface"]),
                (&json!("127.0.0.1/8"), &json!(0))
            );
            assert_eq!(ips[1]["address"], "::1/128");
            let family = ips[1].get("version").and_then(Value::as_str);
            assert_eq!(family, (version < Version::V100).then_some("6"));
        }
        let mut prev = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}]});
        let result = loopback_result("lo", &addresses, "/n", Some(&prev), Version::V110);
        prev["cniVersion"] = "1.1.0".into();
        assert_eq!(result, prev);
    }

    #[test]
    fn differences_are_told() {
        let interface = Interface::read("eth0", &reply()).unwrap();
        let mut result = interface.to_result("/n", None, Version::V110);
        result["interfaces"][1]["mac"] = "0a:00:00:00:00:02".into();
        result["ips"][0]["address"] = "10.244.0.6/32".into();
        let differences = interface.compare(&result).join("; ");
        assert!(differences.contains("has MAC 0a:00:00:00:00:02, not 0a:00:00:00:00:01"));
        assert!(differences.contains("has not the address 10.244.0.5/32"), "{differences}");
        assert!(interface.compare(&json!({}))[0].contains("no interface eth0"));
    }

    #[test]
    fn an_answer_of_another_agent_is_refused() {
        for spoil in [
            |it: &mut AllocateReply| it.pod_mac.clear(),
            |it: &mut AllocateReply| it.addresses[0] = "10.244.0.5".into(),
            |it: &mut AllocateReply| it.addresses.clear(),
        ] {
            let mut reply = reply();
            spoil(&mut reply);
            assert_eq!(Interface::read("eth0", &reply).unwrap_err().code, REFUSED);
        }
    }
}
