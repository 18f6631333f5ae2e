//! Types of ICMP, by number or name (`pkg/policy/api/icmp.go`; numbers by IANA).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::super::fields::Findings;
use super::schema::IcmpRule;
use crate::model::{PolicyPort, PolicyProtocol, PortChoice, Severity};

/// Types of one entry.
const FIELDS_MAX: usize = 40;

const TYPES_V4: [(&str, u8); 15] = [
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("RouterSolicitation", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

const TYPES_V6: [(&str, u8); 27] = [
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];

pub(super) fn read_icmps(
    path: &str,
    rules: &[IcmpRule],
    findings: &mut Findings,
) -> Vec<PolicyPort> {
    let mut types = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{i}].fields");
        let fields = rule.fields.as_deref().unwrap_or_default();
        if fields.len() > FIELDS_MAX {
            let reason = format_args!("{} types are more than {FIELDS_MAX}", fields.len());
            findings.refuse(path.as_str(), reason);
        }
        if fields.is_empty() {
            let reason = "no types: this entry is about nothing";
            findings.push(path.clone(), reason.into(), Severity::Ignored);
        }
        for (i, field) in fields.iter().enumerate() {
            let path = format!("{path}[{i}]");
            let family = field.family.as_deref().filter(|it| !it.is_empty()).unwrap_or("IPv4");
            let (protocol, names) = match family {
                "IPv4" => (PolicyProtocol::Icmp, &TYPES_V4[..]),
                "IPv6" => (PolicyProtocol::Icmpv6, &TYPES_V6[..]),
                other => {
                    let reason = format_args!("unknown family {other:?}: give IPv4 or IPv6");
                    findings.refuse(format!("{path}.family"), reason);
                    continue;
                }
            };
            match read_type(&field.type_, names) {
                Some(number) => {
                    let number = u16::from(number);
                    types.push(PolicyPort { protocol, port: PortChoice::Range(number, number) });
                }
                None => {
                    let reason = format!(
                        "{} is not an ICMP type of {family}: give 0..255 or a name, as EchoReply",
                        describe(&field.type_)
                    );
                    findings.refuse(format!("{path}.type"), reason);
                }
            }
        }
    }
    types
}

fn read_type(type_: &IntOrString, names: &[(&str, u8)]) -> Option<u8> {
    match type_ {
        IntOrString::Int(number) => u8::try_from(*number).ok(),
        IntOrString::String(text) if text.bytes().all(|it| it.is_ascii_digit()) => {
            text.parse().ok()
        }
        IntOrString::String(text) => {
            names.iter().find(|(name, _)| name == text).map(|(_, number)| *number)
        }
    }
}

fn describe(type_: &IntOrString) -> String {
    match type_ {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => format!("{text:?}"),
    }
}
