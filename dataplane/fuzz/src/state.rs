//! The state protocol: whatever arrives is applied or refused by name.

use std::sync::Arc;

use prost::Message as _;
use weir_api::v1::{self, Update};
use weir_dataplane::clock::Instant;
use weir_dataplane::server::controller::Controller;
use weir_dataplane::server::shared::Shared;
use weir_tables::Snapshot;

/// Applies an `Update`, then a resync with one service: nothing else may be left.
pub fn state_protocol(input: &[u8]) {
    let Ok(update) = Update::decode(input) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let shared = Arc::new(shared());
        let mut controller = Controller::new(2, Arc::clone(&shared), None, "unused".into());
        let names: Vec<_> = update.upserts.iter().map(v1::Object::reference).collect();
        let applied = controller.apply(update.clone()).await;
        for rejection in &applied.rejected {
            assert!(names.contains(&rejection.object), "{rejection:?} names nothing that was sent");
            assert!(!rejection.reason.is_empty());
        }
        let first = shared.snapshots.load_full();
        let again = controller.apply(update.clone()).await;
        let second = shared.snapshots.load_full();
        assert_eq!(contents(&first), contents(&second), "the same update twice is the same state");
        assert_eq!(policy(&first), policy(&second), "and the same policy");
        assert!(again.snapshot_revision > applied.snapshot_revision);

        let healed = controller.apply(resync()).await;
        assert!(healed.rejected.is_empty(), "{:?}", healed.rejected);
        let snapshot = shared.snapshots.load_full();
        assert_eq!(contents(&snapshot), (vec!["10.96.0.1:80/TCP".into()], vec![], 1));
        assert_eq!(policy(&snapshot), (vec![], vec![]));
    });
}

/// Numbers of identities, and names of rules.
fn policy(snapshot: &Snapshot) -> (Vec<u32>, Vec<String>) {
    let view = snapshot.policy();
    let mut identities: Vec<_> = view.identities().map(|it| it.id.0).collect();
    let mut rules: Vec<_> = view.tables().map(|it| it.name().to_owned()).collect();
    identities.sort();
    rules.sort();
    (identities, rules)
}

/// Frontends, endpoints, and the number of backend sets.
fn contents(snapshot: &Snapshot) -> (Vec<String>, Vec<String>, usize) {
    let mut frontends: Vec<_> = snapshot.frontends().map(|row| row.key.to_string()).collect();
    let mut pods: Vec<_> = snapshot.endpoints().map(|(pod, _)| pod.name.clone()).collect();
    frontends.sort();
    pods.sort();
    (frontends, pods, snapshot.backend_sets_len())
}

/// The full state of a node with one service.
pub fn resync() -> Update {
    let address = |octets: [u8; 4]| octets.to_vec();
    let key = v1::FrontendKey {
        address: address([10, 96, 0, 1]),
        l4_port: 80,
        protocol: v1::Protocol::Tcp.into(),
    };
    let frontend = v1::Frontend {
        key: Some(key),
        service: "default/web".into(),
        r#type: v1::FrontendType::ClusterIp.into(),
        backend_set: "default/web".into(),
        ..v1::Frontend::default()
    };
    let backend = v1::Backend {
        address: address([10, 0, 0, 1]),
        l4_port: 8080,
        state: v1::BackendState::Active.into(),
        weight: 100,
        node_address: Vec::new(),
    };
    let set = v1::BackendSet {
        name: "default/web".into(),
        protocol: v1::Protocol::Tcp.into(),
        algorithm: v1::Algorithm::Maglev.into(),
        backends: vec![backend],
    };
    let node =
        v1::NodeConfig { name: "node".into(), maglev_table_size: 251, ..v1::NodeConfig::default() };
    let objects = [
        v1::object::Kind::Node(node),
        v1::object::Kind::BackendSet(set),
        v1::object::Kind::Frontend(frontend),
    ];
    let upserts = objects.into_iter().map(|kind| v1::Object { kind: Some(kind) }).collect();
    Update { revision: 1, resync: true, upserts, deletes: vec![] }
}

fn shared() -> Shared {
    Shared::idle(Instant(0), "unused".as_ref())
}
