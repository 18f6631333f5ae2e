//! The command lines of etcd and the control plane's programs, which run as plain processes.

use std::{ffi::OsString, path::Path, process::Command};

use anyhow::Result;

use crate::{
    paths::{self, State},
    plan::{API_PORT, CONTROL, POD_CIDRS, SERVICE_CIDRS},
};

const ETCD: &str = "http://127.0.0.1:2379";

/// The program that an outage test stops. It retries until etcd answers.
pub const API_SERVER: &str = "kube-apiserver";

/// What starts first.
pub const SERVERS: [&str; 2] = ["etcd", API_SERVER];

/// What gives up when the API server is not there, so it starts when that is ready.
pub const CLIENTS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// The command of one of [`SERVERS`] and [`CLIENTS`], its output appended to its log.
pub fn command_of(state: &State, program: &str) -> Result<Command> {
    let arguments = match program {
        "etcd" => etcd(state),
        "kube-apiserver" => api_server(state),
        "kube-controller-manager" => controller_manager(state),
        _ => scheduler(state),
    };
    Ok(log_to(&state.log(program), &paths::program(program)?, arguments))
}

/// A command whose output goes to the end of a file; the pid is the program's own.
fn log_to(log: &Path, program: &Path, arguments: Vec<OsString>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"log=$1; shift; exec "$@" >>"$log" 2>&1"#, "sh"]).arg(log).arg(program);
    command.args(arguments);
    command
}

fn etcd(state: &State) -> Vec<OsString> {
    let mut flags = Flags::default();
    flags.file("data-dir", &state.folder.join("etcd"));
    flags.text("listen-client-urls", ETCD);
    flags.text("advertise-client-urls", ETCD);
    flags.text("listen-peer-urls", "http://127.0.0.1:2380");
    flags.text("initial-advertise-peer-urls", "http://127.0.0.1:2380");
    flags.text("initial-cluster", "default=http://127.0.0.1:2380");
    flags.text("unsafe-no-fsync", "true");
    flags.text("log-level", "warn");
    flags.0
}

fn api_server(state: &State) -> Vec<OsString> {
    let pki = state.pki();
    let mut flags = Flags::default();
    flags.text("etcd-servers", ETCD);
    flags.text("bind-address", "::");
    flags.text("secure-port", &API_PORT.to_string());
    flags.text("advertise-address", &CONTROL.v4.to_string());
    flags.file("tls-cert-file", &pki.join("apiserver.crt"));
    flags.file("tls-private-key-file", &pki.join("apiserver.key"));
    flags.file("client-ca-file", &pki.join("ca.crt"));
    flags.file("kubelet-client-certificate", &pki.join("kubelet-client.crt"));
    flags.file("kubelet-client-key", &pki.join("kubelet-client.key"));
    // Without it, exec and logs resolve the node's name.
    flags.text("kubelet-preferred-address-types", "InternalIP");
    // Without it the controller manager complains for ever; aggregated APIs need it.
    flags.file("requestheader-client-ca-file", &pki.join("ca.crt"));
    flags.text("requestheader-allowed-names", "front-proxy");
    flags.text("requestheader-username-headers", "X-Remote-User");
    flags.text("requestheader-group-headers", "X-Remote-Group");
    flags.text("requestheader-extra-headers-prefix", "X-Remote-Extra-");
    flags.file("proxy-client-cert-file", &pki.join("front-proxy.crt"));
    flags.file("proxy-client-key-file", &pki.join("front-proxy.key"));
    flags.file("service-account-key-file", &pki.join("service-account.pub"));
    flags.file("service-account-signing-key-file", &pki.join("service-account.key"));
    flags.text("service-account-issuer", "https://kubernetes.default.svc.cluster.local");
    flags.text("service-cluster-ip-range", SERVICE_CIDRS);
    flags.text("authorization-mode", "Node,RBAC");
    flags.text("allow-privileged", "true");
    flags.0
}

fn controller_manager(state: &State) -> Vec<OsString> {
    let pki = state.pki();
    let kubeconfig = state.kubeconfig("controller-manager");
    let mut flags = Flags::default();
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        flags.file(flag, &kubeconfig);
    }
    flags.text("bind-address", "127.0.0.1");
    flags.text("use-service-account-credentials", "true");
    flags.file("service-account-private-key-file", &pki.join("service-account.key"));
    flags.file("root-ca-file", &pki.join("ca.crt"));
    flags.file("cluster-signing-cert-file", &pki.join("ca.crt"));
    flags.file("cluster-signing-key-file", &pki.join("ca.key"));
    flags.text("leader-elect", "false");
    flags.text("allocate-node-cidrs", "true");
    flags.text("cluster-cidr", POD_CIDRS);
    flags.text("service-cluster-ip-range", SERVICE_CIDRS);
    flags.text("node-cidr-mask-size-ipv4", "24");
    flags.text("node-cidr-mask-size-ipv6", "64");
    flags.0
}

fn scheduler(state: &State) -> Vec<OsString> {
    let kubeconfig = state.kubeconfig("scheduler");
    let mut flags = Flags::default();
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        flags.file(flag, &kubeconfig);
    }
    flags.text("bind-address", "127.0.0.1");
    flags.text("leader-elect", "false");
    flags.0
}

#[derive(Default)]
struct Flags(Vec<OsString>);

impl Flags {
    fn text(&mut self, flag: &str, value: &str) {
        self.0.push(format!("--{flag}={value}").into());
    }

    fn file(&mut self, flag: &str, value: &Path) {
        let mut word = OsString::from(format!("--{flag}="));
        word.push(value);
        self.0.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_and_the_controller_manager_agree() {
        let state = State::of("test");
        let words = |flags: Vec<OsString>| -> Vec<String> {
            flags.into_iter().map(|word| word.into_string().unwrap()).collect()
        };
        let (server, manager) = (words(api_server(&state)), words(controller_manager(&state)));
        let services = format!("--service-cluster-ip-range={SERVICE_CIDRS}");
        assert!(server.contains(&services) && manager.contains(&services));
        let key = |flag: &str, words: &[String]| {
            let start = format!("--{flag}=");
            words.iter().find_map(|word| word.strip_prefix(&start).map(str::to_owned)).unwrap()
        };
        assert_eq!(
            key("service-account-signing-key-file", &server),
            key("service-account-private-key-file", &manager)
        );
        assert_eq!(key("client-ca-file", &server), key("cluster-signing-cert-file", &manager));
    }
}
