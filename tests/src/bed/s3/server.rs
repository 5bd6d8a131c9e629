//! The listener: one connection a task, TCP_NODELAY, and every request counted and weathered on its way
//! to the S3 service. A second port steers it.
//!
//! Without TCP_NODELAY a keep-alive request takes 35 ms: the kernel holds the second segment of an
//! answer back until the first is acknowledged, and the client delays that.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyDataStream, BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;

use super::api::{Api, Buckets};
use super::traffic::{Kind, Logged, Traffic};
use super::weather::{Fault, Sky, Weather};
use super::{ACCESS_KEY, SECRET_KEY};

type Reply = Response<UnsyncBoxBody<Bytes, Broken>>;

/// Why a body ended early: injected, or a file that could not be read.
type Broken = Box<dyn std::error::Error + Send + Sync>;

/// The server: what all its connections share.
pub struct Server {
    buckets: Arc<Buckets>,
    s3: S3Service,
    traffic: Traffic,
    sky: Sky,
}

impl Server {
    /// A server of the buckets that are directories of `root`.
    pub fn new(root: std::path::PathBuf, weather: Weather) -> anyhow::Result<Arc<Self>> {
        let buckets = Arc::new(Buckets::new(root));
        let mut builder = S3ServiceBuilder::new(Api::new(buckets.clone())?);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let s3 = builder.build();
        Ok(Arc::new(Self { buckets, s3, traffic: Traffic::default(), sky: Sky::new(weather) }))
    }

    /// Adds a bucket called `synthetic` of `files` keys without bytes.
    pub fn add_synthetic(&self, files: u64) {
        self.buckets.add_synthetic(files);
    }

    /// Serves S3 on `s3` and the steering on `control`, for ever.
    pub async fn serve(self: Arc<Self>, s3: TcpListener, control: TcpListener) {
        let steered = self.clone();
        tokio::join!(
            accept(s3, move |request| {
                let server = self.clone();
                async move { server.answer(request).await }
            }),
            accept(control, move |request| {
                let server = steered.clone();
                async move { server.steer(request).await }
            }),
        );
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let kind = Kind::of(request.method(), request.uri());
        let range = request
            .headers()
            .get(header::RANGE)
            .map(|range| String::from_utf8_lossy(range.as_bytes()).into());
        let if_match = request.headers().contains_key(header::IF_MATCH);
        let began = self.traffic.began(kind, range.is_some(), if_match);
        let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let logged =
            Logged { kind, target, range, if_match, status: 0, body_bytes: 0, start_us: 0, elapsed_us: 0 };
        let mut open = Open { server: self.clone(), began, logged: Some(logged) };

        let (delay, fault) = self.sky.next(kind);
        tokio::time::sleep(delay).await;
        if fault == Some(Fault::Fail) {
            self.traffic.injected(|counters| counters.injected_503 += 1);
            open.logged().status = 503;
            return slow_down();
        }
        match Service::call(&self.s3, request).await {
            Ok(response) => {
                open.logged().status = response.status().as_u16();
                weathered(response, open, fault)
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}")),
        }
    }

    async fn steer(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
        };
        match self.command(parts.uri.path(), &body) {
            Ok(reply) => text(StatusCode::OK, reply),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error:#}")),
        }
    }

    fn command(&self, command: &str, body: &[u8]) -> anyhow::Result<String> {
        match command {
            "/counters" => return Ok(serde_json::to_string(&self.traffic.counters())?),
            "/log" => return Ok(serde_json::to_string(&self.traffic.log())?),
            "/reset" => self.traffic.reset(),
            "/weather" => self.sky.change(parse(body)?),
            "/rescan" => self.buckets.rescan()?,
            "/put" => {
                let (target, bytes) = split_target(body)?;
                self.buckets.bucket(&target.bucket)?.put(&target.key, bytes)?;
            }
            "/delete" => {
                let (target, _) = split_target(body)?;
                self.buckets.bucket(&target.bucket)?.delete(&target.key)?;
            }
            unknown => anyhow::bail!("no such command: {unknown}"),
        }
        Ok(String::new())
    }
}

