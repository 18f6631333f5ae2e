//! One request on one new connection, which the server closes.
//!
//! The side that closes first keeps the address pair in TIME_WAIT for a minute. Were that the
//! client, 28,000 requests would use up its ports; so it asks for `Connection: close` and reads on
//! until the server has closed. Its ports are then free at once, and a server in TIME_WAIT accepts
//! the same pair again (RFC 6191, timestamps). No SO_LINGER: every connection ends as real ones do.

use std::{error::Error as _, io, net::SocketAddr};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Uri,
    body::Incoming,
    client::conn::http1,
    header::{CONNECTION, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncReadExt, net::TcpStream};

/// Where to connect and what to ask for.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    request: Request<Empty<Bytes>>,
}

impl Target {
    /// # Errors
    /// A URL that is not `http://ADDRESS:PORT/...` with a numeric address: the lab has no DNS.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let advice = || format!("{url} is not http://ADDRESS:PORT/PATH with a numeric address");
        let uri: Uri = url.parse().with_context(advice)?;
        ensure!(uri.scheme_str() == Some("http"), advice());
        let authority = uri.authority().with_context(advice)?.as_str();
        let address = authority.parse().with_context(advice)?;
        let path = uri.path_and_query().with_context(advice)?.as_str();
        let mut request = Request::get(path).body(Empty::new())?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(authority)?);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(Self { address, request })
    }

    pub fn path(&self) -> &str {
        self.request.uri().path()
    }
}

/// Fetches the target, giving every piece of the body to `take`, and answers with the name of the
/// server. An error is the kind of the failure, for counting.
pub async fn fetch(
    target: &Target,
    mut take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<String, String> {
    let stream = TcpStream::connect(target.address).await.map_err(|error| {
        let kind = describe_io(&error);
        format!("connect {kind}")
    })?;
    stream.set_nodelay(true).map_err(|error| describe_io(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| describe(&error))?;
    let exchange = async move {
        let response = sender.send_request(target.request.clone()).await;
        let response = response.map_err(|error| describe(&error))?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let name = response.headers().get("x-backend").and_then(|name| name.to_str().ok());
        let name = name.unwrap_or("(no x-backend)").to_owned();
        consume(response.into_body(), &mut take).await?;
        Ok(name)
    };
    // `without_shutdown`: hyper would otherwise close as soon as it has the last byte.
    let (name, ended) = tokio::join!(exchange, connection.without_shutdown());
    let name = name?;
    let mut stream = ended.map_err(|error| describe(&error))?.io.into_inner();
    match stream.read(&mut [0]).await {
        Ok(0) => Ok(name),
        Ok(_) => Err("bytes after the end".into()),
        Err(error) => Err(format!("close {}", describe_io(&error))),
    }
}

async fn consume(
    mut body: Incoming,
    take: &mut impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| describe(&error))?;
        if let Some(data) = frame.data_ref() {
            take(data)?;
        }
    }
    Ok(())
}

/// The kind of a hyper error: the I/O error below it where there is one.
fn describe(error: &hyper::Error) -> String {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match io {
        Some(io) => describe_io(io),
        None if error.is_incomplete_message() => "closed early".into(),
        None => error.to_string(),
    }
}

fn describe_io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".into(),
        io::ErrorKind::ConnectionReset => "reset".into(),
        io::ErrorKind::UnexpectedEof => "closed early".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_numeric_addresses() {
        let target = Target::parse("http://[fd00::1]:80/bytes/5?pace_ms=1").unwrap();
        assert_eq!(target.address, "[fd00::1]:80".parse().unwrap());
        assert_eq!(target.request.uri(), "/bytes/5?pace_ms=1");
        for bad in ["https://10.0.0.1:80/", "http://name:80/", "http://10.0.0.1/", "10.0.0.1:80"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
