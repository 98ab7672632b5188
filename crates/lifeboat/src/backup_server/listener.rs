//! `/metrics`, `/healthz` and `/readyz`.

use super::metrics;
use super::observed::Observed;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Loopback, in the part of OpenShift's registry of host ports that is for it (29000 to 29999), below
/// what kernels assign and what Kubernetes gives to services.
pub(super) const DEFAULT: &str = "127.0.0.1:29379";

/// More connections wait, so that nobody can use up the files that backups need.
const CONNECTIONS: usize = 16;
/// A connection ends after this, whatever is or is not sent.
const CONNECTION_LASTS: Duration = Duration::from_secs(60);
/// Somebody else may have the port; backups go on.
const LISTEN_AGAIN: Duration = Duration::from_secs(60);

/// Serves for ever.
pub(super) async fn serve(address: SocketAddr, observed: Arc<Observed>) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => tracing::error!(
                "no metrics: can't listen on {address}: {error}; name another by --listen. Backups go on"
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
                // Too many open files, say: it passes, or backups tell of it.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let observed = observed.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let response = answer(&request, &observed);
                async { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), answer);
            // Who breaks a connection has broken it.
            let _ = tokio::time::timeout(CONNECTION_LASTS, connection).await;
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, observed: &Observed) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => match observed.view(Timestamp::now()).not_ready() {
            None => text(StatusCode::OK, "ok\n".into()),
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        "/metrics" => match metrics::text(observed.view(Timestamp::now())) {
            Ok(metrics) => response(StatusCode::OK, metrics::MEDIA_TYPE, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /healthz and /readyz\n".into(),
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
