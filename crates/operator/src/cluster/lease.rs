//! The Lease that selects the active operator. A replica that cannot renew it stops before another replica can take it.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::json;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const NAME: &str = "etcd-lifeboat-operator";
/// Another replica can take the lease if it was not renewed for this time.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// The holder stops writing if it could not renew the lease for this time.
const HOLDER_STOPS_AFTER: Duration = Duration::from_secs(10);
/// After this time, no request of a replica that released the lease is on its way.
const LAST_REQUEST_ARRIVES_WITHIN: Duration = Duration::from_secs(1);
/// What stands in a lease that was released.
const NO_HOLDER: &str = "";
const RENEW_INTERVAL: Duration = Duration::from_secs(3);

/// The lease that allows this replica to write.
pub(crate) struct Lease {
    leases: Api<LeaseObject>,
    identity: String,
    /// When the last successful renewal began. `None` after the release.
    renewed: Mutex<Option<Instant>>,
}

#[derive(Debug, PartialEq, Eq)]
enum LeaseAction {
    Take,
    Wait,
}

/// Decides whether this replica can take the lease: it has no holder, is ours, or was not renewed for too long.
fn lease_action(holder: Option<&str>, identity: &str, unchanged_for: Duration) -> LeaseAction {
    match holder {
        None | Some("") => LeaseAction::Take,
        Some(holder) if holder == identity => LeaseAction::Take,
        Some(_) if unchanged_for > LEASE_DURATION => LeaseAction::Take,
        Some(_) => LeaseAction::Wait,
    }
}

impl Lease {
    /// Waits for the lease.
    pub(crate) async fn acquire(client: &Client, namespace: &str, identity: &str) -> Lease {
        let leases: Api<LeaseObject> = Api::namespaced(client.clone(), namespace);
        // The clocks of two machines differ. So this replica measures how long the lease has not changed.
        let mut last_seen: Option<(String, Instant)> = None;
        loop {
            let before = Instant::now();
            match try_take(&leases, identity, &mut last_seen).await {
                Ok(Some(_)) => {
                    return Lease {
                        leases,
                        identity: identity.into(),
                        renewed: Mutex::new(Some(before)),
                    };
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    "cannot acquire the lease: {}",
                    crate::api_error::api_error_message(&error)
                ),
            }
            tokio::time::sleep(RENEW_INTERVAL).await;
        }
    }

    /// Whether this replica can write now.
    #[must_use]
    pub(crate) fn is_held(&self) -> bool {
        let renewed = self.renewed.lock().ok().and_then(|at| *at);
        renewed.is_some_and(|at| at.elapsed() < HOLDER_STOPS_AFTER)
    }

    /// Renews the lease until that fails for too long. Returns the reason.
    pub(crate) async fn renew_until_lost(&self) -> String {
        let mut last_seen = None;
        // The lease as this replica last wrote it. If no other replica has written since, one request renews it.
        let mut last_written: Option<LeaseObject> = None;
        loop {
            tokio::time::sleep(RENEW_INTERVAL).await;
            let before = Instant::now();
            let renewal = async {
                if let Some(last) = last_written.take()
                    && let Some(written) = write(&self.leases, &self.identity, Some(last)).await?
                {
                    last_written = Some(written);
                    return Ok(true);
                }
                last_written = try_take(&self.leases, &self.identity, &mut last_seen).await?;
                Ok::<_, kube::Error>(last_written.is_some())
            };
            let problem = match tokio::time::timeout(RENEW_INTERVAL, renewal).await {
                Ok(Ok(true)) => {
                    if let Ok(mut renewed) = self.renewed.lock() {
                        *renewed = Some(before);
                    }
                    continue;
                }
                Ok(Ok(false)) => return "another replica holds it now".into(),
                Ok(Err(error)) => crate::api_error::api_error_message(&error),
                Err(_) => "the API server does not answer".into(),
            };
            if !self.is_held() {
                return format!(
                    "not renewed for {} s: {problem}",
                    HOLDER_STOPS_AFTER.as_secs()
                );
            }
            tracing::warn!("cannot renew the lease: {problem}");
        }
    }
}

