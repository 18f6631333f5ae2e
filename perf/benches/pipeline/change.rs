//! What a change costs: one endpoint among many, everything at once, one Maglev table.

use std::hint::black_box;

use weir_packet::{Addr, protocol};
use weir_perf::samples::{Group, Options, time_per_item_ns};
use weir_tables::{
    Algorithm, Backend, BackendAddr, BackendState, Frontend, FrontendKey, FrontendType,
    MaglevParams, MaglevTable, Object, Tables,
};

const SERVICES: u32 = 10_000;
const BACKENDS: u32 = 10;
/// Changes per sample.
const CHANGES: u32 = 500;

pub fn measure(options: &Options) {
    for (algorithm, name) in [(Algorithm::Hash, "hash"), (Algorithm::Maglev, "Maglev 16381")] {
        one_change(options, algorithm, name);
        full_load(options, algorithm, name);
    }
    maglev(options);
}

fn addr(net: u8, number: u32) -> Addr {
    let [_, high, middle, low] = number.to_be_bytes();
    Addr::from_v4([net, high, middle, low])
}

/// The backends of a service; `changed` marks one as leaving.
fn backend_set(service: u32, algorithm: Algorithm, changed: bool) -> Object {
    let backend = |number| Backend {
        addr: BackendAddr { addr: addr(10, service * BACKENDS + number), l4_port: 8080 },
        state: match changed && number == 3 {
            true => BackendState::Terminating,
            false => BackendState::Active,
        },
        weight: 1,
        node: None,
    };
    Object::BackendSet {
        name: format!("bench/service-{service}:http/v4"),
        protocol: protocol::TCP,
        algorithm,
        backends: (0..BACKENDS).map(backend).collect(),
    }
}

fn everything(algorithm: Algorithm) -> Vec<Object> {
    let frontend = |service: u32| {
        Object::Frontend(Frontend::new(
            FrontendKey { addr: addr(96, service), l4_port: 80, protocol: protocol::TCP },
            &format!("bench/service-{service}:http"),
            FrontendType::ClusterIp,
            &format!("bench/service-{service}:http/v4"),
        ))
    };
    let objects = |service| [backend_set(service, algorithm, false), frontend(service)];
    (0..SERVICES).flat_map(objects).collect()
}

fn load(objects: Vec<Object>) -> Tables {
    let mut tables = Tables::new(1);
    for object in objects {
        tables.upsert(object).expect("a valid object");
    }
    tables
}

fn one_change(options: &Options, algorithm: Algorithm, name: &str) {
    let heading = format!("one endpoint changes among 10,000 services, 100,000 endpoints, {name}");
    if !options.wants(&heading) {
        return;
    }
    let mut tables = load(everything(algorithm));
    let mut current = tables.snapshot();
    let mut group = Group::new(&heading, "us per change");
    let mut changed = false;
    group.case("upsert, snapshot, drop of the last snapshot", || {
        changed = !changed;
        let services = (0..CHANGES).map(|number| number * 7919 % SERVICES);
        let sets: Vec<_> =
            services.map(|service| backend_set(service, algorithm, changed)).collect();
        let sample = time_per_item_ns(sets.len(), || {
            for set in sets {
                tables.upsert(set).expect("a valid set");
                current = tables.snapshot();
            }
        });
        black_box(&current);
        sample / 1e3
    });
    group.measure(options).print();
}

fn full_load(options: &Options, algorithm: Algorithm, name: &str) {
    let heading = format!("full load of 10,000 services, 100,000 endpoints, {name}");
    if !options.wants(&heading) {
        return;
    }
    let mut group = Group::new(&heading, "ms");
    group.case("upserts and one snapshot", || {
        let objects = everything(algorithm);
        let mut loaded = None;
        let sample = time_per_item_ns(1, || {
            let mut tables = load(objects);
            loaded = Some((tables.snapshot(), tables));
        });
        sample / 1e6
    });
    group.measure(options).print();
}

fn maglev(options: &Options) {
    let heading = "Maglev table";
    if !options.wants(heading) {
        return;
    }
    let mut group = Group::new(heading, "us per table");
    for (size, count) in [(16_381, 10), (16_381, 100), (65_521, 100), (65_521, 600)] {
        let params = MaglevParams::new(size, &[]).expect("a size that exists");
        let backend = |number| Backend {
            addr: BackendAddr { addr: addr(10, number), l4_port: 8080 },
            state: BackendState::Active,
            weight: 1,
            node: None,
        };
        let backends: Vec<Backend> = (0..count).map(backend).collect();
        let chosen: Vec<u16> = (0..count as u16).collect();
        group.case(format!("{size} slots, {count} backends"), move || {
            let build =
                || MaglevTable::build(black_box(&backends), &chosen, protocol::TCP, &params);
            let sample = time_per_item_ns(20, || {
                for _ in 0..20 {
                    black_box(build());
                }
            });
            sample / 1e3
        });
    }
    group.measure(options).print();
}
