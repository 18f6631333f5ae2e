//! An API server in memory: lists by page, watches, and everything that goes wrong with them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::RETRY_AFTER;
use hyper::{Request, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::service_fn;
use weir_control::model::{Kind, Name, ObjectKey};
use weir_control::source::kube::resources::Resource;

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// No connection.
    Refuse,
    /// An error of the server.
    Status(u16),
    /// The answer ends in the middle, with an error.
    Cut,
    /// The answer ends in the middle as if that were all.
    Truncate,
    /// A list without items.
    Empty,
}

type Reply = Response<UnsyncBoxBody<Bytes, io::Error>>;
type Sender = UnboundedSender<io::Result<Frame<Bytes>>>;

/// The server's side of everything.
#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<State>>);

#[derive(Default)]
pub struct State {
    version: u64,
    pub objects: BTreeMap<ObjectKey, Value>,
    /// How often an object was deleted.
    pub deleted: HashMap<ObjectKey, usize>,
    history: Vec<(u64, Kind, String)>,
    /// Versions up to here are forgotten.
    compacted: u64,
    watchers: Vec<(Kind, Sender)>,
    /// What is left of lists, and their version, by the token of the next page.
    pages: HashMap<String, (Vec<Value>, u64)>,
    /// Not served.
    pub absent: Vec<Kind>,
    /// Served to others.
    pub forbidden: Vec<Kind>,
    pub is_down: bool,
    /// For the next requests, in order; `None`: none.
    pub faults: VecDeque<Option<Fault>>,
    /// What was asked, and when.
    pub requests: Vec<(Instant, Kind)>,
    /// In seconds; said with what a [`Fault::Status`] refuses.
    pub retry_after: Option<u64>,
    /// Objects per page at most, whatever the client asks for.
    pub page_max: Option<usize>,
}

impl Server {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = service_fn(move |request: Request<kube::client::Body>| {
            let reply = server.lock().answer(&request);
            async move { reply }
        });
        kube::Client::new(service, "default")
    }
}

fn reply(status: u16, text: impl Into<Bytes>) -> Reply {
    let body = Full::new(text.into()).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).body(body).unwrap()
}

fn refuse(code: u16, message: &str) -> Reply {
    let status = json!({"kind": "Status", "status": "Failure", "code": code, "message": message});
    reply(code, status.to_string())
}

