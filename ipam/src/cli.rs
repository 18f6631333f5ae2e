//! The operator's flags.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

/// The operator: addresses of load balancers, readiness of nodes. One of its processes leads.
#[derive(Debug, Parser)]
#[command(name = "weir-operator", version)]
pub struct OperatorCommand {
    /// URL of the API server, an address of its own rather than that of a Service; otherwise what
    /// the kubeconfig or the pod's environment says.
    #[arg(long, value_name = "URL")]
    pub api_server: Option<String>,
    /// Kubeconfig; otherwise the pod's service account, or $KUBECONFIG.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the Lease and of the agents; otherwise $POD_NAMESPACE, or weir-system.
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Name of the Lease that says which process leads.
    #[arg(long, default_value = "weir-operator", value_name = "NAME")]
    pub lease_name: String,
    /// Services of type LoadBalancer without a loadBalancerClass get addresses from weir's pools;
    /// false: those with the class weir.dev/l2 alone do.
    #[arg(
        long,
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub default_load_balancer_class: bool,
    /// Address of /metrics, /healthz and /readyz; none is served without it.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_address: Option<SocketAddr>,
    /// Socket where probes ask whether this process is well.
    #[arg(long, value_name = "PATH")]
    pub health_socket: Option<PathBuf>,
    /// Ask the operator behind this --health-socket how it is, print that and end: with success
    /// where it is well.
    #[arg(long, value_name = "PATH")]
    pub check_health: Option<PathBuf>,
    /// Print the custom resource definitions as YAML, and end.
    #[arg(long)]
    pub print_crds: bool,
}
