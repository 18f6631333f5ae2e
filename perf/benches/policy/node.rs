//! The node of the judged pod: an uplink with everything else behind it, and flows of the pod.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use weir_dataplane::device::memory::Packet;
use weir_dataplane::pipeline::GATEWAY_MAC;
use weir_packet::build::{Path, Segment, emit_tcp};
use weir_packet::{Addr, FlowKey, Mac, protocol, tcp_flags};
use weir_perf::memory::FRAME_BYTES;
use weir_tables::{
    Endpoint, Network, NextHop, Object, PortId, Prefix, Route, RouteTarget, Tables, Uplink,
};

use crate::cluster;
use crate::verdict::{self, FEW, MANY};

const SEED: u64 = 0x7765_6972;
/// The pod of `cluster::endpoint(0, ...)`.
const POD_PORT: PortId = PortId(1);
const POD_MAC: Mac = Mac([2; 6]);
/// What the uplink sends by; it receives by [`PortId::UPLINK`].
const UPLINK_PORT: PortId = PortId(1000);
const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 2, 0]);
const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
/// TCP and IPv4 headers without options, and the Ethernet header.
const HEADERS_BYTES: usize = 54;

/// Who opens a flow, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ToPod,
    ToWorld,
    FromWorld,
}

impl Kind {
    pub const ALL: [(&str, Kind); 3] = [
        ("pod to pod of another node", Kind::ToPod),
        ("pod to world", Kind::ToWorld),
        ("world to pod", Kind::FromWorld),
    ];
}

/// The rules of the pod, and which of them allow the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// The flows are those of [`Rules::Few`].
    None,
    /// 10 per direction.
    Few,
    /// 10,000 per direction; the flows are those of [`Rules::Few`], allowed by the same rules.
    Many,
    /// 10,000 per direction, and the flows are allowed by 3333 of them, in turn.
    ManyInUse,
}

impl Rules {
    pub const ALL: [(&str, Rules); 4] = [
        ("no policy", Rules::None),
        ("10 rules", Rules::Few),
        ("10000 rules", Rules::Many),
        ("10000 rules, 3333 decide", Rules::ManyInUse),
    ];

    /// Those with such peers that decide.
    fn deciding(self) -> u32 {
        match self {
            Rules::None | Rules::Few | Rules::Many => (FEW - 1) / 3,
            Rules::ManyInUse => (MANY - 1) / 3,
        }
    }
}

/// The pod with these rules, in a cluster of 10,000 identities.
pub fn tables(rules: Rules) -> Tables {
    let mut tables = match rules {
        Rules::None => {
            let Object::Endpoint(pod) = cluster::endpoint(0, "") else {
                unreachable!("an endpoint")
            };
            let mut tables = Tables::new(1);
            cluster::load(&mut tables, [Object::Endpoint(Endpoint { policy: None, ..pod })]);
            tables
        }
        Rules::Few => verdict::tables(FEW),
        Rules::Many | Rules::ManyInUse => verdict::tables(MANY),
    };
    tables.set_network(network());
    tables
}

/// Everything is behind one router.
fn network() -> Network {
    let router = Addr::from_v4([192, 0, 2, 1]);
    let prefix = Prefix::new(Addr::unspecified(true), 0).expect("not too long");
    let target = RouteTarget::Uplink { port: UPLINK_PORT, gateway: Some(router) };
    let hop = NextHop { port: UPLINK_PORT, addr: router };
    Network {
        uplinks: vec![Uplink { port: UPLINK_PORT, mac: UPLINK_MAC, mtu: 1500 }],
        routes: vec![Route { prefix, target, metric: 0 }],
        neighbours: [(hop, ROUTER_MAC)].into(),
        ..Network::default()
    }
}

/// A flow of the pod that a rule allows.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    kind: Kind,
    key: FlowKey,
}

impl Flow {
    /// Flow `number` of a kind. Each has a source port of its own.
    pub fn new(number: u32, kind: Kind, rules: Rules) -> Flow {
        let (turn, decides) = (number / rules.deciding(), number % rules.deciding());
        // Rules are about an application, a namespace and a range in turn.
        let (peer, rule) = match kind {
            Kind::ToPod => (pod_of_app(decides, turn), 3 * decides),
            _ => (cluster::world_addr(decides, true), 3 * decides + 2),
        };
        let pod = Addr::from_v4([172, 16, 0, 0]);
        let (src, dst) = if kind == Kind::FromWorld { (peer, pod) } else { (pod, peer) };
        let (sport, dport) = (1024 + number as u16, 1024 + rule as u16);
        let key = FlowKey { src, dst, sport, dport, protocol: protocol::TCP, family: 4, zone: 0 };
        Flow { kind, key }
    }

    /// A 64-byte frame of its client.
    fn request(&self, flags: u8) -> Packet {
        frame(&self.key, flags, self.kind != Kind::FromWorld)
    }

    fn answer(&self, flags: u8) -> Packet {
        frame(&self.key.reversed(), flags, self.kind == Kind::FromWorld)
    }

    /// Its first packet.
    pub fn first(&self) -> Packet {
        self.request(tcp_flags::SYN)
    }

    /// The whole handshake.
    pub fn handshake(&self) -> [Packet; 3] {
        let answer = self.answer(tcp_flags::SYN | tcp_flags::ACK);
        [self.first(), answer, self.later()]
    }

    /// A later packet.
    pub fn later(&self) -> Packet {
        self.request(tcp_flags::ACK)
    }
}

/// The address of a pod of an application, another one each turn.
pub fn pod_of_app(app: u32, turn: u32) -> Addr {
    let per_app = cluster::IDENTITIES / cluster::APPS;
    cluster::pod_addr(app % cluster::APPS + cluster::APPS * (turn % per_app))
}

fn frame(key: &FlowKey, flags: u8, is_of_pod: bool) -> Packet {
    let (port, to, from) = match is_of_pod {
        true => (POD_PORT, GATEWAY_MAC, POD_MAC),
        false => (PortId::UPLINK, UPLINK_MAC, ROUTER_MAC),
    };
    let mut frame = vec![0; FRAME_BYTES];
    let segment = Segment { flags, window: 1000, ..Segment::default() };
    let payload = &[0x5a; FRAME_BYTES - HEADERS_BYTES];
    let payload = if flags & tcp_flags::SYN == 0 { &payload[..] } else { &[] };
    emit_tcp(&mut frame, &Path::of(key, to, from), &segment, payload).expect("room for it");
    (port, frame)
}

/// Flows of a kind, in an order that has nothing to do with their numbers.
pub fn flows(count: u32, kind: Kind, rules: Rules) -> Vec<Flow> {
    let mut order: Vec<u32> = (0..count).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(SEED));
    order.into_iter().map(|number| Flow::new(number, kind, rules)).collect()
}
