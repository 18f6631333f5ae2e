//! The loader: modes and their reasons, what outlives a process, replacement, removal.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

#[allow(dead_code, unused_imports, reason = "the loader, as the dataplane has it")]
#[path = "../../dataplane/src/attach/mod.rs"]
mod attach;
#[allow(unused_imports, reason = "its worker is for another test")]
mod support;

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use attach::{
    AttachError, Heartbeats, Interface, Maps, PortKind, Programs, TcHook, XdpMode, remove_all,
};
use aya::programs::links::{FdLink, PinnedLink};
use support::{Lab, inside, ip, is_privileged};
use weir_xdp_redirect::{AddressClass, COUNTERS, FailureMode, L4Port, PortEntry, Settings};

#[test]
fn an_uplink_is_native_or_says_why_not() {
    if !is_privileged() {
        return;
    }
    let mut lab = Lab::new();
    let node = lab.add("node");
    ip(&node, "link add good type veth peer name good-peer");
    ip(&node, "link add jumbo mtu 9000 type veth peer name jumbo-peer mtu 9000");
    ip(&node, "link add queues-peer numtxqueues 4 type veth peer name queues");
    inside(&node, || {
        let programs = Programs::open(&lab.pin_dir).unwrap();
        let attach = |name: &str, uplink| {
            let device = Interface::by_name(name).unwrap();
            let attachment = programs.attach_uplink(&device, uplink).unwrap();
            println!("{name}: {:?}: {}", attachment.mode, attachment.reason);
            attachment
        };
        assert_eq!(attach("good", 0).mode, XdpMode::Native);
        for (name, number, word) in
            [("jumbo", 1, "MTU"), ("queues", 2, "queues"), ("lo", 3, "no native XDP")]
        {
            let attachment = attach(name, number);
            assert_eq!(attachment.mode, XdpMode::Generic, "{name}");
            assert!(attachment.reason.contains(word), "{name}: {}", attachment.reason);
        }
        assert!(ip(&node, "link show good").contains(" xdp "));
        assert!(ip(&node, "link show jumbo").contains(" xdpgeneric "));
        let good = Interface::by_name("good").unwrap();
        let error = programs.attach_uplink(&good, 99).unwrap_err();
        assert!(matches!(error, AttachError::NoSlot { number: 99, .. }), "{error}");
        let error = Interface::by_name("absent").unwrap_err().to_string();
        assert!(error.starts_with("absent: no such interface"), "{error}");
        remove_all(&lab.pin_dir).unwrap();
    });
    assert!(!ip(&node, "link show").contains("xdp"), "removed from every device");
    assert!(!lab.pin_dir.exists());
}

#[test]
fn another_program_on_the_device_is_left_alone() {
    if !is_privileged() {
        return;
    }
    let mut lab = Lab::new();
    let other = Lab::new();
    let node = lab.add("node");
    ip(&node, "link add up0 type veth peer name peer");
    inside(&node, || {
        let device = Interface::by_name("up0").unwrap();
        Programs::open(&other.pin_dir).unwrap().attach_uplink(&device, 0).unwrap();
        let error = Programs::open(&lab.pin_dir).unwrap().attach_uplink(&device, 0).unwrap_err();
        println!("{error}");
        assert!(matches!(error, AttachError::Busy { .. }), "{error}");
        remove_all(&lab.pin_dir).unwrap();
        assert!(ip(&node, "link show up0").contains(" xdp "), "the other one stays");
        remove_all(&other.pin_dir).unwrap();
    });
}

#[test]
fn links_and_maps_outlive_the_process_and_programs_are_replaced() {
    if is_privileged() {
        outlive(TcHook::Tcx, 6);
        outlive(TcHook::Clsact, 2); // filters are no links: only the two XDP programs have one
    }
}

fn outlive(hook: TcHook, links_expected: usize) {
    let mut lab = Lab::new();
    let node = lab.add("node");
    for link in ["up0", "trunk0", "pod0", "weir0p"] {
        ip(&node, &format!("link add {link} type veth peer name {link}-peer"));
    }
    let address: IpAddr = "fd00:96::10".parse().unwrap();
    inside(&node, || {
        attach_all(&lab.pin_dir, hook);
        Maps::open(&lab.pin_dir).unwrap().set_address(address, AddressClass::SERVICE).unwrap();
        let before = links(&lab.pin_dir);
        assert_eq!(before.len(), links_expected, "{before:?}");
        assert_eq!(filters(&node), (hook == TcHook::Clsact) as usize * 4);

        attach_all(&lab.pin_dir, hook);
        let after = links(&lab.pin_dir);
        for (name, (link, program)) in &before {
            assert_eq!(after[name].0, *link, "{name}: the same link");
            assert_ne!(after[name].1, *program, "{name}: a new program");
        }
        assert_eq!(after.len(), before.len());
        assert_eq!(filters(&node), (hook == TcHook::Clsact) as usize * 4, "none twice");
        let kept = Maps::open(&lab.pin_dir).unwrap().addresses().unwrap();
        assert_eq!(kept, [(address, AddressClass::SERVICE)]);

        // A pod goes: with its interface, and without.
        ip(&node, "link del pod0");
        let programs = Programs::open_with_hook(&lab.pin_dir, hook).unwrap();
        assert!(!pins(&lab.pin_dir).iter().any(|pin| pin.starts_with("port_out")), "pruned");
        let host = Interface::by_name("weir0p").unwrap();
        programs.detach(host.ifindex).unwrap();
        programs.detach(host.ifindex).unwrap();
        assert!(!pins(&lab.pin_dir).iter().any(|pin| pin.starts_with("port_in")));

        remove_all(&lab.pin_dir).unwrap();
        remove_all(&lab.pin_dir).unwrap();
        assert!(!lab.pin_dir.exists());
        assert_eq!(filters(&node), 0);
    });
}

