//! `serve`: `GET /` names the server and its peer; `GET /bytes/N` streams N bytes of the pattern;
//! `POST /bytes/N` takes so many and answers with 200 when all are right.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::CONTENT_LENGTH,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use weir_lab::pattern;

/// A download leaves in pieces of this size; `pace_ms` is the pause before each.
const CHUNK_BYTES: u64 = 16 * 1024;

/// After a failed accept (out of descriptors): time for connections to end.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

#[derive(clap::Args)]
pub struct Arguments {
    /// Address and port; may be given several times.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// Goes into the body and the header `x-backend`.
    #[arg(long)]
    name: String,
}

type Body = BoxBody<Bytes, Infallible>;

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let name: Arc<str> = arguments.name.into();
    let mut listeners = JoinSet::new();
    for address in arguments.listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        println!("listening on {}", listener.local_addr()?);
        listeners.spawn(accept(listener, name.clone()));
    }
    listeners.join_all().await;
    Ok(())
}

/// Serves connections until the process is killed.
async fn accept(listener: TcpListener, name: Arc<str>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("cannot accept: {error}");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        // Without it the answer is only slower.
        let _ = stream.set_nodelay(true);
        let name = name.clone();
        let service = service_fn(move |request| {
            let name = name.clone();
            async move {
                if request.method() == Method::POST {
                    check(request).await
                } else {
                    answer(&request, &name, peer)
                }
            }
        });
        tokio::spawn(async move {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    name: &str,
    peer: SocketAddr,
) -> Result<Response<Body>, hyper::http::Error> {
    let response = Response::builder().header("x-backend", name);
    let path = request.uri().path();
    if path == "/" {
        return response.body(text(format!("{name} sees {peer}\n")));
    }
    let length = path.strip_prefix("/bytes/").and_then(|length| length.parse().ok());
    let pace = parse_pace(request.uri().query().unwrap_or(""));
    match (length, pace) {
        (Some(length), Some(pace)) => {
            response.header(CONTENT_LENGTH, length).body(stream_pattern(length, pace))
        }
        (Some(_), None) => response
            .status(StatusCode::BAD_REQUEST)
            .body(text("the query may only be pace_ms=NUMBER\n".into())),
        (None, _) => response
            .status(StatusCode::NOT_FOUND)
            .body(text("try / or /bytes/NUMBER?pace_ms=NUMBER\n".into())),
    }
}

/// Reads an upload of the pattern to its end.
async fn check(request: Request<Incoming>) -> Result<Response<Body>, hyper::http::Error> {
    let expected = request.uri().path().strip_prefix("/bytes/").and_then(|it| it.parse().ok());
    let (mut body, mut received) = (request.into_body(), 0_u64);
    let mut is_right = true;
    // An error is a connection that ended: there is nobody to answer.
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            is_right &= pattern::matches(received, data);
            received += data.len() as u64;
        }
    }
    if is_right && expected == Some(received) {
        return Response::builder().body(text(format!("{received} bytes\n")));
    }
    let response = Response::builder().status(StatusCode::BAD_REQUEST);
    response.body(text(format!("{received} bytes, expected {expected:?}, right: {is_right}\n")))
}

fn parse_pace(query: &str) -> Option<Duration> {
    if query.is_empty() {
        return Some(Duration::ZERO);
    }
    query.strip_prefix("pace_ms=")?.parse().ok().map(Duration::from_millis)
}

fn stream_pattern(length: u64, pace: Duration) -> Body {
    let chunks = stream::unfold(0, move |offset| async move {
        if offset >= length {
            return None;
        }
        if !pace.is_zero() {
            sleep(pace).await;
        }
        let size = CHUNK_BYTES.min(length - offset);
        let chunk = pattern::bytes(offset, usize::try_from(size).ok()?);
        Some((Bytes::from(chunk), offset + size))
    });
    BodyExt::boxed(StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))))
}

fn text(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed()
}
