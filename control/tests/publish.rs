//! The state protocol, agent's side, over a real Unix socket against a dataplane that obeys or not.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;

use std::time::Duration;

use common::{Agent, Answering, FakeDataplane, Told, dataplane_socket, frontend_key, service};
use tonic::{Code, Request};
use weir_api::v1::agent_server::Agent as _;
use weir_api::v1::{
    AgentStatus, AgentStatusRequest, AttachEndpointRequest, DetachEndpointRequest,
    EndpointsRequest, Object, ServicesRequest,
};
use weir_control::desired::DesiredKey;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Long enough for anything wrong to be sent.
const QUIET: Duration = Duration::from_millis(200);

async fn status(agent: &Agent) -> AgentStatus {
    agent.service.status(Request::new(AgentStatusRequest {})).await.unwrap().into_inner()
}

async fn wait_acknowledged(agent: &Agent, revision: u64) {
    for _ in 0..1000 {
        if status(agent).await.acknowledged_revision >= revision {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("revision {revision} was never acknowledged: {:#?}", status(agent).await);
}

fn names(objects: &[Object]) -> Vec<String> {
    objects.iter().map(|it| it.reference().unwrap().to_string()).collect()
}

/// Objects that were told, beside those of policy.
fn count_others(told: &Told) -> usize {
    let is_of_policy =
        |it: &&DesiredKey| matches!(it, DesiredKey::Identity(_) | DesiredKey::PeerAddress(..));
    told.objects.len() - told.objects.keys().filter(is_of_policy).count()
}

fn attachment(name: &str, interface: &str, address: &str) -> AttachEndpointRequest {
    AttachEndpointRequest {
        name: name.into(),
        interface: interface.into(),
        mac: "02:00:00:00:00:01".into(),
        addresses: vec![address.into()],
        ..AttachEndpointRequest::default()
    }
}

#[tokio::test]
async fn the_full_state_comes_first_and_then_only_what_changes() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeDataplane::new();
    let _server = fake.serve(&dataplane_socket(folder.path()));
    let mut agent = Agent::start(folder.path(), TIMEOUT);
    let (a, b) = (service("a", "10.96.0.1", 80), service("b", "10.96.0.2", 80));
    agent.put("all.yaml", &format!("{a}{b}"));
    fake.wait("the full state", |told| told.updates.len() == 1).await;
    wait_acknowledged(&agent, 1).await;

    agent.put("all.yaml", &format!("{a}{}", service("b", "10.96.0.2", 81)));
    fake.wait("the change", |told| told.updates.len() == 2).await;
    wait_acknowledged(&agent, 2).await;
    // The same content again is no change.
    agent.put("all.yaml", &format!("{a}{}", service("b", "10.96.0.2", 81)));
    tokio::time::sleep(QUIET).await;

    let updates = fake.updates();
    assert_eq!(updates.len(), 2);
    let full = ["node", "backend set default/a/4", "backend set default/b/4"];
    let mut sent = updates[0].upserts.clone();
    let is_of_policy = |it: &String| it.starts_with("identity") || it.starts_with("address");
    sent.retain(|it| !is_of_policy(&names(std::slice::from_ref(it))[0]));
    assert_eq!(names(&sent)[..3], full);
    assert_eq!(names(&updates[1].upserts), ["frontend 10.96.0.2:81/TCP"]);
    let deleted: Vec<String> = updates[1].deletes.iter().map(ToString::to_string).collect();
    assert_eq!(deleted, ["frontend 10.96.0.2:80/TCP"]);
}

#[tokio::test]
async fn a_restarted_agent_withdraws_nothing_before_its_source_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeDataplane::new();
    let _server = fake.serve(&dataplane_socket(folder.path()));
    let text = service("a", "10.96.0.1", 80);
    let mut first = Agent::start(folder.path(), TIMEOUT);
    first.put("a.yaml", &text);
    fake.wait("the service", |told| count_others(told) == 3).await;
    let request = Request::new(attachment("default/pod", "veth1", "10.0.0.1"));
    first.service.attach_endpoint(request).await.unwrap();
    drop(first);

    let mut second = Agent::start(folder.path(), TIMEOUT);
    fake.wait("the second agent", |told| told.streams == 2).await;
    tokio::time::sleep(QUIET).await;
    fake.wait("nothing was withdrawn", |told| count_others(told) == 4).await;
    assert_eq!(fake.updates().len(), 2, "sent without knowing the services");
    second.put("a.yaml", &text);
    fake.wait("the full state", |told| told.updates.len() == 3).await;
    assert!(fake.updates()[2].resync);
    fake.wait("all of it, the endpoint too", |told| count_others(told) == 4).await;
}

