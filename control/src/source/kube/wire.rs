//! Answers of the API server to objects: pages of lists, lines of watches.

use std::hash::{DefaultHasher, Hasher};
use std::io;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::trim::Keep;
use crate::model::Name;

/// One object as it came, with only what is read of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its name.
    pub name: Name,
    /// Rises with every change of it; 0 where the server gave no number.
    pub version: u64,
    /// Changes when anything does that is read.
    pub digest: u64,
    /// The object.
    pub value: Value,
}

impl Item {
    fn new(mut value: Value) -> Result<Self, String> {
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let metadata = metadata.ok_or("an object without metadata")?;
        let version = metadata.remove("resourceVersion");
        let version = version.as_ref().and_then(Value::as_str).map_or(0, parse_version);
        let text = |field| metadata.get(field).and_then(Value::as_str).unwrap_or_default();
        let name = Name::new(text("namespace"), text("name"));
        if name.name.is_empty() {
            return Err("an object without metadata.name".into());
        }
        let mut digest = Digest(DefaultHasher::new());
        serde_json::to_writer(&mut digest, &value).map_err(|error| error.to_string())?;
        Ok(Self { name, version, digest: digest.0.finish(), value })
    }
}

/// Versions are numbers that rise within a resource (KEP-5504).
fn parse_version(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

struct Digest(DefaultHasher);

impl io::Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Part of a list.
#[derive(Debug, PartialEq)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// Version of the whole list: where a watch goes on.
    pub(super) version: String,
    /// For the next page, if there is one.
    pub(super) next: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    r#continue: Option<String>,
}

/// Reads one page.
///
/// # Errors
/// It is no list, or cut off.
pub(super) fn read_page(text: &[u8], keep: Keep) -> Result<Page, String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let (metadata, values) =
        PageSeed(keep).deserialize(&mut reader).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    let metadata = metadata.ok_or("a list without metadata")?;
    let values = values.ok_or("a list without items")?;
    if metadata.resource_version.is_empty() {
        return Err("a list without metadata.resourceVersion".into());
    }
    let items = values.into_iter().map(Item::new).collect::<Result<_, _>>()?;
    let next = metadata.r#continue.filter(|it| !it.is_empty());
    Ok(Page { items, version: metadata.resource_version, next })
}

struct PageSeed(Keep);

impl<'de> DeserializeSeed<'de> for PageSeed {
    type Value = (Option<ListMetadata>, Option<Vec<Value>>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for PageSeed {
    type Value = (Option<ListMetadata>, Option<Vec<Value>>);

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let (mut metadata, mut items) = (None, None);
        while let Some(name) = fields.next_key::<String>()? {
            match name.as_str() {
                "metadata" => metadata = Some(fields.next_value()?),
                "items" => items = Some(fields.next_value_seed(ItemsSeed(self.0))?),
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((metadata, items))
    }
}

struct ItemsSeed(Keep);

impl<'de> DeserializeSeed<'de> for ItemsSeed {
    type Value = Vec<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemsSeed {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    /// Some servers write an empty list so.
    fn visit_unit<E: serde::de::Error>(self) -> Result<Vec<Value>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Value>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.0)? {
            list.push(item);
        }
        Ok(list)
    }
}

/// One line of a watch.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// Added or changed.
    Put(Item),
    /// Gone.
    Deleted(Item),
    /// Nothing changed up to this version.
    Bookmark(u64),
    /// The server ends the watch: status code and message.
    Failed(u16, String),
}

/// Reads one line; with the version that a watch can go on from.
///
/// # Errors
/// It is not one that a watch sends, or cut off.
pub(super) fn read_line(text: &[u8], keep: Keep) -> Result<(Line, String), String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let (kind, object) = LineSeed(keep).deserialize(&mut reader).map_err(|it| it.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    if kind == "ERROR" {
        let code = object.get("code").and_then(Value::as_u64).unwrap_or(0);
        let message = object.get("message").and_then(Value::as_str).unwrap_or_default();
        let failed = Line::Failed(u16::try_from(code).unwrap_or(0), message.to_owned());
        return Ok((failed, String::new()));
    }
    let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    let version = version.filter(|it| !it.is_empty()).map(str::to_owned);
    let version = version.ok_or_else(|| format!("{kind} without metadata.resourceVersion"))?;
    let line = match kind.as_str() {
        "ADDED" | "MODIFIED" => Line::Put(Item::new(object)?),
        "DELETED" => Line::Deleted(Item::new(object)?),
        "BOOKMARK" => Line::Bookmark(parse_version(&version)),
        other => return Err(format!("an event of type {other:?}")),
    };
    Ok((line, version))
}

struct LineSeed(Keep);

impl<'de> DeserializeSeed<'de> for LineSeed {
    type Value = (String, Value);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for LineSeed {
    type Value = (String, Value);

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an event of a watch")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let (mut kind, mut object) = (String::new(), Value::Null);
        // API servers write the type first; nothing says that they must.
        let mut is_early = false;
        while let Some(name) = fields.next_key::<String>()? {
            match name.as_str() {
                "type" => kind = fields.next_value()?,
                // What is no object of the kind has other fields.
                "object" if matches!(kind.as_str(), "ERROR" | "") => {
                    is_early = kind.is_empty();
                    object = fields.next_value_seed(Keep::All)?;
                }
                "object" => object = fields.next_value_seed(self.0)?,
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        if is_early && kind != "ERROR" {
            object = self.0.deserialize(object).map_err(serde::de::Error::custom)?;
        }
        Ok((kind, object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::resources::Resource;
    use super::*;
    use crate::model::Kind;
    use crate::source::kubernetes::convert;

    /// Objects with every field that conversion reads, and others beside them.
    fn full(kind: Kind) -> Value {
        let mut object = match kind {
            Kind::Service => json!({
                "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.1"],
                    "clusterIP": "10.96.0.1",
                    "externalIPs": ["192.0.2.7"], "sessionAffinity": "ClientIP",
                    "loadBalancerSourceRanges": ["198.51.100.0/24"], "selector": {"app": "a"},
                    "ports": [
                        {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080}]},
                "status": {"conditions": [], "loadBalancer": {"ingress": [{"ip": "192.0.2.8"}]}},
            }),
            Kind::EndpointSlice => json!({
                "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n1", "zone": "z",
                    "conditions": {"ready": false, "serving": true, "terminating": true},
                    "hints": {"forZones": [{"name": "z"}]}, "targetRef": {"kind": "Pod"}}],
            }),
            Kind::Pod => json!({
                "spec": {"nodeName": "n1", "serviceAccountName": "sa", "hostNetwork": false,
                    "volumes": [{"name": "v"}],
                    "containers": [{"name": "c", "image": "i", "env": [{"name": "E"}], "ports": [
                        {"name": "web", "containerPort": 80, "hostPort": 81,
                            "hostIP": "192.0.2.1"}]}],
                    "initContainers": [{"name": "s", "restartPolicy": "Always",
                        "ports": [{"name": "side", "containerPort": 82}]}]},
                "status": {"phase": "Running", "podIP": "10.0.0.1",
                    "startTime": "2026-01-02T03:04:05Z",
                    "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                    "conditions": [{"type": "Ready", "status": "False", "lastProbeTime": null}]},
            }),
            Kind::Node => json!({
                "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"],
                    "taints": [{"key": "k", "effect": "NoSchedule"}]},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                    "conditions": [{"type": "Ready", "status": "True",
                        "lastHeartbeatTime": "2026-01-02T03:04:05Z"},
                        {"type": "NetworkUnavailable", "status": "False", "reason": "WeirIsUp"}],
                    "images": [{"names": ["i"]}]},
            }),
            Kind::NetworkPolicy => json!({"spec": {"podSelector": {}, "policyTypes": ["Egress"]}}),
            Kind::CiliumNetworkPolicy => json!({"specs": [
                {"endpointSelector": {}, "ingress": [{}]}], "status": {"conditions": []}}),
            Kind::CiliumClusterwideNetworkPolicy => {
                json!({"spec": {"endpointSelector": {}, "egressDeny": [{}]}})
            }
            Kind::CiliumCidrGroup => json!({"spec": {"externalCIDRs": ["192.0.2.0/24"]}}),
            Kind::ClusterNetworkPolicy => json!({"spec": {"tier": "Admin", "priority": 1,
                "subject": {"namespaces": {}}, "ingress": []}}),
            Kind::Namespace => json!({"status": {"phase": "Active"}}),
        };
        object["metadata"] = json!({
            "name": "x", "namespace": "default", "uid": "u", "generation": 3,
            "resourceVersion": "7", "creationTimestamp": "2026-01-02T03:04:05Z",
            "deletionTimestamp": "2026-01-02T03:04:06Z",
            "labels": {"kubernetes.io/service-name": "x", "l": "v"},
            "annotations": {"service.cilium.io/lb-algorithm": "maglev", "a": "b",
                "policy.weir.dev/audit": "true", "service.cilium.io/weight": "7"},
            "managedFields": [{"manager": "m"}],
        });
        object
    }

