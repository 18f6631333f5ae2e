//! Requests to the API server, and what their failures mean.

use std::error::Error;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::header::RETRY_AFTER;
use hyper::{HeaderMap, Request, Response, StatusCode};
use kube::client::Body;
use kube::core::Status;
use tokio::time::timeout;

use super::gate::Gate;
use super::resources::Resource;
use super::trim::Keep;
use super::wire::{Line, Page, read_line, read_page};

/// A server that is silent for longer during a list has hung.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Bookmarks come about once a minute; a watch without anything for this long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(150);
const PAGE_BYTES_MAX: usize = 256 << 20;
/// etcd takes no larger object than 1.5 MiB by default.
const LINE_BYTES_MAX: usize = 32 << 20;
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Why a request brought nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server does not have this version any more: list again.
    Gone,
    /// No such path.
    NotFound(String),
    /// RBAC.
    Forbidden {
        /// What was asked.
        verb: &'static str,
        /// As the server puts it.
        message: String,
    },
    /// Credentials.
    Unauthorized(String),
    /// Nobody there.
    Away(String),
    /// The answer broke off.
    Broken(String),
    /// It asks to come back later.
    Busy {
        /// As the server puts it.
        message: String,
        /// Not sooner than in this time.
        retry_after: Option<Duration>,
    },
    /// Anything else.
    Failed(String),
}

impl Failure {
    pub(super) fn from_status(
        code: u16,
        verb: &'static str,
        message: String,
        retry_after: Option<Duration>,
    ) -> Self {
        let message = match message.is_empty() {
            true => format!("status {code}"),
            false => message,
        };
        match code {
            410 => Self::Gone,
            404 => Self::NotFound(message),
            403 => Self::Forbidden { verb, message },
            401 => Self::Unauthorized(message),
            429 | 503 => Self::Busy { message, retry_after },
            500.. if retry_after.is_some() => Self::Busy { message, retry_after },
            _ => Self::Failed(message),
        }
    }

    fn broken(error: &(dyn Error + 'static)) -> Self {
        Self::Broken(innermost(error))
    }
}

/// The innermost cause says it: `Connection refused (os error 111)`.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn silent(waited: Duration) -> String {
    format!("no answer within {} s", waited.as_secs())
}

/// The API server, as all watches ask it.
pub(super) struct Api {
    client: kube::Client,
    gate: Gate,
}

impl Api {
    pub(super) fn new(client: kube::Client, seed: u64) -> Self {
        Self { client, gate: Gate::new(seed) }
    }
}

/// Fetches one page of a list.
pub(super) async fn fetch_page(
    api: &Api,
    resource: &Resource,
    limit: Option<u32>,
    next: Option<String>,
) -> Result<Page, Failure> {
    let request = kube::core::Request::new(resource.path());
    let request = request.list(&resource.list_params(limit, next)).map_err(invalid)?;
    let body = send(api, request, "list").await?;
    let text = collect(body, PAGE_BYTES_MAX).await?;
    // A page that does not parse has been cut off, or is no list.
    read_page(&text, resource.keep())
        .map_err(|error| Failure::Broken(format!("its list is broken: {error}")))
}

/// Opens a watch for everything after `version`.
pub(super) async fn open_watch(
    api: &Api,
    resource: &Resource,
    version: &str,
) -> Result<Lines, Failure> {
    let request = kube::core::Request::new(resource.path());
    let request = request.watch(&resource.watch_params(), version).map_err(invalid)?;
    let body = send(api, request, "watch").await?;
    Ok(Lines { body, buffer: BytesMut::new(), keep: resource.keep() })
}

fn invalid(error: kube::core::request::Error) -> Failure {
    Failure::Failed(error.to_string())
}

async fn send(api: &Api, request: Request<Vec<u8>>, verb: &'static str) -> Result<Body, Failure> {
    let answer = async {
        let response = timeout(ANSWER_MAX, api.client.send(request.map(Body::from))).await;
        response.map_err(|_| silent(ANSWER_MAX))?.map_err(|error| innermost(&error))
    };
    let response: Response<Body> = api.gate.pass(answer).await.map_err(Failure::Away)?;
    let code = response.status();
    if code == StatusCode::OK {
        return Ok(response.into_body());
    }
    let retry_after = read_retry_after(response.headers());
    let text = collect(response.into_body(), ERROR_BYTES_MAX).await.unwrap_or_default();
    // A proxy in between answers as it likes.
    let status: Status = serde_json::from_slice(&text).unwrap_or_default();
    Err(Failure::from_status(code.as_u16(), verb, status.message, retry_after))
}

/// API servers give seconds, never a date.
fn read_retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

async fn collect(body: Body, bytes_max: usize) -> Result<Bytes, Failure> {
    let mut body = Limited::new(body, bytes_max);
    let mut text = BytesMut::new();
    loop {
        let frame = timeout(ANSWER_MAX, body.frame()).await;
        match frame.map_err(|_| Failure::Broken(silent(ANSWER_MAX)))? {
            None => return Ok(text.freeze()),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    text.extend_from_slice(&data);
                }
            }
            Some(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(Failure::Failed(format!("its answer is over {bytes_max} bytes")));
            }
            Some(Err(error)) => return Err(Failure::broken(&*error)),
        }
    }
}

/// The lines of a watch.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    keep: Keep,
}

impl Lines {
    /// The lines that have come, at least one; `None` at the end of the watch.
    ///
    /// # Errors
    /// The connection broke, was silent for too long, or sent something else.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<(Line, String)>>, Failure> {
        loop {
            let lines = self.take_lines()?;
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
            let frame = timeout(SILENCE_MAX, self.body.frame()).await;
            match frame.map_err(|_| Failure::Broken(silent(SILENCE_MAX)))? {
                // Half a line at the end is not believed: it comes again with the next watch.
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Failure::broken(&error)),
            }
        }
    }

    fn take_lines(&mut self) -> Result<Vec<(Line, String)>, Failure> {
        let Some(end) = self.buffer.iter().rposition(|byte| *byte == b'\n') else {
            return match self.buffer.len() {
                0..=LINE_BYTES_MAX => Ok(Vec::new()),
                _ => Err(Failure::Failed(format!("a line is over {LINE_BYTES_MAX} bytes"))),
            };
        };
        let whole = self.buffer.split_to(end + 1);
        let lines = whole[..].split(|byte| *byte == b'\n').filter(|it| !it.trim_ascii().is_empty());
        let read = lines.map(|line| read_line(line, self.keep));
        read.collect::<Result<_, _>>()
            .map_err(|error| Failure::Failed(format!("its watch is broken: {error}")))
    }
}
