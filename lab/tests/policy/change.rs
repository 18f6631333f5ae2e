//! Changes while traffic goes on: what is denied stops, what is allowed again goes on, and how long
//! a label takes.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use serde_json::json;
use weir_lab::clock::{Stopwatch, pause, wait_until};

use crate::{
    bed::Bed,
    small::serve_pods,
    traffic::{Transfer, bind_udp},
};

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: y}
spec: {podSelector: {matchLabels: {pod: b}}, policyTypes: [Ingress]}
";

/// A transfer is watched for that long.
const WATCHED: Duration = Duration::from_millis(500);
/// TCP asks again after 200 ms, then after twice as long each time: cut for a second, it asks
/// within two more.
const RETRANSMISSION: Duration = Duration::from_secs(3);

/// A running transfer's next packets are denied, and pass again when the policy goes.
pub fn check_transfer(bed: &Bed) -> Result<()> {
    serve_pods(bed)?;
    for is_v4 in [true, false] {
        let to = SocketAddr::new(bed.address("y/b", is_v4)?, 80);
        let transfer = Transfer::start(bed.host("x/a")?, to)?;
        wait_until("a transfer", RETRANSMISSION, || {
            (transfer.echoed_bytes() > 100_000).then_some(())
        })?;
        bed.apply(DENY)?;
        // Echoes that were under way.
        pause(Duration::from_millis(50));
        let before = transfer.echoed_bytes();
        pause(WATCHED);
        let passed = transfer.echoed_bytes() - before;
        let watch = Stopwatch::start();
        bed.apply("")?;
        let went_on = wait_until("the transfer to go on", RETRANSMISSION, || {
            (transfer.echoed_bytes() > before + passed).then(|| watch.elapsed())
        });
        println!("    to {to}: {passed} bytes while denied; went on {went_on:?} after the change");
        ensure!(passed == 0, "{passed} bytes passed while denied");
        went_on?;
        transfer.finish()?;
    }
    Ok(())
}

const FRIENDS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends, namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
";

const CHANGES: usize = 20;
/// The agent's file source waits that long for more changes.
const DEBOUNCE_MS: u64 = 20;
const CHANGE_MAX: Duration = Duration::from_secs(5);
/// Questions without an answer that say that it is denied.
const SILENT: usize = 40;

/// From a pod's new label in its manifest to the first packet that is judged by it, at the other
/// pod's node; the flow is an old one.
pub fn measure_labels(bed: &Bed) -> Result<()> {
    serve_pods(bed)?;
    bed.apply(FRIENDS)?;
    for (pod, place) in [("x/b", "another node"), ("x/c", "the same node")] {
        let socket = bind_udp(bed.host(pod)?, bed.address(pod, true)?, 0)?;
        socket.connect((bed.address("x/a", true)?, 80))?;
        let mut number = 0;
        let (mut allowed, mut denied) = (Vec::new(), Vec::new());
        for change in 0..CHANGES {
            let is_friend = change % 2 == 0;
            let us = measure_change(bed, &socket, pod, is_friend, &mut number)?;
            if is_friend { allowed.push(us) } else { denied.push(us) }
        }
        let both: Vec<u64> = allowed.iter().chain(&denied).copied().collect();
        println!(
            "    a pod of {place}, {CHANGES} changes, {DEBOUNCE_MS} ms of each the file source's \
             debounce: {}; until allowed {}, until denied {}",
            describe(both),
            describe(allowed),
            describe(denied)
        );
        bed.apply_object(&file_of(pod), None)?;
    }
    Ok(())
}

fn file_of(pod: &str) -> String {
    format!("pod-{}", pod.replace('/', "-"))
}

fn describe(mut us: Vec<u64>) -> String {
    us.sort_unstable();
    let ms = |at: usize| us[at] as f64 / 1000.0;
    let last = us.len() - 1;
    format!("median {:.1} ms, min {:.1}, max {:.1}", ms(us.len() / 2), ms(0), ms(last))
}

/// Microseconds from the saved file to the sending of the first packet that passes, or of the first
/// after which none passes.
fn measure_change(
    bed: &Bed,
    socket: &UdpSocket,
    pod: &str,
    is_friend: bool,
    number: &mut u64,
) -> Result<u64> {
    let file = file_of(pod);
    let mut object = bed.objects[&file].clone();
    if is_friend {
        object["metadata"]["labels"]["role"] = json!("friend");
    }
    let yaml = object.to_string();
    // By the number of the question: when it was sent, and whether it was answered.
    let first = *number;
    let (mut sent_us, mut is_answered) = (Vec::new(), Vec::new());
    let watch = Stopwatch::start();
    bed.world.nodes()[0].apply(&file, &yaml)?;
    let mut buffer = [0; 64];
    while watch.elapsed() < CHANGE_MAX {
        sent_us.push(watch.elapsed_ns() / 1000);
        is_answered.push(false);
        socket.send(&number.to_be_bytes())?;
        *number += 1;
        while let Ok(length) = socket.recv(&mut buffer) {
            let bytes: [u8; 8] = buffer[..length].try_into()?;
            // Else an answer to an earlier change's question.
            if let Some(at) = u64::from_be_bytes(bytes).checked_sub(first) {
                is_answered[usize::try_from(at)?] = true;
            }
        }
        if is_friend && let Some(at) = is_answered.iter().position(|it| *it) {
            return Ok(sent_us[at]);
        }
        let last = is_answered.iter().rposition(|it| *it).map_or(0, |it| it + 1);
        if !is_friend && is_answered.len() - last > SILENT {
            return Ok(sent_us[last]);
        }
        pause(Duration::from_micros(500));
    }
    bail!("a label of {pod} had no effect within {CHANGE_MAX:?} (friend: {is_friend})")
}
