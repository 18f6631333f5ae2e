//! Thousands of services with ten endpoints each, and hundreds of policies: what the agent needs
//! for them, how soon they are in use, and what one more change costs.

use std::{thread, time::Duration};

use anyhow::{Result, anyhow, ensure};
use serde_json::Value;
use weir_lab::clock::{Stopwatch, pause};

use super::{
    Options,
    process::Usage,
    scale_objects::{
        ENDPOINTS, NAMESPACES, endpoint_slice, namespace, namespaces, policy, service,
    },
    watch::Sight,
};
use crate::cluster::Cluster;

const PROGRAMS: [&str; 2] = ["weir-agent", "weir-dataplane"];
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(600);
/// Each a run of kubectl, which sends 50 requests a second at most.
const SENDERS: usize = 4;
/// Changes of one EndpointSlice whose cost is taken.
const CHANGES: u32 = 10;
/// After the last change, so that what it causes is in the figures.
const REST: Duration = Duration::from_secs(3);

/// # Errors
/// Nodes do not converge, before or after the objects are deleted.
pub fn run(options: &Options, cluster: &Cluster) -> Result<()> {
    let nodes = cluster.nodes()?;
    remove(cluster)?;
    let before = nodes.iter().map(|node| Sight::of(cluster, node)).collect::<Result<Vec<_>>>()?;
    print_usage(cluster, &nodes, "before")?;
    let result = measure(options, cluster, &nodes, &before);
    remove(cluster)?;
    result?;
    let watch = Stopwatch::start();
    for (node, before) in nodes.iter().zip(&before) {
        wait_for(cluster, node, before.services, before.policies)?;
    }
    println!("deleted             in use nowhere after {:.1} s", watch.elapsed().as_secs_f64());
    pause(REST);
    print_usage(cluster, &nodes, "after")
}

fn measure(options: &Options, cluster: &Cluster, nodes: &[String], before: &[Sight]) -> Result<()> {
    cluster.send("create", &namespaces())?;
    let start = nodes.iter().map(|node| usages(cluster, node)).collect::<Result<Vec<_>>>()?;
    let watch = Stopwatch::start();
    let slices = (0..options.services).map(|number| endpoint_slice(number, 0));
    let services = (0..options.services).map(service);
    let policies = (0..options.policies).map(policy);
    create(cluster, services.chain(slices).chain(policies).collect())?;
    let created = watch.elapsed().as_secs_f64();
    println!(
        "created             {} services, {} endpoints, {} policies in {created:.1} s",
        options.services,
        options.services * ENDPOINTS,
        options.policies,
    );
    let watch = Stopwatch::start();
    for (node, before) in nodes.iter().zip(before) {
        let services = before.services + u64::from(options.services);
        wait_for(cluster, node, services, before.policies + u64::from(options.policies))?;
    }
    println!("converged           {:.1} s after the last object", watch.elapsed().as_secs_f64());
    pause(REST);
    for (node, start) in nodes.iter().zip(start) {
        let end = usages(cluster, node)?;
        for ((program, start), (_, end)) in start.iter().zip(&end) {
            let cpu = end.cpu_since(start).as_secs_f64();
            println!("{node:<10} {program:<15} {cpu:.2} s of CPU for all of them");
        }
    }
    print_usage(cluster, nodes, "with all of them")?;
    change_one(cluster, nodes)
}

/// The same few objects again and again: one endpoint of one service moves.
fn change_one(cluster: &Cluster, nodes: &[String]) -> Result<()> {
    let mut took_ms = Vec::new();
    let start = nodes.iter().map(|node| usages(cluster, node)).collect::<Result<Vec<_>>>()?;
    let node = &nodes[0];
    for shift in 1..=CHANGES {
        let before = Sight::of(cluster, node)?;
        // From the end of kubectl, so its own second is not counted: a change that is in use
        // before kubectl has ended counts as nothing.
        cluster.send("replace", &[endpoint_slice(7, shift)])?;
        let watch = Stopwatch::start();
        Cluster::wait("one change to be in use", Duration::from_secs(30), || {
            let sight = Sight::of(cluster, node)?;
            Ok((sight.snapshot > before.snapshot && sight.is_settled()).then_some(()))
        })?;
        took_ms.push(watch.elapsed().as_millis());
    }
    took_ms.sort_unstable();
    let (median, most) = (took_ms[took_ms.len() / 2], took_ms[took_ms.len() - 1]);
    println!("one more change     in use {median} ms after kubectl ended, {most} ms at most");
    pause(REST);
    for (node, start) in nodes.iter().zip(start) {
        let end = usages(cluster, node)?;
        for ((program, start), (_, end)) in start.iter().zip(&end) {
            let cpu_ms = end.cpu_since(start).as_secs_f64() * 1e3 / f64::from(CHANGES);
            println!("{node:<10} {program:<15} {cpu_ms:.1} ms of CPU a change, idling included");
        }
    }
    Ok(())
}

/// Several runs of kubectl at once, each with its part.
fn create(cluster: &Cluster, objects: Vec<Value>) -> Result<()> {
    let mut parts: Vec<Vec<Value>> = vec![Vec::new(); SENDERS];
    for (index, object) in objects.into_iter().enumerate() {
        parts[index % SENDERS].push(object);
    }
    thread::scope(|scope| {
        let send = |part: &Vec<Value>| cluster.send("create", part);
        let threads: Vec<_> = parts.iter().map(|part| scope.spawn(move || send(part))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| anyhow!("a thread that runs kubectl panicked"))?
        })
    })
}

fn wait_for(cluster: &Cluster, node: &str, services: u64, policies: u64) -> Result<()> {
    let what = format!("{node} to use {services} services and {policies} policies");
    Cluster::wait(&what, CONVERGENCE_TIMEOUT, || {
        let sight = Sight::of(cluster, node)?;
        let is_there = sight.services == services && sight.policies == policies;
        Ok((is_there && sight.is_settled()).then_some(()))
    })
}

fn usages(cluster: &Cluster, node: &str) -> Result<Vec<(&'static str, Usage)>> {
    PROGRAMS.iter().map(|name| Ok((*name, Usage::of(cluster, node, name)?))).collect()
}

fn print_usage(cluster: &Cluster, nodes: &[String], when: &str) -> Result<()> {
    for node in nodes {
        for (program, usage) in usages(cluster, node)? {
            println!("{node:<10} {program:<15} {when}: {usage}");
        }
    }
    Ok(())
}

fn remove(cluster: &Cluster) -> Result<()> {
    let names: Vec<String> = (0..NAMESPACES).map(namespace).collect();
    let mut arguments = vec!["delete", "namespace", "--ignore-not-found", "--timeout=600s"];
    arguments.extend(names.iter().map(String::as_str));
    cluster.kubectl(&arguments).map(drop)?;
    let left = cluster.kubectl(&["get", "namespace", "-l", "weir-e2e=scale", "-o", "name"])?;
    ensure!(left.trim().is_empty(), "still there: {left}");
    Ok(())
}
