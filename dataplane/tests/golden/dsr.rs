//! Direct server return: this node as the one that balances, and as the one that answers.

use weir_packet::dsr::{parse_geneve, parse_ipip, parse_option};
use weir_packet::{Addr, Parsed, parse};
use weir_tables::{BackendState, DsrDispatch, Forwarding, Object, Prefix};

use crate::common::node::{self, UPLINK_PORT, addr, port_of};
use crate::common::packet;
use crate::common::variants::{FORWARDED, Stage, in_every_world};

/// The address of another node: its pods have the addresses of `remote`.
const OTHER: &str = "router";
const DISPATCHES: [DsrDispatch; 3] = [DsrDispatch::Geneve, DsrDispatch::Ipip, DsrDispatch::Option];

/// Makes a service of backends, each on another node, one of DSR.
fn set_up(s: &mut Stage, dispatch: DsrDispatch, backend: &str) {
    s.configure(|node| {
        node.dsr_dispatch = dispatch;
        let range = |name, length, family| Prefix::new(addr(name, family), length).expect("short");
        node.cluster_ranges = vec![range(OTHER, 32, 4), range(OTHER, 128, 6)];
    });
    let mut sets = node::backend_sets("lb", &[(backend, BackendState::Active)]);
    for object in &mut sets {
        let Object::BackendSet { backends, .. } = object else { continue };
        for backend in backends {
            backend.node = Some(addr(OTHER, if backend.addr.addr.is_v4() { 4 } else { 6 }));
        }
    }
    s.world.upsert(sets);
    s.set_frontends("lb", |row| row.forwarding = Forwarding::Dsr);
}

/// Lets a packet in from outside; the frame that leaves by the uplink.
fn sent(s: &mut Stage, text: &str) -> Vec<u8> {
    let frame = s.frame("out", text);
    s.world.inject(port_of("out"), &frame);
    s.world.settle();
    s.recount();
    let mut sent = s.world.take_sent();
    assert_eq!(sent.len(), 1, "{text}");
    let (port, frame) = sent.remove(0);
    assert_eq!(port, UPLINK_PORT);
    frame
}

/// What is inside, as text, and which service the packet says that it is for.
fn unwrap(frame: &[u8], dispatch: DsrDispatch) -> (String, Option<(Addr, u16)>) {
    let Ok(Parsed::Ip(outer)) = parse(frame) else { panic!("an IP packet") };
    let mut inner = frame.to_vec();
    let service = match dispatch {
        DsrDispatch::Geneve => {
            let found = parse_geneve(frame, &outer.headers).expect("a Geneve packet");
            assert_eq!(outer.key.dst, addr(OTHER, outer.headers.family));
            assert_eq!(outer.key.src, addr("host", outer.headers.family));
            inner.drain(..found.inner_at);
            found.service
        }
        DsrDispatch::Ipip => {
            let found = parse_ipip(frame, &outer.headers).expect("an IPIP packet");
            assert_eq!(outer.key.dst, addr("remote", outer.headers.family));
            inner.drain(14..found.inner_at);
            None
        }
        DsrDispatch::Option => {
            parse_option(frame, &outer.headers, weir_packet::dsr::ByteOrder::Network)
        }
    };
    let text = packet::show(UPLINK_PORT, &inner);
    (text.split(" macs").next().expect("a text").into(), service)
}

#[test]
fn the_service_travels_beside_the_packet() {
    for dispatch in DISPATCHES {
        in_every_world(|s| {
            set_up(s, dispatch, "remote");
            let dst = if dispatch == DsrDispatch::Ipip { "lb:80" } else { "remote:8080" };
            let says = |s: &Stage, port| match dispatch {
                DsrDispatch::Ipip => None,
                _ => Some((addr("lb", s.family), port)),
            };
            for (flags, says) in [("S", says(s, 80)), ("A", None)] {
                let frame = sent(s, &format!("tcp/{flags} client:4000 > lb:80"));
                let (text, service) = unwrap(&frame, dispatch);
                assert_eq!(text, format!("tcp/{flags} client:4000 > {dst} ttl 63"));
                assert_eq!(service, says);
            }
            let dst = if dispatch == DsrDispatch::Ipip { "lb:53" } else { "remote:5353" };
            for _ in 0..2 {
                let frame = sent(s, "udp client:4000 > lb:53");
                let (text, service) = unwrap(&frame, dispatch);
                assert_eq!(text, format!("udp client:4000 > {dst} ttl 63"));
                assert_eq!(service, says(s, 53), "every datagram says so");
            }
            // Without DSR, and from pods, as ever.
            s.forwards("blue: udp blue:4000 > lb:53", "out: udp blue:4000 > remote:5353 ttl 63");
        });
    }
}

#[test]
fn with_a_full_table_new_flows_go_on_without_memory() {
    in_every_world(|s| {
        set_up(s, DsrDispatch::Geneve, "remote");
        for sport in 1000..2500 {
            let frame = sent(s, &format!("udp client:{sport} > lb:53"));
            let (text, _) = unwrap(&frame, DsrDispatch::Geneve);
            assert_eq!(text, format!("udp client:{sport} > remote:5353 ttl 63"));
        }
        let full = |worker: &weir_dataplane::worker::Worker<_>| {
            let flows = worker.flows();
            flows.len() >= flows.capacity() - 8
        };
        assert!(s.world.workers.iter().any(full), "there were more flows than fit");
    });
}

