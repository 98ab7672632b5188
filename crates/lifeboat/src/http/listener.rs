//! `/metrics`, `/healthz` and `/readyz`.

use crate::http::openmetrics;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Provides the answers to HTTP requests.
pub(crate) trait Answers: Send + Sync + 'static {
    /// All metrics, as text.
    fn metrics(&self) -> Result<String, fmt::Error>;
    /// Why the process is not ready, or `None` if it is ready.
    fn not_ready(&self) -> Option<String>;
}

/// Limit of open connections, so that they do not use the file descriptors that backups need.
const CONNECTIONS: usize = 16;
/// Every connection is closed after this time.
const CONNECTION_LASTS: Duration = Duration::from_secs(60);
/// How long to wait before trying again if the port is in use. Backups continue.
const LISTEN_AGAIN: Duration = Duration::from_secs(60);

/// Serves until the process ends.
pub(crate) async fn serve(address: SocketAddr, answers: Arc<impl Answers>) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => tracing::error!(
                "cannot listen on {address}: {error}; metrics are not available, all other work continues; set another address with --listen"
            ),
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    };
    let listens_on = listener.local_addr().unwrap_or(address);
    tracing::info!("metrics on http://{listens_on}/metrics");
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // For example too many open files. It passes, or the backups fail and report it.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let answers = answers.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let response = answer(&request, &*answers);
                async { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), answer);
            // An error concerns only this client.
            let _ = tokio::time::timeout(CONNECTION_LASTS, connection).await;
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, answers: &impl Answers) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are allowed\n".into(),
        );
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => match answers.not_ready() {
            None => text(StatusCode::OK, "ok\n".into()),
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        "/metrics" => match answers.metrics() {
            Ok(metrics) => response(StatusCode::OK, openmetrics::MEDIA_TYPE, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "not found: use /metrics, /healthz or /readyz\n".into(),
        ),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", body)
}

fn response(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(media_type),
    );
    response
}