impl Lease {
    /// Gives the lease up, so that another replica can take it at once. This replica writes nothing afterwards.
    pub(crate) async fn release(&self) {
        if let Ok(mut renewed) = self.renewed.lock() {
            *renewed = None;
        }
        // A request that is on its way arrives before another replica begins.
        tokio::time::sleep(LAST_REQUEST_ARRIVES_WITHIN).await;
        let release = async {
            let found = self.leases.get_opt(NAME).await?;
            let is_own = |lease: &LeaseObject| {
                let holder = lease
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.holder_identity.as_deref());
                holder == Some(&self.identity)
            };
            match found.filter(is_own) {
                Some(lease) => write(&self.leases, NO_HOLDER, Some(lease)).await.map(drop),
                None => Ok(()),
            }
        };
        let problem = match tokio::time::timeout(RENEW_INTERVAL, release).await {
            Ok(Ok(())) => {
                tracing::info!("stopped by a signal; the lease is released");
                return;
            }
            Ok(Err(error)) => crate::api_error::api_error_message(&error),
            Err(_) => "the API server does not answer".into(),
        };
        tracing::warn!(
            "stopped by a signal; cannot release the lease: {problem}; another replica takes it after {} s",
            LEASE_DURATION.as_secs()
        );
    }
}

/// When the active operator last renewed the lease, by its own clock.
pub(crate) async fn renewed_at(
    client: &Client,
    namespace: &str,
) -> Result<Option<Timestamp>, kube::Error> {
    let leases: Api<LeaseObject> = Api::namespaced(client.clone(), namespace);
    let lease = leases.get_opt(NAME).await?;
    Ok(lease.and_then(|lease| Some(lease.spec?.renew_time?.0)))
}

/// Takes or renews the lease if possible, and returns it.
async fn try_take(
    leases: &Api<LeaseObject>,
    identity: &str,
    last_seen: &mut Option<(String, Instant)>,
) -> Result<Option<LeaseObject>, kube::Error> {
    let Some(found) = leases.get_opt(NAME).await? else {
        return write(leases, identity, None).await;
    };
    let version = found.metadata.resource_version.clone().unwrap_or_default();
    let since = match last_seen {
        Some((known, since)) if *known == version => *since,
        _ => {
            let now = Instant::now();
            *last_seen = Some((version, now));
            now
        }
    };
    let holder = found
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref());
    if lease_action(holder, identity, since.elapsed()) == LeaseAction::Wait {
        return Ok(None);
    }
    write(leases, identity, Some(found)).await
}

/// Writes the lease with this holder. With `before`, replaces only that version, so that only one of two replicas
/// succeeds. Without it, creates the lease. Returns `None` if another replica was faster.
async fn write(
    leases: &Api<LeaseObject>,
    holder: &str,
    before: Option<LeaseObject>,
) -> Result<Option<LeaseObject>, kube::Error> {
    let now = Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
        .to_string();
    let (version, spec) = before
        .map(|before| (before.metadata.resource_version, before.spec))
        .unwrap_or_default();
    let spec = spec.unwrap_or_default();
    let is_renewal = spec.holder_identity.as_deref() == Some(holder);
    let acquired = spec.acquire_time.filter(|_| is_renewal);
    let transitions = spec.lease_transitions.unwrap_or_default();
    let lease = json!({
        "metadata": {"name": NAME, "resourceVersion": version},
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": LEASE_DURATION.as_secs(),
            "renewTime": now,
            "acquireTime": acquired.map_or(json!(now), |at| json!(at)),
            "leaseTransitions": if is_renewal || version.is_none() || holder == NO_HOLDER { transitions } else { transitions.saturating_add(1) },
        },
    });
    let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
    let params = PostParams::default();
    let written = match version {
        Some(_) => leases.replace(NAME, &params, &lease).await,
        None => leases.create(&params, &lease).await,
    };
    match written {
        Ok(written) => Ok(Some(written)),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
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
            (None, short, LeaseAction::Take),
            (Some(""), short, LeaseAction::Take),
            (Some("me"), short, LeaseAction::Take),
            (Some("other"), short, LeaseAction::Wait),
            (Some("other"), long, LeaseAction::Take),
        ] {
            assert_eq!(
                lease_action(holder, "me", unchanged_for),
                expected,
                "{holder:?}"
            );
        }
        // The holder stops before another replica can take the lease.
        assert!(HOLDER_STOPS_AFTER + RENEW_INTERVAL < LEASE_DURATION);
    }
}
