//! An API server that is away for a while, or asks to be left alone.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use weir_control::model::Kind;

use super::run::Run;
use super::server::{Fault, Server};
use super::{service, start};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_is_asked_seldom_and_found_soon() {
    for seed in 0..100 {
        let server = Server::default();
        let mut run = Run::start(&server, seed);
        assert!(run.next().await);
        server.lock().is_down = true;
        server.lock().hang_up(Some(Fault::Cut));
        run.run_for(ms(60_000)).await;
        assert_eq!(run.problems.len(), 1, "seed {seed}: {:?}", run.problems);
        server.lock().requests.clear();
        run.run_for(ms(240_000 + seed * 37)).await;

        // One of all streams, and each has its turn.
        let asked = std::mem::take(&mut server.lock().requests);
        for pair in asked.windows(2) {
            let gap = pair[1].0 - pair[0].0;
            assert!(gap >= ms(1000) && gap <= ms(2001), "seed {seed}: {gap:?}");
        }
        let kinds: HashSet<Kind> = asked.iter().map(|(_, kind)| *kind).collect();
        assert_eq!(kinds.len(), Kind::ALL.len());

        server.lock().put(Kind::Service, "web", service(1));
        server.lock().is_down = false;
        let back = Instant::now();
        while run.objects != run.expected() {
            assert!(run.next().await, "seed {seed}");
        }
        let took = back.elapsed();
        assert!(took <= ms(2300), "seed {seed}: {took:?}");
        run.run_for(ms(2300) - took).await;
        assert!(run.problems.is_empty(), "seed {seed}: {:?}", run.problems);
        assert_eq!(run.state.borrow().as_str(), "", "seed {seed}");
        assert_eq!(server.lock().requests.len(), Kind::ALL.len(), "each goes on once");
    }
}

/// A server that starts refuses connections, then answers before it can do anything.
#[tokio::test(start_paused = true)]
async fn a_wait_for_a_server_that_was_away_does_not_make_the_next_one_longer() {
    for seed in 0..30 {
        let server = Server::default();
        let mut run = Run::start(&server, seed);
        assert!(run.next().await);
        server.lock().is_down = true;
        server.lock().hang_up(Some(Fault::Cut));
        run.run_for(ms(300_000)).await;
        server.lock().put(Kind::Service, "web", service(1));
        server.lock().faults = vec![Some(Fault::Status(503)); 3 * Kind::ALL.len()].into();
        server.lock().is_down = false;
        let back = Instant::now();
        while run.objects != run.expected() {
            assert!(run.next().await, "seed {seed}");
        }
        assert!(back.elapsed() <= ms(10_000), "seed {seed}: {:?}", back.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_to_come_back_later_is_left_alone_so_long() {
    for code in [429, 500, 503] {
        let server = Server::default();
        server.lock().put(Kind::Service, "web", service(1));
        let mut run = start(&server).await;
        server.lock().retry_after = Some(20);
        server.lock().faults = vec![Some(Fault::Status(code)); 1000].into();
        server.lock().requests.clear();
        server.lock().hang_up(None);
        let before = run.objects.clone();
        run.run_for(ms(300_000)).await;
        assert_eq!(run.objects, before);
        let asked = std::mem::take(&mut server.lock().requests);
        for kind in Kind::ALL {
            let own: Vec<Instant> = asked.iter().filter(|it| it.1 == kind).map(|it| it.0).collect();
            assert!(own.len() > 8, "{code} {kind:?}: {}", own.len());
            for pair in own.windows(2) {
                let gap = pair[1] - pair[0];
                assert!(gap >= ms(20_000) && gap <= ms(30_001), "{code} {kind:?}: {gap:?}");
            }
        }
        // It answers: that it has enough of one kind does not keep another waiting.
        server.lock().faults.clear();
        server.lock().put(Kind::Namespace, "a", json!({"metadata": {}}));
        run.run_for(ms(30_001)).await;
        assert_eq!(run.objects, run.expected());
        assert!(run.problems.is_empty(), "{code}: {:?}", run.problems);
    }
}
