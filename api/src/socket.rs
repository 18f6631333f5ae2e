//! Unix sockets for gRPC: connect a client, bind a server.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::MESSAGE_BYTES_MAX;
use crate::v1::agent_client::AgentClient;
use crate::v1::cni_client::CniClient;
use crate::v1::dataplane_client::DataplaneClient;
use crate::v1::observe_client::ObserveClient;

/// Only the owner may connect: the state protocol.
pub const MODE_OWNER: u32 = 0o600;
/// Owner and group may connect: sockets that operators' tools use.
pub const MODE_GROUP: u32 = 0o660;

/// A Unix socket that cannot be used; messages name the path and say what to do.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Nothing is there.
    #[error("{path}: no such socket: is {process} running, with this --run-dir?")]
    Absent {
        /// The socket.
        path: PathBuf,
        /// Who should be serving it.
        process: &'static str,
    },
    /// A socket without a process behind it.
    #[error("{path}: nobody answers: {process} has stopped; start it again")]
    Dead {
        /// The socket.
        path: PathBuf,
        /// Who should be serving it.
        process: &'static str,
    },
    /// Connecting failed otherwise.
    #[error("{path}: cannot connect: {error}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process serves this path.
    #[error("{0}: another process serves this socket: stop it, or choose another --run-dir")]
    InUse(PathBuf),
    /// Something else has this name; it is left alone.
    #[error("{0}: exists and is not a socket: move it away, or choose another --run-dir")]
    NotASocket(PathBuf),
    /// Creating the socket failed.
    #[error("{path}: cannot {what}: {error}")]
    Bind {
        /// The socket or its directory.
        path: PathBuf,
        /// The step.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// Connects to the dataplane's state service.
///
/// # Errors
/// No socket, nobody behind it, or no permission.
pub async fn connect_dataplane(path: &Path) -> Result<DataplaneClient<Channel>, SocketError> {
    let channel = connect(path, "weir-dataplane").await?;
    Ok(DataplaneClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

/// Connects to the dataplane's observe service.
///
/// # Errors
/// As [`connect_dataplane`].
pub async fn connect_observe(path: &Path) -> Result<ObserveClient<Channel>, SocketError> {
    let channel = connect(path, "weir-dataplane").await?;
    Ok(ObserveClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// Connects to the agent.
///
/// # Errors
/// As [`connect_dataplane`].
pub async fn connect_agent(path: &Path) -> Result<AgentClient<Channel>, SocketError> {
    let channel = connect(path, "weir-agent").await?;
    Ok(AgentClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// Connects to the agent's service for the CNI plugin.
///
/// # Errors
/// As [`connect_dataplane`].
pub async fn connect_cni(path: &Path) -> Result<CniClient<Channel>, SocketError> {
    Ok(CniClient::new(connect(path, "weir-agent").await?))
}

/// Opens a gRPC channel over the Unix socket at `path`; `process` is who serves it, for messages.
///
/// # Errors
/// No socket, nobody behind it, or no permission.
pub async fn connect(path: &Path, process: &'static str) -> Result<Channel, SocketError> {
    // Tried first, because the channel's own error hides the kind of failure.
    match UnixStream::connect(path).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SocketError::Absent { path: path.to_owned(), process });
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(SocketError::Dead { path: path.to_owned(), process });
        }
        Err(error) => {
            return Err(SocketError::Connect { path: path.to_owned(), error: error.into() });
        }
    }
    let socket = path.to_owned();
    // The URI only fills the :authority header; the connector goes to the socket.
    Endpoint::from_static("http://weir.local")
        .connect_with_connector(service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|error| SocketError::Connect { path: path.to_owned(), error: error.into() })
}

/// Binds a server's socket at `path` with `mode` and returns its connections. Makes the directory.
/// A socket that a dead process left is replaced; a served one, and anything that is no socket, is
/// left alone.
///
/// Must be called within a Tokio runtime.
///
/// # Errors
/// The path is served, is not a socket, is too long (107 bytes), or cannot be written.
pub fn bind(path: &Path, mode: u32) -> Result<UnixListenerStream, SocketError> {
    let failed = |what| {
        let path = path.to_owned();
        move |error| SocketError::Bind { path, what, error }
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed("make its directory"))?;
    }
    check_replaceable(path)?;
    // Bound under another name, given its mode, then renamed: nobody connects before that.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(failed("bind"))?;
    let placed = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))
        .and_then(|()| std::fs::rename(&fresh, path));
    if let Err(error) = placed {
        let _ = std::fs::remove_file(&fresh);
        return Err(failed("set the mode of")(error));
    }
    Ok(UnixListenerStream::new(listener))
}

fn check_replaceable(path: &Path) -> Result<(), SocketError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(SocketError::Bind { path: path.to_owned(), what: "look at", error });
        }
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/x.sock");
        assert!(matches!(connect(&path, "x").await, Err(SocketError::Absent { .. })));
        let first = bind(&path, MODE_OWNER).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(bind(&path, MODE_OWNER), Err(SocketError::InUse(_))));
        drop(first);
        assert!(matches!(connect(&path, "x").await, Err(SocketError::Dead { .. })));
        let _second = bind(&path, MODE_GROUP).unwrap();
        assert!(StdUnixStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn a_file_of_that_name_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        std::fs::write(&path, "precious").unwrap();
        let error = bind(&path, MODE_OWNER).unwrap_err();
        assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