#[tokio::test]
async fn a_refused_object_is_reported_and_tried_again_only_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeDataplane::new();
    let key = frontend_key("10.96.0.1:80");
    fake.with(|told| told.refuse.insert(key.clone(), "the table is full".into()));
    let _server = fake.serve(&dataplane_socket(folder.path()));
    let mut agent = Agent::start(folder.path(), TIMEOUT);
    agent.put("a.yaml", &service("a", "10.96.0.1", 80));
    wait_acknowledged(&agent, 1).await;
    let problems = status(&agent).await.problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].object, "frontend 10.96.0.1:80/TCP");
    assert_eq!(problems[0].reason, "by the dataplane: the table is full");

    agent.put("b.yaml", &service("b", "10.96.0.2", 80));
    wait_acknowledged(&agent, 2).await;
    assert_eq!(fake.frontends(), ["frontend 10.96.0.2:80/TCP"], "everything else applies");
    assert!(!names(&fake.updates()[1].upserts).contains(&"frontend 10.96.0.1:80/TCP".into()));
    assert_eq!(status(&agent).await.problems.len(), 1, "still refused");

    // It changes: tried again, and accepted now.
    fake.with(|told| told.refuse.clear());
    let renamed = service("a", "10.96.0.1", 80).replace("{port: 80}", "{name: http, port: 80}");
    agent.put("a.yaml", &renamed);
    wait_acknowledged(&agent, 3).await;
    assert_eq!(status(&agent).await.problems, []);
    assert_eq!(fake.frontends().len(), 2);
}

#[tokio::test]
async fn a_new_dataplane_gets_the_full_state() {
    let folder = tempfile::tempdir().unwrap();
    let socket = dataplane_socket(folder.path());
    let mut agent = Agent::start(folder.path(), TIMEOUT);
    agent.put("a.yaml", &service("a", "10.96.0.1", 80));
    for round in 1..=3 {
        // Another process at the same path: empty, and the old socket is left behind.
        let fake = FakeDataplane::new();
        let server = fake.serve(&socket);
        fake.wait("the full state", |told| count_others(told) == 3).await;
        wait_acknowledged(&agent, round).await;
        drop(server);
        for _ in 0..1000 {
            if !status(&agent).await.dataplane_connected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!status(&agent).await.dataplane_connected);
    }
}

#[tokio::test]
async fn a_gap_on_either_side_ends_in_the_full_state() {
    for answering in [Answering::WrongRevision, Answering::EndStream] {
        let folder = tempfile::tempdir().unwrap();
        let fake = FakeDataplane::new();
        let _server = fake.serve(&dataplane_socket(folder.path()));
        let mut agent = Agent::start(folder.path(), TIMEOUT);
        agent.put("a.yaml", &service("a", "10.96.0.1", 80));
        wait_acknowledged(&agent, 1).await;
        fake.with(|told| told.answering = answering);
        agent.put("b.yaml", &service("b", "10.96.0.2", 80));
        fake.wait("a second stream", |told| told.streams == 2).await;
        wait_acknowledged(&agent, 3).await;
        let updates = fake.updates();
        let kinds: Vec<bool> = updates.iter().map(|it| it.resync).collect();
        assert_eq!(kinds, [true, false, true], "{answering:?}");
        assert_eq!(fake.frontends().len(), 2);
    }
}

#[tokio::test]
async fn changes_during_an_update_go_together_in_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeDataplane::new();
    fake.with(|told| told.answering = Answering::Late);
    let _server = fake.serve(&dataplane_socket(folder.path()));
    let mut agent = Agent::start(folder.path(), TIMEOUT);
    agent.put("a.yaml", &service("a", "10.96.0.1", 80));
    fake.wait("the full state", |told| told.updates.len() == 1).await;
    for (port, address) in [(80, "10.96.0.2"), (81, "10.96.0.2"), (82, "10.96.0.2")] {
        agent.put("b.yaml", &service("b", address, port));
    }
    tokio::time::sleep(QUIET).await;
    assert_eq!(fake.updates().len(), 1, "one update at a time");
    assert_eq!(status(&agent).await.acknowledged_revision, 0);
    fake.with(|told| told.answering = Answering::Properly);
    wait_acknowledged(&agent, 2).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(fake.updates().len(), 2);
    assert_eq!(fake.frontends(), ["frontend 10.96.0.1:80/TCP", "frontend 10.96.0.2:82/TCP"]);
}

