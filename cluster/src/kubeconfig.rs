//! Kubeconfig files, as JSON, which is YAML too.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    pki::{Authority, Identity},
    plan::{API_PORT, CONTROL},
};

/// A file for one user, with everything in it: it works wherever it is copied to.
pub fn write_kubeconfig(authority: &Authority, user: &str, identity: &Identity) -> String {
    let server = format!("https://{}:{API_PORT}", CONTROL.v4);
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    let config: Value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "weir",
        "clusters": [{
            "name": "weir",
            "cluster": {
                "server": server,
                "certificate-authority-data": encode(&authority.certificate()),
            },
        }],
        "users": [{
            "name": user,
            "user": {
                "client-certificate-data": encode(&identity.certificate),
                "client-key-data": encode(&identity.key),
            },
        }],
        "contexts": [{ "name": "weir", "context": { "cluster": "weir", "user": user } }],
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_carries_its_certificates() {
        let authority = Authority::new("test").unwrap();
        let identity = authority.client("admin", "system:masters").unwrap();
        let text = write_kubeconfig(&authority, "admin", &identity);
        let config: Value = serde_json::from_str(&text).unwrap();
        let key = config["users"][0]["user"]["client-key-data"].as_str().unwrap();
        let key = BASE64_STANDARD.decode(key).unwrap();
        assert_eq!(key, identity.key.as_bytes());
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://172.30.0.1:6443");
        assert_eq!(config["contexts"][0]["context"]["user"], "admin");
    }
}
