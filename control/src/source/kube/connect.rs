//! How to reach the API server, and as whom.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use thiserror::Error;

use crate::model::Cidr;

/// What a pod is given (Kubernetes documentation, "Accessing the Kubernetes API from a Pod").
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the API server is, as given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeConfig {
    /// Its URL; by default what the kubeconfig or, in a pod, the environment says.
    pub api_server: Option<String>,
    /// A kubeconfig; by default the service account of the pod, or the user's own kubeconfig.
    pub kubeconfig: Option<PathBuf>,
}

/// It cannot be told where the API server is, or as whom to ask.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// No usable kubeconfig.
    #[error("{origin}: {error}: give --kubeconfig FILE, or run in a pod with a service account")]
    Kubeconfig {
        /// The file, or what stands for it.
        origin: String,
        /// Why.
        error: Box<KubeconfigError>,
    },
    /// No URL.
    #[error("--api-server {url}: not a URL: {error}: give https://ADDRESS:PORT")]
    Url {
        /// As given.
        url: String,
        /// Why.
        error: String,
    },
    /// Nothing says where it is.
    #[error("no API server: give --api-server https://ADDRESS:PORT")]
    NoServer,
    /// It is an address that weir itself would have to make reachable.
    #[error(
        "the API server's address {address} is in --service-range {range}, which weir itself \
         serves once it knows the API server: give --api-server https://ADDRESS:PORT with an \
         address of its own"
    )]
    ServiceAddress {
        /// Of the API server.
        address: IpAddr,
        /// That it is in.
        range: Cidr,
    },
    /// TLS or credentials cannot be used.
    #[error("API server {url}: {error}")]
    Client {
        /// The URL.
        url: String,
        /// Why.
        error: Box<kube::Error>,
    },
}

/// Finds out where the API server is and as whom to ask. `service_ranges` may not contain it; give
/// none where something else serves them.
///
/// The token and the CA of a service account are read again as they change.
///
/// # Errors
/// As [`ConnectError`] says.
pub async fn load_config(
    given: &KubeConfig,
    service_ranges: &[Cidr],
) -> Result<Config, ConnectError> {
    let folder = Path::new(SERVICE_ACCOUNT);
    let mut config = match &given.kubeconfig {
        Some(path) => {
            let failed = |error| ConnectError::Kubeconfig {
                origin: path.display().to_string(),
                error: Box::new(error),
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)?
        }
        None if folder.join("token").exists() => in_pod(folder, given.api_server.as_deref())?,
        None => {
            let options = KubeConfigOptions::default();
            Config::from_kubeconfig(&options).await.map_err(|error| ConnectError::Kubeconfig {
                origin: "$KUBECONFIG or ~/.kube/config".into(),
                error: Box::new(error),
            })?
        }
    };
    if let Some(url) = &given.api_server {
        config.cluster_url = parse_url(url)?;
    }
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Watches retry by themselves, and say why they must.
    config.default_retry = false;
    check_address(&config, service_ranges)?;
    Ok(config)
}

/// A client; within a Tokio runtime.
///
/// # Errors
/// Certificates or credentials cannot be used.
pub fn open_client(config: Config) -> Result<kube::Client, ConnectError> {
    let url = config.cluster_url.to_string();
    let failed = |error| ConnectError::Client { url, error: Box::new(error) };
    kube::Client::try_from(config).map_err(failed)
}

fn in_pod(folder: &Path, api_server: Option<&str>) -> Result<Config, ConnectError> {
    let url = match api_server {
        Some(url) => url.to_owned(),
        None => {
            let variable = |name| std::env::var(name).ok().filter(|it| !it.is_empty());
            let host = variable("KUBERNETES_SERVICE_HOST").ok_or(ConnectError::NoServer)?;
            let port = variable("KUBERNETES_SERVICE_PORT").ok_or(ConnectError::NoServer)?;
            match host.contains(':') {
                true => format!("https://[{host}]:{port}"),
                false => format!("https://{host}:{port}"),
            }
        }
    };
    let mut config = Config::new(parse_url(&url)?);
    // The file is what counts, and is read again; without the list the host's own would be loaded.
    config.root_cert_file = Some(folder.join("ca.crt"));
    config.root_cert = Some(Vec::new());
    config.auth_info.token_file = Some(folder.join("token").display().to_string());
    Ok(config)
}

fn parse_url(url: &str) -> Result<hyper::Uri, ConnectError> {
    let failed = |error: String| ConnectError::Url { url: url.to_owned(), error };
    let uri: hyper::Uri =
        url.parse().map_err(|it: hyper::http::uri::InvalidUri| failed(it.to_string()))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https" | "http"), Some(_)) => Ok(uri),
        _ => Err(failed("it needs a scheme and a host".into())),
    }
}

fn check_address(config: &Config, service_ranges: &[Cidr]) -> Result<(), ConnectError> {
    let host = config.cluster_url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // A name is asked of the host's resolver, which does not depend on weir.
    let Ok(address) = host.parse::<IpAddr>() else { return Ok(()) };
    match service_ranges.iter().find(|it| it.contains(address)) {
        Some(range) => Err(ConnectError::ServiceAddress { address, range: *range }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: 'https://10.96.0.1:443'}}]
users: [{name: u, user: {token: abc}}]
";

    async fn load(given: KubeConfig) -> Result<String, String> {
        let ranges = ["10.96.0.0/12".parse().unwrap()];
        let config = load_config(&given, &ranges).await;
        config.map(|it| it.cluster_url.to_string()).map_err(|it| it.to_string())
    }

    #[tokio::test]
    async fn the_api_server_is_not_behind_an_address_that_weir_serves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, KUBECONFIG).unwrap();
        let given = |url: Option<&str>| KubeConfig {
            api_server: url.map(Into::into),
            kubeconfig: Some(path.clone()),
        };
        let error = load(given(None)).await.unwrap_err();
        assert!(error.contains("10.96.0.1 is in --service-range 10.96.0.0/12"), "{error}");
        let url = load(given(Some("https://192.0.2.1:6443"))).await.unwrap();
        assert_eq!(url, "https://192.0.2.1:6443/");
        let error = load(given(Some("192.0.2.1"))).await.unwrap_err();
        assert!(error.contains("--api-server 192.0.2.1: not a URL"), "{error}");
        std::fs::write(&path, "clusters: 7").unwrap();
        let error = load(given(None)).await.unwrap_err();
        assert!(error.contains("config: ") && error.contains("--kubeconfig FILE"), "{error}");
    }

    #[test]
    fn a_pod_has_its_token_and_may_be_told_the_url() {
        let config = in_pod(Path::new("/sa"), Some("https://[fd00::1]:6443")).unwrap();
        assert_eq!(config.cluster_url.host(), Some("[fd00::1]"));
        assert_eq!(config.auth_info.token_file.as_deref(), Some("/sa/token"));
        assert_eq!(config.root_cert_file, Some(PathBuf::from("/sa/ca.crt")));
        let ranges = ["fd00::/64".parse().unwrap()];
        assert!(check_address(&config, &ranges).is_err());
    }
}