fn refused() -> io::Error {
    io::Error::from_raw_os_error(111)
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

impl State {
    fn answer(&mut self, request: &Request<kube::client::Body>) -> io::Result<Reply> {
        let resources = Kind::ALL.map(Resource::of);
        let path = request.uri().path();
        let kind = resources.iter().find(|it| it.path() == path).expect("a known path").kind;
        let query: HashMap<String, String> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|it| it.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let is_watch = query.contains_key("watch");
        self.requests.push((Instant::now(), kind));
        let fault = self.faults.pop_front().flatten();
        if self.is_down || fault == Some(Fault::Refuse) {
            return Err(refused());
        }
        if self.absent.contains(&kind) {
            return Ok(reply(404, "404 page not found\n"));
        }
        if self.forbidden.contains(&kind) {
            let verb = if is_watch { "watch" } else { "list" };
            return Ok(refuse(403, &format!("user \"weir\" cannot {verb} resource")));
        }
        if let Some(Fault::Status(code)) = fault {
            let mut reply = refuse(code, "injected");
            let later = self.retry_after.map(|it| (RETRY_AFTER, it.into()));
            reply.headers_mut().extend(later);
            return Ok(reply);
        }
        Ok(match is_watch {
            true => self.watch(kind, &query, fault),
            false => self.list(kind, &query, fault),
        })
    }

    fn list(&mut self, kind: Kind, query: &HashMap<String, String>, fault: Option<Fault>) -> Reply {
        let (mut items, version) = match query.get("continue") {
            Some(token) => match self.pages.remove(token) {
                Some(rest) => rest,
                None => return refuse(410, "the continue token is too old"),
            },
            None => {
                let all = self.objects.iter().filter(|(key, _)| key.kind == kind);
                let mut items: Vec<Value> = all.map(|(_, value)| value.clone()).collect();
                // Lists come in the order of the store's keys, which is nobody's business.
                items.reverse();
                (items, self.version)
            }
        };
        if fault == Some(Fault::Empty) {
            items.clear();
        }
        let limit = query.get("limit").map_or(usize::MAX, |it| it.parse().unwrap());
        let limit = limit.min(self.page_max.unwrap_or(usize::MAX));
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if query.contains_key("limit") && items.len() > limit {
            let rest = items.split_off(limit);
            let token = format!("token-{}-{version}-{}", Resource::of(kind).plural, rest.len());
            metadata["continue"] = token.clone().into();
            self.pages.insert(token, (rest, version));
        }
        let text = json!({"kind": "List", "metadata": metadata, "items": items}).to_string();
        match fault {
            Some(Fault::Truncate) => reply(200, text[..text.len() / 2].to_owned()),
            Some(Fault::Cut) => {
                let half = Bytes::from(text[..text.len() / 2].to_owned());
                let frames = [Ok(Frame::data(half)), Err(refused())];
                let body = StreamBody::new(tokio_stream::iter(frames));
                Response::new(body.boxed_unsync())
            }
            _ => reply(200, text),
        }
    }

    fn watch(
        &mut self,
        kind: Kind,
        query: &HashMap<String, String>,
        fault: Option<Fault>,
    ) -> Reply {
        let since: u64 = query["resourceVersion"].parse().unwrap();
        let (sender, receiver) = unbounded_channel();
        let send = |text: String| {
            // Nobody may listen any more.
            let _ = sender.send(Ok(Frame::data(text.into())));
        };
        if since < self.compacted {
            let gone = json!({"kind": "Status", "code": 410, "message": "too old"});
            send(event("ERROR", &gone));
        } else {
            for (_, _, text) in
                self.history.iter().filter(|(version, it, _)| *version > since && *it == kind)
            {
                send(text.clone());
            }
            match fault {
                Some(Fault::Cut) => {
                    let _ = sender.send(Err(refused()));
                }
                Some(Fault::Truncate) => send("{\"type\":\"ADDED\",\"obj".into()),
                _ => self.watchers.push((kind, sender)),
            }
        }
        Response::new(StreamBody::new(UnboundedReceiverStream::new(receiver)).boxed_unsync())
    }

    /// Creates or replaces an object of the kind, named `default/name`.
    pub fn put(&mut self, kind: Kind, name: &str, mut value: Value) {
        self.version += 1;
        let namespace = if kind.is_namespaced() { "default" } else { "" };
        value["metadata"]["name"] = name.into();
        if !namespace.is_empty() {
            value["metadata"]["namespace"] = namespace.into();
        }
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        value["metadata"]["managedFields"] = json!([{"manager": "m", "fieldsV1": {"f:spec": {}}}]);
        let key = ObjectKey { kind, name: Name::new(namespace, name) };
        let verb = if self.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.announce(kind, event(verb, &value));
        self.objects.insert(key, value);
    }

    pub fn delete(&mut self, kind: Kind, name: &str) {
        let namespace = if kind.is_namespaced() { "default" } else { "" };
        let key = ObjectKey { kind, name: Name::new(namespace, name) };
        let Some(mut value) = self.objects.remove(&key) else { return };
        self.version += 1;
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        *self.deleted.entry(key).or_default() += 1;
        self.announce(kind, event("DELETED", &value));
    }

    fn announce(&mut self, kind: Kind, text: String) {
        self.history.push((self.version, kind, text.clone()));
        self.send(Some(kind), &text);
    }

    fn send(&mut self, kind: Option<Kind>, text: &str) {
        self.watchers.retain(|(it, sender)| {
            kind.is_some_and(|kind| kind != *it)
                || sender.send(Ok(Frame::data(text.to_owned().into()))).is_ok()
        });
    }

    /// Sends what watches may send that is no news.
    pub fn bookmark(&mut self) {
        let version = self.version.to_string();
        let bookmark = json!({"metadata": {"resourceVersion": version}});
        self.send(None, &event("BOOKMARK", &bookmark));
    }

    /// Sends the last `count` events once more, the latest first.
    pub fn repeat(&mut self, count: usize) {
        let last: Vec<_> = self.history.iter().rev().take(count).cloned().collect();
        for (_, kind, text) in last {
            self.send(Some(kind), &text);
        }
    }

    /// Forgets the past: who watches from before must list again.
    pub fn compact(&mut self) {
        self.compacted = self.version + 1;
        self.version += 1;
        self.pages.clear();
        self.history.clear();
    }

    /// Ends all watches, well or badly.
    pub fn hang_up(&mut self, how: Option<Fault>) {
        match how {
            Some(Fault::Cut) => {
                for (_, sender) in &self.watchers {
                    let _ = sender.send(Err(refused()));
                }
            }
            Some(_) => self.send(None, "{\"type\":\"DELETED\",\"object\":{\"meta"),
            None => {}
        }
        self.watchers.clear();
    }
}
