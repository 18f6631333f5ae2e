//! A policy state together with the dataplane's tables, which have been told every change.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use weir_control::model::{Name, Object};
use weir_control::policy::{
    CLUSTER_DEFAULT, Enforcement, PolicyChanges, PolicySettings, PolicyState,
};
use weir_control::source::ManifestStore;
use weir_tables::policy::{
    Direction, Identity, L4, Policies, PolicyAction, PolicyRules, PolicyView,
};

pub use Direction::{Egress, Ingress};

/// A node called `n1`, 192.0.2.1.
pub fn settings(enforcement: Enforcement) -> PolicySettings {
    PolicySettings {
        enforcement,
        cluster: CLUSTER_DEFAULT.into(),
        node: Some("n1".into()),
        node_addresses: vec!["192.0.2.1".parse().unwrap()],
    }
}

pub struct Engine {
    pub state: PolicyState,
    policies: Policies,
    pub view: PolicyView,
    revision: u32,
    /// As the last change of each says.
    pub rules: BTreeMap<String, PolicyRules>,
    pub identities: BTreeMap<u32, Identity>,
    store: ManifestStore,
}

impl Engine {
    pub fn new(enforcement: Enforcement) -> Self {
        Self {
            state: PolicyState::new(settings(enforcement)),
            policies: Policies::default(),
            view: PolicyView::default(),
            revision: 0,
            rules: BTreeMap::new(),
            identities: BTreeMap::new(),
            store: ManifestStore::default(),
        }
    }

    /// Manifests, which must be good, replace those of before.
    pub fn read(&mut self, yaml: &str) {
        self.store.put_file(Path::new("a.yaml"), Ok(yaml));
        let batch = self.store.settle();
        assert_eq!(batch.problems, []);
        for object in &batch.upserts {
            self.state.upsert(object);
            if let Object::Pod(pod) = object {
                self.state.set_local(&pod.name, true);
            }
        }
        for key in &batch.removes {
            self.state.remove(key);
        }
        self.settle();
    }

    /// Recomputes, and tells the tables; what there was to tell.
    pub fn settle(&mut self) -> PolicyChanges {
        let changes = self.state.recompute();
        let policies = &mut self.policies;
        for (id, row) in changes.identities.clone() {
            match row {
                Some(row) => {
                    self.identities.insert(id.0, row.clone());
                    policies.upsert_identity(row).unwrap();
                }
                None => {
                    self.identities.remove(&id.0);
                    policies.delete_identity(id);
                }
            }
        }
        for (prefix, id) in &changes.addresses {
            match id {
                Some(id) => policies.upsert_address(*prefix, *id).unwrap(),
                None => policies.delete_address(prefix),
            }
        }
        for (id, row) in changes.selectors.clone() {
            match row {
                Some(row) => policies.upsert_cidr(row).unwrap(),
                None => policies.delete_cidr(id),
            }
        }
        for (name, row) in changes.rules.clone() {
            match row {
                Some(row) => {
                    self.rules.insert(name, row.clone());
                    policies.upsert_rules(row).unwrap();
                }
                None => {
                    self.rules.remove(&name);
                    policies.delete_rules(&name);
                }
            }
        }
        self.revision += 1;
        self.view = policies.commit(self.revision);
        changes
    }

    /// What becomes of a connection of an endpoint, and which rule says so.
    pub fn judge(
        &self,
        pod: &Name,
        direction: Direction,
        peer: IpAddr,
        l4: L4,
    ) -> (PolicyAction, String) {
        let Some(name) = self.state.endpoint(pod).rules else {
            return (PolicyAction::Allow, String::new());
        };
        let table = self.view.table(&name).expect("rules that an endpoint has exist");
        let verdict = table.judge(direction, self.view.peer(&peer.into()), l4);
        let origin = self.view.rule(verdict.rule).map(|it| it.origin.clone());
        (verdict.action, origin.unwrap_or_default())
    }

    /// The labels that an address has.
    pub fn labels_of(&self, address: IpAddr) -> Vec<String> {
        let peer = self.view.peer(&address.into());
        self.view.identity(peer.identity).map(|it| it.labels.clone()).unwrap_or_default()
    }
}

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn tcp(port: u16) -> L4 {
    L4::new(6, port)
}
