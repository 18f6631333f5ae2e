//! A dataplane that dies under default deny: what is denied stays denied, what is allowed survives.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use weir_lab::clock::{Stopwatch, pause, wait_until};

use crate::{
    bed::{Bed, PATIENCE},
    small::serve_pods,
    traffic::{Stream, Transfer, bind_udp},
};

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: x}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
    - from: [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}]
";

/// How long the node is without a dataplane: longer than the kernel needs to notice.
const DEAD: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(2500)];
const AFTER: Duration = Duration::from_millis(1000);

pub fn check_restart(bed: &mut Bed) -> Result<()> {
    serve_pods(bed)?;
    for is_v4 in [true, false] {
        for dead in DEAD {
            check_once(bed, is_v4, dead)?;
        }
    }
    Ok(())
}

fn check_once(bed: &mut Bed, is_v4: bool, dead: Duration) -> Result<()> {
    bed.apply("")?;
    let to = SocketAddr::new(bed.address("x/a", is_v4)?, 80);
    let transfer = Transfer::start(bed.host("y/b")?, to)?;
    // Of another node, of the same node, and from outside.
    let outside = if is_v4 { "203.0.113.10" } else { "2001:db8::1" };
    let mut streams = Vec::new();
    for (from, port) in [("z/b", 7001), ("x/c", 7002), (outside, 7003)] {
        let host = if from == outside { "outside" } else { from };
        let sender = bind_udp(bed.host(host)?, bed.address(from, is_v4)?, 0)?;
        streams.push((from, Stream::start(sender, bind_udp(bed.host("x/a")?, to.ip(), port)?)?));
    }
    wait_until("a transfer", PATIENCE, || (transfer.echoed_bytes() > 50_000).then_some(()))?;
    for (from, stream) in &streams {
        let what = format!("datagrams of {from} while nothing is denied");
        wait_until(&what, PATIENCE, || (stream.received() > 50).then_some(()))?;
    }
    bed.apply(POLICY)?;
    // What was under way.
    pause(Duration::from_millis(50));
    let allowed: Vec<u64> = streams.iter().map(|(_, it)| it.received()).collect();
    let watch = Stopwatch::start();
    bed.world.nodes()[0].dataplane().context("a dataplane")?.kill();
    pause(dead);
    let before = transfer.echoed_bytes();
    bed.world.nodes_mut()[0].start_dataplane()?;
    let started = watch.elapsed();
    let went_on = wait_until("the allowed connection to go on", PATIENCE, || {
        (transfer.echoed_bytes() > before + 10_000).then(|| watch.elapsed())
    })?;
    bed.world.nodes()[0].wait_until_settled()?;
    pause(AFTER);
    let mut passed = Vec::new();
    for ((from, stream), allowed) in streams.into_iter().zip(allowed) {
        let (sent, received) = stream.finish()?;
        passed.push((from, sent, received - allowed));
    }
    println!(
        "    {to}: dead for {dead:?}, ready after {started:?}, allowed went on after {went_on:?}; \
         denied (from, sent, arrived): {passed:?}"
    );
    ensure!(passed.iter().all(|it| it.2 == 0), "denied packets passed: {passed:?}");
    transfer.finish()
}
