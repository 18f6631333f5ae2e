//! The call: what the runtime says in environment variables (CNI specification 1.1, "Parameters").

use std::path::PathBuf;

use weir_api::v1::Attachment;

use crate::error::{CniError, INVALID_ENVIRONMENT};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Make an interface.
    Add,
    /// Undo ADD.
    Del,
    /// Is it as ADD made it?
    Check,
    /// Undo every ADD that is not named.
    Gc,
    /// Could ADD be served?
    Status,
    /// Which versions of the specification?
    Version,
}

/// One call of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What is asked.
    pub verb: Verb,
    /// Of ADD, DEL and CHECK.
    pub attachment: Attachment,
    /// File of the container's network namespace; DEL may have none.
    pub netns: Option<PathBuf>,
    /// From CNI_ARGS; empty for runtimes other than Kubernetes'.
    pub pod: Pod,
}

/// The pod, as Kubernetes' runtimes tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`.
    pub uid: String,
}

impl Call {
    /// Reads the variables that the verb needs; `read` gives one by its name.
    ///
    /// # Errors
    /// One is missing or wrong.
    pub fn read(read: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let read = |name| read(name).filter(|it| !it.is_empty());
        let verb = match read("CNI_COMMAND").as_deref() {
            Some("ADD") => Verb::Add,
            Some("DEL") => Verb::Del,
            Some("CHECK") => Verb::Check,
            Some("GC") => Verb::Gc,
            Some("STATUS") => Verb::Status,
            Some("VERSION") => Verb::Version,
            Some(other) => {
                return Err(wrong("CNI_COMMAND", &format!("{other:?} is not a command")));
            }
            None => return Err(wrong("CNI_COMMAND", "is not set")),
        };
        let mut call = Self {
            verb,
            attachment: Attachment::default(),
            netns: read("CNI_NETNS").map(PathBuf::from),
            pod: read_args(&read("CNI_ARGS").unwrap_or_default()),
        };
        if matches!(verb, Verb::Add | Verb::Del | Verb::Check) {
            let id =
                read("CNI_CONTAINERID").ok_or_else(|| wrong("CNI_CONTAINERID", "is not set"))?;
            if !is_container_id(&id) {
                return Err(wrong("CNI_CONTAINERID", &format!("{id:?} is not a container's id")));
            }
            let ifname = read("CNI_IFNAME").ok_or_else(|| wrong("CNI_IFNAME", "is not set"))?;
            if !is_interface_name(&ifname) {
                let reason = format!("{ifname:?} is not a name that an interface can have");
                return Err(wrong("CNI_IFNAME", &reason));
            }
            call.attachment = Attachment { container_id: id, ifname };
        }
        if matches!(verb, Verb::Add | Verb::Check) && call.netns.is_none() {
            return Err(wrong("CNI_NETNS", "is not set"));
        }
        Ok(call)
    }
}

fn wrong(name: &str, reason: &str) -> CniError {
    let details = "the runtime sets it: see \"Parameters\" of the CNI specification";
    CniError::new(INVALID_ENVIRONMENT, format!("{name}: {reason}"), details)
}

/// `NAME=VALUE;...`; names that we do not know are other plugins'.
fn read_args(text: &str) -> Pod {
    let mut pod = Pod::default();
    for (name, value) in text.split(';').filter_map(|it| it.split_once('=')) {
        match name {
            "K8S_POD_NAMESPACE" => pod.namespace = value.into(),
            "K8S_POD_NAME" => pod.name = value.into(),
            "K8S_POD_UID" => pod.uid = value.into(),
            _ => {}
        }
    }
    pod
}

/// `^[a-z0-9A-Z][a-z0-9A-Z_.-]*$`, as the specification has it.
fn is_container_id(text: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && text.bytes().all(is_fine)
}

/// As the kernel has it (`dev_valid_name`), and no `:` as libcni has it.
fn is_interface_name(text: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    (1..=15).contains(&text.len()) && text != "." && text != ".." && text.bytes().all(is_fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Call, CniError> {
        let find = |name: &str| variables.iter().find(|it| it.0 == name).map(|it| it.1.to_owned());
        Call::read(find)
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "4b1d"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_IFNAME", "eth0"),
        (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db;\
             K8S_POD_INFRA_CONTAINER_ID=4b1d;K8S_POD_UID=u1",
        ),
    ];

    #[test]
    fn an_add_is_read() {
        let call = read(&ADD).unwrap();
        assert_eq!(call.verb, Verb::Add);
        assert_eq!((call.pod.namespace.as_str(), call.pod.name.as_str()), ("shop", "db"));
        assert_eq!(call.pod.uid, "u1");
        assert_eq!(call.attachment.ifname, "eth0");
    }

    #[test]
    fn a_delete_needs_no_namespace_and_a_status_nothing() {
        let mut del = ADD;
        del[0].1 = "DEL";
        del[2].1 = "";
        assert_eq!(read(&del).unwrap().netns, None);
        for verb in ["GC", "STATUS", "VERSION"] {
            read(&[("CNI_COMMAND", verb)]).unwrap();
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (name, value, expected) in [
            ("CNI_COMMAND", "MAKE", "CNI_COMMAND: \"MAKE\" is not a command"),
            ("CNI_COMMAND", "", "CNI_COMMAND: is not set"),
            ("CNI_CONTAINERID", "", "CNI_CONTAINERID: is not set"),
            ("CNI_CONTAINERID", "../x", "CNI_CONTAINERID: \"../x\""),
            ("CNI_NETNS", "", "CNI_NETNS: is not set"),
            ("CNI_IFNAME", "", "CNI_IFNAME: is not set"),
            ("CNI_IFNAME", "a/b", "CNI_IFNAME: \"a/b\""),
            ("CNI_IFNAME", "a-name-of-16-byt", "CNI_IFNAME: \"a-name-of-16-byt\""),
        ] {
            let variables = ADD.map(|it| if it.0 == name { (name, value) } else { it });
            let error = read(&variables).unwrap_err();
            assert_eq!(error.code, INVALID_ENVIRONMENT);
            assert!(error.message.contains(expected), "{error}");
        }
    }
}