/// The object that a command is about: one line of JSON before the bytes.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Target {
    pub bucket: String,
    pub key: String,
}

fn split_target(body: &[u8]) -> anyhow::Result<(Target, &[u8])> {
    let end = body.iter().position(|&byte| byte == b'\n').unwrap_or(body.len());
    Ok((parse(&body[..end])?, body.get(end + 1..).unwrap_or_default()))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    Ok(serde_json::from_slice(body)?)
}

async fn accept<A: Future<Output = Reply> + Send + 'static>(
    listener: TcpListener,
    answer: impl Fn(Request<Incoming>) -> A + Clone + Send + 'static,
) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let _ = socket.set_nodelay(true);
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let reply = answer(request);
            async { Ok::<_, Infallible>(reply.await) }
        });
        tokio::spawn(async move {
            // Ends with an error whenever a client goes away or a fault was injected: nothing to tell.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

/// A request that is not over; counted as over when dropped.
struct Open {
    server: Arc<Server>,
    began: Instant,
    logged: Option<Logged>,
}

impl Open {
    fn logged(&mut self) -> &mut Logged {
        self.logged.as_mut().expect("taken only by drop")
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(logged) = self.logged.take() {
            self.server.traffic.ended(self.began, logged);
        }
    }
}

/// `response`, with its body counted, paced and, if that is its fate, broken.
fn weathered(response: Response<s3s::Body>, open: Open, fault: Option<Fault>) -> Reply {
    let (mut parts, body) = response.into_parts();
    if let (Some(length), None) =
        (http_body::Body::size_hint(&body).exact(), parts.headers.get(header::CONTENT_LENGTH))
    {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    let length =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let cut =
        (parts.status.is_success()).then_some(fault).flatten().map(|fault| (length.unwrap_or(0) / 2, fault));
    let frames = frames(BodyDataStream::new(body), open, cut);
    Response::from_parts(parts, StreamBody::new(frames.map(|piece| piece.map(Frame::data))).boxed_unsync())
}

struct Sending<S> {
    pieces: S,
    open: Open,
    cut: Option<(u64, Fault)>,
    /// What lies behind the cut.
    rest: Option<Bytes>,
}

fn frames(
    pieces: impl Stream<Item = Result<Bytes, Broken>> + Send + Unpin + 'static,
    open: Open,
    cut: Option<(u64, Fault)>,
) -> impl Stream<Item = Result<Bytes, Broken>> + Send {
    stream::try_unfold(Sending { pieces, open, cut, rest: None }, |mut sending| async move {
        let piece = match sending.rest.take() {
            Some(rest) => Some(rest),
            None => sending.pieces.next().await.transpose()?,
        };
        let Some(mut piece) = piece else { return Ok(None) };
        let server = sending.open.server.clone();
        let sent = sending.open.logged().body_bytes;
        if let Some((at, fault)) = sending.cut.filter(|(at, _)| sent + piece.len() as u64 > *at) {
            if sent < at {
                sending.rest = Some(piece.split_off((at - sent) as usize));
            } else {
                sending.cut = None;
                suffer(&server, fault).await?;
            }
        }
        tokio::time::sleep(server.sky.pace(piece.len())).await;
        sending.open.logged().body_bytes += piece.len() as u64;
        Ok(Some((piece, sending)))
    })
}

async fn suffer(server: &Server, fault: Fault) -> Result<(), Broken> {
    match fault {
        Fault::Stall(pause) => {
            server.traffic.injected(|counters| counters.injected_stalled += 1);
            tokio::time::sleep(pause).await;
            Ok(())
        }
        Fault::Truncate | Fault::Fail => {
            server.traffic.injected(|counters| counters.injected_truncated += 1);
            Err("truncated on purpose".into())
        }
    }
}

fn slow_down() -> Reply {
    let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code><Message>Injected.</Message></Error>";
    text(StatusCode::SERVICE_UNAVAILABLE, body.to_owned())
}

fn text(status: StatusCode, body: String) -> Reply {
    let mut response =
        Response::new(Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}
