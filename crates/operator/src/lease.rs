//! One operator at a time, by a Lease. Who can't renew it in time stops before another one may take it.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const NAME: &str = "etcd-lifeboat-operator";
/// Another one may take a lease that was not renewed for so long.
const LASTS: Duration = Duration::from_secs(15);
/// Its holder stops writing after so long.
const TRUSTED: Duration = Duration::from_secs(10);
const RENEWED_EVERY: Duration = Duration::from_secs(3);

/// The right to write.
pub struct Lease {
    leases: Api<LeaseObject>,
    identity: String,
    /// When the API server last took our renewal, or earlier.
    renewed: Mutex<Instant>,
}

/// What to do about a lease as it is.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Take,
    Wait,
}

/// Whether a lease is free: nobody's, ours, given up, or not renewed since we watch it.
fn turn(holder: Option<&str>, identity: &str, unchanged_for: Duration) -> Turn {
    match holder {
        None | Some("") => Turn::Take,
        Some(holder) if holder == identity => Turn::Take,
        Some(_) if unchanged_for > LASTS => Turn::Take,
        Some(_) => Turn::Wait,
    }
}

impl Lease {
    /// Waits for the lease.
    pub(crate) async fn acquire(client: &Client, namespace: &str, identity: &str) -> Lease {
        let leases: Api<LeaseObject> = Api::namespaced(client.clone(), namespace);
        // The clocks of two machines differ: what counts is how long we have seen it unchanged.
        let mut seen: Option<(String, Instant)> = None;
        loop {
            let before = Instant::now();
            match try_take(&leases, identity, &mut seen).await {
                Ok(true) => {
                    return Lease {
                        leases,
                        identity: identity.into(),
                        renewed: Mutex::new(before),
                    };
                }
                Ok(false) => {}
                Err(error) => tracing::warn!("asking for the lease: {error}"),
            }
            tokio::time::sleep(RENEWED_EVERY / 3).await;
        }
    }

    /// Whether one may write now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let renewed = self.renewed.lock().map(|at| *at);
        renewed.is_ok_and(|at| at.elapsed() < TRUSTED)
    }

    /// Renews it, until that fails for too long; says why.
    pub(crate) async fn keep(&self) -> String {
        let mut seen = None;
        loop {
            tokio::time::sleep(RENEWED_EVERY).await;
            let before = Instant::now();
            let renewal = try_take(&self.leases, &self.identity, &mut seen);
            let problem = match tokio::time::timeout(RENEWED_EVERY, renewal).await {
                Ok(Ok(true)) => {
                    if let Ok(mut renewed) = self.renewed.lock() {
                        *renewed = before;
                    }
                    continue;
                }
                Ok(Ok(false)) => return "another replica has taken it".into(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API server does not answer".into(),
            };
            if !self.is_held() {
                return format!("not renewed for {} s: {problem}", TRUSTED.as_secs());
            }
            tracing::warn!("renewing the lease: {problem}");
        }
    }
}

/// Takes or renews the lease if it is free or ours.
async fn try_take(
    leases: &Api<LeaseObject>,
    identity: &str,
    seen: &mut Option<(String, Instant)>,
) -> Result<bool, kube::Error> {
    let now = Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
        .to_string();
    let spec = json!({
        "holderIdentity": identity,
        "leaseDurationSeconds": LASTS.as_secs(),
        "renewTime": now,
        "acquireTime": now,
    });
    let Some(found) = leases.get_opt(NAME).await? else {
        let lease = object(&json!({"metadata": {"name": NAME}, "spec": spec}))?;
        return taken(leases.create(&PostParams::default(), &lease).await);
    };
    let version = found.metadata.resource_version.clone().unwrap_or_default();
    let since = match seen {
        Some((known, since)) if *known == version => *since,
        _ => {
            let now = Instant::now();
            *seen = Some((version, now));
            now
        }
    };
    let holder = found
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref());
    if turn(holder, identity, since.elapsed()) == Turn::Wait {
        return Ok(false);
    }
    // With the version that was read: of two that try only one succeeds.
    let lease = object(&json!({
        "metadata": {"name": NAME, "resourceVersion": found.metadata.resource_version},
        "spec": spec,
    }))?;
    taken(leases.replace(NAME, &PostParams::default(), &lease).await)
}

fn object(value: &Value) -> Result<LeaseObject, kube::Error> {
    serde_json::from_value(value.clone()).map_err(kube::Error::SerdeError)
}

fn taken(written: Result<LeaseObject, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_is_free_and_not_before() {
        let short = Duration::from_secs(1);
        let long = Duration::from_secs(16);
        for (holder, unchanged_for, expected) in [
            (None, short, Turn::Take),
            (Some(""), short, Turn::Take),
            (Some("me"), short, Turn::Take),
            (Some("other"), short, Turn::Wait),
            (Some("other"), long, Turn::Take),
        ] {
            assert_eq!(turn(holder, "me", unchanged_for), expected, "{holder:?}");
        }
        // Its holder stops before another one may start.
        assert!(TRUSTED + RENEWED_EVERY < LASTS);
    }
}
