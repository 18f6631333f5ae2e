//! The same packets through devices of different kinds: the same bytes out, the same counters.

mod common;

use weir_dataplane::clock::VirtualClock;

use common::rig::{CASES, memory, pcap, run};

#[test]
fn memory_and_captures_give_the_same_bytes_and_counters() {
    for family in [4, 6] {
        for case in CASES {
            let clock = VirtualClock::default();
            let in_memory = run(&mut memory(), case, family, &clock);
            assert_eq!(in_memory.sent.len(), case.sent, "{}: {in_memory:?}", case.name);
            let clock = VirtualClock::default();
            let mut replay = pcap(case, family, &clock);
            let captured = run(&mut replay, case, family, &clock);
            assert_eq!(captured, in_memory, "{}, IPv{family}", case.name);
        }
    }
}
