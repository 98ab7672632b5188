//! Whether the API server of the node serves.

use crate::channel::{Connection, DIAL_TIMEOUT, causes, open};
use crate::member_error::MemberError;
use std::future::poll_fn;
use tonic::body::Body;
use tonic::codegen::{Service, http};

/// Asks an API server whether it is ready. `Ok(None)` if it is; otherwise the status of its answer.
///
/// # Errors
/// It did not answer.
pub async fn readiness(connection: &Connection) -> Result<Option<u16>, MemberError> {
    let asked = async {
        let (url, mut channel) = open(connection).await?;
        let failed = |problem: String| MemberError::Endpoint {
            endpoint: connection.endpoint.clone(),
            problem,
        };
        let request = http::Request::get(format!("{url}/readyz")).body(Body::empty());
        let request = request.map_err(|error| failed(error.to_string()))?;
        poll_fn(|context| channel.poll_ready(context))
            .await
            .map_err(|error| failed(causes(&error)))?;
        let answer = channel.call(request).await;
        let status = answer.map_err(|error| failed(causes(&error)))?.status();
        Ok((!status.is_success()).then_some(status.as_u16()))
    };
    let within = DIAL_TIMEOUT;
    let answer = tokio::time::timeout(within, asked).await;
    answer.map_err(|_| MemberError::NoAnswer {
        endpoint: connection.endpoint.clone(),
        what: "the request for /readyz",
        within,
    })?
}