#[tokio::test]
async fn an_attachment_returns_when_the_dataplane_runs_it() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeDataplane::new();
    let _server = fake.serve(&dataplane_socket(folder.path()));
    let mut agent = Agent::start(folder.path(), TIMEOUT);
    agent.put("a.yaml", &service("a", "10.96.0.1", 80));
    let attach = |name, interface, address| {
        agent.service.attach_endpoint(Request::new(attachment(name, interface, address)))
    };
    let first = attach("default/a", "veth1", "10.0.0.1").await.unwrap().into_inner();
    fake.with(|told| {
        let key = DesiredKey::Endpoint("default/a".into());
        assert!(told.objects.contains_key(&key), "returned before the dataplane had it");
    });
    let updates = fake.updates().len();
    let again = attach("default/a", "veth1", "10.0.0.1").await.unwrap().into_inner();
    assert_eq!(again.revision, first.revision);
    assert_eq!(fake.updates().len(), updates, "the same call twice is one endpoint");

    let taken = attach("default/b", "veth2", "10.0.0.1").await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    assert_eq!(
        taken.message(),
        "endpoint default/b: address 10.0.0.1 belongs to endpoint default/a: detach that one first"
    );
    let detach = DetachEndpointRequest { name: "default/a".into() };
    let reply = agent.service.detach_endpoint(Request::new(detach.clone())).await.unwrap();
    assert!(reply.into_inner().existed);
    fake.wait("the endpoint is gone", |told| {
        !told.objects.contains_key(&DesiredKey::Endpoint("default/a".into()))
    })
    .await;
    let reply = agent.service.detach_endpoint(Request::new(detach)).await.unwrap();
    assert!(!reply.into_inner().existed);
}

#[tokio::test]
async fn an_attachment_that_cannot_take_effect_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path(), Duration::from_millis(300));
    let attach = |agent: &Agent, name, interface| {
        let service = agent.service.clone();
        let request =
            Request::new(attachment(name, interface, &format!("10.0.0.{}", &interface[4..])));
        async move { service.attach_endpoint(request).await.unwrap_err() }
    };
    let unread = attach(&agent, "default/a", "veth1").await;
    assert_eq!(unread.code(), Code::DeadlineExceeded);
    assert_eq!(
        unread.message(),
        "endpoint default/a is stored, but after 0.3 s the manifests have not been read yet"
    );
    agent.put("a.yaml", &service("a", "10.96.0.1", 80));
    let absent = attach(&agent, "default/b", "veth2").await;
    assert!(absent.message().contains("is not connected: "), "{absent}");
    assert!(absent.message().contains("dataplane.sock: no such socket"), "{absent}");

    let fake = FakeDataplane::new();
    let endpoint = |name: &str| DesiredKey::Endpoint(name.into());
    fake.with(|told| told.refuse.insert(endpoint("default/c"), "ifindex 13 is no veth".into()));
    let _server = fake.serve(&dataplane_socket(folder.path()));
    fake.wait("both earlier ones", |told| {
        told.objects.contains_key(&endpoint("default/a"))
            && told.objects.contains_key(&endpoint("default/b"))
    })
    .await;
    let refused = attach(&agent, "default/c", "veth3").await;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(
        refused.message(),
        "endpoint default/c: the dataplane refuses it: ifindex 13 is no veth"
    );
    fake.with(|told| told.answering = Answering::Late);
    let late = attach(&agent, "default/d", "veth4").await;
    assert!(late.message().contains("has not acknowledged revision"), "{late}");

    let list = agent.service.endpoints(Request::new(EndpointsRequest {})).await.unwrap();
    let states: Vec<(String, String)> =
        list.into_inner().endpoints.into_iter().map(|it| (it.name, it.state)).collect();
    assert_eq!(states[0], ("default/a".into(), "ready".into()));
    assert_eq!(states[2].1, "refused by the dataplane: ifindex 13 is no veth");
}

#[tokio::test]
async fn services_are_listed_with_their_backends() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path(), TIMEOUT);
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {name: a-1, labels: {kubernetes.io/service-name: a}}\n\
                 addressType: IPv4\nports: [{port: 8080}]\n\
                 endpoints:\n- {addresses: [10.0.0.1]}\n\
                 - {addresses: [10.0.0.2], conditions: {ready: false}}\n";
    agent.put("a.yaml", &(service("a", "10.96.0.1", 80) + slice));
    while !status(&agent).await.synced {
        tokio::task::yield_now().await;
    }
    let reply = agent.service.services(Request::new(ServicesRequest {})).await.unwrap();
    let services = reply.into_inner().services;
    assert_eq!(services.len(), 1, "{services:?}");
    assert_eq!(services[0].frontend, "10.96.0.1:80/TCP");
    let backends: Vec<String> =
        services[0].backends.iter().map(|it| format!("{} {}", it.address, it.state)).collect();
    assert_eq!(backends, ["10.0.0.1:8080 active", "10.0.0.2:8080 maintenance"]);
}
