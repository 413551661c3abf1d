//! Who asks a running server: the admin page, over HTTP on `server.metrics`, and the control socket, over HTTP on a
//! Unix socket that its owner alone can use. Both on one thread, which keeps away from the shards.
//!
//! | path | where | answer |
//! |---|---|---|
//! | `/metrics` | both | Prometheus text |
//! | `/live`, `/ready` | both | 200, or 503 |
//! | `/show`, `/show/server`, `/show/tables`, `/show/shards` | the control socket | JSON: [`Shown`] |

mod metrics;
pub(super) mod shown;
pub(super) mod socket;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};

use self::shown::{About, Shown};
use self::socket::ControlSocket;
use super::{StartError, State};
use crate::config::Config;
use crate::id::Endpoint;
use crate::net;

/// Connections served at once, of the page and of the control socket each; a further one waits.
const CONNECTIONS_MAX: usize = 256;

/// How long a connection may take to ask and to be answered.
const CONNECTION_TIME: Duration = Duration::from_secs(2);

/// The running thread.
#[derive(Debug)]
pub(super) struct Admin {
    page: Option<Endpoint>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Goes last: the socket is there as long as somebody answers.
    _control: ControlSocket,
}

/// What answers are made of.
#[derive(Debug)]
struct Context {
    state: Arc<State>,
    about: About,
}

/// Where somebody came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Door {
    Page,
    Control,
}

impl Admin {
    /// Serves on the control socket, and on `server.metrics` if there is one.
    pub(super) fn start(
        config: &Config,
        control: ControlSocket,
        state: Arc<State>,
    ) -> Result<Self, StartError> {
        let wrong = |error: io::Error| StartError(format!("the admin thread cannot start: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(wrong)?;
        let inside = runtime.enter();
        let listener =
            tokio::net::UnixListener::from_std(control.listener().map_err(wrong)?).map_err(wrong)?;
        let page = config.metrics.map(bind).transpose()?;
        let address = page.as_ref().and_then(|page| page.local_addr().ok()).map(Endpoint::from);
        drop(inside);
        let context = Arc::new(Context { about: About::new(config, address), state });
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            net::give_way(&context.state.shard_cpus);
            runtime.block_on(async {
                let control = async || Ok(listener.accept().await?.0);
                let page = async {
                    match &page {
                        Some(page) => serve(async || Ok(page.accept().await?.0), Door::Page, &context).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = stopped => {}
                    () = serve(control, Door::Control, &context) => {}
                    () = page => {}
                }
            });
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(serve).map_err(wrong)?;
        Ok(Self { page: address, stop: Some(stop), thread: Some(thread), _control: control })
    }

    /// Where the page is.
    pub(super) fn page(&self) -> Option<Endpoint> {
        self.page
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The page's listener.
fn bind(at: Endpoint) -> Result<tokio::net::TcpListener, StartError> {
    let bind = || {
        let listener = TcpListener::bind(SocketAddr::from(at))?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    bind().map_err(|error| {
        StartError(format!("the metrics address {at} cannot be used: {error}; change server.metrics"))
    })
}

/// Answers whoever comes through this door, for ever.
async fn serve<S>(accept: impl AsyncFn() -> io::Result<S>, door: Door, context: &Arc<Context>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok(stream) = accept().await else {
            // Out of descriptors, most likely: there will be some again.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let context = Arc::clone(context);
        tokio::task::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, door, &context);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
            drop(place);
        });
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn answer(request: &Request<Incoming>, door: Door, context: &Context) -> Response<Full<Bytes>> {
    let state = &context.state;
    let is = |flag: bool, yes: &str, no: &str| match flag {
        true => (StatusCode::OK, TEXT, format!("{yes}\n")),
        false => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{no}\n")),
    };
    let failed =
        |error: &dyn std::fmt::Display| (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n"));
    let asks = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, content_type, body) = match request.uri().path() {
        "/metrics" if asks => match metrics::page(request.headers(), state) {
            Ok((content_type, text)) => (StatusCode::OK, content_type, text),
            Err(error) => failed(&error),
        },
        "/live" if asks => is(!state.failed.load(Ordering::SeqCst), "live", "a shard has ended"),
        "/ready" if asks => is(state.is_ready(), "ready", "not ready"),
        path if asks && door == Door::Control && path.starts_with("/show") => {
            match Shown::of(path, &context.about, state).map(|shown| serde_json::to_string(&shown)) {
                Some(Ok(json)) => (StatusCode::OK, "application/json", json),
                Some(Err(error)) => failed(&error),
                None => not_found(door),
            }
        }
        "/metrics" | "/live" | "/ready" => not_allowed(),
        path if door == Door::Control && path.starts_with("/show") => not_allowed(),
        _ => not_found(door),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, value);
    response
}

fn not_allowed() -> (StatusCode, &'static str, String) {
    (StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n".to_owned())
}

fn not_found(door: Door) -> (StatusCode, &'static str, String) {
    let there_are = match door {
        Door::Page => "there are /metrics, /live and /ready\n",
        Door::Control => "there are /show, /metrics, /live and /ready\n",
    };
    (StatusCode::NOT_FOUND, TEXT, there_are.to_owned())
}