#[test]
fn maps_keep_what_they_are_given() {
    if !is_privileged() {
        return;
    }
    let mut lab = Lab::new();
    let node = lab.add("node");
    inside(&node, || {
        let programs = Programs::open(&lab.pin_dir).unwrap();
        let mut maps = programs.maps().unwrap();
        let v4: IpAddr = "10.96.0.10".parse().unwrap();
        maps.set_address(v4, AddressClass::pod(true)).unwrap();
        assert_eq!(maps.addresses().unwrap(), [(v4, AddressClass::pod(true))]);
        maps.remove_address(v4).unwrap();
        maps.remove_address(v4).unwrap();
        assert!(maps.addresses().unwrap().is_empty());

        let key = L4Port::new(17, 30_053);
        maps.set_node_l4_port(key).unwrap();
        assert_eq!(maps.node_l4_ports().unwrap(), [key]);
        maps.remove_node_l4_port(key).unwrap();
        maps.remove_node_l4_port(key).unwrap();

        let entry = PortEntry { trunk_ifindex: 7, xsk_slot: 1, flags: 1 };
        maps.set_port(12, entry).unwrap();
        assert_eq!(maps.ports().unwrap(), [(12, entry)]);
        maps.remove_port(12).unwrap();
        maps.remove_port(12).unwrap();

        assert_eq!(maps.settings().unwrap(), Settings::DEFAULT);
        let settings = Settings { failure_mode: FailureMode::CLOSED, ..Settings::DEFAULT };
        maps.set_settings(settings).unwrap();
        assert_eq!(maps.settings().unwrap(), settings);

        let mut heartbeats = Heartbeats::open(&lab.pin_dir).unwrap();
        heartbeats.stamp(5, 1234).unwrap();
        assert_eq!(heartbeats.read(5).unwrap(), 1234);
        assert!(heartbeats.stamp(weir_xdp_redirect::XSK_SLOTS, 1).is_err());
        maps.clear_xsk(5).unwrap();
        assert_eq!(maps.counters().unwrap().len(), COUNTERS.len());

        let max = weir_xdp_redirect::PORTS_MAX;
        for ifindex in 1..=max {
            maps.set_port(ifindex, entry).unwrap();
        }
        let error = maps.set_port(max + 1, entry).unwrap_err();
        assert!(matches!(error, AttachError::MapFull { .. }), "{error}");
        remove_all(&lab.pin_dir).unwrap();
    });
}

#[test]
fn a_pin_directory_that_cannot_be_made_is_named() {
    if !is_privileged() {
        return;
    }
    let path = Path::new("/proc/weir-pins");
    let error = Programs::open(path).err().expect("proc takes no directories").to_string();
    assert!(error.contains("/proc/weir-pins"), "{error}");
}

/// As a process does at its start; all of its handles are closed at the end.
fn attach_all(pin_dir: &Path, hook: TcHook) {
    let mut programs = Programs::open_with_hook(pin_dir, hook).unwrap();
    let named = |name: &str| Interface::by_name(name).unwrap();
    programs.attach_uplink(&named("up0"), 0).unwrap();
    programs.attach_trunk(&named("trunk0"), &named("trunk0-peer"), 0).unwrap();
    programs.attach_port(&named("pod0"), PortKind::Pod).unwrap();
    programs.attach_port(&named("weir0p"), PortKind::Host).unwrap();
}

fn pins(pin_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(pin_dir.join("links")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Link and program ids by pin.
fn links(pin_dir: &Path) -> BTreeMap<String, (u32, u32)> {
    let linked = pins(pin_dir).into_iter().filter(|name| !name.contains("clsact"));
    linked
        .map(|name| {
            let pinned = PinnedLink::from_pin(pin_dir.join("links").join(&name)).unwrap();
            let info = FdLink::from(pinned).info().unwrap();
            (name, (info.id(), info.program_id()))
        })
        .collect()
}

/// Our filters on clsact qdiscs.
fn filters(node: &str) -> usize {
    let mut found = 0;
    for device in ["trunk0", "pod0", "weir0p"] {
        for side in ["ingress", "egress"] {
            let args = ["-n", node, "filter", "show", "dev", device, side];
            let output = std::process::Command::new("tc").args(args).output().unwrap();
            found += String::from_utf8_lossy(&output.stdout).matches("direct-action").count();
        }
    }
    found
}