    #[test]
    fn what_is_left_out_is_what_nobody_reads() {
        for kind in Kind::ALL {
            let value = full(kind);
            let name = Name::new("default", "x");
            let whole = convert(kind, name.clone(), None, &value);
            let text = json!({"metadata": {"resourceVersion": "9"}, "items": [value]}).to_string();
            let page = read_page(text.as_bytes(), Resource::of(kind).keep()).unwrap();
            let item = &page.items[0];
            assert_eq!((item.version, page.version.as_str(), &item.name), (7, "9", &name));
            assert!(whole.object.is_some(), "{kind:?}: {:?}", whole.findings);
            assert_eq!(convert(kind, name, None, &item.value), whole, "{kind:?}");
            let left = item.value.to_string();
            for gone in ["managedFields", "uid", "image", "volumes", "lastHeartbeatTime", "\"b\""] {
                assert!(!left.contains(gone), "{kind:?}: {gone} in {left}");
            }
        }
    }

    #[test]
    fn lists_and_lines_that_are_cut_off_are_errors() {
        let keep = Resource::of(Kind::Namespace).keep();
        let page = json!({"metadata": {"resourceVersion": "9", "continue": ""},
            "items": [full(Kind::Namespace)]});
        let page = page.to_string();
        assert_eq!(read_page(page.as_bytes(), keep).unwrap().next, None);
        let line = json!({"type": "ADDED", "object": full(Kind::Namespace)}).to_string();
        let (read, version) = read_line(line.as_bytes(), keep).unwrap();
        assert!(matches!(read, Line::Put(_)) && version == "7");
        for end in 1..page.len() {
            assert!(read_page(&page.as_bytes()[..end], keep).is_err());
        }
        for end in 1..line.len() {
            assert!(read_line(&line.as_bytes()[..end], keep).is_err());
        }
        assert!(read_page(b"{\"items\": []}", keep).is_err(), "no version");
        assert!(read_page(b"{\"metadata\": {\"resourceVersion\": \"1\"}}", keep).is_err());
        let gone = br#"{"type": "ERROR", "object": {"code": 410, "message": "too old"}}"#;
        assert_eq!(read_line(gone, keep).unwrap().0, Line::Failed(410, "too old".into()));
        let bookmark = br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"8"}}}"#;
        assert_eq!(read_line(bookmark, keep).unwrap(), (Line::Bookmark(8), "8".into()));
    }
}