#[test]
fn what_does_not_fit_the_tunnel_is_told_the_size_that_does() {
    in_every_world(|s| {
        set_up(s, DsrDispatch::Geneve, "remote");
        let overhead = if s.family == 4 { 62 } else { 94 };
        let header = if s.family == 4 { 28 } else { 48 };
        let fits = 1500 - overhead - header;
        sent(s, &format!("udp client:4000 > lb:53 len {fits}"));
        let frame = sent(s, &format!("udp client:4000 > lb:53 len {}", fits + 1));
        let Ok(Parsed::Ip(error)) = parse(&frame) else { panic!("an IP packet") };
        let at = usize::from(error.headers.l4);
        let mtu = u32::from_be_bytes(frame[at + 4..at + 8].try_into().expect("four bytes"));
        assert_eq!(mtu, 1500 - overhead);
        assert_eq!(error.key.dst, addr("client", s.family));
    });
}

#[test]
fn the_backends_node_answers_as_the_service() {
    for dispatch in DISPATCHES {
        in_every_world(|s| {
            // What another node sends is what this one would send, with our pod as the backend.
            set_up(s, dispatch, "remote");
            let wrap = |s: &mut Stage, text: &str| {
                let mut frame = sent(s, text);
                readdress(&mut frame, dispatch, s.family);
                frame
            };
            let syn = wrap(s, "tcp/S client:4000 > lb:80");
            let ack = wrap(s, "tcp/A client:4000 > lb:80");
            let datagram = wrap(s, "udp client:4000 > lb:53");
            set_up(s, dispatch, "green");
            let there = |flags: &str| format!("green: tcp/{flags} client:4000 > green:8080 ttl 62");
            if dispatch == DsrDispatch::Geneve {
                s.raw("out", &ack, &[], "received 1, tunnel_refused 1");
            }
            s.raw("out", &syn, &[&there("S")], FORWARDED);
            s.forwards(
                "green: tcp/SA green:8080 > client:4000",
                "out: tcp/SA lb:80 > client:4000 ttl 63",
            );
            s.raw("out", &ack, &[&there("A")], FORWARDED);
            s.world.publish();
            s.raw("out", &ack, &[&there("A")], FORWARDED);
            let there = "green: udp client:4000 > green:5353 ttl 62";
            s.raw("out", &datagram, &[there], FORWARDED);
            s.forwards(
                "green: udp green:5353 > client:4000",
                "out: udp lb:53 > client:4000 ttl 63",
            );
        });
    }
}

/// Turns what this node sent to `remote` on another node into what that node sends to `green` here.
fn readdress(frame: &mut [u8], dispatch: DsrDispatch, family: u8) {
    use weir_packet::{FlowKey, Translation};
    let set = |frame: &mut [u8], to: &dyn Fn(FlowKey) -> FlowKey| {
        let Ok(Parsed::Ip(packet)) = parse(frame) else { panic!("an IP packet") };
        Translation::between(&packet.key, &to(packet.key)).apply(frame, &packet.headers);
    };
    let to_pod = |key: FlowKey| FlowKey { dst: addr("green", family), ..key };
    match dispatch {
        DsrDispatch::Geneve => {
            set(frame, &|key| FlowKey { src: key.dst, dst: key.src, ..key });
            let Ok(Parsed::Ip(outer)) = parse(frame) else { panic!("an IP packet") };
            let at = parse_geneve(frame, &outer.headers).expect("a Geneve packet").inner_at;
            set(&mut frame[at..], &to_pod);
        }
        DsrDispatch::Ipip => set(frame, &|key| FlowKey {
            src: addr(OTHER, family),
            dst: addr("green", family),
            ..key
        }),
        DsrDispatch::Option => set(frame, &to_pod),
    }
    let (from, to) = node::arriving_macs(port_of("out"));
    weir_packet::set_macs(frame, to, from);
}

#[test]
fn nobody_but_a_node_of_the_cluster_makes_a_pod_answer_as_a_service() {
    for dispatch in [DsrDispatch::Geneve, DsrDispatch::Ipip] {
        in_every_world(|s| {
            set_up(s, dispatch, "remote");
            let mut frame = sent(s, "tcp/S client:4000 > lb:80");
            readdress(&mut frame, dispatch, s.family);
            set_up(s, dispatch, "green");
            // The sender is in the cluster, but as a pod might be.
            s.configure(|node| {
                let range = |length, family| {
                    Prefix::new(addr(OTHER, family), length).expect("not too long")
                };
                node.cluster_ranges = vec![range(24, 4), range(64, 6)];
            });
            s.raw("out", &frame, &[], "received 1, tunnel_refused 1");
        });
    }
}

#[test]
fn a_pod_answers_as_no_service_but_its_own() {
    for dispatch in [DsrDispatch::Geneve, DsrDispatch::Option] {
        in_every_world(|s| {
            set_up(s, dispatch, "remote");
            let mut frame = sent(s, "tcp/S client:4000 > lb:80");
            readdress(&mut frame, dispatch, s.family);
            set_up(s, dispatch, "red");
            s.raw("out", &frame, &[], "received 1, tunnel_refused 1");
        });
    }
}
